"""Checks of the numbers, indices and widths that constructors take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_index(k: int | Tensor, count: int) -> Tensor:
    """Return indices of fields as a tensor; raise a TypeError or ValueError unless they are int64 in ``0..count-1``."""
    if isinstance(k, int) and not 0 <= k < count:
        raise ValueError(f"k: expected indices in 0..{count - 1}, got {k}")
    index = torch.as_tensor(k)
    if isinstance(k, int):
        return index
    if index.dtype != torch.int64:
        raise TypeError(f"k: expected an int64 index, got {index.dtype}")
    if index.numel() > 0 and (int(index.min()) < 0 or int(index.max()) >= count):
        raise ValueError(f"k: expected indices in 0..{count - 1}, got {int(index.min())}..{int(index.max())}")
    return index


def check_count(name: str, value: int) -> None:
    """Check that the argument ``name`` is a positive integer; raise a ValueError otherwise."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")


def check_hidden(hidden: Sequence[int]) -> None:
    """Check the widths of the hidden layers of a network; raise a ValueError unless they are positive."""
    if len(hidden) == 0 or min(hidden) < 1:
        raise ValueError(f"hidden: expected at least one positive width, got {tuple(hidden)}")


def expand_weight(weight: Tensor, batch: torch.Size) -> Tensor:
    """Expand a weight to the batch shape; raise a ValueError if it does not broadcast."""
    try:
        return weight.expand(batch)
    except RuntimeError:
        message = f"weight: expected a number or a shape that broadcasts to {tuple(batch)}, got {tuple(weight.shape)}"
        raise ValueError(message) from None
