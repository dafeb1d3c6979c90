"""Time functions side by side, so that drift of the machine hits all of them alike."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Timing:
    """The seconds that one call takes.

    Attributes:
        median: The median over the samples.
        lower: The lower quartile.
        upper: The upper quartile.
        samples: The number of samples.
        calls: The calls in a sample; its time is divided by them.
    """

    median: float
    lower: float
    upper: float
    samples: int
    calls: int

    @classmethod
    def of(cls, seconds: Sequence[float], calls: int = 1) -> Timing:
        """Summarise samples.

        Args:
            seconds: The time of one call in each sample; at least two.
            calls: The calls in a sample.

        Returns:
            The summary. Quartiles interpolate linearly between the ordered samples, the extremes included.

        Example:
            >>> timing = Timing.of([4.0, 1.0, 3.0, 2.0, 100.0])
            >>> assert (timing.median, timing.lower, timing.upper) == (3.0, 2.0, 4.0)
        """
        lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, lower, upper, len(seconds), calls)


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds: The samples of a quick function.
        least: The samples of a slow one.
        seconds: The time that a function may take for its samples, as far as ``least`` allows.
        sample: The shortest time of a sample; a quicker function is called several times in it.
    """

    rounds: int = 21
    least: int = 3
    seconds: float = 2.0
    sample: float = 0.01

    def shape(self, cost: float) -> tuple[int, int]:
        """Choose samples and calls in a sample.

        Args:
            cost: The seconds of one call.

        Returns:
            Both numbers.

        Example:
            >>> plan = Plan(rounds=20, least=3, seconds=2.0, sample=0.01)
            >>> assert plan.shape(0.004) == (20, 3)  # 12 ms a sample
            >>> assert plan.shape(0.5) == (4, 1)
            >>> assert plan.shape(30.0) == (3, 1)
        """
        calls = max(1, math.ceil(self.sample / cost))
        return min(self.rounds, max(self.least, int(self.seconds / (cost * calls)))), calls


def measure(
    functions: Mapping[str, Callable[[], Any]],
    plan: Plan,
    check: Callable[[str, Any], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time functions in turn: the first, the second, ..., and again the first.

    Each is called once, its result is checked, and where it is quick once more to see what it costs. Then follow rounds
    in which each makes a sample; one with fewer samples than there are rounds spreads them evenly. The garbage
    collector is off meanwhile.

    Args:
        functions: What to time, by name.
        plan: How long to measure.
        check: Receives a name and what the first call returned; raises where the results do not agree.
        clock: Gives the time in seconds.

    Returns:
        The timings, in the order of the functions.
    """
    shapes = {}
    for name, function in functions.items():
        start = clock()
        result = function()
        cost = clock() - start
        if check is not None:
            check(name, result)
        del result
        if cost < plan.seconds:
            start = clock()
            function()
            cost = clock() - start
        shapes[name] = plan.shape(max(cost, 1e-9))
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    rounds = max(samples for samples, _ in shapes.values())
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for i in range(rounds):
            for name, function in functions.items():
                samples, calls = shapes[name]
                if (i + 1) * samples // rounds == i * samples // rounds:
                    continue
                start = clock()
                for _ in range(calls):
                    function()
                seconds[name].append((clock() - start) / calls)
    finally:
        if collects:
            gc.enable()
    return {name: Timing.of(seconds[name], calls) for name, (_, calls) in shapes.items()}


def check_close(actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float, name: str = "") -> None:
    """Check that two contenders computed the same numbers.

    Args:
        actual: The tensors of one of them.
        expected: The tensors of the other.
        tolerance: The largest error, relative to the largest entry of the expected tensor.
        name: Whom the message names.

    Raises:
        AssertionError: If they differ.

    Example:
        >>> check_close([torch.tensor([1.0, 100.001])], [torch.tensor([1.0, 100.0])], 1e-4)
    """
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        scale = float(b.detach().abs().max()) if b.numel() else 0.0
        try:
            torch.testing.assert_close(a, b, rtol=0.0, atol=tolerance * scale)
        except AssertionError as error:
            raise AssertionError(f"{name}, result {i}: {error}") from None
