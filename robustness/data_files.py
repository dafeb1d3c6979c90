"""Damaged and hostile data files, each read in a process of its own, with what became of it."""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pooch

from latentflow_experiments.data.check import check_folder
from latentflow_experiments.data.dataset import SequenceConfig, Source
from latentflow_experiments.data.frames import FrameStore, Pixels
from latentflow_experiments.data.sets import open_sequences
from latentflow_experiments.data.sets.mnist import load_mnist
from latentflow_experiments.data.stores import open_frames
from latentflow_experiments.data.stores.cache import CachedFrames
from latentflow_experiments.data.stores.npz import NpzFrames
from latentflow_experiments.errors import ExperimentError
from robustness.data_mutations import FAMILY_OF, FORMATS, expected_pixels, mutate, write_originals

__all__ = ["OUTCOMES", "Outcome", "campaign", "summary"]

OUTCOMES = ("refused", "harmless", "detectable", "unchecked", "silent", "traceback", "hang", "memory")
"""What becomes of a file.

Refused with one line; harmless, since the pixels are the original ones; read with other pixels, which ``latentflow data
check`` would find by the published SHA-256 (detectable), or which nothing can find, since the format has no check sum
(unchecked) or although there is one (silent); another exception, or the death of the process; more than 10 s; more than
1 GiB of memory.
"""

BAD = ("silent", "traceback", "hang", "memory")
SECONDS = 10.0
MEMORY = 2**30  # bytes
_UNSUMMED = ("h5 of others", "png of others", "mnist raw")  # formats whose pixels nothing sums up, or not all of them


@dataclass(frozen=True)
class Outcome:
    """What became of one damaged set.

    Attributes:
        case: Its number.
        format: Of which format it is.
        mutation: What was done to it.
        outcome: One of :data:`OUTCOMES`.
        detail: The message, or what went wrong.
        seconds: How long it took.
        mebibytes: How much the memory grew.
    """

    case: int
    format: str
    mutation: str
    outcome: str
    detail: str
    seconds: float
    mebibytes: int


def campaign(cases: int, seed: int) -> list[Outcome]:
    """Damage sets of data files, read each, and say what became of it.

    Args:
        cases: The number of damaged sets.
        seed: The seed of the damage; the same cases come first whatever their number.

    Returns:
        The outcome of each, in their order.

    Raises:
        RuntimeError: If the process that starts the readers dies.
    """
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    code = f"from robustness.data_files import work; work({int(cases)}, {int(seed)})"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment, check=False
    )
    outcomes = [Outcome(**json.loads(line)) for line in done.stdout.decode().splitlines()]
    if done.returncode or len(outcomes) != cases:
        raise RuntimeError(f"expected {cases} outcomes, got {len(outcomes)} and exit code {done.returncode}")
    return outcomes


def summary(outcomes: list[Outcome]) -> str:
    """Format the outcomes as a table: a row for each format, a column for each kind of outcome."""
    counts = Counter((outcome.format, outcome.outcome) for outcome in outcomes)
    lines = ["".join(f"{word:>13}" for word in ("format", *OUTCOMES))]
    for name in FORMATS:
        lines.append("".join([f"{name:>13}", *(f"{counts[name, outcome]:13}" for outcome in OUTCOMES)]))
    total = [sum(counts[name, outcome] for name in FORMATS) for outcome in OUTCOMES]
    lines.append("".join([f"{'all':>13}", *(f"{count:13}" for count in total)]))
    slowest, largest = (max((getattr(o, key) for o in outcomes), default=0) for key in ("seconds", "mebibytes"))
    return "\n".join([*lines, f"slowest {slowest:.1f} s, largest growth of the memory {largest} MiB"])


def work(cases: int, seed: int) -> None:
    """Write the outcome of every case as a line of JSON; what :func:`campaign` runs in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="latentflow-data-") as folder:
        originals, case_folder = Path(folder, "originals"), Path(folder, "case")
        write_originals(originals)
        for name in ("index", "cache"):
            _cached(name, originals / name)
        for case in range(cases):
            rng = np.random.default_rng([seed, case])
            name = FORMATS[int(rng.integers(len(FORMATS)))]
            shutil.copytree(originals / name, case_folder)
            mutation = mutate(name, case_folder, rng)
            outcome, detail, seconds, grown = _attempt(name, case_folder)
            shutil.rmtree(case_folder)
            result = Outcome(case, name, mutation, outcome, detail, round(seconds, 3), grown // 2**20)
            print(json.dumps(asdict(result)), flush=True)


def _attempt(name: str, place: Path) -> tuple[str, str, float, int]:
    """Read a set in a forked process; give the outcome, a detail, the seconds and the bytes of memory."""
    reader, writer = os.pipe()
    begun = time.perf_counter()
    child = os.fork()
    if not child:
        os.close(reader)
        _child(name, place, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        ready, _, _ = select.select([pipe], [], [], SECONDS)
        if not ready:
            os.kill(child, signal.SIGKILL)
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    seconds = time.perf_counter() - begun
    if not ready:
        return "hang", f"more than {SECONDS:.0f} s", seconds, 0
    if not answer:
        return "traceback", f"died with status {status}", seconds, 0
    outcome, detail, grown = json.loads(answer)
    return outcome, detail, seconds, grown


def _child(name: str, place: Path, writer: int) -> None:
    """Read a set under a limit of memory, and write what became of it into a pipe."""
    with suppress(BaseException):
        before = _status("VmRSS")
        limit = _status("VmSize") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        outcome, detail = _judge(name, place)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        grown = max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, 0)
        os.write(writer, json.dumps(("memory" if grown > MEMORY else outcome, detail[:500], grown)).encode())
    os._exit(0)


def _status(field: str) -> int:
    """Return a size of this process from ``/proc``, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (found,) = [line for line in lines if line.startswith(f"{field}:")]
    return int(found.split()[1]) * 1024


def _judge(name: str, place: Path) -> tuple[str, str]:  # noqa: PLR0911 - an outcome each
    """Check, open and read a set; give the outcome and a detail."""
    pooch.os_cache = lambda _: str(place / "home")
    faults: list[str] = []
    try:
        if name in ("index", "cache"):
            same = _same(_cached(name, place), name)
        else:
            faults = _check(place)
            same = all(_same(pixels, name) for pixels in _readings(name, place))
    except ExperimentError as error:
        text = str(error)
        if not text.isprintable() or len(text) > 2000:
            return "traceback", f"expected one line, got {text!r}"
        return ("memory" if "MemoryError" in text else "refused"), text
    except BaseException as error:  # whatever it is, it is what the campaign looks for
        return "memory" if isinstance(error, MemoryError) else "traceback", f"{type(error).__name__}: {error}"
    for fault in faults:
        if "MemoryError" in fault or not fault.isprintable():
            return "memory" if "MemoryError" in fault else "traceback", repr(fault)
    if same:
        return "harmless", ""
    if name in _UNSUMMED or name.endswith("of others"):
        known = name != "mnist raw" and bool(faults)
        return ("detectable" if known else "unchecked"), faults[0] if faults else ""
    return "silent", f"faults of the check: {faults[0] if faults else 'none'}"


def _check(place: Path) -> list[str]:
    """Check a set; give the lines of the report, or the error, and the faults before them."""
    try:
        report = check_folder(place)
    except ExperimentError as error:
        return [str(error)]
    return [*report.faults, *(report.text().splitlines() if report.faults else [])]


def _readings(name: str, place: Path) -> Iterator[Pixels]:
    """Read all images of a set by each way that a user has."""
    if name not in FAMILY_OF:
        split = load_mnist("test", place)
        labels = np.arange(len(split.images)) % 10
        yield split.images.numpy() if (split.labels.numpy() == labels).all() else np.zeros(0, np.uint8)
        open_sequences("mnist", "test", source=Source(data=place))
        return
    family = FAMILY_OF[name]
    yield _all(open_frames(family, place))
    data = open_sequences(family.name, "train", SequenceConfig(), Source(data=place))
    data.sequence(data.starts(0)[:2], 0)


def _cached(name: str, place: Path) -> Pixels:
    """Read all images of a set through the index or the cache beside it."""
    family = FAMILY_OF[name]
    if name == "index":
        return _all(NpzFrames(place / family.file, family, place / "frames"))
    return _all(CachedFrames(open_frames(family, place), 2**23, place / "frames"))


def _all(frames: FrameStore) -> Pixels:
    return frames.read(np.arange(len(frames.grid)))


def _same(pixels: Pixels, name: str) -> bool:
    return np.array_equal(pixels, expected_pixels(name))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results = campaign(arguments.cases, arguments.seed)
    for result in results:
        if result.outcome in BAD:
            print(result)
    print(summary(results))
