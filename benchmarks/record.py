"""What a run writes down, and where it ran."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import latentflow
from benchmarks.timing import Plan, Timing
from latentflow_experiments.records import processor, source_commit, versions, write_text

ROOT = Path(__file__).parent.parent
LIBRARIES = (
    "torch",
    "torchdiffeq",
    "geomloss",
    "numpy",
    "zuko",
    "torchcfm",
    "torchdyn",
    "flow_matching",
    "pina-mathlab",
)


@dataclass(frozen=True)
class Comparison:
    """Functions that were timed in turn.

    Attributes:
        case: What they were given.
        task: What they computed.
        timings: The seconds of one call, by the name of the function.
        facts: Whatever else was found.
    """

    case: str
    task: str
    timings: dict[str, Timing]
    facts: dict[str, Any] = field(default_factory=dict)

    def ratio(self, one: str, other: str) -> float:
        """Divide the median time of one function by that of another one."""
        return self.timings[one].median / self.timings[other].median


@dataclass(frozen=True)
class Aim:
    """What was to be reached.

    Attributes:
        text: The aim.
        measured: What was measured.
        met: Whether that is enough.
        reason: Why it is not; shown only where it is missed.
    """

    text: str
    measured: str
    met: bool
    reason: str


@dataclass(frozen=True)
class Part:
    """One part of the benchmarks.

    Attributes:
        name: Its name.
        run: Measures, one comparison after the other.
        tables: Writes the tables of the page.
        aims: Compares with what was to be reached.
        draw: Draws the picture of the page, if there is one.
    """

    name: str
    run: Callable[[Plan], Iterator[Comparison]]
    tables: Callable[[list[Comparison]], str]
    aims: Callable[[list[Comparison]], list[Aim]]
    draw: Callable[[list[Comparison]], None] | None = None


@dataclass(frozen=True)
class Record:
    """One part as it was measured.

    Attributes:
        provenance: Date, commit, machine and versions.
        comparisons: The numbers.
    """

    provenance: dict[str, Any]
    comparisons: list[Comparison]


def describe_run() -> dict[str, Any]:
    """Describe code and machine: date, commit, processor, cores, threads, and versions of everything compared."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "latentflow": latentflow.__version__,
        "libraries": versions(LIBRARIES),
    }


def save(records: dict[str, Record], path: Path) -> None:
    """Write the records of all parts as JSON."""
    content = {name: asdict(record) for name, record in records.items()}
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def load(path: Path) -> dict[str, Record]:
    """Read the records of all parts; none where there is no file."""
    if not path.exists():
        return {}
    return {name: _record(content) for name, content in json.loads(path.read_text(encoding="utf-8")).items()}


def _record(content: dict[str, Any]) -> Record:
    comparisons = []
    for comparison in content["comparisons"]:
        timings = {name: Timing(**timing) for name, timing in comparison.pop("timings").items()}
        comparisons.append(Comparison(timings=timings, **comparison))
    return Record(content["provenance"], comparisons)
