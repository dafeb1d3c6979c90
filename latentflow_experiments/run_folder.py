"""The folder of a training run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentflow_experiments.configuration import TrainConfig
from latentflow_experiments.errors import ExperimentError
from latentflow_experiments.files import write_text


@dataclass(frozen=True)
class RunFolder:
    """Names the files of a run.

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

    def measured(self, part: str) -> Path:
        """What was measured of one part."""
        return self.path / f"{part}.json"

    @property
    def composition_strips(self) -> Path:
        """The picture of composed flows."""
        return self.path / "composition.png"

    @property
    def elsewhere(self) -> Path:
        """The evaluation on images of a kind that the run never saw."""
        return self.path / "elsewhere.json"

    @property
    def elsewhere_strips(self) -> Path:
        """The picture of flow strips of such images."""
        return self.path / "elsewhere.png"

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
        """Note the circumstances of one more session of the run."""
        write_text(self.environment, json.dumps([*self.sessions(), facts], indent=2) + "\n")

    def sessions(self) -> list[dict[str, Any]]:
        """Read the circumstances of the sessions of the run, oldest first; none if they were not noted."""
        if not self.environment.exists():
            return []
        noted: list[dict[str, Any]] = json.loads(self.environment.read_text(encoding="utf-8"))
        return noted
