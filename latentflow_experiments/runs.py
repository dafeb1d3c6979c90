"""The folder of a run: its configuration, its checkpoint, and what was measured of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from latentflow_experiments.configuration import TrainConfig
from latentflow_experiments.data import SequenceDataset, Source, open_sequences
from latentflow_experiments.errors import ExperimentError
from latentflow_experiments.records import provenance, replacing, write_text


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.path / "config.json"

    @property
    def environment(self) -> Path:
        """Command, versions, machine, commit and data of every session of the run, oldest first."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """The training metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoint.safetensors"

    @property
    def evaluation(self) -> Path:
        """The evaluation on the test images."""
        return self.path / "evaluation.json"

    @property
    def strips(self) -> Path:
        """The picture of flow strips."""
        return self.path / "strips.png"

    def metric(self, part: str) -> Path:
        """The metrics of one part."""
        return self.path / f"{part}.json"

    @property
    def composition_strips(self) -> Path:
        """The picture of composed flows."""
        return self.path / "composition.png"

    @property
    def transfer(self) -> Path:
        """The evaluation on images of a kind that the run never saw."""
        return self.path / "transfer.json"

    @property
    def transfer_strips(self) -> Path:
        """The picture of flow strips of such images."""
        return self.path / "transfer.png"

    @staticmethod
    def unused(dataset: str, parent: Path = Path("runs")) -> RunFolder:
        """Name the first folder ``runs/<dataset>``, ``runs/<dataset>-2``, ... that does not exist yet."""
        number = 1
        while (path := parent / (dataset if number == 1 else f"{dataset}-{number}")).exists():
            number += 1
        return RunFolder(path)

    def create(self, config: TrainConfig) -> None:
        """Make the folder for a new run and write its configuration.

        Args:
            config: The configuration.

        Raises:
            ExperimentError: If there is a run already, which is left as it is, or the folder cannot be written.
        """
        if self.config.exists() or self.checkpoint.exists():
            raise ExperimentError(f"{self.path}: holds a run already; use --resume or another --out")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.config, config.to_json())
        except OSError as error:
            raise ExperimentError(f"{self.path}: expected a folder to write to, got {error}") from error

    def open(self, config: TrainConfig) -> None:
        """Check that the folder holds a run of this configuration.

        Args:
            config: The configuration.

        Raises:
            ExperimentError: If there is no run, or one of another configuration.
        """
        difference = config.difference(TrainConfig.from_json(self.config))
        if difference is not None:
            raise ExperimentError(f"{self.path}: cannot resume a run of another configuration: {difference}")

    def add_environment(self, facts: dict[str, Any]) -> None:
        """Append the circumstances of one more session of the run."""
        write_text(self.environment, json.dumps([*self.sessions(), facts], indent=2) + "\n")

    def sessions(self) -> list[dict[str, Any]]:
        """Read the circumstances of the sessions of the run, oldest first; none if they were not noted."""
        if not self.environment.exists():
            return []
        noted: list[dict[str, Any]] = json.loads(self.environment.read_text(encoding="utf-8"))
        return noted


MODEL = "model."


OPTIMIZER = "optimizer."


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        steps: Number of steps made.
        seconds: Seconds of training, over all sessions of the run.
    """

    steps: int = 0
    seconds: float = 0.0


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write a checkpoint; an earlier one stays in place until the new one is complete.

    Args:
        path: The file.
        model: The model, whose state is written under ``model.``.
        optimizer: The optimizer, whose state is written under ``optimizer.<parameter>.<name>``.
        progress: How far the run has come.
    """
    tensors = {MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{index}.{name}": tensor for name, tensor in state.items()}
    metadata = {"progress": json.dumps({"steps": progress.steps, "seconds": progress.seconds})}
    with replacing(path) as temporary:
        save_file({name: _separate(tensor) for name, tensor in tensors.items()}, temporary, metadata)


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Progress:
    """Read a checkpoint into a model and, to go on with training, an optimizer.

    Args:
        path: The file.
        model: A model of the same architecture.
        optimizer: An optimizer of the model's parameters, or None to read the weights only.

    Returns:
        How far the run had come.

    Raises:
        ExperimentError: If the file is missing or damaged, or its tensors are those of another architecture. Neither
            model nor optimizer is changed then.
    """
    tensors, progress = _read(path)
    weights = {name.removeprefix(MODEL): tensor for name, tensor in tensors.items() if name.startswith(MODEL)}
    _check_architecture(path, weights, model.state_dict())
    model.load_state_dict(weights)
    if optimizer is not None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(OPTIMIZER):
                index, key = name.removeprefix(OPTIMIZER).split(".")
                state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress


def _separate(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU, into memory of its own: the format refuses tensors that two modules share."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _read(path: Path) -> tuple[dict[str, Tensor], Progress]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            progress = Progress(**json.loads((file.metadata() or {})["progress"]))
            return {name: file.get_tensor(name) for name in file.keys()}, progress  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise ExperimentError(f"{path}: expected a checkpoint, got no such file") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ExperimentError(f"{path}: expected a complete checkpoint of latentflow, got {error}") from error


def _check_architecture(path: Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in sorted(expected.keys() | found.keys()):
        ours, theirs = (tuple(t[name].shape) if name in t else "none" for t in (expected, found))
        if ours != theirs:
            raise ExperimentError(f"{path}: expected {name} of shape {ours}, got {theirs}: another architecture")


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
    model = config.model.build(data)
    progress = load_checkpoint(folder.checkpoint, model)
    return TrainedRun(config, model.to(device).eval(), data, validation, progress)


def describe_run(run: TrainedRun, folder: RunFolder) -> dict[str, Any]:
    """Describe the origin of numbers about a run: its configuration, its training, its data and this machine."""
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
