r"""The Hamilton-Jacobi equation, the condition of optimal transport."""

from __future__ import annotations

from torch import Tensor

from latentflow.calculus import Jet
from latentflow.pde.force import NonPositiveForce
from latentflow.pde.residual import PDEResidual


class HJResidual(PDEResidual):
    r"""The residual :math:`r = \partial_t u + \tfrac12 |\nabla u|^2 - f` of the Hamilton-Jacobi equation.

    Without a force, a potential with :math:`r = 0` moves every particle in a straight line at constant speed, and
    its flow is the optimal transport between any two of its times. With a force :math:`f \le 0` that is free, the
    equation alone says nothing (a time-dependent constant in ``u`` satisfies it, and moves nothing): what bounds
    the distance from optimality is the mean of :math:`|f|`, which ``force_penalty`` weighs in :meth:`loss`.

    Args:
        force: The force ``f``, or None for the ordinary equation.
        force_penalty: The weight of the mean of :math:`|f|`.

    Raises:
        ValueError: If ``force_penalty`` is negative.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), equation 13
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> import torch
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> u = lambda z, t: z.pow(2).sum(-1) / (2 * (t + 1))  # an exact solution
        >>> torch.testing.assert_close(HJResidual()(u, z, 0.3), torch.zeros(5, dtype=torch.float64))
    """

    def __init__(self, force: NonPositiveForce | None = None, force_penalty: float = 1.0) -> None:
        super().__init__()
        if not force_penalty >= 0:
            raise ValueError(f"force_penalty: expected a number of at least 0, got {force_penalty!r}")
        self.force = force
        self.force_penalty = force_penalty

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the residual, of shape ``(*batch,)``, from the derivatives at ``z`` and ``t``."""
        residual = jet.time_derivative + jet.gradient.square().sum(-1) / 2
        return residual if self.force is None else residual - self.force(z, t)

    def penalty(self, z: Tensor, t: Tensor) -> Tensor:
        r"""Compute ``force_penalty`` times :math:`|f|`, of shape ``(*batch,)``; zero without a force."""
        return super().penalty(z, t) if self.force is None else self.force_penalty * self.force(z, t).abs()
