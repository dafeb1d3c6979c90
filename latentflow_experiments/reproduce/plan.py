"""The plan of a reproduction: the runs that tables and figures need, each of them once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from latentflow_experiments.configuration import Budget, TrainConfig, options
from latentflow_experiments.evaluation import MeasureConfig, Part
from latentflow_experiments.reproduce.earlier import NOTHING, Earlier
from latentflow_experiments.reproduce.experiments import FIGURES, TABLES, Picture, Row
from latentflow_experiments.reproduce.presets import Preset
from latentflow_experiments.runs import RunFolder


@dataclass(frozen=True)
class Run:
    """A run of the plan.

    Attributes:
        config: Its configuration, with its seed.
        budget: How long it trains.
        measured: How much is measured.
        parts: What is measured beside the evaluation, sorted.
        transfers: The data sets of another kind that it is evaluated on, sorted.
    """

    config: TrainConfig
    budget: Budget
    measured: MeasureConfig
    parts: tuple[Part, ...] = ()
    transfers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of its folder: data set, method, seed, and a digest of configuration and budget."""
        key = json.dumps([self.config.known(), asdict(self.budget)], sort_keys=True)
        digest = hashlib.sha256(key.encode()).hexdigest()[:10]
        return f"{self.config.dataset}-{self.config.model.method}-{self.config.seed}-{digest}"

    def folder(self, out: Path) -> RunFolder:
        """Return its folder in that of the reproduction."""
        return RunFolder(out / "runs" / self.name)

    def training(self, out: Path) -> list[str]:
        """Return the arguments of its training, which goes on where it was stopped."""
        folder = self.folder(out)
        words = options(asdict(self.config), asdict(TrainConfig(self.config.dataset)))
        words += options(asdict(self.budget), dict.fromkeys(asdict(self.budget)))
        resume = ["--resume"] if folder.checkpoint.exists() else []
        return ["train", self.config.dataset, *words, "--threads", "1", "--out", str(folder.path), *resume]

    def measuring(self, out: Path, part: Part) -> list[str]:
        """Return the arguments that measure one part."""
        words = options(asdict(self.measured), asdict(MeasureConfig()))
        return ["measure", str(self.folder(out).path), "--parts", part, *words]

    def transferring(self, out: Path, dataset: str) -> list[str]:
        """Return the arguments that evaluate it on a data set of another kind."""
        return ["evaluate", str(self.folder(out).path), "--transfer", dataset]


def run_of(row: Row, preset: Preset, seed: int) -> Run:
    """Return the run of a row with a budget and a seed, with nothing measured."""
    config = replace(preset.apply(row.config), seed=seed)
    return Run(config, preset.budget(config.dataset), preset.measure(config.dataset))


def plan(targets: Sequence[str], preset: Preset, seeds: Sequence[int], earlier: Earlier = NOTHING) -> list[Run]:
    """List the runs that tables and figures need; a run that several need is there once, with all that they measure.

    Args:
        targets: Names of tables and figures.
        preset: The budget.
        seeds: The seeds of a row of a table; a figure has seed 0.
        earlier: Reports; what they tell needs no run.

    Returns:
        The runs, in the order in which they are needed.
    """
    found: dict[str, Run] = {}

    def need(row: Row, seed: int, part: Part | None, transfer: str | None = None) -> None:
        run = run_of(row, preset, seed)
        before = found.get(run.name, run)
        parts = {*before.parts, *([part] if part else [])}
        transfers = {*before.transfers, *([transfer] if transfer else [])}
        found[run.name] = replace(before, parts=tuple(sorted(parts)), transfers=tuple(sorted(transfers)))

    for name in targets:
        if name in TABLES:
            table = TABLES[name]
            for seed, row in product(seeds, table.rows):
                if (name, row.name, run_of(row, preset, seed).name) not in earlier.results:
                    for part in {column.part_of(row) for column in table.all_columns}:
                        need(row, seed, part)
        else:
            for picture, file in zip(FIGURES[name].pictures, FIGURES[name].files, strict=True):
                if (file, run_of(picture.row, preset, 0).name) not in earlier.pictures:
                    need(picture.row, 0, picture.part, picture.transfer)
    return list(found.values())


def picture_of(picture: Picture, preset: Preset, out: Path) -> Path:
    """Return the file of a picture."""
    return run_of(picture.row, preset, 0).folder(out).path / picture.file


def read_records(run: Run, out: Path) -> dict[str, dict[str, Any]]:
    """Read what was measured of a run: its evaluation, ``transfer`` and parts, by name; those that are there."""
    folder = run.folder(out)
    files: dict[str, Path] = {"evaluation": folder.evaluation}
    if run.transfers:
        files["transfer"] = folder.transfer
    files |= {part: folder.metric(part) for part in run.parts}
    return {name: folder.read_metric(path) for name, path in files.items() if path.exists()}
