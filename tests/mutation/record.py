"""The record of the trials, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentflow_experiments.records import write_text
from tests.mutation.fault import Fault
from tests.mutation.trial import ROOT, Verdict

NUMBERS, PAGE = ROOT / "docs" / "mutants.json", ROOT / "docs" / "verification.md"


@dataclass(frozen=True)
class Trial:
    """The trial of a fault.

    Attributes:
        fingerprint: The fingerprint of the fault that was tried.
        verdict: The verdict of the tests.
        provenance: The date, the machine and the version of the code.
    """

    fingerprint: str
    verdict: Verdict
    provenance: dict[str, Any]

    def is_of(self, fault: Fault) -> bool:
        """Return whether the fault is the one that was tried."""
        return self.fingerprint == fault.fingerprint


def save(trials: Mapping[str, Trial], path: Path) -> None:
    """Write the trials, by the names of the faults."""
    content = {name: asdict(trial) for name, trial in trials.items()}
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def load(path: Path) -> dict[str, Trial]:
    """Read the trials; none where there is no file."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: Trial(trial["fingerprint"], Verdict(**trial["verdict"]), trial["provenance"])
        for name, trial in content.items()
    }
