"""Training runs that find the disk full at every place where they write, and go on when there is room again."""

from __future__ import annotations

import builtins
import errno
import io
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from robustness import commands
from robustness.commands import Command, Ended, Outcome, misbehaviour, preload
from robustness.kills import compared
from robustness.tiny import checkpoint_every, leftovers, train

__all__ = ["BAD", "OUTCOMES", "campaign", "summary"]

OUTCOMES = ("resumed", "harmless", "skipped", "unnoticed", "different", "lost", "litter", "traceback", "hang")
"""What becomes of a run.

It fails with one line and ends, resumed, as the undisturbed run; it does not fail, and is that run; it was not tried,
since mounting is not permitted; exit code 0 and another result; resumed, another result; it cannot be gone on with;
temporary files are left; something else than exit code 1 with one line; it waits for ever.
"""

BAD = OUTCOMES[3:]
STEPS = 4
TARGETS = ("fsync", "replace", "write_text", "write_bytes", "save_file", "mkstemp", "os.write", "open")
"""The calls of which the N-th fails: those of os, pathlib, safetensors and tempfile, and opening a file to write."""


def campaign(seed: int = 0, limits: int = 20, mounts: int = 10, calls: int = 100) -> list[Outcome]:
    """Let writing fail at every place of a tiny run, resume it, and compare it with an undisturbed one.

    Args:
        seed: The seed of the sizes.
        limits: The number of runs under a limit of the size of a file.
        mounts: The number of runs on a small file system, where mounting is permitted.
        calls: The largest number N of the call that fails, for each kind of call, once or from then on.

    Returns:
        The outcome of each run.
    """
    return commands.campaign_of("robustness.disk_full", seed=seed, limits=limits, mounts=mounts, calls=calls)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Format the outcomes as a table."""
    return commands.summary(outcomes, OUTCOMES)


def work(seed: int, limits: int, mounts: int, calls: int) -> Iterator[Outcome]:
    """Yield the outcome of each run; what :func:`campaign` runs in a process of its own."""
    preload([train("{}", 2)])
    with tempfile.TemporaryDirectory(prefix="latentflow-full-") as folder:
        place = Path(folder)
        ended = _run(place / "whole").wait()
        assert ended.code == 0, ended.err
        number = 0
        for cases in (_limits(place, seed, limits), _mounts(place, seed, mounts), _calls(place, calls)):
            begun = time.perf_counter()
            for kind, what, outcome, detail in cases:
                yield Outcome(number, kind, what, outcome, detail, time.perf_counter() - begun)
                number, begun = number + 1, time.perf_counter()


Case = tuple[str, str, str, str]


def _limits(place: Path, seed: int, count: int) -> Iterator[Case]:
    """Limit the size of a file; what is written behind it fails with EFBIG."""
    for case in range(count):
        size = int(np.exp(np.random.default_rng([seed, 0, case]).uniform(np.log(50), np.log(300_000))))
        folder = place / f"limit-{case}"
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
        ended = _run(folder, prepare=limit).wait()
        yield "a limit of file size", f"{size} bytes", *_judge(folder, place / "whole", ended)


def _mounts(place: Path, seed: int, count: int) -> Iterator[Case]:
    """Run on a small file system, and make it larger."""
    disk = place / "disk"
    for case in range(count):
        kibibytes = 4 * int(np.exp(np.random.default_rng([seed, 1, case]).uniform(np.log(2), np.log(250))))
        disk.mkdir(exist_ok=True)
        if not _mount("-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(disk)):
            yield "a full file system", f"{kibibytes} KiB", "skipped", "mounting is not permitted"
            continue
        try:
            folder = disk / "run"
            ended = _run(folder).wait()
            assert _mount("-o", "remount,size=64m", str(disk)), "remounting is not permitted"
            yield "a full file system", f"{kibibytes} KiB", *_judge(folder, place / "whole", ended)
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def _mount(*arguments: str) -> bool:
    program = shutil.which("mount")
    if program is None or sys.platform != "linux":
        return False
    return subprocess.run([program, *arguments], capture_output=True, check=False).returncode == 0


def _calls(place: Path, most: int) -> Iterator[Case]:
    """Let the N-th call of a function fail, for N = 1, 2, ... until a run has no N-th call."""
    for target in TARGETS:
        for forever in (False, True):
            for number in range(1, most + 1):
                folder, mark = place / f"{target}-{forever}-{number}", place / "mark"
                mark.unlink(missing_ok=True)
                call = Failing(number, forever, mark, folder)
                ended = _run(folder, prepare=partial(_patch, target, call)).wait()
                if not mark.exists():
                    break
                outcome, detail = _judge(folder, place / "whole", ended)
                yield target, f"call {number}{' and all after it' if forever else ''}", outcome, detail


class Failing:
    """Counts calls, and makes one of them fail as on a full disk.

    Args:
        number: Which call fails, from 1.
        forever: Whether all later ones fail, too.
        mark: A file that is made when one fails.
        folder: The folder of the run; calls that concern files elsewhere are not counted.
    """

    def __init__(self, number: int, forever: bool, mark: Path, folder: Path) -> None:
        self._number, self._forever, self._mark, self._folder = number, forever, mark, folder
        self._count = 0

    def wrap(self, function: Callable[..., Any], counts: Callable[..., object]) -> Callable[..., Any]:
        """Return a function that fails in the place of another one, if the arguments count."""

        def wrapped(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - those of the function
            if counts(*arguments, **options):
                self._count += 1
                if self._count == self._number or (self._forever and self._count > self._number):
                    os.close(os.open(self._mark, os.O_CREAT | os.O_WRONLY))
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*arguments, **options)

        return wrapped

    def inside(self, path: object) -> bool:
        """Tell whether a file is one of the run."""
        if isinstance(path, int):
            return True
        return isinstance(path, str | Path) and Path(path).is_relative_to(self._folder)


def _patch(target: str, call: Failing) -> None:
    """Put failing functions in the place of those that write, in this process."""

    def first(path: object, *_: object, **__: object) -> bool:
        return call.inside(path)

    def writes(file: object, mode: str = "r", *_: object, **__: object) -> bool:
        return not isinstance(file, int) and bool(set(mode) & set("wax+")) and call.inside(file)

    def always(*_: object, **__: object) -> bool:
        return True

    if target in ("fsync", "replace", "os.write"):
        name = target.removeprefix("os.")
        setattr(os, name, call.wrap(getattr(os, name), first))
    elif target in ("write_text", "write_bytes"):
        setattr(pathlib.Path, target, call.wrap(getattr(pathlib.Path, target), first))
    elif target == "mkstemp":
        tempfile.mkstemp = call.wrap(tempfile.mkstemp, always)
    elif target == "open":
        wrapped = call.wrap(io.open, writes)
        builtins.open = io.open = wrapped
    else:
        for name, module in list(sys.modules.items()):
            if name.startswith(("latentflow_experiments", "safetensors")) and hasattr(module, target):
                setattr(module, target, call.wrap(getattr(module, target), always))


def _run(folder: Path, *more: str, prepare: Callable[[], None] | None = None) -> Command:
    def both() -> None:
        checkpoint_every(0.0)
        if prepare is not None:
            prepare()

    return Command(train(folder, STEPS, *more), folder.parent, prepare=both)


def _judge(folder: Path, whole: Path, ended: Ended) -> tuple[str, str]:  # noqa: PLR0911 - an outcome each
    """Go on with a run whose disk was full, and give what became of it and a detail."""
    if ended.hung:
        return "hang", ended.waited
    if (wrong := misbehaviour(ended)) is not None or ended.code not in (0, 1):
        return "traceback", wrong or f"exit code {ended.code}"
    if ended.code == 0:
        outcome, detail = _compared(folder, whole)
        return {"identical": "harmless", "litter": "litter"}.get(outcome, "unnoticed"), detail
    if left := leftovers(folder):
        return "litter", f"{', '.join(left)} after: {ended.message}"
    again = _run(folder, *(["--resume"] if (folder / "config.json").exists() else [])).wait()
    if again.hung or (wrong := misbehaviour(again)) is not None:
        return ("hang", "when resumed") if again.hung else ("traceback", f"when resumed: {wrong}")
    if again.code:
        return "lost", f"{again.message} after: {ended.message}"
    outcome, detail = _compared(folder, whole)
    return ("resumed" if outcome == "identical" else outcome), detail or ended.message


def _compared(folder: Path, whole: Path) -> tuple[str, str]:
    """Compare with the undisturbed run; a file that is missing is a difference."""
    try:
        return compared(folder, whole)
    except (OSError, ValueError) as error:
        return "different", f"{type(error).__name__}: {error}"
