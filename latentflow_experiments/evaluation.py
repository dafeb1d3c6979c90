"""The evaluation of a run on test sequences."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latentflow import FlowVAE
from latentflow_experiments.checkpoint import Progress, load_checkpoint
from latentflow_experiments.configuration import TrainConfig
from latentflow_experiments.data import SequenceDataset, Source, open_sequences, open_sprites_as_digits
from latentflow_experiments.equivariance import Equivariance, measure_equivariance, table
from latentflow_experiments.errors import ExperimentError
from latentflow_experiments.files import write_text
from latentflow_experiments.methods import AlongFlow, Choice, Recovery, choose, measure_recovery, method_of
from latentflow_experiments.model import build_model
from latentflow_experiments.optimality import Optimality, measure_optimality, transport_table
from latentflow_experiments.provenance import provenance
from latentflow_experiments.run_folder import RunFolder
from latentflow_experiments.strips import draw_strips


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a run.

    Attributes:
        equivariance: How far the frames of the flows are from the transformed images.
        transport: How far the flows are from optimal transport, by the name of the transformation; empty for a method
            without flows.
        recovery: How well the transformations were recovered, of a run without labels; else None.
        choice: What was chosen on validation sequences.
        data: The data set and its split; of a stand-in it says that it is synthetic.
    """

    equivariance: Equivariance
    transport: dict[str, Optimality]
    recovery: Recovery | None
    choice: Choice
    data: str

    def table(self) -> str:
        """Lay out the errors and the certificates for the terminal, in Markdown."""
        parts = [self.data, table(self.equivariance)]
        if self.transport:
            parts.append(transport_table(self.transport))
        if self.recovery is not None:
            r = self.recovery
            parts.append(
                f"transformation recovered without labels: accuracy {100 * r.accuracy:.2f} %, mutual information "
                f"{r.mutual_information:.4f} nats of {math.log(len(r.counts)):.4f}, {r.sequences:,} sequences"
            )
        return "\n\n".join(parts)


@dataclass(frozen=True)
class TrainedRun:
    """A run as it is measured.

    Attributes:
        config: Its configuration.
        model: Its newest weights, in evaluation mode.
        data: The test sequences.
        validation: The validation sequences, of the kind that it was trained on.
        progress: How far training had come.
    """

    config: TrainConfig
    model: nn.Module
    data: SequenceDataset
    validation: SequenceDataset
    progress: Progress


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
    run = open_run(folder, source, device)
    return _evaluate(run, folder, folder.evaluation, folder.strips)


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
    run = open_run(folder, source, device)
    elsewhere = open_sprites_as_digits(run.config.dataset, run.config.sequences, source).to(device)
    return _evaluate(replace(run, data=elsewhere), folder, folder.elsewhere, folder.elsewhere_strips)


def open_run(folder: RunFolder, source: Source | None = None, device: str = "cpu") -> TrainedRun:
    """Read a run's newest checkpoint and open its data.

    Args:
        folder: The run.
        source: Where the data files are.
        device: Where to compute.

    Returns:
        The run.

    Raises:
        ExperimentError: If the run or its data cannot be read.
    """
    config = TrainConfig.from_json(folder.config)
    data, validation = (
        open_sequences(config.dataset, split, config.sequences, source).to(device) for split in ("test", "validation")
    )
    model = build_model(config.model, data)
    progress = load_checkpoint(folder.checkpoint, model)
    return TrainedRun(config, model.to(device).eval(), data, validation, progress)


def _evaluate(run: TrainedRun, folder: RunFolder, record: Path, picture: Path) -> Evaluation:
    choice = choose(run.model, run.validation)
    method = method_of(run.model, choice)
    with torch.inference_mode():
        draw_strips(method, run.data, picture)
    recovery = None
    if choice.matching is not None and isinstance(run.model, FlowVAE):
        recovery = measure_recovery(run.model, choice.matching, run.data)
    result = Evaluation(
        equivariance=measure_equivariance(method, run.data),
        transport=measure_optimality(method, run.data) if isinstance(method, AlongFlow) else {},
        recovery=recovery,
        choice=choice,
        data=f"{run.data.name}, {run.data.split}",
    )
    written = {
        "result": asdict(result.equivariance),
        "transport": {name: asdict(entry) for name, entry in result.transport.items()},
        "recovery": None if recovery is None else asdict(recovery),
        "choice": asdict(choice),
        "provenance": facts_of(run, folder),
    }
    write_text(record, json.dumps(written, indent=2) + "\n")
    return result


def facts_of(run: TrainedRun, folder: RunFolder) -> dict[str, Any]:
    """Say where numbers about a run come from: the run, its training and its data, this machine and this moment."""
    return provenance(
        run=asdict(run.config),
        steps=run.progress.steps,
        training_seconds=round(run.progress.seconds, 1),
        data=run.data.identity(),
        validation=run.validation.identity(),
        training=folder.sessions(),
    )


def read_evaluation(folder: RunFolder) -> dict[str, Any]:
    """Read what was found when a run was evaluated.

    Args:
        folder: The run.

    Returns:
        The values.

    Raises:
        ExperimentError: If the run was not evaluated, or by an older version.
    """
    try:
        evaluation: dict[str, Any] = json.loads(folder.evaluation.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExperimentError(f"{folder.path}: expected an evaluated run, got none; use: latentflow evaluate") from None
    except ValueError as error:
        raise ExperimentError(f"{folder.evaluation}: expected JSON, got {error}") from error
    if "transport" not in evaluation:
        raise ExperimentError(f"{folder.evaluation}: expected the transport of the flows, got none; evaluate it again")
    return evaluation
