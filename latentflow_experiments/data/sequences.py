"""The protocol of the data: sequences of images of one transformation each, and of several at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor


class SequenceDataset(Protocol):
    """Sequences of images, each of one transformation.

    An index names a first image; :meth:`starts` lists those of this split. What ``k`` runs over is :attr:`names`.
    """

    @property
    def name(self) -> str:
        """The data set, with the word synthetic where it is a stand-in."""

    @property
    def split(self) -> str:
        """The split."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each transformation, in the order of ``k``."""

    @property
    def steps(self) -> int:
        """The number of steps ``T``, one less than that of the frames of a sequence."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a frame, ``(channels, height, width)``."""

    @property
    def fractional(self) -> bool:
        """Whether :meth:`composed` takes states that lie between two frames of a sequence."""

    def starts(self, k: int) -> Tensor:
        """List the sequences of one transformation in this split.

        Args:
            k: The transformation.

        Returns:
            The indices of their first images, shape ``(n,)``, int64, on the CPU.
        """

    def examples(self, k: int, count: int) -> Tensor:
        """Choose a few of them to look at, always the same.

        Args:
            k: The transformation.
            count: How many, at most.

        Returns:
            Indices, shape ``(n,)`` with ``n <= count``, int64.
        """

    def sequence(self, indices: Tensor, k: Tensor | int) -> Tensor:
        """Return sequences.

        Args:
            indices: Indices of images, shape ``(b,)``, int64; the value of transformation ``k`` there does not matter.
            k: The transformation of each, shape ``(b,)``, int64, or one for all.

        Returns:
            Frames in [0, 1], shape ``(b, T + 1, channels, height, width)``, float32, on the data set's device.

        Raises:
            ValueError: If ``indices`` or ``k`` has another shape or dtype, or is out of range.
            DataError: If an image cannot be read.
        """

    def composed_starts(self, kinds: Sequence[int]) -> Tensor:
        """List the distinct first images of sequences in which several transformations take part.

        Args:
            kinds: The transformations; their order does not matter.

        Returns:
            Indices of images in state 0 of all of them, shape ``(n,)``, int64, on the CPU.

        Raises:
            ValueError: If there are none, or they are out of range or not distinct.
        """

    def composed(self, indices: Tensor, states: Tensor) -> Tensor:
        """Return sequences in which several transformations take part.

        A transformation that is in state 0 in all frames takes no part: it stays as the index has it, as in
        :meth:`sequence`. Of the others, what the index has does not matter. So ``sequence(indices, k)`` is this with
        the states 0 to ``T`` of ``k`` and 0 of the others, and a frame in state 0 of all is the image of the index.

        Args:
            indices: Indices of images, shape ``(b,)``, int64.
            states: The state of each transformation in each frame, the same for all, shape ``(frames, K)``, int64 or
                floating point from 0 to ``T``; integers unless :attr:`fractional`.

        Returns:
            Frames in [0, 1], shape ``(b, frames, channels, height, width)``, float32, on the data set's device.

        Raises:
            ValueError: If ``indices`` or ``states`` has another shape or dtype, or is out of range.
            DataError: If an image cannot be read.
        """

    def to(self, device: torch.device | str) -> Self:
        """Return the same data set with its frames on a device."""

    def identity(self) -> dict[str, Any]:
        """Describe the data for the record of a run: name, split, SHA-256, whether it is synthetic."""


def as_kinds(k: Tensor | int, count: int, kinds: int) -> Tensor:
    """Check which transformation each sequence has.

    Args:
        k: The transformation of each, shape ``(count,)``, int64, or one for all.
        count: The number of sequences.
        kinds: The number of transformations.

    Returns:
        The transformation of each, shape ``(count,)``, int64.

    Raises:
        ValueError: If ``k`` has another shape or dtype, or is out of range.

    Example:
        >>> assert as_kinds(2, 3, kinds=4).tolist() == [2, 2, 2]
    """
    if isinstance(k, int):
        k = torch.full((count,), k, device="cpu")
    if k.shape != (count,):
        raise ValueError(f"k: expected an int or shape ({count},), got shape {tuple(k.shape)}")
    if k.dtype != torch.int64:
        raise ValueError(f"k: expected dtype torch.int64, got {k.dtype}")
    outside = k[(k < 0) | (k >= kinds)]
    if len(outside):
        raise ValueError(f"k: expected values from 0 to {kinds - 1}, got {int(outside[0])}")
    return k


def subsample(starts: Tensor, count: int) -> Tensor:
    """Choose some sequences, always the same ones.

    Args:
        starts: Indices, shape ``(n,)``.
        count: How many, at most.

    Returns:
        All of them, or ``count`` drawn without replacement from a fixed seed, in their order.

    Example:
        >>> assert subsample(torch.arange(5), 9).tolist() == [0, 1, 2, 3, 4]
        >>> assert len(subsample(torch.arange(5), 3).unique()) == 3
    """
    if len(starts) <= count:
        return starts
    chosen = torch.randperm(len(starts), generator=torch.Generator().manual_seed(0), device="cpu")[:count]
    return starts[chosen.sort().values]


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
    """Return a quantity at a state between two of a table.

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
    r"""Return the number :math:`\lceil T/2 \rceil` of steps, those from times before ``T/2``, ahead of a switch.

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
