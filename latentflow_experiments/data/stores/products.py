"""Which part of a family's grid some images are: by their rows, and by what a stand-in says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from latentflow_experiments.data.family import Family
from latentflow_experiments.data.grid import Indices

__all__ = ["Layout", "digits_of_rows", "mark_digits", "mark_faults"]


@dataclass(frozen=True)
class Layout:
    """What the arrays of a file say of the images in it.

    Attributes:
        digits: Which values of each factor are there; empty if that cannot be told.
        readable: Whether the array of images has the type and the sizes that it should have.
        faults: What is not as it should be, without the name of the file.
    """

    digits: tuple[tuple[int, ...], ...]
    readable: bool
    faults: tuple[str, ...]


def digits_of_rows(digits: Indices, family: Family) -> tuple[tuple[int, ...], ...]:
    """Find the values of each factor of which the rows are all combinations, in the order of the family.

    Args:
        digits: The digits of every row in the whole family, shape ``(n, factors)``.
        family: The family.

    Returns:
        The values of each factor, ascending.

    Raises:
        ValueError: If a digit is out of range, or the rows are not all combinations in order, the last factor fastest.

    Example:
        >>> from latentflow_experiments.data.family import SHAPES3D
        >>> rows = np.array([[0, 0, 0, 0, 1, 3], [0, 0, 0, 0, 1, 7], [0, 2, 0, 0, 1, 3], [0, 2, 0, 0, 1, 7]])
        >>> assert digits_of_rows(rows, SHAPES3D) == ((0,), (0, 2), (0,), (0,), (1,), (3, 7))
    """
    sizes = np.asarray(family.grid.sizes)
    if not len(digits):
        raise ValueError("expected at least one image, got none")
    outside = (digits < 0) | (digits >= sizes)
    if outside.any():
        row, factor = np.argwhere(outside)[0].tolist()
        raise ValueError(
            f"row {row}: expected {family.grid.names[factor]} from 0 to {sizes[factor] - 1}, got {digits[row, factor]}"
        )
    there = [np.unique(digits[:, j]) for j in range(digits.shape[1])]
    count = math.prod(map(len, there))
    if len(digits) != count:
        values = " x ".join(str(len(values)) for values in there)
        raise ValueError(f"expected all {count} combinations of the {values} values that occur, got {len(digits)} rows")
    positions = np.unravel_index(np.arange(count), tuple(map(len, there)))
    for j, (kept, position) in enumerate(zip(there, positions, strict=True)):
        wrong = np.flatnonzero(digits[:, j] != kept[position])
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"row {row}: expected {family.grid.names[j]} {kept[position[row]]}, with the last factor running "
                f"fastest, got {digits[row, j]}"
            )
    return tuple(tuple(kept.tolist()) for kept in there)


def mark_digits(mark: dict[str, object], family: Family) -> tuple[tuple[int, ...], ...] | None:
    """Give the values of each factor that a stand-in says it holds.

    Args:
        mark: What it says of its making.
        family: The family.

    Returns:
        The values of each factor; None if it does not say.

    Raises:
        ValueError: If what it says are no ascending values of each factor.

    Example:
        >>> from latentflow_experiments.data.family import SPRITES
        >>> assert mark_digits({"digits": [[0], [1, 2], [5], [0], [0], [31]]}, SPRITES)[1] == (1, 2)
    """
    kept = mark.get("digits")
    if kept is None:
        return None
    sizes = family.grid.sizes
    if not isinstance(kept, list) or len(kept) != len(sizes):
        raise ValueError(f"digits: expected values of {len(sizes)} factors, got {kept!r}")
    for values, factor in zip(kept, family.factors, strict=True):
        if not isinstance(values, list) or not values or any(type(value) is not int for value in values):
            raise ValueError(f"digits: expected values of {factor.name}, got {values!r}")
        if values != sorted(set(values)) or values[0] < 0 or values[-1] >= factor.size:
            raise ValueError(f"digits: expected {factor.name} ascending from 0 to {factor.size - 1}, got {values}")
    return tuple(tuple(values) for values in kept)


def mark_faults(mark: dict[str, object], digits: tuple[tuple[int, ...], ...]) -> list[str]:
    """Compare what a stand-in says it holds with what is there.

    Args:
        mark: What it says of its making.
        digits: The values of each factor that are there; empty if that cannot be told.

    Returns:
        What is wrong: nothing, or one line.
    """
    said = mark.get("digits")
    if said is None or not digits or said == [list(kept) for kept in digits]:
        return []
    return [f"synthetic: expected the digits {[list(kept) for kept in digits]}, those of the images, got {said}"]
