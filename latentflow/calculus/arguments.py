"""The checks that every operator makes of its points, times and potentials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Field: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A scalar field ``u(z, t)``: ``z`` of shape ``(*batch, dim)``, ``t`` and the result of shape ``(*batch,)``."""

Time: TypeAlias = float | Tensor
"""A time: a number, or a tensor of shape ``()`` or ``(*batch,)``."""


def check_points(z: Tensor, dim: int | None = None) -> None:
    """Check that ``z`` is a floating-point tensor of shape ``(*batch, dim)``.

    Args:
        z: The points.
        dim: The number of coordinates expected, or None for any.

    Raises:
        TypeError: If ``z`` is not a tensor of a floating-point dtype.
        ValueError: If ``z`` has no last dimension, or one of another size than ``dim``.
    """
    if not isinstance(z, Tensor):
        raise TypeError(f"z: expected a tensor of shape (*batch, dim), got {type(z).__name__}")
    if not z.is_floating_point():
        raise TypeError(f"z: expected a floating-point tensor, got {z.dtype}")
    if z.ndim == 0:
        raise ValueError("z: expected shape (*batch, dim), got a tensor of shape ()")
    if dim is not None and z.shape[-1] != dim:
        raise ValueError(f"z: expected shape (*batch, {dim}), got {tuple(z.shape)}")


def expand_time(t: Time, z: Tensor) -> Tensor:
    """Give the time ``t`` one value for each point, in the dtype and on the device of ``z``.

    Args:
        t: A number, or a tensor of shape ``()`` or one that broadcasts to ``(*batch,)``.
        z: The points, of shape ``(*batch, dim)``.

    Returns:
        The times, of shape ``(*batch,)``.

    Raises:
        ValueError: If ``t`` does not broadcast to the batch shape of ``z``.

    Example:
        >>> z = torch.zeros(2, 3, 5)
        >>> assert expand_time(0.5, z).shape == (2, 3)
        >>> assert torch.equal(expand_time(torch.tensor([1, 2, 3]), z)[1], torch.tensor([1.0, 2.0, 3.0]))
    """
    time = torch.as_tensor(t, dtype=z.dtype, device=z.device)
    batch = z.shape[:-1]
    try:
        return time.expand(batch)
    except RuntimeError:
        message = (
            f"t: expected a number, shape () or a shape that broadcasts to {tuple(batch)}, got {tuple(time.shape)}"
        )
        raise ValueError(message) from None


def expand_weight(weight: Tensor, batch: torch.Size) -> Tensor:
    """Give a weight one value for each sample.

    Args:
        weight: A tensor of shape ``()`` or one that broadcasts to ``(*batch,)``.
        batch: The batch shape.

    Returns:
        The weights, of shape ``(*batch,)``.

    Raises:
        ValueError: If the weight does not broadcast to the batch shape.
    """
    try:
        return weight.expand(batch)
    except RuntimeError:
        message = f"weight: expected a number or a shape that broadcasts to {tuple(batch)}, got {tuple(weight.shape)}"
        raise ValueError(message) from None


def check_index(k: int | Tensor, count: int) -> Tensor:
    """Check that ``k`` holds indices of fields.

    Args:
        k: A number or an int64 tensor.
        count: The number of fields.

    Returns:
        The index as a tensor, of the shape of ``k``.

    Raises:
        TypeError: If ``k`` is not of dtype int64.
        ValueError: If an index lies outside ``0..count-1``.
    """
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
    """Check that a number of things is a positive integer.

    Args:
        name: The name of the argument.
        value: The number.

    Raises:
        ValueError: If it is not a positive integer.
    """
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")


def check_hidden(hidden: Sequence[int]) -> None:
    """Check the widths of the hidden layers of a network.

    Args:
        hidden: The widths.

    Raises:
        ValueError: If there is no hidden layer, or one of no width.
    """
    if len(hidden) == 0 or min(hidden) < 1:
        raise ValueError(f"hidden: expected at least one positive width, got {tuple(hidden)}")


def check_value(value: Tensor, z: Tensor) -> Tensor:
    """Check that a field returned one value for each point and hand that value back.

    Args:
        value: What the field returned at ``z``.
        z: The points, of shape ``(*batch, dim)``.

    Returns:
        ``value``, of shape ``(*batch,)``.

    Raises:
        TypeError: If ``value`` is not a tensor.
        ValueError: If its shape is not the batch shape of ``z``.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"u: expected u(z, t) to return a tensor, got {type(value).__name__}")
    if value.shape != z.shape[:-1]:
        raise ValueError(
            f"u: expected u(z, t) to return shape {tuple(z.shape[:-1])} for z of shape {tuple(z.shape)}, "
            f"got {tuple(value.shape)}"
        )
    return value
