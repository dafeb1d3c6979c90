"""Reports that were written before, whose runs need not be trained again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentflow_experiments.errors import DataError, UsageError
from latentflow_experiments.reading import reading
from latentflow_experiments.records import read_json

NUMBERS = "numbers"
BY_STEP = "error / still picture, by step"


@dataclass(frozen=True)
class RunResult:
    """What a run tells a table.

    Attributes:
        facts: What is known of the run: its name, seed, command, commits, data.
        numbers: Its numbers, by column.
        by_step: Its error at each step relative to that of a still picture, the mean over transformations.
    """

    facts: Mapping[str, Any]
    numbers: Mapping[str, float]
    by_step: Sequence[float] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as a report holds it."""
        return {**self.facts, NUMBERS: dict(self.numbers), BY_STEP: list(self.by_step)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunResult:
        """Read what :meth:`as_json` has returned."""
        facts = {key: value for key, value in values.items() if key not in (NUMBERS, BY_STEP)}
        numbers = {str(name): float(value) for name, value in values[NUMBERS].items()}
        return cls(facts, numbers, [float(value) for value in values[BY_STEP]])


@dataclass(frozen=True)
class EarlierPicture:
    """A picture of an earlier report.

    Attributes:
        path: Its file.
        composition: What was measured of composed flows, where the picture shows such; else None.
        run: What is known of the run.
    """

    path: Path
    composition: Mapping[str, Any] | None
    run: Mapping[str, Any]


@dataclass(frozen=True)
class Earlier:
    """What reports that were written before tell: those of other machines, or of runs that are no longer there.

    Attributes:
        origins: Command, date and commit of each report.
        results: What each run told a table, by the names of table, row and run.
        pictures: Their pictures, by the names of the file and of the run.
    """

    origins: Sequence[Mapping[str, str]] = ()
    results: Mapping[tuple[str, str, str], RunResult] = field(default_factory=dict)
    pictures: Mapping[tuple[str, str], EarlierPicture] = field(default_factory=dict)


NOTHING = Earlier()


def open_reports(folders: Sequence[Path], budget: str) -> Earlier:
    """Read reports; what several tell is that of the first.

    Args:
        folders: Where they were written.
        budget: The name of the budget that their runs should have had.

    Returns:
        What they tell.

    Raises:
        UsageError: If there is none in a folder, or it is of another budget.
        DataError: If one is damaged, lacks a picture, or is of a version that did not tell runs apart.
    """
    origins: list[Mapping[str, str]] = []
    results: dict[tuple[str, str, str], RunResult] = {}
    pictures: dict[tuple[str, str], EarlierPicture] = {}
    for folder in reversed(folders):
        path = folder / "results.json"
        try:
            values = read_json(path, "a report")
        except FileNotFoundError:
            raise UsageError(f"earlier: expected folders of reports, got {folder} without a results.json") from None
        if values.get("budget") != budget:
            raise UsageError(
                f"earlier: expected reports of the budget {budget}, got one of {values.get('budget')} in {folder}"
            )
        with reading(path, "a report that tells runs apart"):
            for table, found in values["tables"].items():
                for row, runs in found["runs"].items():
                    results |= {(table, row, str(run["run"])): RunResult.from_json(run) for run in runs}
            shown = [own for figure in values["figures"].values() for own in figure if own["file"] is not None]
            for own in shown:
                file = Path(own["file"]).name
                picture = EarlierPicture(folder / "pictures" / file, own["composition"], own["run"])
                pictures[file, str(own["run"]["run"])] = picture
            origins.insert(0, {key: str(values["provenance"][key]) for key in ("command", "date", "commit")})
    for picture in pictures.values():
        if not picture.path.is_file():
            raise DataError(f"earlier: expected a report with its pictures, got none at {picture.path}")
    return Earlier(origins, results, pictures)
