"""The time that training takes, and the bar that shows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tqdm import tqdm

from latentflow_experiments.configuration import Budget

SHOWN = {"reconstruction": ".0f", "kl": ".0f", "residual": ".3f", "folded": ".0%"}


class Clock:
    """Counts the seconds of training, over all sessions of a run.

    Args:
        before: The seconds of the sessions before.
        now: The clock to read: that on the wall, or ``time.process_time`` for the time of the CPU.
    """

    def __init__(self, before: float = 0.0, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._start = now() - before

    @property
    def seconds(self) -> float:
        """The seconds so far."""
        return self._now() - self._start


class ProgressBar:
    """Shows how much of a budget is spent, the terms of the loss and the time left.

    Args:
        budget: The budget; the bar counts its steps or its seconds.
        shown: Whether to show the bar.
    """

    def __init__(self, budget: Budget, *, shown: bool) -> None:
        self._seconds = None if budget.seconds is None else round(budget.seconds)
        total, unit = (budget.steps, "step") if self._seconds is None else (self._seconds, "s")
        self._bar = tqdm(total=total, unit=unit, disable=not shown, dynamic_ncols=True, mininterval=0.5)

    def move(self, steps: int, seconds: float) -> None:
        """Move to a position."""
        position = steps if self._seconds is None else min(int(seconds), self._seconds)
        self._bar.update(position - self._bar.n)

    def describe(self, transformation: str, values: dict[str, float]) -> None:
        """Show the terms of the loss at a batch of one transformation."""
        terms = (f"{name} {values[name]:{form}}" for name, form in SHOWN.items() if name in values)
        self._bar.set_postfix_str(f"{transformation}: {' '.join(terms)}", refresh=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()
