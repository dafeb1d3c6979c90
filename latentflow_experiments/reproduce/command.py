"""The command ``latentflow reproduce``."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from latentflow_experiments.data import DATASETS
from latentflow_experiments.data.dataset import FactorSet
from latentflow_experiments.data.files import cache_root, folder_in
from latentflow_experiments.data.render.make import make
from latentflow_experiments.data.stores import open_frames
from latentflow_experiments.errors import DataError, ExperimentError, UsageError
from latentflow_experiments.locks import owned
from latentflow_experiments.reproduce.calibration import TESTED, cost_table
from latentflow_experiments.reproduce.earlier import open_reports
from latentflow_experiments.reproduce.execution import execute
from latentflow_experiments.reproduce.experiments import FIGURES, TABLES
from latentflow_experiments.reproduce.plan import Run, plan
from latentflow_experiments.reproduce.presets import PRESETS, Preset
from latentflow_experiments.reproduce.report import Reproduction, write_report
from latentflow_experiments.reproduce.results import collect, collect_figure

if TYPE_CHECKING:
    Target = str
    BudgetName = str
else:  # what the command line reads
    Target = Literal[(*TABLES, *FIGURES, "all")]
    BudgetName = Literal[tuple(PRESETS)]


@dataclass(frozen=True)
class Reproduce:
    """Reproduce tables and figures of the paper: train what they need, and write one report.

    Runs are shared between tables, those that ended are not repeated, and the same command goes on after Ctrl-C, which
    leaves a report of what has ended. Images that are not there are rendered as synthetic stand-ins, which the report
    says.

    Attributes:
        targets: The tables and figures, or all.
        budget: How large models are and how long they train: a few steps (smoke), minutes of a core (laptop), or as in
            the paper.
        seeds: Runs of each row of a table, with seeds one after the other.
        first_seed: The first of the seeds, so that several machines can share them out; figures have seed 0.
        out: Folder of the runs and of the report.
        cores: Runs at once, each on one thread; by default one for each core.
        earlier: Folders of earlier reports of the same budget, of other machines too; a run that they tell of is not
            trained again.
        dry_run: Print the runs, and what time and space they will take, and train nothing.
        report_only: Write the report of the runs that have ended, and train nothing.
    """

    targets: Annotated[tuple[Target, ...], tyro.conf.Positional]
    budget: BudgetName = "laptop"
    seeds: int = 1
    first_seed: int = 0
    out: Path = Path("reproduction")
    cores: int | None = None
    earlier: tuple[Path, ...] = ()
    dry_run: bool = False
    report_only: bool = False

    def __post_init__(self) -> None:
        if not self.targets:
            raise UsageError("targets: expected names of tables and figures, or all, got none")
        for name in ("seeds", "cores"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}: expected a positive integer, got {value}")
        if self.first_seed < 0:
            raise UsageError(f"first-seed: expected a non-negative integer, got {self.first_seed}")
        if self.dry_run and self.report_only:
            raise UsageError("report-only: expected no --dry-run beside it, which writes nothing")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The names of the tables and figures."""
        return (*TABLES, *FIGURES) if "all" in self.targets else tuple(dict.fromkeys(self.targets))

    def run(self) -> None:
        """Train, measure and write the report; after Ctrl-C that of the runs that have ended."""
        preset = PRESETS[self.budget]
        earlier = open_reports(self.earlier, self.budget)
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        runs = plan(self.chosen, preset, seeds, earlier)
        cores = self.cores or len(os.sched_getaffinity(0))
        if self.dry_run:
            print(cost_table(runs, {run.config.dataset: test_images(run, preset) for run in runs}, cores))
            return
        self.out.mkdir(parents=True, exist_ok=True)
        with owned(self.out, "reproducing"):
            failed, stopped = {}, False
            if not self.report_only:
                provide_data(runs, preset, cores)
                try:
                    failed = execute(runs, self.out, cores)
                except KeyboardInterrupt:
                    stopped = True
            tables = [collect(TABLES[name], preset, seeds, self.out, earlier) for name in self.chosen if name in TABLES]
            figures = [
                collect_figure(FIGURES[name], preset, self.out, earlier) for name in self.chosen if name in FIGURES
            ]
            found = Reproduction(self.budget, preset, self.seeds, tables, figures, failed, earlier.origins)
            page = write_report(found, self.out)
        print(f"wrote {page}, and beside it results.json and a CSV and a LaTeX file for each table")
        if stopped:
            raise KeyboardInterrupt
        if failed:
            name, reason = next(iter(failed.items()))
            raise ExperimentError(f"{len(failed)} of {len(runs)} runs failed; {name}: {reason}")


def test_images(run: Run, preset: Preset) -> int:
    """Return the number of test images of the data set of a run: a tenth, where it is split by factors."""
    name = run.config.dataset
    return TESTED.get(name) or (preset.images.get(name) or DATASETS[name].count) // 10


def provide_data(runs: list[Run], preset: Preset, workers: int) -> None:
    """Render the stand-ins of data sets that are not on this machine, into the cache of the user.

    Raises:
        DataError: If images are missing that cannot be rendered, or there is a stand-in of fewer images than the
            budget takes, such as that of a smaller budget.
    """
    names = dict.fromkeys([name for run in runs for name in (run.config.dataset, *run.transfers)])
    for name in names:
        dataset, size = DATASETS[name], preset.images.get(name)
        if dataset.state(None) != "no":
            if isinstance(dataset, FactorSet):
                check_size(dataset, size)
            continue
        if not isinstance(dataset, FactorSet) or dataset.family.render is None:
            raise DataError(f"{name}: expected its images on this machine, got none; {dataset.remedy}")
        make(dataset.family, folder_in(cache_root(), name, synthetic=True), size=size, workers=workers)


def check_size(dataset: FactorSet, size: int | None) -> None:
    """Refuse a stand-in on this machine that has fewer images than a budget takes."""
    family, place = dataset.family, dataset.locate(None)
    frames = open_frames(family, place)
    wanted = math.prod(map(len, family.subset(size or len(family.grid))))
    if frames.synthetic is not None and len(frames.grid) < wanted:
        raise DataError(
            f"{dataset.name}: expected a stand-in of {wanted:,} images, as the budget takes, got {len(frames.grid):,} "
            f"in {place}; remove them, and the same command renders all"
        )
