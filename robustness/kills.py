"""Training runs that are killed or stopped at any moment, and gone on with until they end."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustness import commands
from robustness.commands import Command, Ended, Outcome, misbehaviour, preload
from robustness.tiny import checkpoint_every, checkpoints, leftovers, numbers, records, train, weights

__all__ = ["BAD", "OUTCOMES", "campaign", "summary"]

OUTCOMES = ("identical", "different", "lost", "litter", "traceback", "hang")
"""What becomes of a run.

Its weights, its metrics and its evaluation are those of the undisturbed run, bit for bit; or not; it cannot be gone on
with, or has no checkpoint although it was asked to stop; temporary files are left; something else than the documented
exit codes and one line; it waits for ever.
"""

BAD = OUTCOMES[1:]
STEPS = 60
EARLY = 0.02  # seconds


@dataclass(frozen=True)
class Blow:
    """An interruption of a run.

    Attributes:
        moment: Seconds after its start.
        signals: The signals that are sent, each soon after the one before.
        gap: Seconds between them.
    """

    moment: float
    signals: tuple[signal.Signals, ...]
    gap: float = 0.0

    def __str__(self) -> str:
        return f"{'+'.join(number.name for number in self.signals)} at {self.moment:.2f} s"


def campaign(kills: int = 50, signals: int = 20, twice: int = 100, seed: int = 0) -> list[Outcome]:
    """Kill and stop runs at random moments, resume them until they end, and compare them with an undisturbed one.

    Args:
        kills: The number of runs that are killed, each up to three times.
        signals: The number of runs that get SIGINT or SIGTERM, each up to two times, some of them twice at once.
        twice: The number of runs that get two signals within a twentieth of a second.
        seed: The seed of the moments.

    Returns:
        The outcome of each run.
    """
    return commands.campaign_of("robustness.kills", kills=kills, signals=signals, twice=twice, seed=seed)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Format the outcomes as a table."""
    return commands.summary(outcomes, OUTCOMES)


def work(kills: int, signals: int, twice: int, seed: int) -> Iterator[Outcome]:
    """Yield the outcome of each run; what :func:`campaign` runs in a process of its own."""
    preload([train("{}", 2)])
    with tempfile.TemporaryDirectory(prefix="latentflow-kills-") as folder:
        place = Path(folder)
        whole = place / "whole"
        ended = _run(whole).wait()
        assert ended.code == 0, ended.err
        kinds = ["killed"] * kills + ["stopped"] * signals + ["stopped twice"] * twice
        for case, kind in enumerate(kinds):
            blows = _blows(kind, ended.seconds, np.random.default_rng([seed, case]))
            begun = time.perf_counter()
            outcome, detail = _case(place / f"run-{case}", blows, whole)
            what = "; ".join(map(str, blows))
            yield Outcome(case, kind, what, outcome, detail, time.perf_counter() - begun)


def _run(folder: Path, *more: str, every: float = 0.0) -> Command:
    return Command(train(folder, STEPS, *more), folder.parent, prepare=lambda: checkpoint_every(every))


def _blows(kind: str, seconds: float, rng: np.random.Generator) -> list[Blow]:
    """Draw when a run is interrupted, and by what."""
    if kind == "killed":
        moments = rng.uniform(0, seconds, int(rng.integers(1, 4)))
        return [Blow(float(moment), (signal.SIGKILL,)) for moment in moments]
    blows, pairs = [], 1.0 if kind == "stopped twice" else 0.3
    for moment in rng.uniform(0, seconds, int(rng.integers(1, 3))):
        first, second = (signal.Signals(int(rng.choice([signal.SIGINT, signal.SIGTERM]))) for _ in range(2))
        sent = (first, second) if rng.random() < pairs else (first,)
        blows.append(Blow(float(moment), sent, float(rng.uniform(0, 0.05))))
    return blows


def _case(folder: Path, blows: Sequence[Blow], whole: Path) -> tuple[str, str]:
    """Interrupt a run, go on with it, and give what became of it and a detail."""
    every = 60.0 if signal.SIGKILL not in blows[0].signals else 0.0  # one that is asked to stop saves itself
    for blow in blows:
        ended, begun = _interrupted(folder, blow, every)
        if (wrong := _fault(ended)) is not None:
            return wrong
        if ended.code == 0:
            break
        if begun and len(blow.signals) == 1 and every and not checkpoints(folder):
            return "lost", f"no checkpoint after {blow}, exit code {ended.code}"
    ended = _going_on(folder, every).wait()
    if (wrong := _fault(ended)) is not None:
        return wrong
    return ("lost", ended.message) if ended.code else compared(folder, whole)


def _interrupted(folder: Path, blow: Blow, every: float) -> tuple[Ended, bool]:
    """Start a run or go on with it, interrupt it, and say how it ended and whether it was in training then."""
    command = _going_on(folder, every)
    command.sleep(blow.moment)
    begun = blow.moment > EARLY and (folder / "metrics.jsonl").exists()
    for number in blow.signals:
        command.signal(number)
        command.sleep(blow.gap if len(blow.signals) > 1 else 0)
    return command.wait(), begun


def _going_on(folder: Path, every: float) -> Command:
    """Go on with a run, or start it where there is none yet."""
    made = (folder / "config.json").exists()
    return _run(folder, *(["--resume"] if made else []), every=every)


def _fault(ended: Ended) -> tuple[str, str] | None:
    if ended.hung:
        return "hang", ended.waited
    wrong = misbehaviour(ended)
    return None if wrong is None else ("traceback", wrong)


def compared(folder: Path, whole: Path) -> tuple[str, str]:
    """Compare a run with the undisturbed one.

    Args:
        folder: The folder of the run.
        whole: That of the undisturbed one.

    Returns:
        The outcome, and a detail.
    """
    if weights(folder) != weights(whole):
        return "different", "the weights"
    if numbers(folder, "evaluation") != numbers(whole, "evaluation"):
        return "different", "the evaluation"
    if records(folder) != records(whole):
        return "different", "the training metrics"
    if left := leftovers(folder):
        return "litter", ", ".join(left)
    return "identical", ""
