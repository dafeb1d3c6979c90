"""Which sequences of numbered images are held out for test and validation."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from latentflow_experiments.data.grid import Indices

__all__ = ["SPLITS", "Split", "draw_split"]

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
HELD_OUT = {"test": 0, "validation": 1}  # of a hundred


def draw_split(indices: Indices, split: Split) -> NDArray[np.bool_]:
    """Say which sequences are drawn for a split, by their first images: 1 % test, 1 % validation, the others train.

    An index is hashed by the finaliser of SplitMix64, so that the draw is the same everywhere and for all time, and
    neighbours in the grid fall apart.

    Args:
        indices: Indices in the grid of the whole family, shape ``(n,)``.
        split: The split.

    Returns:
        Whether each is drawn for it, shape ``(n,)``.

    Raises:
        ValueError: If there is no such split.

    References:
        G. L. Steele, D. Lea and C. H. Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.

    Example:
        >>> shares = [draw_split(np.arange(480_000), split).mean() for split in SPLITS]
        >>> assert np.allclose(shares, [0.98, 0.01, 0.01], atol=0.001)
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    mixed = indices.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    hundredth = (mixed % np.uint64(100)).astype(np.int64)
    drawn: NDArray[np.bool_] = hundredth > 1 if split == "train" else hundredth == HELD_OUT[split]
    return drawn
