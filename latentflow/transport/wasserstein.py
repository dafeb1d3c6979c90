"""Wasserstein distances between weighted points: debiased Sinkhorn, and exact on the line."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from geomloss import SamplesLoss
from torch import Tensor

from latentflow.calculus.checks import check_count, check_flag, check_like, check_positive, check_tensor


def check_clouds(x: Tensor, y: Tensor) -> None:
    """Check clouds ``(*batch, n, dim)`` and ``(*batch, m, dim)``; raise a TypeError or ValueError if one is wrong."""
    for name, cloud in (("x", x), ("y", y)):
        check_tensor(name, cloud)
        if cloud.ndim < 2 or cloud.shape[-2] == 0 or cloud.shape[-1] == 0:
            raise ValueError(f"{name}: expected shape (*batch, points, dim) with points, got {tuple(cloud.shape)}")
        if not torch.isfinite(cloud).all():
            raise ValueError(f"{name}: expected finite points, got others")
    check_like("y", y, x)
    if x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        raise ValueError(f"y: expected the batch shape and dim of x, {tuple(x.shape)}, got {tuple(y.shape)}")


def expand_weights(name: str, weights: Tensor | None, shape: torch.Size, like: Tensor) -> Tensor:
    """Expand weights, equal ones if None, to ``(*batch, n)``; raise a ValueError unless they are a distribution."""
    if weights is None:
        return like.new_full(shape, 1 / shape[-1])
    check_tensor(name, weights)
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


def without_weightless(points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Put points of weight zero, of ``(*batch, n, dim)``, onto the heaviest one; then they take part in nothing."""
    here = weights > 0
    heaviest = points.gather(-2, weights.argmax(-1)[..., None, None].expand(*weights.shape[:-1], 1, points.shape[-1]))
    return torch.where(here.unsqueeze(-1), points, heaviest.detach()), torch.where(here, weights, 0.0)


def root_of_square(squared: Tensor) -> Tensor:
    """Compute the root of a squared distance: zero, with gradient zero, where it is zero or negative by rounding."""
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0 * squared)


MIN_SQUARED_DISTANCE = 50.0
"""The least squared distance, in squared blurs, without a warning; the error is about one squared blur or less."""


class BlurWarning(RuntimeWarning):
    """A warning that the blur of Sinkhorn's iterations is not small against the distance."""


@dataclass(frozen=True)
class Clouds:
    r"""Two clouds, each about its own mean, divided by ``size``, the sum of the largest distances from the means.

    The split :math:`W_2^2 = |m_y - m_x|^2 + W_2^2(\text{centered})` is exact, also for the debiased divergence.
    """

    x: Tensor
    y: Tensor
    x_weights: Tensor
    y_weights: Tensor
    x_mean: Tensor
    y_mean: Tensor
    size: Tensor

    @staticmethod
    def build(x: Tensor, y: Tensor, x_weights: Tensor | None, y_weights: Tensor | None) -> Clouds:
        """Check, center and scale clouds of shapes ``(*batch, n, dim)`` and ``(*batch, m, dim)``."""
        check_clouds(x, y)
        a = expand_weights("x_weights", x_weights, x.shape[:-1], x).reshape(-1, x.shape[-2])
        b = expand_weights("y_weights", y_weights, y.shape[:-1], y).reshape(-1, y.shape[-2])
        x, y = x.reshape(len(a), *x.shape[-2:]), y.reshape(len(b), *y.shape[-2:])
        (x, a), (y, b) = without_weightless(x, a), without_weightless(y, b)
        x_mean, y_mean = (a.unsqueeze(-1) * x).sum(-2), (b.unsqueeze(-1) * y).sum(-2)
        x, y = x - x_mean.unsqueeze(-2), y - y_mean.unsqueeze(-2)
        size = sum(
            torch.where(weights > 0, cloud.detach().norm(dim=-1), 0.0).amax(-1) for cloud, weights in ((x, a), (y, b))
        )
        assert isinstance(size, Tensor)
        unit = torch.where(size > 0, size, 1.0)[:, None, None]
        return Clouds(x / unit, y / unit, a, b, x_mean, y_mean, size)

    def potentials(self, blur: float, scaling: float, *, debias: bool) -> tuple[Tensor, Tensor]:
        r"""Compute Sinkhorn's potentials ``(batch, n)`` and ``(batch, m)`` for the cost :math:`\tfrac12 |x - y|^2`."""
        check_blur(blur, scaling)
        if len(self.x) == 0:
            return self.x_weights, self.y_weights
        loss = SamplesLoss(
            "sinkhorn",
            p=2,
            blur=blur,
            scaling=scaling,
            diameter=1.0,
            debias=debias,
            potentials=True,
            backend="tensorized",
        )
        enabled = torch.is_grad_enabled()
        with torch.set_grad_enabled(enabled):  # geomloss leaves gradients switched on
            f, g = loss(self.x_weights, self.x, self.y_weights, self.y)
        return (f, g) if enabled else (f.detach(), g.detach())


def check_blur(blur: float, scaling: float) -> None:
    """Check the numbers of Sinkhorn's iterations; raise a ValueError if one is out of range."""
    if not check_positive("blur", blur) < 1:
        raise ValueError(f"blur: expected a number between 0 and 1, in units of the size of the clouds, got {blur!r}")
    if not check_positive("scaling", scaling) < 1:
        raise ValueError(f"scaling: expected a number between 0 and 1, got {scaling!r}")


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

    A point of weight zero takes no part, wherever it is, and neither it nor its weight has a gradient.

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
    result = result.reshape(x.shape[:-2])
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
    tolerance: float = 1e-3,
    max_iterations: int = 2000,
) -> Tensor:
    r"""Compute the barycentric map of the entropic transport plan, the mean image of each point.

    .. math::
        T(x_i) = \frac{\sum_j \pi_{ij} y_j}{\sum_j \pi_{ij}} , \qquad
        \pi_{ij} \propto a_i b_j \exp\frac{f_i + g_j - |x_i - y_j|^2 / 2}{\varepsilon} .

    For a small blur this is the optimal assignment where there is one. Sinkhorn's iterations go on at the last blur
    until the second marginal of the plan, :math:`\sum_i \pi_{ij}`, is within ``tolerance`` of the weights in total
    variation; the image of a point of weight zero is that of the entropic map at its place.

    Args:
        x: The first cloud, of shape ``(*batch, n, dim)``.
        y: The second cloud, of shape ``(*batch, m, dim)``.
        x_weights: See :func:`wasserstein2`.
        y_weights: See :func:`wasserstein2`.
        blur: See :func:`wasserstein2`.
        scaling: See :func:`wasserstein2`.
        tolerance: The share of the mass that may go to wrong places, relative to 1.
        max_iterations: How many iterations to make at the last blur at most; each takes time ``n m``.

    Returns:
        The images of the points of ``x``, of its shape, without gradients.

    Raises:
        TypeError, ValueError: See :func:`wasserstein2`.

    Warns:
        ConvergenceWarning: If the marginal is not within the tolerance after all iterations.

    References:
        | Entropic estimation of optimal transport maps (Pooladian, Niles-Weed, 2021)
        | https://arxiv.org/abs/2109.12004

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
        >>> y = torch.tensor([[2.0, 1.0], [2.0, 0.0]])
        >>> torch.testing.assert_close(barycentric_map(x, y), y.flip(0))
    """
    check_positive("tolerance", tolerance)
    check_count("max_iterations", max_iterations)
    clouds = Clouds.build(x, y, x_weights, y_weights)
    _, g = clouds.potentials(blur, scaling, debias=False)
    cost = torch.cdist(clouds.x, clouds.y, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * blur**2)
    g = _converged(g / blur**2, cost, clouds, tolerance, max_iterations)
    logits = g.unsqueeze(-2) - cost + clouds.y_weights.log().unsqueeze(-2)
    there = torch.where(clouds.y_weights.unsqueeze(-1) > 0, y.reshape(len(g), *y.shape[-2:]), 0.0)
    images = logits.softmax(-1) @ there
    weightless = clouds.x_weights == 0
    if weightless.any():
        unit = torch.where(clouds.size > 0, clouds.size, 1.0)[:, None, None]
        own = (x.reshape(len(g), *x.shape[-2:]) - clouds.x_mean.unsqueeze(-2)) / unit
        pull = (own @ clouds.y.mT - clouds.y.square().sum(-1).unsqueeze(-2) / 2) / blur**2  # far points do not overflow
        far = pull + (g + clouds.y_weights.log()).unsqueeze(-2)
        images = torch.where(weightless.unsqueeze(-1), far.softmax(-1) @ there, images)
    return images.reshape(x.shape)


class ConvergenceWarning(RuntimeWarning):
    """A warning that Sinkhorn's iterations did not reach their tolerance."""


def _converged(g: Tensor, cost: Tensor, clouds: Clouds, tolerance: float, max_iterations: int) -> Tensor:
    """Iterate on potentials ``(batch, m)``, in units of the squared blur, until the second marginal is right."""
    log_a, log_b = clouds.x_weights.log().unsqueeze(-1), clouds.y_weights.log()
    if len(g) == 0:
        return g
    error = g.new_zeros(())
    for _ in range(max_iterations):
        f = -(g + log_b).unsqueeze(-2).sub(cost).logsumexp(-1)  # the first marginal is right from here on
        reached = (f.unsqueeze(-1) - cost + log_a).logsumexp(-2)
        error = ((g + reached).exp() - 1).mul(clouds.y_weights).nan_to_num(nan=0.0).abs().sum(-1)
        if (error <= tolerance).all():
            return g
        g = torch.where((clouds.y_weights > 0) & (error > tolerance).unsqueeze(-1), -reached, g)
    warnings.warn(
        f"barycentric_map: {float(error.amax()):.2g} of the mass goes to wrong places after {max_iterations} "
        f"iterations, more than the tolerance {tolerance:g}; use a larger blur, a scaling nearer to 1 "
        "or more iterations",
        ConvergenceWarning,
        stacklevel=4,
    )
    return g


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

    with the quantile functions of both, without approximation.

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
    (moved_x, a), (moved_y, b) = without_weightless(x.unsqueeze(-1), a), without_weightless(y.unsqueeze(-1), b)
    x, y = moved_x.squeeze(-1), moved_y.squeeze(-1)
    (x, i), (y, j) = x.sort(-1), y.sort(-1)
    below_x, below_y = a.gather(-1, i).cumsum(-1), b.gather(-1, j).cumsum(-1)
    knots = torch.cat([torch.zeros_like(x[..., :1]), below_x, below_y], -1).sort(-1).values
    middle = (knots[..., 1:] + knots[..., :-1]).detach() / 2

    def quantile(points: Tensor, below: Tensor) -> Tensor:
        index = torch.searchsorted(below.detach().contiguous(), middle.contiguous())
        return points.gather(-1, index.clamp(max=points.shape[-1] - 1))  # the last weights may sum to 1 - rounding

    result = (knots.diff(dim=-1) * (quantile(x, below_x) - quantile(y, below_y)).square()).sum(-1)
    return result if squared else root_of_square(result)
