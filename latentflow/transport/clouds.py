"""The checks of clouds of points and their weights, and the root that turns a squared distance into a distance."""

from __future__ import annotations

import torch
from torch import Tensor


def check_clouds(x: Tensor, y: Tensor) -> None:
    """Check two clouds of points.

    Args:
        x: The one cloud, of shape ``(*batch, n, dim)``.
        y: The other, of shape ``(*batch, m, dim)``.

    Raises:
        TypeError: If a cloud is not a tensor of a floating-point dtype, or they have different dtypes.
        ValueError: If a shape does not fit, a cloud has no points, or a coordinate is not finite.
    """
    for name, cloud in (("x", x), ("y", y)):
        if not isinstance(cloud, Tensor) or not cloud.is_floating_point():
            kind = cloud.dtype if isinstance(cloud, Tensor) else type(cloud).__name__
            raise TypeError(f"{name}: expected a floating-point tensor, got {kind}")
        if cloud.ndim < 2 or cloud.shape[-2] == 0:
            raise ValueError(f"{name}: expected shape (*batch, points, dim) with points, got {tuple(cloud.shape)}")
        if not torch.isfinite(cloud).all():
            raise ValueError(f"{name}: expected finite points, got others")
    if x.dtype != y.dtype:
        raise TypeError(f"y: expected the dtype of x, {x.dtype}, got {y.dtype}")
    if x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        raise ValueError(f"y: expected the batch shape and dim of x, {tuple(x.shape)}, got {tuple(y.shape)}")


def weights_of(name: str, weights: Tensor | None, shape: torch.Size, like: Tensor) -> Tensor:
    """Give every point of a cloud its weight.

    Args:
        name: The name of the argument.
        weights: The weights, of a shape that broadcasts to ``shape``; None for equal ones.
        shape: That of the points, ``(*batch, n)``.
        like: A tensor of the dtype and device wanted.

    Returns:
        The weights, of shape ``(*batch, n)``.

    Raises:
        ValueError: If the shape does not fit, a weight is negative, or they do not sum to one.
    """
    if weights is None:
        return like.new_full(shape, 1 / shape[-1])
    if weights.ndim == 0 or weights.shape[-1] != shape[-1] or weights.ndim > len(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)} or {tuple(shape[-1:])}, got {tuple(weights.shape)}")
    try:
        weights = weights.to(like).expand(shape)
    except RuntimeError:
        message = f"{name}: expected shape {tuple(shape)} or {tuple(shape[-1:])}, got {tuple(weights.shape)}"
        raise ValueError(message) from None
    total = weights.detach().sum(-1)
    if not (weights >= 0).all() or not ((total - 1).abs() <= torch.finfo(total.dtype).eps ** 0.5).all():
        raise ValueError(f"{name}: expected weights of at least 0 that sum to 1, got sums {total.flatten().tolist()}")
    return weights


def distance(squared: Tensor) -> Tensor:
    """Take the root of a squared distance, with the gradient zero where there is no distance, as a norm has.

    Args:
        squared: Squared distances. One below zero, as rounding can make, counts as zero.

    Returns:
        The distances, of the same shape.

    Example:
        >>> squared = torch.tensor([4.0, 0.0], requires_grad=True)
        >>> distance(squared).sum().backward()
        >>> assert torch.equal(squared.grad, torch.tensor([0.25, 0.0]))
    """
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0 * squared)
