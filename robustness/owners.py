"""Two commands at once in one folder: one works, the other one says so and ends."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustness import commands
from robustness.commands import Command, Ended, Outcome, misbehaviour, preload
from robustness.kills import compared
from robustness.tiny import checkpoint_every, leftovers, strict_json, train

__all__ = ["BAD", "OUTCOMES", "campaign", "summary"]

OUTCOMES = ("one", "both", "neither", "mixed", "litter", "traceback", "hang")
"""What becomes of a folder.

One command works and the other one is refused with one line; both work at the same time; none does; what the one that
works leaves is not what it leaves alone; temporary files are left; something else than one line; one waits for ever.
"""

BAD = OUTCOMES[1:]
STEPS, STEPS_MORE = 60, 80
IMAGES = 400
AHEAD = 0.1  # seconds in which both processes are there and wait
SOON = 0.2  # seconds that a command takes to come to its folder


def campaign(cases: int = 24, seed: int = 0) -> list[Outcome]:
    """Start two commands in one folder, one a little later, and see that only one works.

    Args:
        cases: The number of pairs; the kinds of pairs take turns.
        seed: The seed of the delays.

    Returns:
        The outcome of each pair.
    """
    return commands.campaign_of("robustness.owners", cases=cases, seed=seed)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Format the outcomes as a table."""
    return commands.summary(outcomes, OUTCOMES)


def work(cases: int, seed: int) -> Iterator[Outcome]:
    """Yield the outcome of each pair; what :func:`campaign` runs in a process of its own."""
    preload([train("{}", 2), _make("{}")])
    with tempfile.TemporaryDirectory(prefix="latentflow-owners-") as folder:
        pairs = Pairs(Path(folder))
        for case in range(cases):
            kind, pair = list(pairs.kinds.items())[case % len(pairs.kinds)]
            rng = np.random.default_rng([seed, case])
            together = case // len(pairs.kinds) % 2 == 0
            delay = 0.0 if together else float(rng.uniform(0, 0.8))
            begun = time.perf_counter()
            outcome, detail = pair(Path(folder, f"pair-{case}"), delay)
            yield Outcome(case, kind, f"{delay:.2f} of the time apart", outcome, detail, time.perf_counter() - begun)


def _make(folder: Path | str) -> list[str]:
    return ["data", "make", "dsprites", "--size", str(IMAGES), "--out", str(folder), "--workers", "1"]


class Pairs:
    """The pairs of commands, and what each leaves alone.

    Args:
        root: An empty folder.
    """

    def __init__(self, root: Path) -> None:
        self._seeds = {str(seed): root / f"seed-{seed}" for seed in (0, 1)}
        self._seconds = 0.0
        for seed, folder in self._seeds.items():
            ended = _start(train(folder, STEPS, "--seed", seed), root).wait()
            assert ended.code == 0, ended.err
            self._seconds = ended.seconds
        self._started, self._longer = root / "started", root / "longer"
        shutil.copytree(self._seeds["0"], self._longer)
        ended = _start(train(self._longer, STEPS_MORE, "--resume"), root).wait()
        assert ended.code == 0, ended.err
        self._images = root / "images"
        ended = _start(_make(self._images), root).wait(120)
        assert ended.code == 0, ended.err
        self._make_seconds = ended.seconds
        self.kinds: dict[str, Callable[[Path, float], tuple[str, str]]] = {
            "train and train": self._train_twice,
            "train --resume twice": self._resume_twice,
            "train and evaluate": self._evaluate_while_training,
            "make and make": self._make_twice,
        }

    def _train_twice(self, folder: Path, delay: float) -> tuple[str, str]:
        """Train with two seeds into one folder."""
        zero, one = (train(folder, STEPS, "--seed", seed) for seed in ("0", "1"))
        first, second = _both(zero, one, folder.parent, delay * self._seconds)
        if (fault := _fault(first, second)) is not None:
            return fault
        seed = strict_json((folder / "config.json").read_text(encoding="utf-8"))["seed"]
        if seed != (0 if first.code == 0 else 1):
            return "mixed", f"the configuration of seed {seed} beside the weights of the other"
        return _left(folder, self._seeds[str(seed)])

    def _resume_twice(self, folder: Path, delay: float) -> tuple[str, str]:
        """Go on with a finished run for more steps, twice at once."""
        shutil.copytree(self._seeds["0"], folder)
        arguments = train(folder, STEPS_MORE, "--resume")
        first, second = _both(arguments, arguments, folder.parent, delay * self._seconds / 2)
        later = first.code == second.code == 0 and not _overlap(first, second)
        if not later and (fault := _fault(first, second)) is not None:
            return fault
        return _left(folder, self._longer)

    def _evaluate_while_training(self, folder: Path, delay: float) -> tuple[str, str]:
        """Evaluate a run that is in training."""
        first, second = _both(train(folder, STEPS), ["evaluate", str(folder)], folder.parent, delay * self._seconds)
        if first.code == second.code == 0 and second.moment >= first.moment:
            return _left(folder, self._seeds["0"])  # it was evaluated when training had ended
        if (fault := _fault(first, second)) is not None:
            return fault
        return ("neither", "training was refused") if first.code else _left(folder, self._seeds["0"])

    def _make_twice(self, folder: Path, delay: float) -> tuple[str, str]:
        """Make images in one folder, twice at once."""
        arguments = _make(folder)
        first, second = _both(arguments, arguments, folder.parent, delay * self._make_seconds)
        later = first.code == second.code == 0 and "already" in first.ended.out + second.ended.out
        if not later and (fault := _fault(first, second)) is not None:
            return fault
        ours, theirs = (
            {p.relative_to(place): p.read_bytes() for p in place.rglob("*") if p.is_file()}
            for place in (folder, self._images)
        )
        if ours.keys() - theirs.keys():
            return "litter", ", ".join(map(str, sorted(ours.keys() - theirs.keys())))
        return ("one", "") if ours == theirs else ("mixed", "other images")


@dataclass(frozen=True)
class Timed:
    """How a command ended, and when.

    Attributes:
        ended: How it ended.
        start: When it began, by the clock of this process.
        moment: When it ended.
    """

    ended: Ended
    start: float
    moment: float

    @property
    def code(self) -> int:
        """The exit code."""
        return self.ended.code


def _start(arguments: Sequence[str], place: Path, moment: float = 0.0) -> Command:
    """Start a command, which begins at a moment of the clock that all processes share."""

    def prepare() -> None:
        checkpoint_every(0.0)
        time.sleep(max(moment - time.perf_counter(), 0.0))

    return Command(arguments, place, prepare=prepare)


def _both(first: Sequence[str], second: Sequence[str], place: Path, seconds: float) -> tuple[Timed, Timed]:
    """Start two commands, the second one some time after the first, and wait for both."""
    begin = time.perf_counter() + AHEAD
    starts = [begin, begin + seconds]
    running = [_start(arguments, place, start) for arguments, start in zip((first, second), starts, strict=True)]
    moments = [0.0, 0.0]
    while not all(moments):
        for i, command in enumerate(running):
            if not moments[i] and (not command.sleep(0.01) or time.perf_counter() - starts[1] > 60):
                moments[i] = time.perf_counter()
    first_ended, second_ended = (
        Timed(command.wait(0.0), start, moment) for command, start, moment in zip(running, starts, moments, strict=True)
    )
    return first_ended, second_ended


def _overlap(first: Timed, second: Timed) -> bool:
    return second.start < first.moment - SOON


def _fault(*timed: Timed) -> tuple[str, str] | None:
    """Say what is wrong if it is not so that one command worked and the other one was refused."""
    ended = [one.ended for one in timed]
    for one in ended:
        if one.hung:
            return "hang", one.waited
        if (wrong := misbehaviour(one)) is not None:
            return "traceback", wrong
    codes = sorted(one.code for one in ended)
    if codes == [0, 1]:
        return None
    said = " / ".join(one.message for one in ended if one.code)
    if codes == [0, 0]:
        return "both", "both exit with 0"
    return "neither", f"exit codes {codes}: {said}"


def _left(folder: Path, alone: Path) -> tuple[str, str]:
    """Compare what is left with what the command that worked leaves alone."""
    if left := leftovers(folder):
        return "litter", ", ".join(left)
    try:
        outcome, detail = compared(folder, alone)
    except (OSError, ValueError) as error:
        return "mixed", f"{type(error).__name__}: {error}"
    return ("one", "") if outcome == "identical" else ("mixed", detail)
