"""The counts of the campaigns, as JSON, and the table of the page on verification."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentflow_experiments.records import provenance, write_text
from latentflow_experiments.reports.tables import table, write_block

__all__ = ["NUMBERS", "PAGE", "Counts", "block", "count", "load", "render", "save"]

ROOT = Path(__file__).parent.parent
NUMBERS, PAGE = ROOT / "docs" / "robustness.json", ROOT / "docs" / "verification.md"
SKIPPED = "skipped"

TITLES = {
    "data_files": "a damaged or hostile data file is read",
    "kills": "training is killed or stopped at any moment, and resumed",
    "run_folders": "a damaged or hostile run folder is given to a command",
    "disk_full": "the disk is full at one of the places where a run writes",
    "owners": "two commands at once in one folder",
    "workers": "one of two training processes is killed or stopped",
}
"""What each campaign does, for the page."""


@dataclass(frozen=True)
class Counts:
    """What became of the cases of a campaign.

    Attributes:
        tried: The number of cases that were tried.
        held: The number of those after which all was well.
        outcomes: The number of cases of each outcome, with those that were skipped.
        seed: The seed.
        origin: The date, the version of the code, and that of Python.
    """

    tried: int
    held: int
    outcomes: dict[str, int]
    seed: int
    origin: dict[str, str | None]


def count(outcomes: Iterable[str], names: Sequence[str], bad: Sequence[str], seed: int) -> Counts:
    """Count the outcomes of a campaign that has just been run.

    Args:
        outcomes: The outcome of each case.
        names: All outcomes there are, in their order.
        bad: Those after which all was not well.
        seed: The seed.

    Returns:
        The counts, with the date and the commit.
    """
    found = Counter(outcomes)
    tried = found.total() - found[SKIPPED]
    facts = provenance()
    origin = {"date": facts["date"][:10], **{name: facts[name] for name in ("commit", "python")}}
    held = tried - sum(found[name] for name in bad)
    return Counts(tried, held, {name: found[name] for name in names}, seed, origin)


def save(counts: Mapping[str, Counts], path: Path = NUMBERS) -> None:
    """Write the counts, by the names of the campaigns."""
    content = {name: asdict(counts[name]) for name in TITLES if name in counts}
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def load(path: Path = NUMBERS) -> dict[str, Counts]:
    """Read the counts; none where there is no file."""
    if not path.exists():
        return {}
    content: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return {name: Counts(**values) for name, values in content.items()}


def block(counts: Mapping[str, Counts]) -> str:
    """Return the table of the campaigns, with what became of their cases."""
    rows: list[list[str]] = []
    origins: dict[str, None] = {}
    for name, title in TITLES.items():
        if name not in counts:
            rows.append([f"`{name}`", title, "", "", "not tried yet"])
            continue
        found = counts[name]
        became = ", ".join(f"{outcome} {number:,}" for outcome, number in found.outcomes.items() if number)
        rows.append([f"`{name}`", title, became, f"{found.tried:,}", f"{found.held:,}"])
        origin = found.origin
        origins[f"{origin['date']}, commit `{origin['commit']}`, Python {origin['python']}"] = None
    lines = [table(["campaign", "what is done", "what became of it", "tried", "held"], rows, left=3)]
    return "\n\n".join([*lines, *(f"Tried on {origin}." for origin in origins)])


def render(counts: Mapping[str, Counts], page: str) -> str:
    """Write the table into the page.

    Args:
        counts: The counts.
        page: The text of the page.

    Returns:
        The text with the table.
    """
    return write_block(page, "robustness", block(counts))
