r"""What a path can be charged for on its way."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from latentflow.calculus import Jet


class RunningCost(Protocol):
    r"""A rate :math:`c(z, t)` whose integral :math:`\int c(z_t, t)\,dt` along a flow is wanted.

    The flow hands over the jet that it computes anyway for the velocity. Residuals of PDEs are running costs.

    Example:
        >>> import torch
        >>> from latentflow import PotentialFlow, QuadraticPotential
        >>> class Power:  # |grad u|^2 / 2
        ...     requires = frozenset()
        ...     def running_cost(self, jet, z, t):
        ...         return jet.gradient.square().sum(-1) / 2
        >>> flow = PotentialFlow(QuadraticPotential(2, torch.eye(2)))
        >>> path = flow.integrate(torch.randn(4, 2), [0.0, 1.0], running_cost=Power())
        >>> torch.testing.assert_close(path.cost, path.action / 2)
    """

    @property
    def requires(self) -> frozenset[str]:
        """The second derivatives that it reads, see :attr:`PDEResidual.requires`; a Laplacian is the exact one."""

    def running_cost(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the rate.

        Args:
            jet: The jet of the potential.
            z: The points, of shape ``(*batch, dim)``.
            t: The times, of shape ``(*batch,)``.

        Returns:
            The rate, of shape ``(*batch,)``.
        """


def evaluate_cost(cost: RunningCost, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
    """Compute a rate and check its shape.

    Args:
        cost: The running cost.
        jet: The jet of the potential.
        z: The points, of shape ``(*batch, dim)``.
        t: The times, of shape ``(*batch,)``.

    Returns:
        The rate, of shape ``(*batch,)``.

    Raises:
        ValueError: If it has another shape.
    """
    rate = cost.running_cost(jet, z, t)
    if rate.shape != z.shape[:-1]:
        raise ValueError(f"running_cost: expected a rate of shape {tuple(z.shape[:-1])}, got {tuple(rate.shape)}")
    return rate
