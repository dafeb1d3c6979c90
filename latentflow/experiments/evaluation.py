"""The evaluation of a run on the test images."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from latentflow.experiments.checkpoint import load_checkpoint
from latentflow.experiments.configuration import TrainConfig
from latentflow.experiments.data import TransformationSequences, load_images
from latentflow.experiments.equivariance import Equivariance, measure_equivariance
from latentflow.experiments.files import write_text
from latentflow.experiments.model import build_model
from latentflow.experiments.provenance import provenance
from latentflow.experiments.run_folder import RunFolder
from latentflow.experiments.strips import draw_strips

DIGITS = (2, 3, 4, 5, 7)


def evaluate(folder: RunFolder, data: Path | None = None, device: str = "cpu") -> Equivariance:
    """Evaluate a run's newest checkpoint on the whole test set; write the result and the strips into its folder.

    Args:
        folder: The run.
        data: The folder of the data files, or None to look for them.
        device: Where to compute.

    Returns:
        The errors.

    Raises:
        ExperimentError: If the run or its data cannot be read.
    """
    config = TrainConfig.from_json(folder.config)
    sequences = TransformationSequences()
    model = build_model(config.model, len(sequences.names))
    progress = load_checkpoint(folder.checkpoint, model)
    model.to(device)
    images = load_images(config.dataset, "test", data)
    draw_strips(model, images, sequences, folder.strips, DIGITS)
    result = measure_equivariance(model, images, sequences)
    facts = provenance(
        run=asdict(config),
        steps=progress.steps,
        training_seconds=round(progress.seconds, 1),
        data=images.identity(),
        training=folder.sessions(),
    )
    write_text(folder.evaluation, json.dumps({"result": asdict(result), "provenance": facts}, indent=2) + "\n")
    return result
