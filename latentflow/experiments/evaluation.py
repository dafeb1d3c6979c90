"""The evaluation of a run on the test images."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from latentflow.experiments.checkpoint import load_checkpoint
from latentflow.experiments.configuration import TrainConfig
from latentflow.experiments.data import TransformationSequences, load_images
from latentflow.experiments.equivariance import Equivariance, measure_equivariance, table
from latentflow.experiments.files import write_text
from latentflow.experiments.model import build_model
from latentflow.experiments.optimality import Optimality, measure_optimality, transport_table
from latentflow.experiments.provenance import provenance
from latentflow.experiments.run_folder import RunFolder
from latentflow.experiments.strips import draw_strips

DIGITS = (2, 3, 4, 5, 7)


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a run.

    Attributes:
        equivariance: How far the frames of the flows are from the transformed images.
        transport: How far the flows are from optimal transport, by the name of the transformation.
    """

    equivariance: Equivariance
    transport: dict[str, Optimality]

    def table(self) -> str:
        """Lay out the errors and the certificates for the terminal, in Markdown."""
        return f"{table(self.equivariance)}\n\n{transport_table(self.transport)}"


def evaluate(folder: RunFolder, data: Path | None = None, device: str = "cpu") -> Evaluation:
    """Evaluate a run's newest checkpoint on the whole test set; write the result and the strips into its folder.

    Args:
        folder: The run.
        data: The folder of the data files, or None to look for them.
        device: Where to compute.

    Returns:
        The errors and the certificates.

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
    result = Evaluation(measure_equivariance(model, images, sequences), measure_optimality(model, images, sequences))
    facts = provenance(
        run=asdict(config),
        steps=progress.steps,
        training_seconds=round(progress.seconds, 1),
        data=images.identity(),
        training=folder.sessions(),
    )
    transport = {name: asdict(entry) for name, entry in result.transport.items()}
    record = {"result": asdict(result.equivariance), "transport": transport, "provenance": facts}
    write_text(folder.evaluation, json.dumps(record, indent=2) + "\n")
    return result
