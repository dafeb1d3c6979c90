"""Wasserstein distances between weighted points: debiased Sinkhorn, and exact on the line."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from latentflow.calculus.checks import check_flag
from latentflow.transport.sinkhorn import Clouds, check_clouds, expand_weights, without_weightless


def root_of_square(squared: Tensor) -> Tensor:
    """Compute the root of a squared distance: zero, with gradient zero, where it is zero or negative by rounding."""
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0 * squared)


MIN_SQUARED_DISTANCE = 50.0
"""The least squared distance, in squared blurs, without a warning; the error is about one squared blur or less."""


class BlurWarning(RuntimeWarning):
    """A warning that the blur of Sinkhorn's iterations is not small against the distance."""


def wasserstein2(
    x: Tensor,
    y: Tensor,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    *,
    blur: float = 0.01,
    scaling: float = 0.98,
    squared: bool = False,
) -> Tensor:
    r"""Estimate the Wasserstein distance between two clouds of weighted points, with the cost :math:`|x - y|^2`.

    .. math::
        W_2^2 \approx 2 S_\varepsilon(x, y) = 2\bigl(\mathrm{OT}_\varepsilon(x, y)
        - \tfrac12 \mathrm{OT}_\varepsilon(x, x) - \tfrac12 \mathrm{OT}_\varepsilon(y, y)\bigr)

    is the debiased Sinkhorn divergence with the cost :math:`\tfrac12 |x - y|^2`. The difference of the means enters
    exactly; the rest is blurred at the length ``blur * size``, with the size the sum of the largest distances from the
    means. Memory grows like ``(n + m)^2``.

    The iterations go on at the final blur until at most a share of 1e-3 of the mass is out of place, 2,000 times at
    most. Points of weight zero are left out, and get no gradient, nor do their weights.

    Between samples, :math:`W_2` is larger than between their distributions: above ``dim = 4`` the excess of
    :math:`W_2^2` falls like :math:`n^{-2/\mathrm{dim}}`.

    Args:
        x: The first cloud, of shape ``(*batch, n, dim)``.
        y: The second cloud, of shape ``(*batch, m, dim)``.
        x_weights: The weights of ``x``, of shape ``(*batch, n)`` or ``(n,)``, nonnegative and of sum one, or None.
        y_weights: The weights of ``y``, in the same form.
        blur: The blur relative to the size of the clouds; smaller is more accurate and slower.
        scaling: The ratio of successive blurs, from the size of the clouds down; larger is more accurate and slower.
        squared: Whether to return :math:`W_2^2`, which is differentiable at zero and not clamped there.

    Returns:
        The distances, of shape ``(*batch,)``, in the unit of length of the points. Gradients, in points and weights,
        are of first order only, assume converged iterations and hold the size fixed; they are zero at zero.

    Raises:
        TypeError: If a cloud is not a floating-point tensor, or the dtypes differ.
        ValueError: If a shape, a weight or a number does not fit, or a point is not finite.

    Warns:
        BlurWarning: If a squared distance is below 50 squared blurs; the error can be about one squared blur.
        ConvergenceWarning: If the iterations have not converged; use a larger blur, or a scaling closer to 1.

    References:
        | Interpolating between Optimal Transport and MMD using Sinkhorn Divergences (Feydy et al., 2019)
        | https://arxiv.org/abs/1810.08278

    Example:
        >>> x = torch.randn(50, 3, dtype=torch.float64)
        >>> shift = torch.tensor([0.0, 3.0, 4.0], dtype=torch.float64)
        >>> torch.testing.assert_close(wasserstein2(x, x + shift), torch.tensor(5.0, dtype=torch.float64))
    """
    check_flag("squared", squared)
    clouds = Clouds.build(x, y, x_weights, y_weights)
    f, g = clouds.potentials(blur, scaling, debias=True)
    divergence = (clouds.x_weights * f).sum(-1) + (clouds.y_weights * g).sum(-1)
    result = (clouds.y_mean - clouds.x_mean).square().sum(-1) + 2 * clouds.size.square() * divergence
    smallest = MIN_SQUARED_DISTANCE * (blur * clouds.size).square()
    if (result < smallest).any():
        message = (
            f"wasserstein2: the squared blur, {blur:g} of the size of the clouds, is not small against the squared "
            f"distance in {int((result < smallest).sum())} of {len(result)} cases; use a smaller blur"
        )
        warnings.warn(message, BlurWarning, stacklevel=2)
    result = result.reshape(x.shape[:-2]).to(x.dtype)
    return result if squared else root_of_square(result)


@torch.no_grad()
def barycentric_map(
    x: Tensor,
    y: Tensor,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    *,
    blur: float = 0.01,
    scaling: float = 0.98,
) -> Tensor:
    r"""Compute the barycentric map of the entropic transport plan, the mean image of each point.

    .. math::
        T(x_i) = \frac{\sum_j \pi_{ij} y_j}{\sum_j \pi_{ij}} , \qquad
        \pi_{ij} \propto a_i b_j \exp\frac{f_i + g_j - |x_i - y_j|^2 / 2}{\varepsilon} .

    For a small blur this is the optimal assignment where there is one. The iterations are those of
    :func:`wasserstein2`: all mass leaves every point of ``x``, and a share of at most 1e-3 does not arrive. A point of
    weight zero has no part in the plan; its image is the same average, which continues the map to all of space.

    Args:
        x: The first cloud, of shape ``(*batch, n, dim)``.
        y: The second cloud, of shape ``(*batch, m, dim)``.
        x_weights: See :func:`wasserstein2`.
        y_weights: See :func:`wasserstein2`.
        blur: See :func:`wasserstein2`.
        scaling: See :func:`wasserstein2`.

    Returns:
        The images of the points of ``x``, of its shape, without gradients.

    Raises:
        TypeError, ValueError: See :func:`wasserstein2`.

    Warns:
        ConvergenceWarning: See :func:`wasserstein2`.

    References:
        | Entropic estimation of optimal transport maps (Pooladian, Niles-Weed, 2021)
        | https://arxiv.org/abs/2109.12004

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
        >>> y = torch.tensor([[2.0, 1.0], [2.0, 0.0]])
        >>> torch.testing.assert_close(barycentric_map(x, y), y.flip(0))
    """
    clouds = Clouds.build(x, y, x_weights, y_weights)
    _, g = clouds.potentials(blur, scaling, debias=False, stacklevel=4)  # below the decorator
    starts = clouds.scaled(x)
    # |x - y|^2 / 2 without |x|^2 / 2, which is the same for all y
    cost = clouds.y.square().sum(-1).unsqueeze(-2) / 2 - starts @ clouds.y.mT
    logits = (g.unsqueeze(-2) - cost) / blur**2 + clouds.y_weights.log().unsqueeze(-2)
    images = logits.softmax(-1) @ y.reshape(len(g), *y.shape[-2:]).to(g)
    return images.reshape(x.shape).to(x.dtype)


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

    with the quantile functions of both, without approximation. Points of weight zero are left out, and get no gradient,
    nor do their weights.

    Args:
        x: The first points, of shape ``(*batch, n)``.
        y: The second points, of shape ``(*batch, m)``.
        x_weights: See :func:`wasserstein2`.
        y_weights: See :func:`wasserstein2`.
        squared: Whether to return :math:`W_2^2`.

    Returns:
        The distances, of shape ``(*batch,)``, differentiable in points and weights, with gradient zero at zero.

    Raises:
        TypeError: If ``x`` or ``y`` is not a floating-point tensor, or the dtypes differ.
        ValueError: If a shape or a weight does not fit, or a point is not finite.

    Example:
        >>> x, y = torch.tensor([0.0, 2.0]), torch.tensor([5.0, 3.0])
        >>> torch.testing.assert_close(wasserstein2_1d(x, y), torch.tensor(3.0))
        >>> half = torch.tensor([0.25, 0.75])
        >>> torch.testing.assert_close(wasserstein2_1d(x, x, half, squared=True), torch.tensor(1.0))
    """
    check_flag("squared", squared)
    for name, points in (("x", x), ("y", y)):
        if isinstance(points, Tensor) and points.ndim == 0:
            raise ValueError(f"{name}: expected shape (*batch, points), got ()")
    check_clouds(*(points.unsqueeze(-1) if isinstance(points, Tensor) else points for points in (x, y)))
    a, b = expand_weights("x_weights", x_weights, x.shape, x), expand_weights("y_weights", y_weights, y.shape, y)
    x, a = without_weightless(x.unsqueeze(-1), a)
    y, b = without_weightless(y.unsqueeze(-1), b)
    (x, i), (y, j) = x.squeeze(-1).sort(-1), y.squeeze(-1).sort(-1)
    below_x, below_y = a.gather(-1, i).cumsum(-1), b.gather(-1, j).cumsum(-1)
    knots = torch.cat([torch.zeros_like(x[..., :1]), below_x, below_y], -1).sort(-1).values
    middle = (knots[..., 1:] + knots[..., :-1]).detach() / 2

    def quantile(points: Tensor, below: Tensor) -> Tensor:
        index = torch.searchsorted(below.detach().contiguous(), middle.contiguous())
        return points.gather(-1, index.clamp(max=points.shape[-1] - 1))  # the last weights may sum to 1 - rounding

    result = (knots.diff(dim=-1) * (quantile(x, below_x) - quantile(y, below_y)).square()).sum(-1)
    return result if squared else root_of_square(result)
