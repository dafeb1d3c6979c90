"""The table of the faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from latentflow_experiments.reports.tables import table
from tests.mutation.fault import Fault
from tests.mutation.record import Trial

UNTRIED = "not tried yet"


def faults_block(faults: Sequence[Fault], trials: Mapping[str, Trial]) -> str:
    """Return the table of the faults, with the first test that fails under each."""
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
