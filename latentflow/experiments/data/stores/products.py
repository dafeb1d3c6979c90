"""Which part of a family's grid a list of images is."""

from __future__ import annotations

import math

import numpy as np

from latentflow.experiments.data.family import Family
from latentflow.experiments.data.grid import Indices

__all__ = ["digits_of_rows"]


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
        >>> from latentflow.experiments.data.family import SHAPES3D
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
