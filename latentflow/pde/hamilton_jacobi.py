r"""The Hamilton-Jacobi equation, the condition of optimal transport."""

from __future__ import annotations

import torch
from torch import Tensor

from latentflow.calculus import Jet
from latentflow.pde.force import NonPositiveForce
from latentflow.pde.residual import PDEResidual


class HJResidual(PDEResidual):
    r"""The residual :math:`r = \partial_t u + \tfrac12 |\nabla u|^2 - f` of the Hamilton-Jacobi equation.

    Without a force, a potential with :math:`r = 0` moves every particle in a straight line at constant speed, and
    its flow is the optimal transport between any two of its times. What follows from that:

    - The initial condition :math:`\nabla u(\cdot, 0) = 0` stops this flow: no particle ever moves. With a force, all
      motion then comes from :math:`\nabla f`.
    - A bounded potential caps transport: :math:`u(z_T, T) - u(z_0, 0) = \int \tfrac12 |\nabla u|^2 + r \, dt` along the
      flow, so :math:`|u| \le 1` and :math:`r = 0` let no particle move further than :math:`2 \sqrt{T}`.
    - Residuals do not superpose: that of :math:`u_1 + u_2` is :math:`r_1 + r_2 + \nabla u_1 \cdot \nabla u_2`. The sum
      of two solutions is one where their velocities are orthogonal, as in different coordinates.
    - A force :math:`f \le 0` that is free makes the equation say nothing, see :meth:`inequality`. What bounds the
      distance from optimality is the mean of :math:`|f|`: if :math:`r = 0` holds everywhere with a force, the kinetic
      energy of the flow is at most that much above the least possible one. ``force_penalty`` weighs it in :meth:`loss`.

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

    @staticmethod
    def inequality() -> PDEResidual:
        r"""Give the residual :math:`r = \max(0, \partial_t u + \tfrac12 |\nabla u|^2)` of the inequality.

        It is what is left of the equation with the best force :math:`f \le 0` at every point, and it does not constrain
        the flow by itself: if :math:`\partial_t u + \tfrac12 |\nabla u|^2 \le M(t)`, then
        :math:`u - \int M \, dt` has the same flow and satisfies it. Use it next to something that holds the potential
        up, or to check that a potential is admissible in the dual of optimal transport.

        Returns:
            The residual.

        Example:
            >>> import torch
            >>> z = torch.randn(5, 3, dtype=torch.float64)
            >>> u = lambda z, t: z.square().sum(-1) / (2 * (1 + 2 * t))  # pushed down by a force
            >>> torch.testing.assert_close(HJResidual.inequality()(u, z, 0.3), torch.zeros(5, dtype=torch.float64))
        """
        return HJInequality()

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the residual, of shape ``(*batch,)``, from the derivatives at ``z`` and ``t``."""
        residual = jet.time_derivative + jet.gradient.square().sum(-1) / 2
        return residual if self.force is None else residual - self.force(z, t)

    def penalty(self, z: Tensor, t: Tensor) -> Tensor:
        r"""Compute ``force_penalty`` times :math:`|f|`, of shape ``(*batch,)``; zero without a force."""
        return super().penalty(z, t) if self.force is None else self.force_penalty * self.force(z, t).abs()


class HJInequality(PDEResidual):
    r"""The residual :math:`r = \max(0, \partial_t u + \tfrac12 |\nabla u|^2)`; see :meth:`HJResidual.inequality`."""

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002 - the signature of every residual
        """Compute the residual, of shape ``(*batch,)``, from the derivatives at ``z`` and ``t``."""
        return torch.relu(jet.time_derivative + jet.gradient.square().sum(-1) / 2)
