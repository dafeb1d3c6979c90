"""Closed forms of optimal transport: Gaussians, and displacement interpolation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from latentflow.calculus import Jet, JetRequest, Time, check_points, expand_time
from latentflow.potentials import Potential
from latentflow.transport.wasserstein import distance


def gaussian_wasserstein2(m0: Tensor, S0: Tensor, m1: Tensor, S1: Tensor, *, squared: bool = False) -> Tensor:
    r"""Compute the Wasserstein distance between :math:`N(m_0, S_0)` and :math:`N(m_1, S_1)`.

    .. math::
        W_2^2 = |m_1 - m_0|^2 + \operatorname{tr}\bigl(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2}\bigr)

    The trace of the root is the sum of the singular values of :math:`L_1^\top L_0` with the Cholesky factors, which has
    a gradient for equal covariances too.

    Args:
        m0: The mean of the one, of shape ``(*batch, dim)``.
        S0: Its covariance, symmetric and positive definite, of shape ``(*batch, dim, dim)``.
        m1: The mean of the other, of shape ``(*batch, dim)``.
        S1: Its covariance, of shape ``(*batch, dim, dim)``.
        squared: Whether to return :math:`W_2^2` instead, which can be differentiated where it is zero.

    Returns:
        The distances, of the broadcast shape ``(*batch,)``, differentiable once; the gradient is zero where there is no
        distance. Near there it is known only to the root of the rounding error of the traces.

    Raises:
        TypeError: If a mean is not a floating-point tensor.
        ValueError: If a shape does not fit, or a covariance is not symmetric and positive definite.

    References:
        | On a Formula for the L2 Wasserstein Metric between Measures on Euclidean and Hilbert Spaces (Gelbrich, 1990)
        | https://doi.org/10.1002/mana.19901470121

    Example:
        >>> m, S = torch.zeros(2), torch.eye(2)
        >>> torch.testing.assert_close(gaussian_wasserstein2(m, S, m + 3, 4 * S, squared=True), torch.tensor(20.0))
    """
    L0, L1 = _factor("m0", m0, "S0", S0), _factor("m1", m1, "S1", S1)
    if m0.shape[-1] != m1.shape[-1]:
        raise ValueError(f"m1: expected shape (*batch, {m0.shape[-1]}), got {tuple(m1.shape)}")
    shared: Tensor = torch.linalg.svdvals(L1.mT @ L0).sum(-1)
    traces = S0.diagonal(dim1=-2, dim2=-1).sum(-1) + S1.diagonal(dim1=-2, dim2=-1).sum(-1)
    result = (m1 - m0).square().sum(-1) + traces - 2 * shared
    return result if squared else distance(result)


class GaussianTransportPotential(Potential):
    r"""The Hamilton-Jacobi potential that carries one Gaussian to another by optimal transport, for times in [0, 1].

    .. math::
        u(z, t) = \tfrac12 z^\top A_t z + b_t^\top z - \tfrac t2 b_0^\top b_t , \qquad
        A_t = A_0 (I + t A_0)^{-1}, \quad b_t = (I + t A_0)^{-1} b_0 ,

    with :math:`A_0 = A - I` and :math:`b_0 = m_1 - A m_0`, where :math:`T(z) = A z + b_0` is the optimal map. It solves
    :math:`\partial_t u + \tfrac12 |\nabla u|^2 = 0`: every point moves in a straight line at constant speed. A buffer
    holds every number; nothing is learned. It is made by :func:`gaussian_transport_potential`.

    Args:
        matrix: The matrix :math:`A` of the map, symmetric and positive definite, of shape ``(dim, dim)``.
        start: The mean :math:`m_0`, of shape ``(dim,)``.
        end: The mean :math:`m_1`, of shape ``(dim,)``.

    Raises:
        ValueError: If a shape does not fit.

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
        self.dim = len(start)
        if matrix.shape != (self.dim, self.dim) or end.shape != (self.dim,):
            raise ValueError(
                f"matrix: expected shape ({self.dim}, {self.dim}) and an end of shape ({self.dim},), "
                f"got {tuple(matrix.shape)} and {tuple(end.shape)}"
            )
        values, axes = torch.linalg.eigh(matrix.detach())
        self.register_buffer("matrix", matrix.detach().clone())
        self.register_buffer("vector", (end - matrix @ start).detach())
        self.register_buffer("rates", values - 1)
        self.register_buffer("axes", axes)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the potential at ``z`` of shape ``(*batch, dim)``; the result is ``(*batch,)``."""
        check_points(z, self.dim)
        time, rates, vector = expand_time(t, z).unsqueeze(-1), self.rates, self.vector @ self.axes
        along = z @ self.axes
        return (((rates * along / 2 + vector) * along - time * vector.square() / 2) / (1 + time * rates)).sum(-1)

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Return the derivatives in closed form."""
        check_points(z, self.dim)
        stretch = 1 + expand_time(t, z).unsqueeze(-1) * self.rates
        curvature = self.rates / stretch
        along = (self.rates * (z @ self.axes) + self.vector @ self.axes) / stretch  # the velocity in the axes
        probes = None if request.probes is None else request.probes @ self.axes
        bent = None if probes is None else probes * curvature.unsqueeze(-2)
        products = bent @ self.axes.mT if bent is not None and request.products else None
        return Jet(
            value=self.forward(z, t),
            gradient=along @ self.axes.mT,
            time_derivative=-along.square().sum(-1) / 2,
            laplacian=curvature.sum(-1) if request.laplacian else None,
            hessian=(self.axes * curvature.unsqueeze(-2)) @ self.axes.mT if request.hessian else None,
            quadratic=None if probes is None or bent is None else (probes * bent).sum(-1),
            products=products,
            second_time_derivative=(curvature * along.square()).sum(-1) if request.second_time_derivative else None,
            gradient_time_derivative=-(curvature * along) @ self.axes.mT if request.gradient_time_derivative else None,
        )

    def transport(self, z: Tensor) -> Tensor:
        """Map points of shape ``(*batch, dim)`` from the one Gaussian to the other; the result has their shape."""
        check_points(z, self.dim)
        return z @ self.matrix + self.vector

    def interpolate(self, normal: MultivariateNormal, t: float) -> MultivariateNormal:
        r"""Move a Gaussian along the flow: McCann's interpolation, if it is the one that the potential starts from.

        Args:
            normal: The Gaussian at time 0.
            t: The time.

        Returns:
            The Gaussian at that time, with mean :math:`(I + t A_0) m + t b_0` and covariance
            :math:`(I + t A_0) S (I + t A_0)`.
        """
        eye = torch.eye(self.dim, dtype=self.matrix.dtype, device=self.matrix.device)
        map_ = torch.lerp(eye, self.matrix, t)
        return MultivariateNormal(map_ @ normal.loc + t * self.vector, map_ @ normal.covariance_matrix @ map_)


def gaussian_transport_potential(m0: Tensor, S0: Tensor, m1: Tensor, S1: Tensor) -> GaussianTransportPotential:
    r"""Make the potential whose flow carries :math:`N(m_0, S_0)` to :math:`N(m_1, S_1)` by optimal transport in [0, 1].

    Args:
        m0: The mean at time 0, of shape ``(dim,)``.
        S0: The covariance there, symmetric and positive definite, of shape ``(dim, dim)``.
        m1: The mean at time 1, of shape ``(dim,)``.
        S1: The covariance there, of shape ``(dim, dim)``.

    Returns:
        The potential. Its action is :math:`W_2^2` at every sample size, and ``transport`` is the map.

    Raises:
        TypeError: If a mean is not a floating-point tensor.
        ValueError: If a shape does not fit, or a covariance is not symmetric and positive definite.

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
    if m0.ndim != 1 or m1.shape != m0.shape:
        raise ValueError(f"m0, m1: expected one shape (dim,) for both, got {tuple(m0.shape)} and {tuple(m1.shape)}")
    values, axes = torch.linalg.eigh(L0.mT @ S1 @ L0)
    inverse: Tensor = torch.linalg.solve_triangular(L0, torch.eye(len(m0)).to(L0), upper=False)
    half = inverse.mT @ axes * values.pow(0.25)
    return GaussianTransportPotential(half @ half.mT, m0, m1)


def _factor(mean_name: str, mean: Tensor, name: str, covariance: Tensor) -> Tensor:
    """Check a Gaussian and return the Cholesky factor of its covariance."""
    if not isinstance(mean, Tensor) or not mean.is_floating_point():
        kind = mean.dtype if isinstance(mean, Tensor) else type(mean).__name__
        raise TypeError(f"{mean_name}: expected a floating-point tensor, got {kind}")
    if mean.ndim == 0 or covariance.ndim < 2 or covariance.shape[-2:] != (mean.shape[-1], mean.shape[-1]):
        raise ValueError(
            f"{name}: expected shape (*batch, dim, dim) for a mean of shape (*batch, dim), "
            f"got {tuple(covariance.shape)} for {tuple(mean.shape)}"
        )
    size = covariance.detach().abs().amax() if covariance.numel() > 0 else covariance.new_zeros(())
    if not ((covariance - covariance.mT).abs() <= torch.finfo(covariance.dtype).eps ** 0.5 * size).all():
        raise ValueError(f"{name}: expected a symmetric matrix, got one that is not, or holds NaN")
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed.any():
        raise ValueError(f"{name}: expected a positive definite matrix, got one that is not")
    result: Tensor = factor
    return result


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
