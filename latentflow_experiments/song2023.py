"""Parity with the paper: what its equations and its loop say where the library says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentflow.calculus import Exact, Field, Jet, Time, gradient
from latentflow.flow import FirstOrder, LogDet, Trajectory
from latentflow.pde import AlongPath, Collocation, PDEResidual, Weighting
from latentflow.priors import Prior
from latentflow.vae.bounds import DeterministicBound, first_divergence, sample_diffusivity


class PaperDensity(DeterministicBound):
    r"""Compare posterior and prior densities as the paper writes them, which bounds nothing.

    Both densities are carried along from the same point :math:`z_0`, and both volumes are the first-order surrogates,

    .. math::
        KL_t = \log q(z_0 | x_0) - \sum_{s<t} \log|1 + \Delta u_k(z_s, s)|
             - \log p(z_0) + \sum_{s<t} \log|1 + \Delta \psi_k(s)|, \qquad
        \Delta \psi_k(s) = \frac{d D_k}{1 + 2 D_k s},

    with :math:`\psi = -D \log p_t` of the diffusing prior. Where :math:`z_t` lies does not enter, so a contracting flow
    is not punished and an expanding one is rewarded without limit: with a decoder that ignores the latent,
    :math:`q_0 = p_0` and :math:`u = a |z|^2 / 2` the "bound" is :math:`\log p(x) + \log(1 + d a)`. Offered for parity
    with the paper; train :class:`MarginalBound` instead.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), equations 6, 9 and 10
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> from latentflow import FlowVAE, PotentialBank, QuadraticPotential, MLPDecoder, MLPEncoder, DiffusionPrior
        >>> model = FlowVAE(
        ...     encoder=MLPEncoder((1, 4, 4), dim=2),
        ...     decoder=MLPDecoder(2, (1, 4, 4)),
        ...     bank=PotentialBank([QuadraticPotential(2)]),
        ...     prior=DiffusionPrior(2),
        ...     residual=None,
        ...     bound=PaperDensity(),
        ... )
        >>> objective = model.objective(torch.rand(3, 5, 1, 4, 4), torch.zeros(3, dtype=torch.int64))
        >>> assert objective.kl_per_time.shape == (5,)
    """

    @property
    def log_det(self) -> LogDet:
        r"""The surrogate :math:`\log|1 + \Delta u|`."""
        return FirstOrder(Exact())

    def divergence(self, posterior: Distribution, trajectory: Trajectory, prior: Prior, k: Tensor) -> Tensor:
        r"""Compute :math:`KL(q_0 \| p_0)`, then :math:`KL_t` as above, of shape ``(T+1, *batch)``."""
        if trajectory.log_det is None:
            raise ValueError("trajectory: expected one with log_det, got one without")
        first = first_divergence(posterior, trajectory, prior, k).unsqueeze(0)
        diffusivity = sample_diffusivity(prior, k)
        times = trajectory.times[:-1].reshape(-1, *(1,) * k.ndim)
        spread = (trajectory.z.shape[-1] * diffusivity / (1 + 2 * diffusivity * times)).log1p().cumsum(0)
        start: Tensor = posterior.log_prob(trajectory.z[0]) - prior(t=0.0, k=k).log_prob(trajectory.z[0])
        return torch.cat([first, start - trajectory.log_det[1:] + spread])


@dataclass(frozen=True)
class PaperPoints:
    r"""The points of the paper's loop: :math:`z_{t_{n-1}}` with the time :math:`t_n`, for :math:`n = 1, \dots, T`.

    Each point is the one before the step, its time the one after it, and gradients flow to the trajectory. Offered for
    parity: between these times the potential is free, and training may lower the residual by moving the points to where
    it is small.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), equation 14
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> z = torch.stack([torch.zeros(4, 2), torch.ones(4, 2)])
        >>> path = Trajectory(times=torch.tensor([0.0, 2.0]), z=z, log_det=None, action=torch.zeros(2, 4))
        >>> z, t = PaperPoints().points(path)
        >>> assert torch.equal(z, torch.zeros(1, 4, 2)) and torch.equal(t, torch.full((1, 4), 2.0))
    """

    def points(self, trajectory: Trajectory, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - not random
        """Return the points before each step, ``(T, *batch, dim)``, and the times after it, ``(T, *batch)``."""
        z = trajectory.z[:-1]
        return z, trajectory.times[1:].reshape(-1, *(1,) * (z.ndim - 2)).to(z).expand(z.shape[:-1])


def initial_condition(u: Field, z: Tensor) -> Tensor:
    r"""Compute :math:`|\nabla u(z, 0)|^2`, the initial condition of the paper, which stops exact Hamilton-Jacobi flows.

    Args:
        u: The potential.
        z: The points, of shape ``(*batch, dim)``.

    Returns:
        The squared norm, of shape ``(*batch,)``; zero where the condition holds.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), equation 14
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> z = torch.randn(4, 2)
        >>> torch.testing.assert_close(initial_condition(lambda z, t: z.square().sum(-1) / 2, z), z.square().sum(-1))
    """
    return gradient(u, z, 0.0).square().sum(-1)


class WithInitialCondition(PDEResidual):
    r"""A residual with the initial condition of the paper, at the first points of a trajectory.

    .. math:: \text{loss} + w \, E |\nabla u(z_0, 0)|^2

    Args:
        residual: The residual of the equation.
        weight: The weight ``w`` of the initial condition, relative to the squared residual.

    Raises:
        ValueError: If the weight is negative.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), equation 14
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> from latentflow import HJResidual, MLPPotential, PotentialFlow
        >>> u, residual = MLPPotential(2), WithInitialCondition(HJResidual(), weight=0.5)
        >>> trajectory = PotentialFlow(u).rollout(torch.randn(4, 2), steps=3, log_det=None)
        >>> plain = HJResidual().loss(u, trajectory, torch.Generator().manual_seed(0))
        >>> loss = residual.loss(u, trajectory, torch.Generator().manual_seed(0))
        >>> torch.testing.assert_close(loss - plain, initial_condition(u, trajectory.z[0]).mean() / 2)
    """

    def __init__(self, residual: PDEResidual, weight: float) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight: expected a number of at least 0, got {weight!r}")
        self.residual = residual
        self.weight = weight

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the residual of the equation, of shape ``(*batch,)``."""
        return self.residual.from_jet(jet, z, t)

    def penalty(self, z: Tensor, t: Tensor) -> Tensor:
        """Compute the penalty of the equation, of shape ``(*batch,)``."""
        return self.residual.penalty(z, t)

    def loss(
        self,
        u: Field,
        where: Trajectory | tuple[Tensor, Time],
        generator: torch.Generator | None = None,
        collocation: Collocation = AlongPath(),  # noqa: B008 - frozen
        weights: Tensor | Weighting | None = None,
    ) -> Tensor:
        """Compute the loss of the equation, plus the weighted initial condition where ``where`` is a trajectory."""
        loss = self.residual.loss(u, where, generator, collocation, weights)
        if not isinstance(where, Trajectory):
            return loss
        condition = initial_condition(u, where.z[0])
        if isinstance(weights, Tensor):
            condition = condition * weights
        return loss + self.weight * condition.mean()
