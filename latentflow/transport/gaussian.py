"""Closed forms of optimal transport: Gaussians, and displacement interpolation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from latentflow.calculus import Jet, JetRequest, Time
from latentflow.calculus.checks import (
    check_callable,
    check_finite_number,
    check_finite_tensor,
    check_flag,
    check_instance,
    check_like,
    check_points,
    check_tensor,
    expand_time,
)
from latentflow.potentials import Potential
from latentflow.transport.wasserstein import root_of_square

TINY = 1e-30
"""What stands for the size of a covariance that is zero."""


def gaussian_wasserstein2(m0: Tensor, S0: Tensor, m1: Tensor, S1: Tensor, *, squared: bool = False) -> Tensor:
    r"""Compute the Wasserstein distance between :math:`N(m_0, S_0)` and :math:`N(m_1, S_1)`.

    .. math::
        W_2^2 = |m_1 - m_0|^2 + \operatorname{tr}\bigl(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2}\bigr)

    The trace of the root is the sum of the singular values of :math:`L_1^\top L_0` with the Cholesky factors, whose
    gradient exists for equal covariances as well. A covariance may have zero eigenvalues: then the symmetric roots take
    the place of the factors, and the gradient is that along its range. It is all of the gradient if the range of the
    other covariance lies within; otherwise the distance has no gradient across the range, as :math:`\sqrt x` at zero.

    Args:
        m0: The first mean, of shape ``(*batch, dim)``.
        S0: The first covariance, symmetric and positive semidefinite, of shape ``(*batch, dim, dim)``.
        m1: The second mean, of shape ``(*batch, dim)``.
        S1: The second covariance, of shape ``(*batch, dim, dim)``.
        squared: Whether to return :math:`W_2^2`, which is differentiable at zero.

    Returns:
        The distances, of the broadcast shape ``(*batch,)``, differentiable once, with gradient zero at zero. A small
        distance is accurate to the root of the rounding error of the traces.

    Raises:
        TypeError: If a mean or a covariance is not a floating-point tensor.
        ValueError: If a shape does not fit, a number is not finite, or a covariance is not symmetric and positive
            semidefinite.

    References:
        | On a Formula for the L2 Wasserstein Metric between Measures on Euclidean and Hilbert Spaces (Gelbrich, 1990)
        | https://doi.org/10.1002/mana.19901470121

    Example:
        >>> m, S = torch.zeros(2), torch.eye(2)
        >>> torch.testing.assert_close(gaussian_wasserstein2(m, S, m + 3, 4 * S, squared=True), torch.tensor(20.0))
        >>> torch.testing.assert_close(gaussian_wasserstein2(m, S, m, 0 * S, squared=True), torch.tensor(2.0))
    """
    check_flag("squared", squared)
    L0, L1 = _factor("m0", m0, "S0", S0), _factor("m1", m1, "S1", S1)
    check_like("m1", m1, m0)
    if m0.shape[-1] != m1.shape[-1]:
        raise ValueError(f"m1: expected shape (*batch, {m0.shape[-1]}), got {tuple(m1.shape)}")
    shared = _shared_by_roots(S0, S1) if L0 is None or L1 is None else torch.linalg.svdvals(L1.mT @ L0).sum(-1)
    traces = S0.diagonal(dim1=-2, dim2=-1).sum(-1) + S1.diagonal(dim1=-2, dim2=-1).sum(-1)
    result = (m1 - m0).square().sum(-1) + traces - 2 * shared
    return result if squared else root_of_square(result)


class GaussianTransportPotential(Potential):
    r"""The Hamilton-Jacobi potential that carries one Gaussian to another by optimal transport, for times in [0, 1].

    .. math::
        u(z, t) = \tfrac12 z^\top A_t z + b_t^\top z - \tfrac t2 b_0^\top b_t , \qquad
        A_t = A_0 (I + t A_0)^{-1}, \quad b_t = (I + t A_0)^{-1} b_0 ,

    with :math:`A_0 = A - I`, :math:`b_0 = m_1 - A m_0` and the optimal map :math:`T(z) = A z + b_0`. It solves
    :math:`\partial_t u + \tfrac12 |\nabla u|^2 = 0` and has no parameters; see :func:`gaussian_transport_potential`.

    Args:
        matrix: The matrix :math:`A`, symmetric and positive semidefinite, of shape ``(dim, dim)``. Along a zero
            eigenvalue points meet at time 1, where the potential ends.
        start: The mean :math:`m_0`, of shape ``(dim,)``.
        end: The mean :math:`m_1`, of shape ``(dim,)``.

    Raises:
        ValueError: If a shape does not fit, or a number is not finite.

    Example:
        >>> from latentflow import gradient
        >>> u = GaussianTransportPotential(torch.diag(torch.tensor([2.0, 0.5])), torch.zeros(2), torch.ones(2))
        >>> z = torch.randn(5, 2)
        >>> torch.testing.assert_close(z + gradient(u, z, 0.0), u.transport(z))
    """

    matrix: Tensor
    vector: Tensor
    rates: Tensor
    axes: Tensor

    def __init__(self, matrix: Tensor, start: Tensor, end: Tensor) -> None:
        super().__init__()
        check_tensor("start", start, ("dim",))
        self.dim = len(start)
        check_tensor("matrix", matrix, (self.dim, self.dim), like=start)
        check_tensor("end", end, (self.dim,), like=start)
        for name, tensor in (("matrix", matrix), ("start", start), ("end", end)):
            check_finite_tensor(name, tensor)
        values, axes = torch.linalg.eigh(matrix.detach())
        self.register_buffer("matrix", matrix.detach().clone())
        self.register_buffer("vector", (end - matrix @ start).detach())
        self.register_buffer("rates", values - 1)
        self.register_buffer("axes", axes)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Compute the potential ``(*batch,)`` at ``z`` of shape ``(*batch, dim)``."""
        check_points(z, self.dim, self.matrix)
        time, rates, vector = expand_time(t, z).unsqueeze(-1), self.rates, self.vector @ self.axes
        along = z @ self.axes
        return (((rates * along / 2 + vector) * along - time * vector.square() / 2) / (1 + time * rates)).sum(-1)

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Return the derivatives in closed form."""
        check_points(z, self.dim, self.matrix)
        stretch = 1 + expand_time(t, z).unsqueeze(-1) * self.rates
        curvature = self.rates / stretch
        along = (self.rates * (z @ self.axes) + self.vector @ self.axes) / stretch  # the velocity in the axes

        def products(v: Tensor) -> Tensor:
            return (v @ self.axes * curvature.unsqueeze(-2)) @ self.axes.mT

        return Jet.answer(
            request,
            value=self.forward(z, t),
            gradient=along @ self.axes.mT,
            time_derivative=-along.square().sum(-1) / 2,
            laplacian=lambda: curvature.sum(-1),
            hessian=lambda: (self.axes * curvature.unsqueeze(-2)) @ self.axes.mT,
            products=products,
            second_time_derivative=lambda: (curvature * along.square()).sum(-1),
            gradient_time_derivative=lambda: -(curvature * along) @ self.axes.mT,
        )

    def transport(self, z: Tensor) -> Tensor:
        """Map points ``(*batch, dim)`` from time 0 to time 1 by the optimal map."""
        check_points(z, self.dim, self.matrix)
        return z @ self.matrix + self.vector

    def interpolate(self, normal: MultivariateNormal, t: float) -> MultivariateNormal:
        r"""Transport a Gaussian to time ``t``: :math:`N((I + t A_0) m + t b_0,\; (I + t A_0) S (I + t A_0))`.

        This is McCann's interpolation if ``normal`` is :math:`N(m_0, S_0)`.
        """
        check_instance("normal", normal, MultivariateNormal, "a MultivariateNormal")
        check_finite_number("t", t)
        eye = torch.eye(self.dim, dtype=self.matrix.dtype, device=self.matrix.device)
        map_ = torch.lerp(eye, self.matrix, t)
        return MultivariateNormal(map_ @ normal.loc + t * self.vector, map_ @ normal.covariance_matrix @ map_)


def gaussian_transport_potential(m0: Tensor, S0: Tensor, m1: Tensor, S1: Tensor) -> GaussianTransportPotential:
    r"""Build the potential whose flow is the optimal transport of :math:`N(m_0, S_0)` to :math:`N(m_1, S_1)` in [0, 1].

    Covariances may have zero eigenvalues. From a source that has them a map exists where
    :math:`S_1^{1/2} S_0 S_1^{1/2}` has the rank of :math:`S_1`, that is where no direction of the target is out of
    reach; it is :math:`A = S_1^{1/2} (S_1^{1/2} S_0 S_1^{1/2})^{+1/2} S_1^{1/2}`, and the identity off both ranges.

    Args:
        m0: The mean at time 0, of shape ``(dim,)``.
        S0: The covariance at time 0, symmetric and positive semidefinite, of shape ``(dim, dim)``.
        m1: The mean at time 1, of shape ``(dim,)``.
        S1: The covariance at time 1, of shape ``(dim, dim)``.

    Returns:
        The potential.

    Raises:
        TypeError: If a mean or a covariance is not a floating-point tensor.
        ValueError: If a shape does not fit, a number is not finite, a covariance is not symmetric and positive
            semidefinite, or no map exists.

    References:
        | On Wasserstein geometry of Gaussian measures (Takatsu, 2011)
        | https://arxiv.org/abs/0801.2250

    Example:
        >>> from latentflow import PotentialFlow
        >>> m, S = torch.zeros(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]])
        >>> u = gaussian_transport_potential(m, S, m + 1, torch.eye(2))
        >>> z = torch.randn(5, 2)
        >>> torch.testing.assert_close(PotentialFlow(u).rollout(z, steps=3, dt=1 / 3).z[-1], u.transport(z))
        >>> torch.testing.assert_close(u.matrix @ S @ u.matrix, torch.eye(2))
    """
    L0 = _factor("m0", m0, "S0", S0)
    _factor("m1", m1, "S1", S1)
    check_like("m1", m1, m0)
    if m0.ndim != 1 or m1.shape != m0.shape:
        raise ValueError(f"m0, m1: expected one shape (dim,) for both, got {tuple(m0.shape)} and {tuple(m1.shape)}")
    for name, covariance in (("S0", S0), ("S1", S1)):
        check_tensor(name, covariance, (len(m0), len(m0)))
    if L0 is None:
        return GaussianTransportPotential(_map_by_roots(S0.detach(), S1.detach()), m0, m1)
    values, axes = torch.linalg.eigh(L0.mT @ S1 @ L0)
    inverse: Tensor = torch.linalg.solve_triangular(
        L0, torch.eye(len(m0), dtype=L0.dtype, device=L0.device), upper=False
    )
    half = inverse.mT @ axes * torch.where(values > _rounding(values), values, 0.0).pow(0.25)
    return GaussianTransportPotential(half @ half.mT, m0, m1)


def _factor(mean_name: str, mean: Tensor, name: str, covariance: Tensor) -> Tensor | None:
    """Check a Gaussian; return the Cholesky factor of its covariance, or None if one has a zero eigenvalue."""
    check_tensor(mean_name, mean)
    check_tensor(name, covariance, like=mean)
    if mean.ndim == 0 or covariance.ndim < 2 or covariance.shape[-2:] != (mean.shape[-1], mean.shape[-1]):
        raise ValueError(
            f"{name}: expected shape (*batch, dim, dim) for a mean of shape (*batch, dim), "
            f"got {tuple(covariance.shape)} for {tuple(mean.shape)}"
        )
    for label, tensor in ((mean_name, mean), (name, covariance)):
        check_finite_tensor(label, tensor)
    size = covariance.detach().abs().amax() if covariance.numel() > 0 else covariance.new_zeros(())
    if not ((covariance - covariance.mT).abs() <= torch.finfo(covariance.dtype).eps ** 0.5 * size).all():
        raise ValueError(f"{name}: expected a symmetric matrix, got one that is not")
    values = torch.linalg.eigvalsh(covariance.detach())
    if not (values >= -_rounding(values)).all():
        raise ValueError(
            f"{name}: expected a positive semidefinite matrix, got one with the eigenvalue {float(values.min()):.3g}"
        )
    if not (values > _rounding(values)).all():
        return None
    factor: Tensor = torch.linalg.cholesky(covariance)
    return factor


def _rounding(values: Tensor) -> Tensor:
    """Return up to where eigenvalues ``(*batch, dim)`` are zero but for rounding, of shape ``(*batch, 1)``."""
    if values.numel() == 0:
        return values[..., :1]
    return 16 * values.shape[-1] * torch.finfo(values.dtype).eps * values.abs().amax(-1, keepdim=True)


def _roots(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the symmetric root of a covariance and its pseudo-inverse."""
    values, axes = torch.linalg.eigh(covariance)
    kept = values > _rounding(values)
    root = torch.where(kept, values, 0.0).sqrt()
    inverse = torch.where(kept, 1 / torch.where(kept, root, 1.0), 0.0)
    return (axes * root.unsqueeze(-2)) @ axes.mT, (axes * inverse.unsqueeze(-2)) @ axes.mT


def _shared_by_roots(S0: Tensor, S1: Tensor) -> Tensor:
    r"""Compute :math:`\operatorname{tr}(S_0^{1/2} S_1 S_0^{1/2})^{1/2}` with its first derivatives on the ranges.

    The derivative to :math:`S_0` is half of the map :math:`S_0^{+1/2} (S_0^{1/2} S_1 S_0^{1/2})^{1/2} S_0^{+1/2}`.
    """
    (root0, inverse0), (root1, inverse1) = _roots(S0.detach()), _roots(S1.detach())
    left, values, right = torch.linalg.svd(root1 @ root0)
    shared: Tensor = values.sum(-1)
    for covariance, inverse, axes in ((S0, inverse0, right.mT), (S1, inverse1, left)):
        half = inverse @ axes * values.sqrt().unsqueeze(-2)
        shared = shared + ((half @ half.mT) * (covariance - covariance.detach())).sum((-2, -1)) / 2
    return shared


def _map_by_roots(S0: Tensor, S1: Tensor) -> Tensor:
    """Compute the optimal map from a covariance with zero eigenvalues; raise a ValueError if there is none."""
    (root0, _), (root1, _) = _roots(S0), _roots(S1)
    left, values, _ = torch.linalg.svd(root1 @ root0)  # left values^2 left' is root1 S0 root1
    within = values > values.amax().clamp(min=0) * 16 * len(values) * torch.finfo(values.dtype).eps ** 0.5
    reached, rank = int(within.sum()), int(torch.linalg.matrix_rank(root1, hermitian=True))
    if reached < rank:
        raise ValueError(
            f"S0: expected a source that reaches all {rank} directions of the target S1, got one that reaches "
            f"{reached}: no map carries one to the other (gaussian_wasserstein2 is finite all the same)"
        )
    half = root1 @ left * torch.where(within, values, 1.0).rsqrt() * within
    common, axes = torch.linalg.eigh(
        S0 / S0.diagonal().amax().clamp(min=TINY) + S1 / S1.diagonal().amax().clamp(min=TINY)
    )
    rest = axes * (common <= _rounding(common))
    matrix: Tensor = half @ half.mT + rest @ rest.mT
    return matrix


def mccann_interpolation(x: Tensor, y: Tensor | Callable[[Tensor], Tensor], t: Time) -> Tensor:
    r"""Compute :math:`(1 - t)\,x + t\,T(x)`, the geodesic of :math:`W_2` if :math:`T` is an optimal map.

    Args:
        x: The points at time 0, of shape ``(*batch, dim)``.
        y: The points :math:`T(x)` at time 1, of the same shape, or the map :math:`T`.
        t: The times: a number, ``()`` or ``(*batch,)``.

    Returns:
        The points at the times, of shape ``(*batch, dim)``.

    Raises:
        TypeError: If ``x`` is not a floating-point tensor.
        ValueError: If a shape does not fit.

    References:
        | A Convexity Principle for Interacting Gases (McCann, 1997)
        | https://doi.org/10.1006/aima.1997.1634

    Example:
        >>> x = torch.zeros(3, 2)
        >>> torch.testing.assert_close(mccann_interpolation(x, lambda x: x + 4, 0.25), torch.ones(3, 2))
    """
    check_points(x, name="x")
    if not isinstance(y, Tensor):
        check_callable("y", y, "a tensor of points or a map")
    partners = y if isinstance(y, Tensor) else y(x)
    check_tensor("y", partners, like=x)
    if partners.shape != x.shape:
        raise ValueError(f"y: expected the shape of x, {tuple(x.shape)}, got {tuple(partners.shape)}")
    return x + expand_time(t, x).unsqueeze(-1) * (partners - x)
