"""The compositions that are measured: switches, superpositions, half strengths and ways back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations

from torch import Tensor

from latentflow_experiments.composition.drives import Backwards, Drive, Switched, Together
from latentflow_experiments.data.composed import switched_states, weighted_states

__all__ = ["Composition", "backwards", "half_strengths", "superpositions", "switchings"]

MANY = 4  # the most transformations of which all subsets are superposed


@dataclass(frozen=True, eq=False)
class Composition:
    """Transformations that act together, with what should come out.

    Attributes:
        name: What is composed.
        kinds: The transformations that take part.
        states: The state of each of all ``K`` transformations at each of ``times``, of shape ``(len(times), K)``.
        times: The places in the path of the frames that are compared, the first of them 0.
        drive: What moves the latents.

    Example:
        >>> (half,) = half_strengths(["hue"], order=[0], steps=4, fractional=False)
        >>> assert half.times == (0, 2, 4) and half.frames == 2
        >>> assert half.states.tolist() == [[0], [1], [2]]
    """

    name: str
    kinds: tuple[int, ...]
    states: Tensor
    times: tuple[int, ...]
    drive: Drive

    @property
    def frames(self) -> int:
        """The number of frames that are compared, which the first is not."""
        return len(self.times) - 1


def switchings(names: Sequence[str], order: Sequence[int], steps: int) -> list[Composition]:
    """List the switches from each transformation to each other one, for both clocks.

    Args:
        names: The transformations.
        order: The index in the bank of the potential of each.
        steps: The number of steps ``T``.

    Returns:
        The ordered pairs, each with the clock that continues and then the one that restarts.

    Example:
        >>> first, *_ = switchings(("hue", "size"), order=(1, 0), steps=2)
        >>> assert first.name == "hue then size, continue" and first.drive == Switched(1, 0, restart=False)
        >>> assert first.states.tolist() == [[0, 0], [1, 0], [1, 1]]
    """
    return [
        Composition(
            f"{names[j]} then {names[k]}, {'restart' if restart else 'continue'}",
            (j, k),
            switched_states(j, k, len(names), steps),
            tuple(range(steps + 1)),
            Switched(order[j], order[k], restart),
        )
        for j, k in permutations(range(len(names)), 2)
        for restart in (False, True)
    ]


def superpositions(names: Sequence[str], order: Sequence[int], steps: int) -> list[Composition]:
    """List the superpositions of two and more transformations, all at their full speed.

    Args:
        names: The transformations.
        order: The index in the bank of the potential of each.
        steps: The number of steps ``T``.

    Returns:
        All subsets of up to four transformations; of more, whose subsets are too many, each two and all of them.

    Example:
        >>> pairs = superpositions("abc", order=(0, 1, 2), steps=1)
        >>> assert [c.name for c in pairs] == ["a + b", "a + c", "b + c", "a + b + c"]
        >>> assert pairs[0].states.tolist() == [[0, 0, 0], [1, 1, 0]]
        >>> assert [len(c.kinds) for c in superpositions("abcde", range(5), steps=1)] == [2] * 10 + [5]
    """
    count = len(names)
    sizes = range(2, count + 1) if count <= MANY else (2, count)
    subsets = [kinds for size in sizes for kinds in combinations(range(count), size)]
    return [
        _together(" + ".join(names[k] for k in kinds), kinds, 1.0, order, range(steps + 1), len(names))
        for kinds in subsets
    ]


def half_strengths(names: Sequence[str], order: Sequence[int], steps: int, *, fractional: bool) -> list[Composition]:
    r"""List the transformations at half their speed: state :math:`t/2` at time ``t``.

    Args:
        names: The transformations.
        order: The index in the bank of the potential of each.
        steps: The number of steps ``T``.
        fractional: Whether there is a truth between two states; otherwise every second time is compared.

    Returns:
        One composition for each transformation.

    Example:
        >>> hue, _ = half_strengths(("hue", "size"), order=(1, 0), steps=2, fractional=True)
        >>> assert hue.name == "half hue" and hue.drive == Together(((1, 0.5),))
        >>> assert hue.states.tolist() == [[0, 0], [0.5, 0], [1, 0]]
    """
    times = range(0, steps + 1, 1 if fractional else 2)
    return [_together(f"half {name}", (k,), 0.5, order, times, len(names)) for k, name in enumerate(names)]


def backwards(names: Sequence[str], order: Sequence[int], steps: int) -> list[Composition]:
    """List the ways back of all transformations, from state ``T`` to state 0.

    Args:
        names: The transformations.
        order: The index in the bank of the potential of each.
        steps: The number of steps ``T``.

    Returns:
        One composition for each transformation.

    Example:
        >>> _, size = backwards(("hue", "size"), order=(1, 0), steps=2)
        >>> assert size.name == "size backwards" and size.drive == Backwards(0)
        >>> assert size.states.tolist() == [[0, 2], [0, 1], [0, 0]]
    """
    forth = [
        _together(f"{name} backwards", (k,), 1.0, order, range(steps + 1), len(names)) for k, name in enumerate(names)
    ]
    return [replace(c, states=c.states.flip(0), drive=Backwards(order[k])) for k, c in enumerate(forth)]


def _together(
    name: str, kinds: tuple[int, ...], weight: float, order: Sequence[int], times: Sequence[int], known: int
) -> Composition:
    speeds = [weight * (k in kinds) for k in range(known)]
    drive = Together(tuple((order[k], weight) for k in kinds))
    return Composition(name, kinds, weighted_states(speeds, times), tuple(times), drive)
