"""The table of the faults, and one block of a page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from benchmarks.text import table
from tests.mutation.fault import Fault
from tests.mutation.record import Trial

UNTRIED = "not tried yet"


def write_block(page: str, name: str, content: str) -> str:
    r"""Write a block of a page anew, the text between ``<!-- begin NAME -->`` and ``<!-- end -->``.

    Args:
        page: The page.
        name: The name of the block.
        content: What it is to hold.

    Returns:
        The page with the new block.

    Raises:
        ValueError: If the page has not exactly one block of that name.

    Example:
        >>> page = "<!-- begin sum -->\n\nold\n\n<!-- end -->"
        >>> assert write_block(page, "sum", "new") == page.replace("old", "new")
    """
    block = re.compile(rf"(<!-- begin {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    found = len(block.findall(page))
    if found != 1:
        raise ValueError(f"page: expected one block {name!r}, got {found}")
    return block.sub(lambda match: f"{match[1]}\n{content}\n\n{match[2]}", page)


def faults_block(faults: Sequence[Fault], trials: Mapping[str, Trial]) -> str:
    """Say which faults the tests notice, and which test did."""
    rows, caught, missed, open_ = [], 0, [], []
    for fault in faults:
        trial = trials.get(fault.name)
        if trial is None or not trial.is_of(fault):
            open_.append(fault.name)
            rows.append([fault.name, f"`{fault.file}`", UNTRIED, ""])
            continue
        killer = trial.verdict.killer
        if killer is None:
            missed.append(fault.name)
        caught += killer is not None
        rows.append([fault.name, f"`{fault.file}`", _shown(killer), f"{trial.verdict.seconds:.0f} s"])
    lines = [f"{len(faults)} faults: {caught} are noticed, {len(missed)} are not, {len(open_)} have not been tried."]
    if missed:
        lines.append(f"Not noticed: {'; '.join(missed)}.")
    lines += [table(["fault", "file", "first test that fails", "time"], rows, left=3), *_origins(faults, trials)]
    return "\n\n".join(lines)


def _shown(killer: str | None) -> str:
    return "**none**" if killer is None else f"`{killer.removeprefix('tests/')}`"


def _origins(faults: Sequence[Fault], trials: Mapping[str, Trial]) -> list[str]:
    counts: dict[str, int] = {}
    for fault in faults:
        trial = trials.get(fault.name)
        if trial is not None and trial.is_of(fault):
            facts = trial.provenance
            packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items() if number)
            line = f"{facts['date'][:10]}, commit `{facts['commit']}`, Python {facts['python']}, {packages}"
            counts[line] = counts.get(line, 0) + 1
    return [f"{count} tried on {line}." for line, count in counts.items()]
