"""The time that training takes, and the bar that shows it."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from latentflow.experiments.configuration import Budget


class Clock:
    """Counts the seconds of training, over all sessions of a run.

    Args:
        before: The seconds of the sessions before.
    """

    def __init__(self, before: float = 0.0) -> None:
        self._start = time.perf_counter() - before

    @property
    def seconds(self) -> float:
        """The seconds so far."""
        return time.perf_counter() - self._start


class ProgressBar:
    """Shows how much of a budget is spent, the terms of the loss and the time left.

    Args:
        budget: The budget; the bar counts its steps or its seconds.
        shown: Whether to show the bar.
    """

    def __init__(self, budget: Budget, *, shown: bool) -> None:
        self._seconds = None if budget.minutes is None else round(60 * budget.minutes)
        total, unit = (budget.steps, "step") if self._seconds is None else (self._seconds, "s")
        self._bar = tqdm(total=total, unit=unit, disable=not shown, dynamic_ncols=True, mininterval=0.5)

    def move(self, steps: int, seconds: float) -> None:
        """Move to a position."""
        position = steps if self._seconds is None else min(int(seconds), self._seconds)
        self._bar.update(position - self._bar.n)

    def describe(self, transformation: str, values: dict[str, float]) -> None:
        """Show the terms of the loss at a batch of one transformation."""
        self._bar.set_postfix_str(
            f"{transformation}: reconstruction {values['reconstruction']:.0f} kl {values['kl']:.0f} "
            f"residual {values['residual']:.3f} folded {values['folded']:.0%}",
            refresh=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()
