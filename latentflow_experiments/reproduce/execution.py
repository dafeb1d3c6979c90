"""The runs of a plan, several at once, in processes of their own that can be stopped and gone on with."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

from latentflow_experiments.errors import ExperimentError
from latentflow_experiments.reading import read_limited
from latentflow_experiments.reproduce.parent import PARENT
from latentflow_experiments.reproduce.plan import Run
from latentflow_experiments.runs import RunFolder
from latentflow_experiments.signals import handled

LONGEST_LOG = 2**26
"""The largest size of the log of a run that is read, in bytes."""


def is_trained(run: Run, folder: RunFolder) -> bool:
    """Return whether a run was trained for its whole budget and evaluated."""
    if not folder.evaluation.exists():
        return False
    folder.open(run.config.shared_over(1))
    facts = folder.read_metric(folder.evaluation)["provenance"]
    if run.budget.steps is not None:
        return int(facts["steps"]) >= run.budget.steps
    assert run.budget.seconds is not None, "a budget has steps or seconds"
    return float(facts["training_seconds"]) >= 0.99 * run.budget.seconds


def commands(run: Run, out: Path) -> list[list[str]]:
    """List what is left to do for a run, as arguments of the command line.

    Args:
        run: The run.
        out: The folder of the reproduction.

    Returns:
        The arguments of each command, in order; none if all is there.

    Raises:
        ExperimentError: If its folder holds another run, or a damaged one.
    """
    folder = run.folder(out)
    left = []
    trained = is_trained(run, folder)
    settings = asdict(run.measured) | {"samples": list(run.measured.samples)}  # as JSON holds them
    if not trained:
        left.append(run.training(out))
    for part in run.parts:
        path = folder.metric(part)
        if not trained or not path.exists() or folder.read_metric(path).get("settings") != settings:
            left.append(run.measuring(out, part))
    left += [run.transferring(out, name) for name in run.transfers if not trained or not folder.transfer.exists()]
    return left


@dataclass
class Processes:
    """The processes that are running, which can all be stopped.

    Attributes:
        stopped: Whether no new ones begin.
    """

    stopped: bool = False
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, arguments: Sequence[str], log: Path) -> int:
        """Run a command of ``latentflow`` on one thread, and append what it says to a log; return its exit code."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", PARENT: str(os.getpid())}
        with log.open("ab") as file:
            with self._lock:
                if self.stopped:
                    raise KeyboardInterrupt
                process = subprocess.Popen(
                    [sys.executable, "-m", "latentflow_experiments", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,  # Ctrl-C reaches it once, by stop()
                )
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)

    def stop(self) -> None:
        """Ask all to end, so that they write what they have, and begin no new ones.

        The signal is TERM: processes that were started in the background of a shell ignore that of Ctrl-C.
        """
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.terminate()


def execute(runs: Sequence[Run], out: Path, cores: int) -> dict[str, str]:
    """Do what is left of all runs, several at once, and show how far they are.

    A run that fails does not stop the others. Ctrl-C and TERM stop all; the same call goes on.

    Args:
        runs: The runs.
        out: The folder of the reproduction.
        cores: How many runs at once, each on one thread.

    Returns:
        Why a run failed, by its name; none if all ended.

    Raises:
        KeyboardInterrupt: After Ctrl-C or TERM, when all have written what they have.
    """
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    (out / "runs").mkdir(exist_ok=True)
    failed: dict[str, str] = {}
    left: list[tuple[Run, list[list[str]]]] = []
    for run in runs:
        try:
            left.append((run, commands(run, out)))
        except ExperimentError as error:
            failed[run.name] = str(error)
    todo = [(run, jobs) for run, jobs in left if jobs]
    processes = Processes()

    def do(run: Run, jobs: list[list[str]]) -> str | None:
        log = logs / f"{run.name}.log"
        for job in jobs:
            if processes.run(job, log):
                return f"`latentflow {shlex.join(job)}` failed: {_last_line(log)}"
        return None

    bar = tqdm(total=len(todo), unit="run", desc="reproduce")
    # A request to end counts as Ctrl-C, so that no process is left behind.
    with handled(signal.default_int_handler, signal.SIGTERM), bar, ThreadPoolExecutor(cores) as pool:
        pending = {pool.submit(do, run, jobs): run for run, jobs in todo}
        try:
            for ended in as_completed(pending):
                reason = ended.result()
                run = pending[ended]
                if reason is not None:
                    failed[run.name] = reason
                bar.update()
                bar.set_postfix_str(f"{run.name} {'ended' if reason is None else 'failed'}")
        except KeyboardInterrupt:
            processes.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def _last_line(log: Path) -> str:
    lines = read_limited(log, LONGEST_LOG).decode(errors="replace").replace("\r", "\n").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
