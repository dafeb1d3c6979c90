r"""Displacement interpolation."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from latentflow.calculus import Time, check_points, expand_time


def mccann_interpolation(x: Tensor, y: Tensor | Callable[[Tensor], Tensor], t: Time) -> Tensor:
    r"""Move points along the straight lines :math:`(1 - t)\,x + t\,T(x)`.

    Where :math:`T` is an optimal map, their distribution runs along the geodesic of :math:`W_2`: its distance from the
    start is :math:`t\,W_2`.

    Args:
        x: The points at time 0, of shape ``(*batch, dim)``.
        y: Their partners at time 1, of the same shape, or the map that takes ``x`` there.
        t: The times: a number, or a tensor of shape ``()`` or ``(*batch,)``.

    Returns:
        The points at the times, of shape ``(*batch, dim)``.

    Raises:
        TypeError: If ``x`` is not a floating-point tensor.
        ValueError: If a shape does not fit.

    References:
        | A Convexity Principle for Interacting Gases (McCann, 1997)
        | https://doi.org/10.1006/aima.1997.1634

    Example:
        >>> import torch
        >>> x = torch.zeros(3, 2)
        >>> torch.testing.assert_close(mccann_interpolation(x, lambda x: x + 4, 0.25), torch.ones(3, 2))
    """
    check_points(x)
    partners = y if isinstance(y, Tensor) else y(x)
    if partners.shape != x.shape:
        raise ValueError(f"y: expected the shape of x, {tuple(x.shape)}, got {tuple(partners.shape)}")
    return x + expand_time(t, x).unsqueeze(-1) * (partners - x)
