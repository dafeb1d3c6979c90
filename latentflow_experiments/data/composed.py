"""Which state each transformation is in, frame by frame, where several of them act on one image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "as_composed_kinds",
    "as_states",
    "interpolate",
    "moving",
    "switched_states",
    "turning_point",
    "weighted_states",
    "whole_states",
]


def as_states(states: Tensor, kinds: int, steps: int) -> Tensor:
    """Check the states of the transformations in each frame.

    Args:
        states: The states, shape ``(frames, K)``, floating point or int64; 2.0 is the third state.
        kinds: The number of transformations ``K``.
        steps: The last state.

    Returns:
        The states on the CPU.

    Raises:
        ValueError: If ``states`` has another shape or dtype, or one is not a number from 0 to ``steps``.

    Example:
        >>> assert as_states(torch.tensor([[0.0, 2.5]]), kinds=2, steps=8).tolist() == [[0.0, 2.5]]
    """
    if states.ndim != 2 or states.shape[1] != kinds:
        raise ValueError(f"states: expected shape (frames, {kinds}), got {tuple(states.shape)}")
    if states.dtype != torch.int64 and not states.is_floating_point():
        raise ValueError(f"states: expected dtype torch.int64 or floating point, got {states.dtype}")
    states = states.cpu()
    outside = states[~((states >= 0) & (states <= steps))]  # NaN as well
    if len(outside):
        raise ValueError(f"states: expected values from 0 to {steps}, got {outside[0].item():g}")
    return states


def whole_states(states: Tensor) -> Tensor:
    """Refuse states between those of which there are images.

    Args:
        states: The states, of any shape.

    Returns:
        The states as int64.

    Raises:
        ValueError: If one is not an integer.

    Example:
        >>> assert whole_states(torch.tensor([[0.0, 2.0]])).tolist() == [[0, 2]]
    """
    broken = states[states != states.round()] if states.is_floating_point() else states[:0]
    if broken.numel():
        raise ValueError(f"states: expected integers, as images are numbered by factors, got {broken[0].item():g}")
    return states.long()


def moving(states: Tensor) -> tuple[int, ...]:
    """List the transformations that are not in state 0 in all frames.

    Args:
        states: The states, shape ``(frames, K)``.

    Example:
        >>> assert moving(torch.tensor([[0, 0, 0], [0, 1, 0], [0, 1, 2]])) == (1, 2)
    """
    return tuple((states != 0).any(0).nonzero().flatten().tolist())


def as_composed_kinds(kinds: Sequence[int], known: int) -> tuple[int, ...]:
    """Check the transformations that take part in a composition.

    Args:
        kinds: The transformations.
        known: How many there are.

    Raises:
        ValueError: If there are none, or they are out of range or not distinct.

    Example:
        >>> assert as_composed_kinds([2, 0], known=3) == (2, 0)
    """
    if not kinds or len(set(kinds)) != len(kinds) or not set(kinds) <= set(range(known)):
        raise ValueError(f"kinds: expected distinct ones from 0 to {known - 1}, got {tuple(kinds)}")
    return tuple(kinds)


def interpolate(values: Sequence[float], state: float) -> float:
    """Give a quantity at a state between two of a table.

    Args:
        values: The quantity in each state.
        state: The state, from 0 to ``len(values) - 1``.

    Returns:
        The value, linear between the states and exactly that of the table at them.

    Example:
        >>> assert interpolate((0.0, 10.0, 30.0), 1.5) == 20.0
        >>> assert interpolate((0.0, 0.1, 0.3), 2.0) == 0.3
    """
    below = int(state)
    return values[below] if state == below else values[below] + (state - below) * (values[below + 1] - values[below])


def turning_point(steps: int) -> int:
    r"""Give the number :math:`\lceil T/2 \rceil` of steps, those from times before ``T/2``, ahead of a switch.

    Example:
        >>> assert [turning_point(steps) for steps in (7, 8)] == [4, 4]
    """
    return (steps + 1) // 2


def switched_states(first: int, second: int, kinds: int, steps: int) -> Tensor:
    """Run one transformation up to the turning point, hold it there, and run another one from then on.

    Args:
        first: The transformation that acts first.
        second: The transformation that acts then, another one.
        kinds: The number of transformations ``K``.
        steps: The number of steps ``T``.

    Returns:
        The states, shape ``(T + 1, K)``, float32.

    Raises:
        ValueError: If the two are the same or out of range.

    Example:
        >>> assert switched_states(0, 1, kinds=2, steps=3).tolist() == [[0, 0], [1, 0], [2, 0], [2, 1]]
    """
    as_composed_kinds((first, second), kinds)
    times, turn = torch.arange(steps + 1.0), turning_point(steps)
    states = torch.zeros(steps + 1, kinds)
    states[:, first], states[:, second] = times.clamp(max=turn), (times - turn).clamp(min=0)
    return states


def weighted_states(weights: Sequence[float], times: Sequence[int]) -> Tensor:
    r"""Run transformations at once, each at its own speed: state :math:`t w_k` at time :math:`t`.

    Args:
        weights: The speed of each transformation, in states a step.
        times: The times, in steps.

    Returns:
        The states, shape ``(frames, K)``, float32.

    Example:
        >>> assert weighted_states((1.0, 0.0, 0.5), (0, 1, 2)).tolist() == [[0, 0, 0], [1, 0, 0.5], [2, 0, 1]]
    """
    return torch.tensor(times, dtype=torch.float32)[:, None] * torch.tensor(weights, dtype=torch.float32)
