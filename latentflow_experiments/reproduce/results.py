"""The numbers of a reproduction beside those of the paper: means, orders and claims."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

from latentflow_experiments.reproduce.earlier import NOTHING, Earlier, RunResult
from latentflow_experiments.reproduce.experiments import Figure, Picture, Table
from latentflow_experiments.reproduce.paper import PAPER, Numbers
from latentflow_experiments.reproduce.plan import Run, picture_of, read_records, run_of
from latentflow_experiments.reproduce.presets import Preset


@dataclass(frozen=True)
class Cell:
    """A number over seeds.

    Attributes:
        values: The number of each seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean."""
        return statistics.mean(self.values)

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds, with n - 1; None of one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def text(self, digits: int) -> str:
        """Write mean and deviation."""
        mean = f"{self.mean:.{digits}f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:.{digits}f}"


@dataclass(frozen=True)
class Order:
    """The order of the rows of a column beside that of the paper.

    Attributes:
        column: The column.
        rows: The rows that both have.
        tau: Kendall's tau-b of both orders, 1 for the same one and -1 for the opposite one; None of one row,
            or where all are equal.
        inverted: The pairs of rows that the paper has in the other order: first the one that is lower here.
    """

    column: str
    rows: tuple[str, ...]
    tau: float | None
    inverted: tuple[tuple[str, str], ...]


def compare_orders(ours: Numbers, paper: Numbers, column: str) -> Order:
    """Compare the order of the rows of a column with that of the paper.

    Args:
        ours: Means by row and column.
        paper: Those of the paper.
        column: The column.

    Returns:
        The comparison.

    Example:
        >>> ours = {"a": {"E": 3.0}, "b": {"E": 2.0}, "c": {"E": 1.0}}
        >>> paper = {"a": {"E": 30.0}, "b": {"E": 10.0}, "c": {"E": 20.0}}
        >>> order = compare_orders(ours, paper, "E")
        >>> assert order.inverted == (("c", "b"),) and abs(order.tau - 1 / 3) < 1e-12
    """
    rows = tuple(row for row in ours if column in ours[row] and column in paper.get(row, {}))
    if len(rows) < 2:
        return Order(column, rows, None, ())
    inverted = []
    for one, two in combinations(rows, 2):
        here, there = ours[one][column] - ours[two][column], paper[one][column] - paper[two][column]
        if here * there < 0:
            inverted.append((one, two) if here < 0 else (two, one))
    tau = float(kendalltau([ours[row][column] for row in rows], [paper[row][column] for row in rows]).statistic)
    return Order(column, rows, None if math.isnan(tau) else tau, tuple(inverted))


@dataclass(frozen=True)
class TableResult:
    """What was found for a table.

    Attributes:
        table: The table.
        results: What the runs of each row that have ended tell, by seed.
    """

    table: Table
    results: Mapping[str, Sequence[RunResult]]

    @property
    def cells(self) -> dict[str, dict[str, Cell]]:
        """The numbers by row and column; a column that no run of a row has a number of is missing."""
        cells: dict[str, dict[str, Cell]] = {}
        for row, results in self.results.items():
            values = {
                column.name: tuple(own.numbers[column.name] for own in results if column.name in own.numbers)
                for column in self.table.all_columns
            }
            cells[row] = {name: Cell(own) for name, own in values.items() if own}
        return cells

    @property
    def runs(self) -> dict[str, list[Mapping[str, Any]]]:
        """What is known of the runs of each row that has any, by seed."""
        return {row: [own.facts for own in results] for row, results in self.results.items() if results}

    @property
    def missing(self) -> tuple[str, ...]:
        """The rows of which no run has ended."""
        return tuple(row for row, results in self.results.items() if not results)

    @property
    def by_step(self) -> dict[str, list[float]]:
        """The error of each step relative to that of a still picture: means over transformations, and over seeds."""
        steps = {row: [own.by_step for own in results if own.by_step] for row, results in self.results.items()}
        return {
            row: [statistics.mean(values) for values in zip(*own, strict=True)] for row, own in steps.items() if own
        }

    @property
    def means(self) -> dict[str, dict[str, float]]:
        """The means by row and column."""
        return {row: {name: cell.mean for name, cell in cells.items()} for row, cells in self.cells.items()}

    @property
    def orders(self) -> list[Order]:
        """The order of each column that the paper has too."""
        paper, means = PAPER[self.table.name], self.means
        orders = (compare_orders(means, paper, column.name) for column in self.table.columns)
        return [order for order in orders if order.tau is not None]

    @property
    def claims(self) -> list[tuple[str, bool | None]]:
        """The claims of the paper, and whether they hold here; None where a number is missing."""
        means = self.means
        return [(claim.text, claim.holds(means)) for claim in self.table.claims]


def collect(table: Table, preset: Preset, seeds: Sequence[int], out: Path, earlier: Earlier = NOTHING) -> TableResult:
    """Read the numbers of a table from the runs that have ended.

    Args:
        table: The table.
        preset: The budget.
        seeds: The seeds of a row.
        out: The folder of the reproduction.
        earlier: Reports that tell of runs, which are not looked for in ``out``.

    Returns:
        What was found.
    """
    parts = tuple(sorted({column.part for column in table.all_columns if column.part is not None}))
    results: dict[str, list[RunResult]] = {}
    for row in table.rows:
        runs = [replace(run_of(row, preset, seed), parts=parts) for seed in seeds]
        each = (earlier.results.get((table.name, row.name, run.name)) or read_result(table, run, out) for run in runs)
        results[row.name] = [own for own in each if own is not None]
    return TableResult(table, results)


def read_result(table: Table, run: Run, out: Path) -> RunResult | None:
    """Read what a run tells a table.

    Args:
        table: The table.
        run: The run, with the parts that the table needs.
        out: The folder of the reproduction.

    Returns:
        Its numbers; None if it has not ended, or nothing that the table shows was measured of it.
    """
    records = read_records(run, out)
    if "evaluation" not in records:
        return None
    values = {column.name: column.read(records) for column in table.all_columns}
    numbers = {name: value for name, value in values.items() if value is not None}
    if not numbers:
        return None
    evaluation = records["evaluation"]
    by_step = relative_by_step(evaluation["result"]["errors"])
    return RunResult(describe(run, evaluation["provenance"]), numbers, by_step)


@dataclass(frozen=True)
class PictureResult:
    """What was found for a picture.

    Attributes:
        picture: The picture.
        path: Its file; None where its run has not ended.
        composition: What was measured of composed flows, where the picture shows such; else None.
        run: What is known of the run; None where it has not ended.
    """

    picture: Picture
    path: Path | None
    composition: Mapping[str, Any] | None
    run: Mapping[str, Any] | None

    @property
    def caption(self) -> str:
        """The data that the run was trained on and, if it is shown others, those; and what the picture shows."""
        data = self.picture.row.config.dataset
        if self.run is not None:
            shown = self.run["data"]  # its name says whether it is synthetic
            data = f"{data} on {shown}" if self.picture.transfer else shown
        return f"{data}. {self.picture.caption}"


@dataclass(frozen=True)
class FigureResult:
    """What was found for a figure.

    Attributes:
        figure: The figure.
        pictures: What was found for each picture.
    """

    figure: Figure
    pictures: Sequence[PictureResult]


def collect_figure(figure: Figure, preset: Preset, out: Path, earlier: Earlier = NOTHING) -> FigureResult:
    """Find the pictures of a figure, and read what was measured of their runs.

    Args:
        figure: The figure.
        preset: The budget.
        out: The folder of the reproduction.
        earlier: Reports that show pictures, which are not looked for in ``out``.

    Returns:
        What was found.
    """
    pictures = []
    for picture, file in zip(figure.pictures, figure.files, strict=True):
        run = replace(
            run_of(picture.row, preset, 0),
            parts=() if picture.part is None else (picture.part,),
            transfers=() if picture.transfer is None else (picture.transfer,),
        )
        known = earlier.pictures.get((file, run.name))
        if known is not None:
            pictures.append(PictureResult(picture, known.path, known.composition, known.run))
            continue
        records, path = read_records(run, out), picture_of(picture, preset, out)
        composition = records["composition"]["result"] if "composition" in records else None
        evaluation = records.get("transfer" if picture.transfer else "evaluation")
        facts = describe(run, evaluation["provenance"]) if evaluation else None
        pictures.append(PictureResult(picture, path if path.exists() else None, composition, facts))
    return FigureResult(figure, pictures)


def relative_by_step(errors: Mapping[str, Mapping[str, Any]]) -> list[float]:
    """Return the error of each step relative to that of a still picture, the mean over transformations.

    Args:
        errors: The errors of an evaluation, by the name of the transformation.

    Returns:
        The ratios of all steps; none of an evaluation that does not tell steps apart.
    """
    each = [
        [ours / still for ours, still in zip(error["output_by_step"], error["static_by_step"], strict=True)]
        for error in errors.values()
        if error.get("output_by_step")
    ]
    return [statistics.mean(values) for values in zip(*each, strict=True)]


def describe(run: Run, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Describe where the numbers of a run come from."""
    sessions = facts.get("training") or [{}]
    data = facts.get("data", {})
    return {
        "run": run.name,
        "seed": run.config.seed,
        "command": sessions[0].get("command", ""),
        "commit": facts.get("commit"),
        "trained at": sessions[-1].get("commit"),
        "steps": facts.get("steps"),
        "training_seconds": facts.get("training_seconds"),
        "data": data.get("name"),
        "sha256": str(data.get("sha256", ""))[:12],
        "synthetic": bool(data.get("synthetic")),
        "packages": facts.get("packages"),
    }
