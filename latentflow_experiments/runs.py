"""The folder of a run: its configuration, its checkpoint, and what was measured of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latentflow_experiments.checkpoints import MODEL, Progress, check_architecture, load_checkpoint, read_checkpoint
from latentflow_experiments.configuration import TrainConfig
from latentflow_experiments.data import ArraySequences, SequenceDataset, Source, open_sequences, open_splits
from latentflow_experiments.errors import ExperimentError, UsageError
from latentflow_experiments.locks import owned
from latentflow_experiments.reading import BROKEN, brief, open_regular, read_limited, reading
from latentflow_experiments.records import (
    clear_temporaries,
    provenance,
    read_json,
    write_json,
    write_text,
)
from latentflow_experiments.residuals import RESIDUALS, code_file


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

    @property
    def generated(self) -> Path:
        """The frames that the flows make of images."""
        return self.path / "generated.npz"

    @property
    def generated_strips(self) -> Path:
        """The picture of these frames."""
        return self.path / "generated.png"

    @staticmethod
    def unused(dataset: str, parent: Path = Path("runs")) -> RunFolder:
        """Name the first folder ``runs/<dataset>``, ``runs/<dataset>-2``, ... that does not exist yet."""
        number = 1
        while (path := parent / (dataset if number == 1 else f"{dataset}-{number}")).exists():
            number += 1
        return RunFolder(path)

    def has_begun(self) -> bool:
        """Return whether there is a checkpoint to go on from, or should be: something was logged or measured."""
        later = (self.checkpoint, self.evaluation)
        return any(map(os.path.lexists, later)) or bool(read_log(self.metrics)[0])

    @property
    def code(self) -> Path:
        """A copy of the file of the user's that has the residual, of a run with one."""
        return self.path / "residual.py"

    @contextmanager
    def owned(self, purpose: str) -> Iterator[None]:
        """Own the folder, so that no other process trains into it, and clear what killed owners left half written.

        Args:
            purpose: What this process does, such as ``"training"``.

        Raises:
            ExperimentError: If another process owns it, or it cannot be written to.
        """
        with owned(self.path, purpose):
            clear_temporaries(self.path, "*.*")
            for left in self.path.glob(".tmp??????"):  # safetensors writes beside what replacing() gives it
                if left.is_file():
                    left.unlink(missing_ok=True)
            yield

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Own the folder of a run to measure it, so that no numbers of an older checkpoint end beside a newer one.

        Raises:
            ExperimentError: If there is no run, or another process owns it.
        """
        TrainConfig.from_json(self.config)
        with self.owned("measuring"):
            yield

    def create(self, config: TrainConfig) -> None:
        """Write the configuration of a new run, and a copy of the code that it names, into the folder.

        Args:
            config: The configuration.

        Raises:
            ExperimentError: If there is a run already, which is left as it is, or the folder cannot be written.
        """
        if self.config.exists() or self.checkpoint.exists():
            raise ExperimentError(f"{self.path}: holds a run already; use --resume or another --out")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            code = code_file(config.model.pde)
            if code is not None:
                write_text(self.code, read_limited(code, LARGEST_CODE).decode())
            config.write(self.config)
        except (OSError, UnicodeDecodeError) as error:
            raise ExperimentError(f"{self.path}: expected a folder to write to, got {error}") from error

    def open(self, config: TrainConfig) -> None:
        """Check that the folder holds a run of this configuration, and of the same code.

        Args:
            config: The configuration.

        Raises:
            ExperimentError: If there is no run, or one of another configuration.
        """
        difference = config.difference(TrainConfig.from_json(self.config))
        if difference is not None:
            raise ExperimentError(f"{self.path}: cannot resume a run of another configuration: {difference}")
        code = code_file(config.model.pde)
        if code is not None and read_limited(code, LARGEST_CODE) != self.read_code():
            raise ExperimentError(f"{self.path}: cannot resume a run of other code: {code} differs from {self.code}")

    def read_code(self) -> bytes:
        """Read the copy of the user's code; an ExperimentError says that it was changed since the run was made."""
        text = read_limited(self.code, LARGEST_CODE)
        noted = [session["code"] for session in self.sessions() if session.get("code")]
        if noted and hashlib.sha256(text).hexdigest() != noted[0]:
            raise ExperimentError(f"{self.code}: expected the code that the run was made with, got changed code")
        return text

    def add_environment(self, facts: dict[str, Any]) -> None:
        """Append the circumstances of one more session of the run."""
        code = hashlib.sha256(read_limited(self.code, LARGEST_CODE)).hexdigest() if self.code.exists() else None
        write_json(self.environment, {"sessions": [*self.sessions(), facts | ({} if code is None else {"code": code})]})

    def sessions(self) -> list[dict[str, Any]]:
        """Read the circumstances of the sessions of the run, oldest first; none if they were not noted."""
        try:
            noted = read_json(self.environment, "the circumstances of a run")
        except FileNotFoundError:
            return []
        with reading(self.environment, "the circumstances of a run"):
            return [dict(session) for session in noted["sessions"]]

    def read_metric(self, path: Path) -> dict[str, Any]:
        """Read what was found when the run was evaluated or measured.

        Args:
            path: One of the files of the folder, such as ``evaluation``.

        Returns:
            The values.

        Raises:
            FileNotFoundError: If it was not measured.
            ExperimentError: If the file is damaged.
        """
        return read_json(path, "the metrics of a run", unsealed=True)


LARGEST_CODE = 2**20
"""The largest size of the user's code, in bytes."""


LONGEST_LOG = 2**28
"""The largest size of a log of metrics, in bytes."""


def _step_of(line: bytes) -> int | None:
    """Return the step of a record of the log; None for a line that is not one, as after a crash."""
    try:
        step = json.loads(line.decode())["step"]
    except BROKEN:
        return None
    return step if isinstance(step, int) else None


def read_log(path: Path) -> tuple[list[tuple[int, str]], int]:
    """Read the log of a run.

    Args:
        path: The log.

    Returns:
        The records, each with its step, and the number of lines that are none, as after a crash.

    Raises:
        DataError: If it cannot be read or is too large.
    """
    lines = read_limited(path, LONGEST_LOG).splitlines() if os.path.lexists(path) else []
    records = [(step, line.decode()) for line in lines if (step := _step_of(line)) is not None]
    return records, len(lines) - len(records)


def _read_any(path: Path) -> None:
    with reading(path, "a readable file"), open_regular(path) as file:
        file.read(1)


@dataclass(frozen=True)
class FileState:
    """What a check found of one file.

    Attributes:
        path: The file.
        fault: What is wrong with it; None if it is as it was written.
    """

    path: Path
    fault: str | None


def check_run(folder: RunFolder) -> list[FileState]:
    """Read every file of a run that later commands rely on.

    Args:
        folder: The run.

    Returns:
        The state of each file that is there or should be.

    Raises:
        ExperimentError: If there is no run.
    """
    if not folder.path.is_dir() or not any(path.exists() for path in (folder.config, folder.checkpoint)):
        raise ExperimentError(f"{folder.path}: expected a run, got no {folder.config.name} there")
    reads: dict[Path, Callable[[], object]] = {
        folder.config: lambda: TrainConfig.from_json(folder.config),
        folder.environment: folder.sessions,
        folder.checkpoint: lambda: _require_checkpoint(folder),
    }
    if os.path.lexists(folder.metrics):
        reads[folder.metrics] = lambda: _require_records(folder.metrics)
    measured = sorted({*folder.path.glob("*.json"), folder.evaluation} - {folder.config, folder.environment})
    reads |= {path: partial(folder.read_metric, path) for path in measured}
    if folder.code.exists():
        reads[folder.code] = folder.read_code
    for path in sorted(folder.path.iterdir()):  # pictures and logs: that they are files that can be read
        reads.setdefault(path, partial(_read_any, path))
    states = []
    for path, read in reads.items():
        try:
            if not os.path.lexists(path):
                hint = "; use: latentflow evaluate" if path == folder.evaluation else ""
                raise ExperimentError(f"{path}: missing{hint}")
            read()
            states.append(FileState(path, None))
        except ExperimentError as error:
            states.append(FileState(path, str(error).removeprefix(f"{path}: ")))
    if not os.access(folder.path, os.W_OK):
        states.append(FileState(folder.path, "cannot be written to, so the run can neither be evaluated nor go on"))
    return states


def _require_checkpoint(folder: RunFolder) -> None:
    """Read the checkpoint, and compare it with the model of the configuration where that can be built."""
    tensors, _ = read_checkpoint(folder.checkpoint)
    try:
        config = TrainConfig.from_json(folder.config)
        if config.model.pde not in RESIDUALS:  # code is not run to check a folder
            return
        model = config.model.build(open_sequences(config.dataset, "test", config.sequences))
    except ExperimentError:  # the configuration has its own line, and the data may be elsewhere
        return
    weights = {name.removeprefix(MODEL): tensor for name, tensor in tensors.items() if name.startswith(MODEL)}
    check_architecture(folder.checkpoint, weights, model.state_dict())


def _require_records(path: Path) -> None:
    _, others = read_log(path)
    if others:
        raise ExperimentError(f"{path}: expected a record in each line, got {others} lines that are none")


@dataclass(frozen=True)
class TrainedRun:
    """A run as it is measured.

    Attributes:
        config: Its configuration.
        model: Its newest weights, in evaluation mode.
        data: The test sequences.
        validation: The validation sequences, of the kind that it was trained on.
        progress: How far training had come.
        source: Where the files of the data are, if not in the usual places.
    """

    config: TrainConfig
    model: nn.Module
    data: SequenceDataset
    validation: SequenceDataset
    progress: Progress
    source: Source | None = None


def chosen_device(name: str) -> str:
    """Return the name of a device; ``auto`` is an accelerator where there is one. Raise a UsageError for another."""
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return "cpu" if found is None else found.type
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"device: expected auto, cpu or a device that is there, got {name!r} ({brief(error)})"
        ) from error
    return name


def open_run(
    folder: RunFolder, source: Source | None = None, device: str = "cpu", *, trust: bool = False
) -> TrainedRun:
    """Read a run's newest checkpoint and open its data.

    Args:
        folder: The run.
        source: Where the data files are.
        device: Where to compute; ``auto`` for an accelerator where there is one.
        trust: Whether code may be run that the run was made with: its copy in the folder, or the module that it names.

    Returns:
        The run.

    Raises:
        ExperimentError: If the run or its data cannot be read, or it needs code that is not trusted.
    """
    config = TrainConfig.from_json(folder.config)
    if config.objects:
        raise ExperimentError(
            f"{folder.path}: was made in Python with {' and '.join(config.objects)}, which no file holds; call there: "
            f"latentflow_experiments.evaluate({str(folder.path)!r}, data{', model' if len(config.objects) > 1 else ''})"
        )
    runnable = trusted(config, folder, trust=trust)
    device = chosen_device(device)
    data, validation = (
        opened.to(device) for opened in open_splits(config.dataset, ("test", "validation"), config.sequences, source)
    )
    check_data(folder, data)
    model = runnable.model.build(data)
    progress = load_checkpoint(folder.checkpoint, model)
    return TrainedRun(config, model.to(device).eval(), data, validation, progress, source)


def check_data(folder: RunFolder, data: SequenceDataset) -> None:
    """Check that sequences in memory are those that a run was trained on.

    Args:
        folder: The run.
        data: A split of the sequences; others than :class:`ArraySequences` are not compared.

    Raises:
        ExperimentError: If their SHA-256 is another one.
    """
    noted = [session["data"] for session in folder.sessions() if isinstance(session.get("data"), dict)]
    if not isinstance(data, ArraySequences) or not noted:
        return
    before, now = str(noted[0].get("sha256")), data.identity()["sha256"]
    if before != now:
        raise ExperimentError(
            f"{folder.path}: expected the data that the run was trained on, with SHA-256 {before[:12]}..., got "
            f"{data.name} with {now[:12]}...; name the place of the right one by --data, or train again"
        )


def trusted(config: TrainConfig, folder: RunFolder, *, trust: bool) -> TrainConfig:
    """Return a configuration that runs the copy of the user's code; an ExperimentError asks for trust in it."""
    if config.model.pde in RESIDUALS:
        return config
    file = code_file(config.model.pde)
    what = config.model.pde if file is None else str(folder.code)
    if not trust:
        raise ExperimentError(
            f"{folder.path}: was made with code of its own, {what}; read it, and if you trust it, add --trust"
        )
    if file is None:
        return config
    folder.read_code()
    name = f"{folder.code.resolve()}:{config.model.pde.rpartition(':')[2]}"
    return replace(config, model=replace(config.model, pde=name))


def describe_run(run: TrainedRun, folder: RunFolder) -> dict[str, Any]:
    """Describe the origin of numbers about a run: its configuration, its training, its data and this machine."""
    return provenance(
        run=run.config.known(),
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
        evaluation = folder.read_metric(folder.evaluation)
    except FileNotFoundError:
        raise ExperimentError(f"{folder.path}: expected an evaluated run, got none; use: latentflow evaluate") from None
    if "transport" not in evaluation:
        raise ExperimentError(f"{folder.evaluation}: expected the transport of the flows, got none; evaluate it again")
    return evaluation
