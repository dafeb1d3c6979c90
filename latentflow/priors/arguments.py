"""The times and fields at which a prior is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentflow.calculus import Time, check_index

Prior: TypeAlias = Callable[..., Distribution]
"""Maps a time ``t`` and the index ``k`` of a field to a distribution over latents."""


def check_elapsed(t: Time, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
    """Check that a time has passed since the start of a prior.

    Args:
        t: The time: a number or a tensor.
        dtype: The dtype of the result, or None for that of ``t``.
        device: The device of the result, or None for that of ``t``.

    Returns:
        The time as a tensor, of the shape of ``t``.

    Raises:
        ValueError: If a time is negative or not a number.
    """
    time = torch.as_tensor(t, dtype=dtype, device=device)
    if not (time >= 0).all():
        raise ValueError(f"t: expected times of at least 0, got {float(time.detach().min())}")
    return time


def check_field(k: int | Tensor | None, fields: int, device: torch.device | None = None) -> Tensor:
    """Check the index of a field, which may be left out where there is one field only.

    Args:
        k: The index: a number, an int64 tensor, or None.
        fields: The number of fields.
        device: The device of the result, or None for that of ``k``.

    Returns:
        The index as a tensor, of the shape of ``k``.

    Raises:
        TypeError: If ``k`` is not of dtype int64.
        ValueError: If ``k`` is left out although there are several fields, or is out of range.
    """
    if k is None and fields > 1:
        raise ValueError(f"k: expected an index in 0..{fields - 1}, got None")
    return check_index(0 if k is None else k, fields).to(device)


def common_shape(time: Tensor, index: Tensor, batch: torch.Size = torch.Size()) -> torch.Size:  # noqa: B008 - immutable
    """Give the shape to which the times, the indices and the batch of a distribution broadcast.

    Args:
        time: The times.
        index: The indices of the fields.
        batch: The batch shape of the distribution.

    Raises:
        ValueError: If they do not broadcast.
    """
    try:
        shape: torch.Size = torch.broadcast_shapes(time.shape, index.shape, batch)  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ValueError(
            f"t: expected a shape that broadcasts with k of shape {tuple(index.shape)} and the batch shape "
            f"{tuple(batch)}, got {tuple(time.shape)}"
        ) from None
    return shape
