"""Try faults: ``python -m tests.mutation`` for those not tried yet, with ``--only NAME`` for some again."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from latentflow_experiments.records import provenance, versions, write_text
from latentflow_experiments.reports.tables import write_block
from tests.mutation.fault import Fault
from tests.mutation.faults import FAULTS
from tests.mutation.page import faults_block
from tests.mutation.record import NUMBERS, PAGE, Trial, load, save
from tests.mutation.trial import Copy


def main(arguments: Sequence[str] | None = None) -> None:
    """Try faults one by one, record each verdict, and write the table of the page from the record."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="try these, whether or not they were tried before")
    parser.add_argument("--again", action="store_true", help="try all, whether or not they were tried before")
    parser.add_argument("--list", action="store_true", help="show the names of the faults and try nothing")
    parser.add_argument("--render", action="store_true", help="try nothing, write the table of the page again")
    parser.add_argument(
        "--first", action="store_true", help="only run the tests that a fault names; write what they find"
    )
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which tests are stopped")
    options = parser.parse_args(arguments)
    unknown = set(options.only or ()) - {fault.name for fault in FAULTS}
    if unknown:
        parser.error(f"NAME: expected names that --list shows, got {', '.join(sorted(unknown))}")
    if options.list:
        print(*(fault.name for fault in FAULTS), sep="\n")
        return
    interrupted = False
    if not options.render:
        trials = load(NUMBERS)
        try:
            wanted = [fault for fault in FAULTS if _wanted(fault, trials, options)]
            try_faults(wanted, trials, options.limit, whole=not options.first)
        except KeyboardInterrupt:
            interrupted = True
    page = PAGE.read_text(encoding="utf-8")
    write_text(PAGE, write_block(page, "mutants", faults_block(FAULTS, load(NUMBERS))))
    if interrupted:
        print("interrupted; what was tried is kept, the same command goes on", file=sys.stderr)
        raise SystemExit(130)


def _wanted(fault: Fault, trials: dict[str, Trial], options: argparse.Namespace) -> bool:
    if options.only:
        return fault.name in options.only
    return options.again or fault.name not in trials or not trials[fault.name].is_of(fault)


def try_faults(faults: Sequence[Fault], trials: dict[str, Trial], limit: float, *, whole: bool = True) -> None:
    """Try faults on a copy of the project and record each verdict.

    Args:
        faults: The faults.
        trials: The trials recorded before; those of removed faults are dropped.
        limit: The longest duration of a run of the tests, in seconds.
        whole: Whether to run all tests if the tests that a fault names pass; otherwise such a fault stays untried.

    Raises:
        RuntimeError: If a test that is needed fails without any fault.
    """
    if not faults:
        return
    known = {fault.name for fault in FAULTS}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Copy(Path(folder) / "project", limit)
        facts = _facts()
        copy.check(sorted({test for fault in faults for test in fault.tests}))
        for number, fault in enumerate(faults, start=1):
            verdict = copy.try_fault(fault, whole=whole)
            if whole or verdict.killer is not None:
                trials[fault.name] = Trial(fault.fingerprint, verdict, facts)
                save({name: trial for name, trial in trials.items() if name in known}, NUMBERS)
            caught = verdict.killer or "NOT NOTICED"
            print(f"[{number}/{len(faults)}, {verdict.seconds:.0f} s] {fault.name}: {caught}", file=sys.stderr)


def _facts() -> dict[str, object]:
    facts = provenance()
    kept = {name: facts[name] for name in ("date", "commit", "python", "platform", "processors")}
    return {**kept, "packages": versions(("torch", "torchdiffeq", "numpy", "pytest", "hypothesis"))}


if __name__ == "__main__":
    main()
