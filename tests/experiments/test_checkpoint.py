"""Checkpoints: complete, exact, refused where they do not fit."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from latentflow import (
    FlowVAE,
    HJResidual,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    PotentialBank,
    TransportedPrior,
    VampPrior,
)
from latentflow.calculus.files import replacing
from latentflow_experiments.checkpoints import Progress, load_checkpoint, save_checkpoint
from latentflow_experiments.errors import ExperimentError


def pair(width=3, seed=0):
    torch.manual_seed(seed)
    model = nn.Linear(2, width)
    return model, torch.optim.Adam(model.parameters(), fused=True)


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(1, 2)).square().sum().backward()
    optimizer.step()


def test_training_goes_on_bit_for_bit(tmp_path):
    """Catches optimizer state (moments, step counts) that is lost or misplaced."""
    model, optimizer = pair()
    for _ in range(3):
        step(model, optimizer)
    save_checkpoint(tmp_path / "c.safetensors", model, optimizer, Progress(3, 1.5))
    other, other_optimizer = pair(seed=1)
    assert load_checkpoint(tmp_path / "c.safetensors", other, other_optimizer) == Progress(3, 1.5)
    for _ in range(4):
        step(model, optimizer)
        step(other, other_optimizer)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


def test_another_architecture_is_refused_by_name_and_changes_nothing(tmp_path):
    """Catches a partial load: weights overwritten before the mismatch is found."""
    save_checkpoint(tmp_path / "c.safetensors", *pair(width=4), Progress())
    model, optimizer = pair()
    before = model.weight.clone()
    with pytest.raises(ExperimentError, match=r"expected bias of shape \(3,\), got \(4,\): another architecture"):
        load_checkpoint(tmp_path / "c.safetensors", model, optimizer)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    """Catches a damaged file that is read in part or ends in a traceback of another library."""
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, *pair(), Progress())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ExperimentError, match="expected a complete checkpoint"):
        load_checkpoint(path, pair()[0])


def test_a_missing_file_and_a_foreign_one_are_refused(tmp_path):
    """Catches a foreign safetensors file taken for a checkpoint at step 0."""
    with pytest.raises(ExperimentError, match="got no such file"):
        load_checkpoint(tmp_path / "none.safetensors", pair()[0])
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ExperimentError, match="expected a complete checkpoint of latentflow"):
        load_checkpoint(tmp_path / "foreign.safetensors", pair()[0])


def test_a_failing_writer_leaves_the_earlier_file(tmp_path):
    """Catches a good checkpoint that an interrupted write destroys, and litter beside it."""
    path = tmp_path / "file.txt"
    path.write_text("good")

    def write():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]


def sharing(kind, seed):
    """A model whose prior shares its encoder, or its bank."""
    torch.manual_seed(seed)
    encoder, decoder = MLPEncoder((1, 3, 2), 2, (8,)), MLPDecoder(2, (1, 3, 2), (8,))
    bank = PotentialBank([MLPPotential(2, (6,)), MLPPotential(2, (5,))])
    prior = VampPrior(encoder, torch.rand(3, 1, 3, 2))
    return FlowVAE(encoder, decoder, bank, prior if kind == "encoder" else TransportedPrior(prior, bank), HJResidual())


@pytest.mark.parametrize("kind", ["encoder", "bank"])
def test_a_prior_that_shares_modules_with_the_model(tmp_path, kind):
    """Catches a checkpoint that loses a prior, or cannot hold an encoder or a bank that the prior shares."""
    model, other = sharing(kind, 0), sharing(kind, 1)
    frames, k = torch.rand(4, 3, 1, 3, 2), torch.tensor([1, 0, 1, 1])
    save_checkpoint(tmp_path / "c", model, torch.optim.Adam(model.parameters()), Progress())
    load_checkpoint(tmp_path / "c", other)
    totals = [one.objective(frames, k, torch.Generator().manual_seed(0)).total for one in (model, other)]
    assert torch.equal(*totals)
