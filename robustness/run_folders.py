"""Damaged and hostile run folders, each tried by every command that reads one, with what became of it."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustness import commands
from robustness.commands import GIBIBYTE, Command, Ended, Outcome, misbehaviour, preload
from robustness.run_mutations import MARKER, VICTIM, ZEN, mutate, plant
from robustness.tiny import MEASURE, checkpoint_every, numbers, strict_json, train, weights

__all__ = ["BAD", "OUTCOMES", "campaign", "summary"]

OUTCOMES = ("refused", "harmless", "skipped", "silent", "code", "traceback", "hang", "memory")
"""What becomes of a folder.

Refused with one line; harmless, since the numbers are those of the whole run; not tried, since the command does not
exist; exit code 0 with other numbers, NaN written into JSON, a file elsewhere overwritten, or ``check`` that finds
nothing although another command does; code that the folder names was run; something else than one line; more than a
minute, or waiting for something; more than a gibibyte of memory.
"""

BAD = OUTCOMES[3:]
SECONDS = 60.0
MEMORY = 4 * GIBIBYTE  # of address space, above that of the process before
STEPS, MORE = 6, 8
TABLE = "|"


@dataclass(frozen=True)
class Found:
    """What a command found.

    Attributes:
        rows: The rows of the tables that it printed.
        values: The numbers that it wrote.
    """

    rows: tuple[str, ...]
    values: Any


def campaign(cases: int = 500, seed: int = 0) -> list[Outcome]:
    """Damage the folder of a finished run, try every command on it, and say what became of it.

    Args:
        cases: The number of damaged folders.
        seed: The seed of the damage; the same cases come first whatever their number.

    Returns:
        The outcome of each command on each folder.
    """
    return commands.campaign_of("robustness.run_folders", cases=cases, seed=seed)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Format the outcomes as a table."""
    return commands.summary(outcomes, OUTCOMES)


def work(cases: int, seed: int) -> Iterator[Outcome]:
    """Yield the outcome of each command on each folder; what :func:`campaign` runs in a process of its own."""
    preload([train("{}", 2), ["measure", "{}", *MEASURE], ["compare", "{}", "{}"]])
    with tempfile.TemporaryDirectory(prefix="latentflow-runs-") as folder:
        trial = Trial(Path(folder))
        for case in range(cases):
            yield from trial.outcomes(case, seed)


class Trial:
    """The whole runs, what every command finds of them, and the place where they are damaged.

    Args:
        root: An empty folder.
    """

    def __init__(self, root: Path) -> None:
        self._whole, self._other, self._place = root / "whole", root / "other", root / "place"
        self._place.mkdir()
        self._run = self._place / "run"
        self._measurement = self._run / "likelihood.json"
        wider = train(root / "wider", 2)
        wider[wider.index("--width") + 1] = "5"
        for arguments in (train(self._whole, STEPS), train(self._other, STEPS, "--seed", "1"), wider):
            self._made(arguments, root)
        for folder in (self._whole, self._other):
            self._made(["measure", str(folder), *MEASURE], root)
        shutil.copy(root / "wider" / "checkpoint.safetensors", root / "wider.safetensors")
        run, other = str(self._run), str(self._other)
        self._commands = {
            "evaluate": ["evaluate", run],
            "measure": ["measure", run, *MEASURE],
            "compare": ["compare", run, other],
            "train --resume": train(run, MORE, "--resume"),
            "check": ["check", run],
        }
        self._expected: dict[str, Found] = {}
        for name, arguments in self._commands.items():
            self._prepare()
            ended = self._tried(arguments)
            assert ended.code == 0 or name == "check", f"{name}: {ended.err}"
            assert not self._code_ran(ended), f"{name}: the check for planted code finds some in a whole run"
            self._expected[name] = self._found(name, ended)
        self._alone = _rows(Command(["compare", other], self._place).wait(SECONDS).out)
        self._prepare()
        self._measurement.unlink()
        self._unmeasured = Found(_rows(self._tried(self._commands["compare"]).out), None)

    def outcomes(self, case: int, seed: int) -> Iterator[Outcome]:
        """Damage the run and yield what becomes of it under each command."""
        faulty = ""
        for name, arguments in self._commands.items():
            what = self._prepare(np.random.default_rng([seed, case]))
            begun = time.perf_counter()
            before = self._texts()
            ended = self._tried(arguments)
            outcome, detail = self._judge(name, ended, before)
            if name == "check" and outcome == "harmless" and faulty:
                outcome, detail = "silent", f"finds nothing, but {faulty}"
            if outcome not in ("harmless", "skipped"):
                faulty = faulty or f"{name} is {outcome}: {detail}"
            detail = detail.replace(str(self._place), "")
            yield Outcome(case, name, what, outcome, detail, time.perf_counter() - begun)

    def _prepare(self, rng: np.random.Generator | None = None) -> str:
        """Make a fresh copy of the whole run, and damage it."""
        for path in self._place.rglob("*"):
            with suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o700)
        shutil.rmtree(self._place)
        self._place.mkdir()
        plant(self._place)
        shutil.copytree(self._whole, self._run)
        return "" if rng is None else mutate(self._run, self._whole.parent, rng)

    def _made(self, arguments: Sequence[str], place: Path) -> None:
        ended = Command(arguments, place, prepare=lambda: checkpoint_every(60.0)).wait(SECONDS)
        assert ended.code == 0, ended.err

    def _tried(self, arguments: Sequence[str]) -> Ended:
        def prepare() -> None:
            os.register_at_fork(before=(self._place / MARKER).touch)
            _forgo_privileges()

        return Command(arguments, self._place, MEMORY, prepare).wait(SECONDS)

    def _judge(self, name: str, ended: Ended, before: dict[str, bytes]) -> tuple[str, str]:  # noqa: PLR0911 - one each
        if self._code_ran(ended):
            return "code", ended.message
        if ended.hung:
            return "hang", ended.waited
        if ended.mebibytes > 1024 or "MemoryError" in ended.err:
            return "memory", f"{ended.mebibytes} MiB: {ended.message}"
        if name == "check" and ended.code == 2:
            return "skipped", ended.message
        if (wrong := misbehaviour(ended)) is not None or ended.code not in (0, 1, 2):
            return "traceback", wrong or f"died with exit code {ended.code}"
        victim = self._place / VICTIM
        if victim.exists() and not any(victim.read_bytes() == path.read_bytes() for path in self._whole.iterdir()):
            return "silent", "a file elsewhere was overwritten through a link"
        if ended.code:
            return "refused", ended.message
        if (fault := self._not_json(before)) is not None:
            return "silent", fault
        try:
            found = self._found(name, ended)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return "silent", f"exit code 0, but its results cannot be read: {type(error).__name__}: {error}"
        if found == self._expected[name] or name == "check":
            return "harmless", ""
        if name == "compare" and found == self._unmeasured and not os.path.lexists(self._measurement):
            return "harmless", "as a run that was not measured"
        if name == "compare" and found.rows == self._alone and self._run.name in ended.err + ended.out:
            return "refused", f"left out: {' '.join(ended.lines)}"
        return "silent", _difference(found, self._expected[name])

    def _code_ran(self, ended: Ended) -> bool:
        return (self._place / MARKER).exists() or ZEN in ended.out or ended.code == -signal.SIGABRT

    def _found(self, name: str, ended: Ended) -> Found:
        if name in ("evaluate", "measure"):
            return Found(_rows(ended.out), numbers(self._run, "evaluation" if name == "evaluate" else "likelihood"))
        if name == "train --resume":
            return Found(_rows(ended.out), (numbers(self._run, "evaluation"), weights(self._run)))
        return Found(_rows(ended.out), None)

    def _texts(self) -> dict[str, bytes]:
        """Read the JSON files as they are now, those that are small files."""
        return {
            path.name: path.read_bytes()
            for path in self._run.glob("*.json*")
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 2**26
        }

    def _not_json(self, before: dict[str, bytes]) -> str | None:
        """Name a file that was written, and that is no JSON."""
        for name, text in self._texts().items():
            if before.get(name) == text:
                continue
            try:
                content = text.decode()
                for part in content.splitlines() if name.endswith("l") else [content]:
                    strict_json(part)
            except (ValueError, RecursionError) as error:
                return f"wrote {name}: {error}"
        return None


def _rows(text: str) -> tuple[str, ...]:
    """Return the rows of the tables without what pads them, and without the options by which a run is named."""
    lines = [line for line in text.splitlines() if line.startswith(TABLE) and not line.startswith((":", "-"), 1)]
    rows = ([cell.strip() for cell in line.strip(TABLE).split(TABLE)] for line in lines)
    return tuple(" | ".join("a run" if cell.startswith("`") else cell for cell in row) for row in rows)


def _difference(found: Found, expected: Found) -> str:
    for ours, theirs in zip(found.rows, expected.rows, strict=False):
        if ours != theirs:
            return f"expected {theirs!r}, got {ours!r}"
    return "other numbers in the files" if len(found.rows) == len(expected.rows) else "other tables"


def _forgo_privileges() -> None:
    """Give up what lets root read files without permissions; elsewhere this does nothing."""
    libc = ctypes.CDLL(None)
    version, process = 0x20080522, 0
    libc.capset((ctypes.c_uint32 * 2)(version, process), (ctypes.c_uint32 * 6)())
