"""Run the tests on a copy of the project, with and without a fault."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.mutation.fault import Fault

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "runs", "_build", "build", "dist")
ELSEWHERE = ("tests/experiments", "tests/mutation")
"""Folders left out: the tests of training runs, and the tests that read the text that a fault changes."""
SHOW = "import latentflow; print(latentflow.__file__)"


@dataclass(frozen=True)
class Verdict:
    """The verdict of the tests on a fault.

    Attributes:
        killer: The test that failed, as ``file::name``, or None if all passed.
        stage: ``"first"`` if it was among those tried first, ``"all"`` if the whole suite was run.
        seconds: The duration of these runs.
    """

    killer: str | None
    stage: str
    seconds: float


class Copy:
    """A copy of the project in which to break things.

    Args:
        folder: The folder of the copy; must not exist.
        limit: The longest duration of a run of the tests, in seconds.

    Raises:
        RuntimeError: If Python, started there, imports another package than the copy.
    """

    def __init__(self, folder: Path, limit: float = 3600.0) -> None:
        shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
        self.folder, self.limit = folder, limit
        command = [sys.executable, "-c", SHOW]
        found = subprocess.run(
            command, cwd=folder, env=self._environment(), capture_output=True, text=True, check=True
        ).stdout.strip()
        if not Path(found).is_relative_to(folder):
            raise RuntimeError(f"latentflow: expected the copy in {folder}, got {found}")
        self.checked = False

    def check(self, tests: Sequence[str]) -> None:
        """Check that the tests pass before anything is broken.

        Args:
            tests: The tests, below ``tests``; all of them if empty.

        Raises:
            RuntimeError: If a test fails.
        """
        killer, _ = self._run(tests)
        if killer is not None:
            raise RuntimeError(f"tests: expected them to pass on the copy before it is broken, got a failure: {killer}")

    def try_fault(self, fault: Fault, *, whole: bool = True) -> Verdict:
        """Put a fault into the copy, run the tests until one fails, and take it out again.

        Args:
            fault: The fault.
            whole: Whether to run all tests if those that the fault names pass.

        Returns:
            The verdict: of the tests that the fault names, or of all if these pass.

        Raises:
            RuntimeError: If all tests have to be run and one fails without the fault too.
            ValueError: If the text of the fault does not fit the source.
        """
        path = self.folder / fault.file
        source = path.read_text(encoding="utf-8")
        mutated = fault.applied(source)
        try:
            path.write_text(mutated, encoding="utf-8")
            killer, seconds = self._run(fault.tests)
        finally:
            path.write_text(source, encoding="utf-8")
        if killer is not None or not whole:
            return Verdict(killer, "first", seconds)
        if not self.checked:
            self.check(())
            self.checked = True
        try:
            path.write_text(mutated, encoding="utf-8")
            killer, more = self._run(())
        finally:
            path.write_text(source, encoding="utf-8")
        return Verdict(killer, "all", seconds + more)

    def _run(self, tests: Sequence[str]) -> tuple[str | None, float]:
        report = self.folder / "report.xml"
        report.unlink(missing_ok=True)
        named = [f"tests/{test}" for test in tests] or ["tests", *(f"--ignore={path}" for path in ELSEWHERE)]
        options = [
            "-x",
            "-q",
            "-n0",
            "-p",
            "no:cacheprovider",
            "-p",
            "tests.mutation.unshrunk",
            "--tb=no",
            f"--junitxml={report}",
        ]
        start = time.perf_counter()
        try:
            finished = subprocess.run(
                [sys.executable, "-m", "pytest", *options, *named],
                cwd=self.folder,
                env=self._environment(),
                capture_output=True,
                text=True,
                check=False,
                timeout=self.limit,
            )
        except subprocess.TimeoutExpired:
            return "the time limit", time.perf_counter() - start
        seconds = time.perf_counter() - start
        killer = first_failure(report.read_text(encoding="utf-8")) if report.exists() else None
        if killer is None and finished.returncode != 0:
            raise RuntimeError(f"pytest: expected tests to run, got\n{finished.stdout}\n{finished.stderr}")
        return killer, seconds

    def _environment(self) -> dict[str, str]:
        own = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(self.folder)}
        return {**os.environ, **own}


def first_failure(report: str) -> str | None:
    """Return the first test that failed, from a report in the format of JUnit.

    Args:
        report: The XML.

    Returns:
        The test as ``file::name``, without its parameters; None if none failed.

    Example:
        >>> report = '<suite><testcase classname="tests.flow.test_x" name="test_y[1]"><failure/></testcase></suite>'
        >>> assert first_failure(report) == "tests/flow/test_x.py::test_y"
        >>> assert first_failure(report.replace("<failure/>", "")) is None
    """
    for case in ElementTree.fromstring(report).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            place, name = case.get("classname") or "", case.get("name") or ""
            if not place:  # a file that could not be imported
                return name.replace(".", "/") + ".py"
            return f"{place.replace('.', '/')}.py::{name.split('[')[0]}"
    return None
