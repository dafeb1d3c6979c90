"""Run the benchmarks: ``python -m benchmarks`` for all, ``python -m benchmarks jets bank`` for some parts."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import torch

from benchmarks import (
    bank,
    compiled,
    densities,
    evaluations,
    frames,
    hopf_lax,
    imports,
    jets,
    laplacians,
    rendering,
    sequences,
    song2023,
)
from benchmarks.record import ROOT, Comparison, Record, describe_run, load, save
from benchmarks.report import render
from benchmarks.text import duration
from benchmarks.timing import Plan

PARTS = (
    jets.PART,
    laplacians.PART,
    densities.PART,
    evaluations.PART,
    bank.PART,
    hopf_lax.PART,
    sequences.PART,
    frames.PART,
    rendering.PART,
    imports.PART,
    compiled.PART,
    song2023.PART,
)
"""The parts, in this order: the last but one leaves the compiler in a bad state, the last keeps freed memory."""
NUMBERS, PAGE = ROOT / "docs" / "benchmarks.json", ROOT / "docs" / "benchmarks.md"
QUICK = Plan(rounds=3, least=2, seconds=0.3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure parts, write their numbers to the JSON file, and from that file the tables of the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="part", help=f"out of {', '.join(p.name for p in PARTS)}; all if none"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads for torch (default: 2)")
    parser.add_argument("--quick", action="store_true", help="a few samples only, shown and not written")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the tables of the page again")
    options = parser.parse_args(arguments)
    unknown = set(options.parts) - {part.name for part in PARTS}
    if unknown:
        parser.error(
            f"part: expected one of {', '.join(part.name for part in PARTS)}, got {', '.join(sorted(unknown))}"
        )
    if not options.render:
        torch.set_num_threads(options.threads)
        measure_parts([part.name for part in PARTS if part.name in (options.parts or [part.name])], quick=options.quick)
    if not options.quick:
        PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), PARTS, load(NUMBERS)), encoding="utf-8")


def measure_parts(names: Sequence[str], *, quick: bool) -> None:
    """Measure parts one after the other; each is written when it is complete."""
    for part in (part for part in PARTS if part.name in names):
        provenance, start = describe_run(), time.perf_counter()
        comparisons = []
        for comparison in part.run(QUICK if quick else Plan()):
            comparisons.append(comparison)
            say(part.name, comparison, time.perf_counter() - start)
        record = Record({**provenance, "seconds": round(time.perf_counter() - start)}, comparisons)
        if quick:
            print(part.tables(comparisons), *part.aims(comparisons), sep="\n")
        else:
            save({**load(NUMBERS), part.name: record}, NUMBERS)
            if part.draw is not None:
                part.draw(comparisons)


def say(part: str, comparison: Comparison, seconds: float) -> None:
    """Show a comparison when it is done."""
    medians = ", ".join(f"{name} {duration(timing.median)}" for name, timing in comparison.timings.items())
    print(f"[{part}, {seconds:.0f} s] {comparison.case}, {comparison.task}: {medians}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
