"""The time that importing the library adds to importing what it stands on."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from benchmarks.record import Aim, Comparison, Part
from benchmarks.text import duration
from benchmarks.timing import Plan, measure
from latentflow_experiments.reports.tables import table

BELOW, WITH, ALONE = "torch, torchdiffeq", "torch, torchdiffeq, latentflow", "latentflow"
LEAST = 15


def start(modules: str, folder: str) -> None:
    """Import modules in a fresh interpreter, in a folder that holds nothing importable."""
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True, cwd=folder)


def run(plan: Plan) -> Iterator[Comparison]:
    """Start fresh interpreters in turn."""
    rounds = LEAST if plan.rounds >= LEAST else plan.rounds
    with tempfile.TemporaryDirectory() as folder:
        runs = {modules: partial(start, modules, folder) for modules in (BELOW, WITH, ALONE)}
        timings = measure(runs, replace(plan, rounds=rounds, least=rounds))
    yield Comparison("fresh interpreter", "import", timings)


def tables(comparisons: list[Comparison]) -> str:
    """Write the table."""
    timings = comparisons[0].timings
    rows = [
        [f"`import {modules}`", duration(timing.median), f"{duration(timing.lower)} to {duration(timing.upper)}"]
        for modules, timing in timings.items()
    ]
    return table(["command", "time", "middle half of the samples"], rows)


def aims(comparisons: list[Comparison]) -> list[Aim]:
    """Compare with the aim for imports."""
    over = comparisons[0].ratio(WITH, BELOW) - 1
    reason = "reading and compiling the modules of the package takes more than that"
    return [Aim("at most 10 % over importing what it stands on", f"{100 * over:+.1f} %", over <= 0.1, reason)]


PART = Part("imports", run, tables, aims)
