"""A bank of potentials with an index for each sample, against one potential for all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.automatic import latentflow_jet
from benchmarks.jets import SIZES, STEPS, TASKS, TOLERANCE, Size
from benchmarks.record import Aim, Comparison, Part
from benchmarks.text import duration, times
from benchmarks.timing import Plan, check_close, measure
from latentflow import PotentialBank
from latentflow_experiments.reports.tables import table

COUNT = 3
MIXED, ONE = "mixed", "one"
LIMIT = 1.3


def compute(bank: PotentialBank, k: int | Tensor, task: str, z: Tensor, t: Tensor) -> tuple[Tensor, ...]:
    """Select and compute the jet, as a training step does for each batch."""
    return STEPS[task](latentflow_jet, bank.select(k), z, t)


def compare(size: Size, task: str, plan: Plan) -> Comparison:
    """Time mixed indices and one index at one size."""
    _, z, t = size.inputs()
    bank = PotentialBank([size.inputs(seed)[0] for seed in range(COUNT)])
    k = torch.randint(COUNT, (size.batch,), generator=torch.Generator().manual_seed(1))

    def check(name: str, result: Any) -> None:  # noqa: ANN401 - of any function
        if name == MIXED and task == TASKS[0]:
            each = [latentflow_jet(bank[i], z, t) for i in range(COUNT)]
            rows = torch.arange(size.batch)
            expected = [torch.stack(columns)[k, rows] for columns in zip(*each, strict=True)]
            check_close(result, expected, TOLERANCE[task], f"{size}, {task}, {name}")

    runs = {MIXED: partial(compute, bank, k, task, z, t), ONE: partial(compute, bank, 1, task, z, t)}
    return Comparison(str(size), task, measure(runs, plan, check))


def run(plan: Plan) -> Iterator[Comparison]:
    """Measure both tasks at all sizes."""
    for task in TASKS:
        for size in SIZES:
            yield compare(size, task, plan)


def tables(comparisons: list[Comparison]) -> str:
    """Write one table for both tasks."""
    rows = []
    for comparison in comparisons:
        medians = [duration(comparison.timings[name].median) for name in (MIXED, ONE)]
        rows.append([comparison.case, comparison.task, *medians, times(comparison.ratio(MIXED, ONE))])
    return table(["points, width", "task", "mixed indices", "one index", "mixed / one"], rows, left=2)


def aims(comparisons: list[Comparison]) -> list[Aim]:
    """Compare with the aim for banks."""
    result = []
    for task in TASKS:
        costs = {c.case: c.ratio(MIXED, ONE) for c in comparisons if c.task == task}
        case = max(costs, key=lambda case: costs[case])
        reason = (
            "the networks are evaluated side by side, in the same products; sorting the points, filling up the groups "
            "and putting the results back take a time that shows where there is little to compute"
        )
        text = f"mixed indices at most {LIMIT} x as dear as one index, {task}"
        result.append(Aim(text, f"{times(costs[case])} at {case}", costs[case] <= LIMIT, reason))
    return result


PART = Part("bank", run, tables, aims)
