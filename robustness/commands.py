"""Commands of latentflow, each in a process forked from one that has imported everything, and how they ended."""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import pkgutil
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

__all__ = ["Command", "Ended", "Outcome", "campaign_of", "campaigns_of", "misbehaviour", "preload", "serve", "summary"]

ROOT = Path(__file__).parent.parent
PREFIX = "latentflow: error:"
LONGEST = 2000  # characters of a message
IDLE = 4.0  # seconds without computing, after which a command waits for something that never comes
GIBIBYTE = 2**30
ENDINGS = (0, 128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL)
"""The exit codes without a line of error: done, or stopped, by the second of two signals too."""
SHOWN = 300  # characters of a detail
_warm: set[str] = set()  # the commands whose modules this process has imported


@dataclass(frozen=True)
class Outcome:
    """What became of one case of a campaign.

    Attributes:
        case: Its number.
        kind: The row of the table that it counts in.
        what: What was done.
        outcome: What became of it, one of the outcomes of the campaign.
        detail: The message, or what went wrong.
        seconds: How long it took.
    """

    case: int
    kind: str
    what: str
    outcome: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: The exit code; minus the signal for one that a signal ended.
        out: What it wrote on stdout.
        err: What it wrote on stderr.
        seconds: How long it took.
        mebibytes: How much its memory grew.
        hung: Whether it had to be ended, since it took too long or waited for something.
    """

    code: int
    out: str
    err: str
    seconds: float
    mebibytes: int
    hung: bool

    @property
    def lines(self) -> list[str]:
        """The lines on stderr; a progress bar writes one each time that it moves."""
        return [line for line in re.split(r"[\r\n]+", self.err) if line.strip()]

    @property
    def waited(self) -> str:
        """When a hung command was ended, and the innermost frames of its main thread."""
        _, _, frames = self.err.rpartition("Current thread")
        return f"after {self.seconds:.0f} s in {' / '.join(line.strip() for line in frames.splitlines()[1:4])}"

    @property
    def message(self) -> str:
        """The line that says what is wrong, or the last one there is."""
        said = [line for line in self.lines if line.startswith(PREFIX)] or self.lines[-1:]
        return said[0] if said else ""


def misbehaviour(ended: Ended) -> str | None:
    """Say what is wrong with the way a command ended, whatever it has done.

    Args:
        ended: How it ended.

    Returns:
        A traceback, a failure that is not exactly one printable line, an exit code that is not documented; None where
        all is well.
    """
    if "Traceback" in ended.err or "Traceback" in ended.out:
        return f"a traceback: {' / '.join(ended.lines[-2:])}"
    said = [line for line in ended.lines if line.startswith(PREFIX)]
    if ended.code in (1, 2):
        if len(said) != 1:
            return f"exit code {ended.code} with {len(said)} lines of error: {' / '.join(ended.lines[-2:])}"
        if not said[0].isprintable() or len(said[0]) > LONGEST:
            return f"a line of {len(said[0])} characters that is not fit for a terminal: {said[0]!r}"
    elif said:
        return f"exit code {ended.code} with a line of error: {said[0]}"
    elif ended.code not in ENDINGS:
        return f"exit code {ended.code}: {ended.message}"
    return None


class Command:
    """A command that runs in a forked process, which leads a process group of its own.

    Args:
        arguments: Its arguments, without the name of the program.
        place: The folder that it runs in.
        memory: The bytes by which its address space may grow, or None for as many as it wants.
        prepare: What to do in the process before the command starts.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        place: Path,
        memory: int | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        ends = os.pipe(), os.pipe()
        self._begun = time.perf_counter()
        self._resident = status("VmRSS")
        self.pid = os.fork()
        if not self.pid:
            _child(arguments, place, memory, prepare, (ends[0][1], ends[1][1]))
        with suppress(OSError):
            os.setpgid(self.pid, self.pid)
        for reader, writer in ends:
            os.close(writer)
            os.set_blocking(reader, False)
        self._said = {reader: bytearray() for reader, _ in ends}
        self._open = list(self._said)

    def signal(self, number: int) -> None:
        """Send a signal to the process group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def sleep(self, seconds: float) -> bool:
        """Let it run for some time; return whether it runs still."""
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0 and not self._exited():
            self._read(min(left, 0.02))
        return not self._exited()

    def wait(self, seconds: float = 60.0) -> Ended:
        """Wait until it has ended, and end it if it takes too long or waits for something."""
        until, idle, before, hung = time.perf_counter() + seconds, time.perf_counter(), "", False
        while not self._exited():
            self._read(0.02)
            now = time.perf_counter()
            activity = _activity(self.pid)
            if activity != before or not activity.startswith("S"):
                idle, before = now, activity
            if now > until or now - idle > IDLE:
                hung = True
                self.signal(signal.SIGUSR1)  # write the stack
                self.sleep(0.5)
                self.signal(signal.SIGKILL)
        self.signal(signal.SIGKILL)  # what it has left behind
        _, status_, used = os.wait4(self.pid, 0)
        self._read(0.0)
        for reader in self._said:
            os.close(reader)
        out, err = (bytes(said).decode(errors="backslashreplace") for said in self._said.values())
        grown = max(used.ru_maxrss * 1024 - self._resident, 0) // 2**20
        code = os.waitstatus_to_exitcode(status_)
        return Ended(code, out, err, time.perf_counter() - self._begun, grown, hung)

    def _exited(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _read(self, seconds: float) -> None:
        if not self._open:
            time.sleep(min(seconds, 0.005))
            return
        for reader in select.select(self._open, [], [], seconds)[0]:
            while True:
                try:
                    piece = os.read(reader, 2**16)
                except BlockingIOError:
                    break
                if not piece:
                    self._open.remove(reader)
                    break
                if len(self._said[reader]) < 2**24:
                    self._said[reader] += piece


def _child(
    arguments: Sequence[str],
    place: Path,
    memory: int | None,
    prepare: Callable[[], None] | None,
    pipes: tuple[int, int],
) -> NoReturn:
    """Run a command and end the process with its exit code."""
    code = 1
    try:
        os.setpgid(0, 0)
        for number, pipe in enumerate(pipes, start=1):
            os.dup2(pipe, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        faulthandler.register(signal.SIGUSR1, file=2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if memory is not None:
            limit = status("VmSize") + memory
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        os.chdir(place)
        sys.argv = ["latentflow", *arguments]
        if prepare is not None:
            prepare()
        module = importlib.import_module("latentflow_experiments.__main__")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = _exit_code(module.main)
    except BaseException:  # what the command lets out, which Python would print
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _exit_code(run: Callable[[], int]) -> int:
    try:
        return int(run() or 0)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return int(stop.code or 0)


def status(field: str) -> int:
    """Return a size of this process from ``/proc``, in bytes."""
    found = re.search(rf"^{field}:\s*(\d+)", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None, f"no {field} in /proc/self/status"
    return int(found[1]) * 1024


def _activity(pid: int) -> str:
    """Return the state of a process and the time of the processor that it has had."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{words[0]} {words[11]} {words[12]}"


def preload(arguments: Sequence[Sequence[str]] = ()) -> None:
    """Import the whole package, and what commands import while they run, once each; compute nothing.

    Args:
        arguments: The arguments of commands, run in forked processes one after the other; an argument ``{}`` is
            replaced by a folder that goes away.
    """
    import torch  # noqa: PLC0415 - as the next

    import latentflow_experiments  # noqa: PLC0415 - in the process of the campaign only

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(latentflow_experiments.__path__, "latentflow_experiments."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):
                importlib.import_module(module.name)
    with tempfile.TemporaryDirectory(prefix="latentflow-warm-") as folder:
        note = Path(folder, "modules")
        for words in arguments:
            if words[0] in _warm:
                continue
            _warm.add(words[0])
            command = [word.replace("{}", str(Path(folder, "run"))) for word in words]
            Command(command, Path(folder), prepare=lambda: _note_modules(note)).wait(120)
            for name in note.read_text(encoding="utf-8").split() if note.exists() else ():
                if name not in sys.modules:
                    with suppress(BaseException):
                        importlib.import_module(name)


def _note_modules(path: Path) -> None:
    """Write the names of all modules when this process ends."""
    leave = os._exit

    def noting(code: int) -> NoReturn:
        path.write_text("\n".join(sys.modules), encoding="utf-8")
        leave(code)

    os._exit = noting  # type: ignore[assignment]  # in this process only


def campaign_of(module: str, **arguments: int) -> list[Outcome]:
    """Run the cases of a campaign in a process of its own, from which all commands are forked.

    Args:
        module: The name of the module, whose ``work(**arguments)`` yields the outcomes.
        **arguments: The arguments.

    Returns:
        The outcomes, in their order.

    Raises:
        RuntimeError: If that process dies.
    """
    return campaigns_of({module: arguments})[module]


def campaigns_of(requests: Mapping[str, Mapping[str, int]]) -> dict[str, list[Outcome]]:
    """Run several campaigns one after the other in one process, which imports everything once.

    Args:
        requests: The arguments of each campaign, by the name of its module.

    Returns:
        The outcomes of each.

    Raises:
        RuntimeError: If that process dies.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "MPLBACKEND": "agg"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    found: dict[str, list[Outcome]] = {module: [] for module in requests}
    code = f"from robustness.commands import serve; serve({ {k: dict(v) for k, v in requests.items()}!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment, check=False
    )
    for line in done.stdout.decode().splitlines():
        module, outcome = json.loads(line)
        found[module].append(Outcome(**outcome))
    if done.returncode:
        raise RuntimeError(f"{', '.join(requests)}: expected outcomes, got exit code {done.returncode}")
    return found


def serve(requests: Mapping[str, Mapping[str, int]]) -> None:
    """Write the outcome of every case as a line of JSON; what :func:`campaigns_of` runs."""
    for module, arguments in requests.items():
        work: Callable[..., Iterator[Outcome]] = importlib.import_module(module).work
        for outcome in work(**arguments):
            short = replace(outcome, detail=outcome.detail[:SHOWN], seconds=round(outcome.seconds, 2))
            print(json.dumps((module, asdict(short))), flush=True)


def summary(outcomes: Sequence[Outcome], names: Sequence[str]) -> str:
    """Format outcomes as a table: a row for each kind of case, a column for each outcome."""
    counts = Counter((outcome.kind, outcome.outcome) for outcome in outcomes)
    kinds = list(dict.fromkeys(outcome.kind for outcome in outcomes))
    width = max([*map(len, kinds), 6]) + 2
    lines = [" " * width + "".join(f"{name:>11}" for name in names)]
    lines += [f"{kind:<{width}}" + "".join(f"{counts[kind, name]:11}" for name in names) for kind in kinds]
    total = [sum(counts[kind, name] for kind in kinds) for name in names]
    return "\n".join([*lines, f"{'all':<{width}}" + "".join(f"{count:11}" for count in total)])
