"""Residuals of partial differential equations, and their weights in a loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from latentflow.calculus import (
    Field,
    Jet,
    JetRequest,
    Time,
    check_count,
    check_points,
    evaluate_jet,
    expand_time,
    gradient,
)
from latentflow.flow import Path
from latentflow.pde.collocation import AlongPath, Collocation


class PDEResidual(nn.Module, ABC):
    r"""The residual :math:`r(z, t)` of an equation for the potential, zero where the equation holds.

    Subclass it and write :meth:`from_jet`. Residuals are per sample and unreduced; only :meth:`loss` reduces.

    Only :math:`\nabla u` moves points, so ``u`` and ``u + c(t)`` have the same flow (gauge freedom). Their residuals
    differ: that of :math:`\partial_t u + F(\nabla u, \nabla^2 u)` changes by :math:`c'(t)`. An equation therefore asks
    for more than its flow needs, and an inequality for less than it seems, see :meth:`HJResidual.inequality`.

    Attributes:
        requires: The fields of the jet that ``from_jet`` reads beyond value, gradient and time derivative, out of
            ``"laplacian"``, ``"hessian"``, ``"second_time_derivative"`` and ``"gradient_time_derivative"``. What is not
            named is not computed.

    Example:
        >>> class Diffusion(PDEResidual):
        ...     requires = frozenset({"laplacian"})
        ...     def from_jet(self, jet, z, t):
        ...         return jet.time_derivative - 0.5 * jet.laplacian
        >>> z = torch.randn(4, 3, dtype=torch.float64)
        >>> u = lambda z, t: z.pow(2).sum(-1) + 3 * t  # |z|^2 + 2 dim D t with D = 1/2
        >>> torch.testing.assert_close(Diffusion()(u, z, 0.7), torch.zeros(4, dtype=torch.float64))
    """

    requires: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        JetRequest().including(cls.requires)  # refuses unknown names where the class is written

    @abstractmethod
    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the residual from the derivatives at a point.

        Args:
            jet: The jet of the potential.
            z: The points, of shape ``(*batch, dim)``.
            t: The times, of shape ``(*batch,)``.

        Returns:
            The residual, of shape ``(*batch,)``.
        """

    def penalty(self, z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002 - for subclasses
        """Compute what the equation costs beyond its residual; zero unless overridden.

        Args:
            z: The points, of shape ``(*batch, dim)``.
            t: The times, of shape ``(*batch,)``.

        Returns:
            The penalty, of shape ``(*batch,)``.
        """
        return torch.zeros_like(t)

    def forward(self, u: Field, z: Tensor, t: Time) -> Tensor:
        """Compute the residual of a potential.

        Args:
            u: The potential, or any callable ``u(z, t)``.
            z: The points, of shape ``(*batch, dim)``.
            t: The times: a number, ``()`` or ``(*batch,)``.

        Returns:
            The residual, of shape ``(*batch,)``.
        """
        check_points(z)
        time = expand_time(t, z)
        return self.from_jet(evaluate_jet(u, z, time, JetRequest().including(self.requires)), z, time)

    def running_cost(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        r"""Compute :math:`r(z, t)^2` plus the penalty, for :meth:`PotentialFlow.integrate` to integrate along paths.

        Args:
            jet: The jet of the potential, with the fields that :attr:`requires` names.
            z: The points, of shape ``(*batch, dim)``.
            t: The times, of shape ``(*batch,)``.

        Returns:
            The rate, of shape ``(*batch,)``.
        """
        return self.from_jet(jet, z, t).square() + self.penalty(z, t)

    def initial_condition(self, u: Field, z: Tensor) -> Tensor:
        r"""Compute :math:`|\nabla u(z, 0)|^2`, the initial condition of the paper (equation 14).

        Override it where the equation has another one; zero means that it holds. The docstring of each equation says
        what this one does to its flow. It stops every exact Hamilton-Jacobi flow: with :math:`\nabla u(\cdot, 0) = 0`
        the velocity, constant along trajectories, is zero at all times. It is offered for parity, and no loss contains
        it by default.

        Args:
            u: The potential.
            z: The points, of shape ``(*batch, dim)``.

        Returns:
            The squared norm, of shape ``(*batch,)``.
        """
        return gradient(u, z, 0.0).square().sum(-1)

    def loss(
        self,
        u: Field,
        where: Path | tuple[Tensor, Time],
        generator: torch.Generator | None = None,
        collocation: Collocation = AlongPath(),  # noqa: B008 - frozen
        weights: Tensor | Weighting | None = None,
    ) -> Tensor:
        r"""Compute the mean of :math:`w(z, t) \, (r(z, t)^2 + \text{penalty})`.

        Args:
            u: The potential.
            where: The points: a path, on which ``collocation`` chooses them, or a pair of points ``(*batch, dim)`` and
                times ``(*batch,)``, which is taken as it is.
            generator: The source of random points and times, or None for torch's global one.
            collocation: The choice of points on a path. The default draws a random time in every step, and lets no
                gradient flow to the path.
            weights: The weights ``w``: a tensor that broadcasts to the batch shape of the points, at least 0, or an
                object that computes them from the squared residuals and the times, such as ``CausalWeighting()``; None
                for 1. The mean is over the number of points, not over the sum of the weights.

        Returns:
            The loss, of shape ``()``; zero where there are no points, as on a path without steps.

        Raises:
            ValueError: If a shape does not fit, or a weight is negative or NaN.
        """
        z, t = collocation.points(where, generator) if isinstance(where, Path) else where
        check_points(z)
        time = expand_time(t, z)
        jet = evaluate_jet(u, z, time, JetRequest().including(self.requires))
        square = self.from_jet(jet, z, time).square()
        cost = square + self.penalty(z, time)
        if weights is not None and not isinstance(weights, Tensor):
            weights = weights(square.detach(), time)
        if weights is not None:
            cost = cost * checked_weights(weights, cost)
        return cost.sum() / max(cost.numel(), 1)


def checked_weights(weights: Tensor, cost: Tensor) -> Tensor:
    """Check that weights are not negative and fit, and give each point its own.

    Args:
        weights: The weights, of a shape that broadcasts to ``(*batch,)``.
        cost: What they weigh, of shape ``(*batch,)``.

    Returns:
        The weights, of shape ``(*batch,)``, in the dtype and on the device of ``cost``.

    Raises:
        ValueError: If the shape does not fit, or a weight is negative or NaN.
    """
    if not (weights >= 0).all():
        raise ValueError(f"weights: expected numbers of at least 0, got {float(weights.min())}")
    try:
        return weights.to(cost).expand(cost.shape)
    except RuntimeError:
        message = f"weights: expected a shape that broadcasts to {tuple(cost.shape)}, got {tuple(weights.shape)}"
        raise ValueError(message) from None


def required(field: Tensor | None, name: str) -> Tensor:
    """Give a field of the jet that :attr:`PDEResidual.requires` names.

    Args:
        field: The field.
        name: Its name.

    Returns:
        The field.

    Raises:
        ValueError: If it is None.
    """
    if field is None:
        raise ValueError(f"jet: expected the {name}, which the residual requires, got None")
    return field


class Weighting(Protocol):
    """A choice of weights, made from the squared residuals and the times."""

    def __call__(self, squared_residual: Tensor, t: Tensor) -> Tensor:
        """Choose the weights.

        Args:
            squared_residual: The squared residuals, of shape ``(*batch,)``, without a gradient.
            t: The times, of shape ``(*batch,)``.

        Returns:
            The weights, of shape ``(*batch,)``.
        """


@dataclass(frozen=True)
class CausalWeighting:
    r"""Train early times first: a point counts little while the residual before it is large.

    The time range of the points is cut into bins of equal length. With :math:`L_j` the mean squared residual in bin
    ``j``, zero where there are no points, every point of bin ``b`` has the weight

    .. math::
        w_b = \exp\Big(-\varepsilon \sum_{j < b} L_j\Big) ,

    without a gradient. The first bin has weight 1, and all weights tend to 1 as the residual vanishes.

    Attributes:
        tolerance: The number :math:`\varepsilon \ge 0`, in units of one over the squared residual. With 0 all weights
            are 1.
        bins: The number of bins.

    Raises:
        ValueError: If ``tolerance`` is negative or not finite, or ``bins`` is not a positive integer.

    References:
        | Respecting causality is all you need for training physics-informed neural networks (Wang et al., 2022)
        | https://arxiv.org/abs/2203.07404

    Example:
        >>> t = torch.tensor([0.0, 0.4, 0.6, 1.0])
        >>> weights = CausalWeighting(tolerance=2.0, bins=2)(torch.tensor([1.0, 3.0, 5.0, 7.0]), t)
        >>> torch.testing.assert_close(weights, torch.tensor([0.0, 0.0, -4.0, -4.0]).exp())
    """

    tolerance: float = 1.0
    bins: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance: expected a number of at least 0, got {self.tolerance!r}")
        check_count("bins", self.bins)

    def __call__(self, squared_residual: Tensor, t: Tensor) -> Tensor:
        """Compute the weights, of shape ``(*batch,)``, from squared residuals and times of that shape."""
        if squared_residual.numel() == 0:
            return torch.ones_like(squared_residual)
        square, time = squared_residual.detach().flatten(), t.detach().flatten()
        start, end = time.aminmax()
        share = torch.where(end > start, (time - start) / (end - start), 0.0)
        index = (share * self.bins).long().clamp(max=self.bins - 1)  # the last time belongs to the last bin
        sums = square.new_zeros(self.bins).index_add(0, index, square)
        counts = square.new_zeros(self.bins).index_add(0, index, torch.ones_like(square))
        means = sums / counts.clamp(min=1)
        weights = torch.exp(-self.tolerance * (means.cumsum(0) - means))
        return weights[index].reshape(squared_residual.shape)
