"""Training on two processes of the CPU, one of which dies or is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustness import commands
from robustness.commands import ROOT, Ended, Outcome, misbehaviour
from robustness.tiny import checkpoints, leftovers, numbers, train, weights

__all__ = ["BAD", "CASES", "OUTCOMES", "campaign", "summary"]

OUTCOMES = ("ended", "incomplete", "orphan", "unsaid", "traceback", "hang")
"""What becomes of a job.

It ends within a minute as documented; without a checkpoint or results; but leaves a process behind; with another exit
code than the documented one, or in the words of torch; with something else than one line; not within a minute.
"""

BAD = OUTCOMES[1:]
SECONDS = 60.0
START = 180.0  # seconds for two processes to import everything on a loaded machine
LARGE = 120 * 2**20  # bytes of memory of a process that trains
FOREVER = 10**7  # steps


@dataclass(frozen=True)
class Blow:
    """What is done to a job.

    Attributes:
        rank: Which process gets the signal; None for all, as with Ctrl-C.
        number: The signal, or None to let the job be.
        codes: The exit codes that are documented for it.
    """

    rank: int | None
    number: signal.Signals | None
    codes: tuple[int, ...]


STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGTERM)
CASES = {
    "left alone": Blow(None, None, (0,)),
    "KILL to the other process": Blow(1, signal.SIGKILL, (1,)),
    "TERM to the other process": Blow(1, signal.SIGTERM, (1, *STOPPED)),
    "TERM to the first process": Blow(0, signal.SIGTERM, STOPPED),
    "Ctrl-C to both": Blow(None, signal.SIGINT, (128 + signal.SIGINT,)),
    "KILL to the first process": Blow(0, signal.SIGKILL, (-signal.SIGKILL,)),
}


def campaign(cases: int = len(CASES), seed: int = 0) -> list[Outcome]:
    """Train on two processes, and kill or stop one of them.

    Args:
        cases: The number of jobs; :data:`CASES` take turns.
        seed: The seed of the moments.

    Returns:
        The outcome of each job.
    """
    return list(work(cases, seed))


def summary(outcomes: Sequence[Outcome]) -> str:
    """Format the outcomes as a table."""
    return commands.summary(outcomes, OUTCOMES)


def work(cases: int, seed: int) -> Iterator[Outcome]:
    """Yield the outcome of each job."""
    with tempfile.TemporaryDirectory(prefix="latentflow-workers-") as folder:
        for case in range(cases):
            name, blow = list(CASES.items())[case % len(CASES)]
            begun = time.perf_counter()
            pause = float(np.random.default_rng([seed, case]).uniform(0, 1))
            outcome, detail = _case(Path(folder, f"job-{case}"), blow, pause)
            what = f"{pause:.2f} s after the first metrics" if blow.number else ""
            yield Outcome(case, name, what, outcome, detail[: commands.SHOWN], round(time.perf_counter() - begun, 1))


def _case(place: Path, blow: Blow, pause: float) -> tuple[str, str]:
    """Run a job and give what became of it and a detail."""
    place.mkdir()
    folder = place / "run"
    arguments = train(folder, 6 if blow.number is None else FOREVER, "--devices", "2")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "latentflow_experiments", *arguments]
    with (place / "out").open("wb") as out, (place / "err").open("wb") as err:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        job = subprocess.Popen(command, env=environment, cwd=place, start_new_session=True, **streams)
    family = {Process(job.pid, _began(job.pid))}
    try:
        hung = not _interrupt(job, folder, blow, pause, family)
        ended = _ended(job, place, hung=hung)
        until = time.perf_counter() + (0 if hung else SECONDS)
        while (left := _alive(family)) and time.perf_counter() < until:
            time.sleep(0.1)
    finally:
        _end(family)
        job.wait()
    return _judge(folder, blow, ended, len(left))


def _interrupt(job: subprocess.Popen[bytes], folder: Path, blow: Blow, pause: float, family: set[Process]) -> bool:
    """Send the signal once both processes are training; return whether the job ends within a minute."""
    metrics, until = folder / "metrics.jsonl", time.perf_counter() + START
    while blow.number is not None and job.poll() is None and time.perf_counter() < until:
        if metrics.exists() and metrics.stat().st_size:
            time.sleep(pause)
            break
        time.sleep(0.1)
    family |= _descendants(job.pid)
    others = sorted(one.pid for one in family if one.pid != job.pid and _resident(one) > LARGE)
    if blow.number is not None and job.poll() is None:
        chosen = {0: [job.pid], 1: others[:1], None: [job.pid, *others]}[blow.rank]
        for pid in chosen:
            with suppress(ProcessLookupError):
                os.kill(pid, blow.number)
    until = time.perf_counter() + (START if blow.number is None else SECONDS)
    while job.poll() is None and time.perf_counter() < until:
        family |= _descendants(job.pid)
        time.sleep(0.1)
    return job.poll() is not None


def _ended(job: subprocess.Popen[bytes], place: Path, *, hung: bool) -> Ended:
    out, err = ((place / name).read_text(encoding="utf-8", errors="backslashreplace") for name in ("out", "err"))
    return Ended(0 if job.returncode is None else job.returncode, out, err, 0.0, 0, hung)


def _judge(folder: Path, blow: Blow, ended: Ended, left: int) -> tuple[str, str]:  # noqa: PLR0911 - an outcome each
    if ended.hung:
        return "hang", f"not ended: {ended.message}"
    if left:
        return "orphan", f"{left} process{'es' * (left > 1)} left, exit code {ended.code}: {ended.message}"
    if (wrong := misbehaviour(ended)) is not None:
        return "traceback", wrong
    if ended.code not in blow.codes:
        return "unsaid", f"expected an exit code of {blow.codes}, got {ended.code}: {ended.message}"
    if blow.rank == 1 and "gloo" in ended.message:
        return "unsaid", f"the text of torch for a process that has died: {ended.message}"
    if blow.number in (None, signal.SIGINT, signal.SIGTERM) and not checkpoints(folder):
        return "incomplete", f"no checkpoint: {ended.message}"
    if blow.number is None:
        try:
            numbers(folder, "evaluation")
            weights(folder)
        except (OSError, ValueError) as error:
            return "incomplete", str(error)
    if blow.number is not signal.SIGKILL and (litter := leftovers(folder)):
        return "incomplete", f"left: {', '.join(litter)}"
    return "ended", ended.message if ended.code else ""


class Process(NamedTuple):
    """A process, which its number alone does not tell from a later one.

    Attributes:
        pid: Its number.
        began: When it began, as the system counts.
    """

    pid: int
    began: str


def _stat(pid: int | str) -> list[str]:
    """Return what the system says of a process, from its state on; nothing if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _began(pid: int) -> str:
    return (_stat(pid) or [""] * 20)[19]


def _descendants(pid: int) -> set[Process]:
    """List the processes that a process has started, and those that they have."""
    children: dict[int, list[Process]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal() and (words := _stat(path.name)):
            children.setdefault(int(words[1]), []).append(Process(int(path.name), words[19]))
    found: set[Process] = set()
    waiting = [pid]
    while waiting:
        new = children.get(waiting.pop(), [])
        waiting += [one.pid for one in new]
        found.update(new)
    return found


def _resident(process: Process) -> int:
    """Return the memory of a process in bytes; 0 if it has ended."""
    words = _stat(process.pid)
    return int(words[21]) * os.sysconf("SC_PAGE_SIZE") if words and words[19] == process.began else 0


def _alive(family: set[Process]) -> list[Process]:
    """List the processes that still have memory, so that they are not waiting to be reaped."""
    return [one for one in family if _resident(one)]


def _end(family: set[Process]) -> None:
    for one in _alive(family):
        with suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)
