"""The evaluation of a run on test sequences."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from latentflow.experiments.checkpoint import load_checkpoint
from latentflow.experiments.configuration import TrainConfig
from latentflow.experiments.data import SequenceDataset, Source, open_sequences, open_sprites_as_digits
from latentflow.experiments.equivariance import Equivariance, measure_equivariance, table
from latentflow.experiments.files import write_text
from latentflow.experiments.model import build_model
from latentflow.experiments.optimality import Optimality, measure_optimality, transport_table
from latentflow.experiments.provenance import provenance
from latentflow.experiments.run_folder import RunFolder
from latentflow.experiments.strips import draw_strips


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a run.

    Attributes:
        equivariance: How far the frames of the flows are from the transformed images.
        transport: How far the flows are from optimal transport, by the name of the transformation.
        data: The data set and its split; of a stand-in it says that it is synthetic.
    """

    equivariance: Equivariance
    transport: dict[str, Optimality]
    data: str

    def table(self) -> str:
        """Lay out the errors and the certificates for the terminal, in Markdown."""
        return f"{self.data}\n\n{table(self.equivariance)}\n\n{transport_table(self.transport)}"


def evaluate(folder: RunFolder, source: Source | None = None, device: str = "cpu") -> Evaluation:
    """Evaluate a run's newest checkpoint on its test split; write the result and the strips into its folder.

    Args:
        folder: The run.
        source: Where the data files are.
        device: Where to compute.

    Returns:
        The errors and the certificates.

    Raises:
        ExperimentError: If the run or its data cannot be read.
    """
    config = TrainConfig.from_json(folder.config)
    data = open_sequences(config.dataset, "test", config.sequences, source)
    return _evaluate(config, folder, data, folder.evaluation, folder.strips, device)


def evaluate_elsewhere(folder: RunFolder, source: Source | None = None, device: str = "cpu") -> Evaluation:
    """Evaluate a run that was trained on digits or MNIST on sprites, which it never saw.

    The sprites are reduced to the size of the digits and put into the red channel. The result and the strips go into
    files of their own in the folder of the run.

    Args:
        folder: The run.
        source: Where the files of the sprites are.
        device: Where to compute.

    Returns:
        The errors and the certificates.

    Raises:
        ExperimentError: If the run or the sprites cannot be read, or the run is of another kind of data.

    References:
        Y. Song, T. A. Keller, N. Sebe and M. Welling, Flow Factorized Representation Learning, 2023, figure 7.
    """
    config = TrainConfig.from_json(folder.config)
    data = open_sprites_as_digits(config.dataset, config.sequences, source)
    return _evaluate(config, folder, data, folder.elsewhere, folder.elsewhere_strips, device)


def _evaluate(
    config: TrainConfig, folder: RunFolder, data: SequenceDataset, record: Path, picture: Path, device: str
) -> Evaluation:
    model = build_model(config.model, data)
    progress = load_checkpoint(folder.checkpoint, model)
    model.to(device)
    draw_strips(model, data, picture)
    result = Evaluation(
        measure_equivariance(model, data), measure_optimality(model, data), f"{data.name}, {data.split}"
    )
    facts = provenance(
        run=asdict(config),
        steps=progress.steps,
        training_seconds=round(progress.seconds, 1),
        data=data.identity(),
        training=folder.sessions(),
    )
    transport = {name: asdict(entry) for name, entry in result.transport.items()}
    written = {"result": asdict(result.equivariance), "transport": transport, "provenance": facts}
    write_text(record, json.dumps(written, indent=2) + "\n")
    return result
