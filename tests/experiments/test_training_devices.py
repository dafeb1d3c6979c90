"""Training and validation on a device: ``pytest tests/experiments/test_training_devices.py --device cuda``.

As in the core suite of the library, every tensor that names no device is a ``meta`` tensor, which mixes with no other.
"""

from dataclasses import replace

import pytest
import torch

from latentflow_experiments.configuration import ModelConfig, TrainConfig
from latentflow_experiments.data import open_sequences
from latentflow_experiments.methods import METHODS
from latentflow_experiments.training.loop import Batches, initial_model
from latentflow_experiments.training.processes import SharedModel
from latentflow_experiments.training.session import Hardware
from latentflow_experiments.training.validation import Validation

SMALL = ModelConfig(dim=4, hidden=(5,), width=8)
KINDS = {
    **{method: replace(SMALL, method=method) for method in METHODS},
    "weak": replace(SMALL, supervision="weak"),
    "weak, exact": replace(SMALL, supervision="weak", label_estimator="exact"),
    **{bound: replace(SMALL, bound=bound, pde="hj") for bound in ("marginal", "stochastic", "smoothing", "paper")},
    **{prior: replace(SMALL, prior=prior) for prior in ("gaussian", "mixture", "vamp")},
    **{network: replace(SMALL, network=network) for network in ("mlp", "gated", "mixed", "conv", "song2023")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_and_a_measurement_name_their_device(kind, device):
    """Catches a tensor of training, data or measurement that is made wherever torch makes tensors by default."""
    config = TrainConfig("digits", batch_size=6, model=KINDS[kind])
    train, validation = (open_sequences("digits", split) for split in ("train", "validation"))
    images = replace(validation.images, images=validation.images.images[:5], labels=validation.images.labels[:5])
    fabric = Hardware(device=device.type, threads=1, precision="32").launch()
    model = initial_model(config, train)
    shared = SharedModel(fabric, config.model.described, model, None)
    batches = Batches(config, train, fabric.device)
    measured = Validation(config.model.described, replace(validation, images=images).to(fabric.device), 1, 0.0)
    with torch.device("meta"):
        terms = shared.descend(range(1), lambda trained, part: trained(*batches.draw(0, part)), 1.0)
        errors = measured.measure(model) if config.model.described.validates else {}
    assert terms["total"].device.type == device.type
    assert all(torch.tensor([*errors.values(), float(terms["total"])]).isfinite())
