r"""The Wasserstein distance on the line, where it is exact."""

from __future__ import annotations

import torch
from torch import Tensor

from latentflow.transport.clouds import check_clouds, distance, weights_of


def wasserstein2_1d(
    x: Tensor,
    y: Tensor,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    *,
    squared: bool = False,
) -> Tensor:
    r"""Compute the Wasserstein distance between weighted points on the line.

    .. math::
        W_2^2 = \int_0^1 |F^{-1}(q) - G^{-1}(q)|^2\,dq

    with the quantiles of both, which is the mean of :math:`|x_{(i)} - y_{(i)}|^2` of sorted points where they are as
    many and weigh the same. There is no approximation.

    Args:
        x: The one set of points, of shape ``(*batch, n)``.
        y: The other, of shape ``(*batch, m)``.
        x_weights: The weights of the one, of shape ``(*batch, n)`` or ``(n,)``, nonnegative and of sum one; equal ones
            if None.
        y_weights: Those of the other.
        squared: Whether to return :math:`W_2^2` instead.

    Returns:
        The distances, of shape ``(*batch,)``, differentiable in points and weights; where there is no distance the
        gradient is zero.

    Raises:
        TypeError: If a set is not a floating-point tensor, or they have different dtypes.
        ValueError: If a shape or a weight does not fit, or a point is not finite.

    Example:
        >>> x, y = torch.tensor([0.0, 2.0]), torch.tensor([5.0, 3.0])
        >>> torch.testing.assert_close(wasserstein2_1d(x, y), torch.tensor(3.0))
        >>> half = torch.tensor([0.25, 0.75])
        >>> torch.testing.assert_close(wasserstein2_1d(x, x, half, squared=True), torch.tensor(1.0))
    """
    for name, points in (("x", x), ("y", y)):
        if isinstance(points, Tensor) and points.ndim == 0:
            raise ValueError(f"{name}: expected shape (*batch, points), got ()")
    check_clouds(*(points.unsqueeze(-1) if isinstance(points, Tensor) else points for points in (x, y)))
    a, b = weights_of("x_weights", x_weights, x.shape, x), weights_of("y_weights", y_weights, y.shape, y)
    (x, i), (y, j) = x.sort(-1), y.sort(-1)
    below_x, below_y = a.gather(-1, i).cumsum(-1), b.gather(-1, j).cumsum(-1)
    knots = torch.cat([torch.zeros_like(x[..., :1]), below_x, below_y], -1).sort(-1).values
    middle = (knots[..., 1:] + knots[..., :-1]).detach() / 2

    def quantile(points: Tensor, below: Tensor) -> Tensor:
        index = torch.searchsorted(below.detach().contiguous(), middle.contiguous())
        return points.gather(-1, index.clamp(max=points.shape[-1] - 1))  # the last weights may sum to 1 - rounding

    result = (knots.diff(dim=-1) * (quantile(x, below_x) - quantile(y, below_y)).square()).sum(-1)
    return result if squared else distance(result)
