"""Run campaigns of faults from outside: ``python -m robustness kills run_folders``, or ``all``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from latentflow_experiments.records import write_text
from latentflow_experiments.reports.tables import table
from robustness import data_files, disk_full, kills, owners, run_folders, workers
from robustness.record import NUMBERS, PAGE, Counts, count, load, render, save


@dataclass(frozen=True)
class Campaign:
    """A campaign of the command line.

    Attributes:
        module: Its module, with ``OUTCOMES``, ``BAD`` and ``summary``.
        run: Runs a number of cases with a seed.
        cases: The number of cases without ``--cases``.
    """

    module: ModuleType
    run: Callable[[int, int], Sequence[Any]]
    cases: int


CAMPAIGNS = {
    "data_files": Campaign(data_files, data_files.campaign, 1000),
    "kills": Campaign(kills, lambda cases, seed: kills.campaign(cases, (2 * cases + 4) // 5, 2 * cases, seed), 50),
    "run_folders": Campaign(run_folders, run_folders.campaign, 500),
    "disk_full": Campaign(disk_full, lambda cases, seed: disk_full.campaign(seed, cases, cases // 2, cases), 20),
    "owners": Campaign(owners, owners.campaign, 24),
    "workers": Campaign(workers, workers.campaign, len(workers.CASES)),
}
"""The campaigns, by the name of their module."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run campaigns and print what became of their cases.

    Args:
        arguments: The arguments, or None for those of the process.

    Returns:
        The exit code: 1 if anything did not hold.
    """
    parser = argparse.ArgumentParser(prog="python -m robustness", description=__doc__)
    parser.add_argument("campaigns", nargs="*", metavar="CAMPAIGN", help=f"all, or some of {', '.join(CAMPAIGNS)}")
    parser.add_argument("--cases", type=int, metavar="N", help="how many cases of each, instead of its default")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the seed of the damage and of the moments")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcome of every case")
    parser.add_argument("--record", action="store_true", help="write the counts and the table of the page")
    parser.add_argument("--render", action="store_true", help="run nothing, write the table of the page again")
    options = parser.parse_args(arguments)
    if options.cases is not None and options.cases < 1:
        parser.error(f"--cases: expected a positive integer, got {options.cases}")
    if set(options.campaigns) - {*CAMPAIGNS, "all"} or not (options.campaigns or options.render):
        parser.error(f"CAMPAIGN: expected all, or some of {', '.join(CAMPAIGNS)}")
    names = list(CAMPAIGNS) if "all" in options.campaigns else list(dict.fromkeys(options.campaigns))
    counts: dict[str, Counts] = {}
    every: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        outcomes = _run(name, options.cases, options.seed)
        module = CAMPAIGNS[name].module
        counts[name] = count((one.outcome for one in outcomes), module.OUTCOMES, module.BAD, options.seed)
        every[name] = [asdict(one) for one in outcomes]
        if options.json is not None:
            write_text(options.json, json.dumps(every, indent=1) + "\n")
        if options.record:
            save(load(NUMBERS) | counts)
    if options.record or options.render:
        write_text(PAGE, render(load(NUMBERS), PAGE.read_text(encoding="utf-8")))
    if counts:
        rows = [[name, f"{found.tried:,}", f"{found.held:,}"] for name, found in counts.items()]
        print(table(["campaign", "tried", "held"], rows))
    return int(any(found.held < found.tried for found in counts.values()))


def _run(name: str, cases: int | None, seed: int) -> Sequence[Any]:
    """Run a campaign, and print what did not hold and the counts."""
    campaign = CAMPAIGNS[name]
    begun = time.perf_counter()
    outcomes = campaign.run(campaign.cases if cases is None else cases, seed)
    for one in outcomes:
        if one.outcome in campaign.module.BAD:
            kind = getattr(one, "kind", None) or one.format
            what = getattr(one, "what", None) or getattr(one, "mutation", "")
            print(f"case {one.case}, {kind}, {what}: {one.outcome}: {one.detail}")
    print(
        f"\n{name}, {len(outcomes)} cases, {time.perf_counter() - begun:.0f} s\n{campaign.module.summary(outcomes)}\n"
    )
    sys.stdout.flush()
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
