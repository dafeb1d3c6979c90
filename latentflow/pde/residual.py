"""Residuals of partial differential equations, and their weights in a loss."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from latentflow.calculus import Field, Jet, JetRequest, Time, evaluate_jet
from latentflow.calculus.checks import (
    check_count,
    check_finite_tensor,
    check_generator,
    check_methods,
    check_nonnegative,
    check_points,
    check_tensor,
    describe,
    expand_time,
)
from latentflow.calculus.jets import NONE, Derivative, check_requires
from latentflow.flow import Trajectory
from latentflow.pde.collocation import AlongPath, Collocation


class PDEResidual(nn.Module, ABC):
    r"""The residual :math:`r(z, t)` of an equation for the potential, zero where the equation holds.

    A subclass writes :meth:`from_jet`. Residuals are per sample and unreduced; only :meth:`loss` reduces. The
    potentials ``u`` and ``u + c(t)`` have the same flow and different residuals: the residual of
    :math:`\partial_t u + F(\nabla u, \nabla^2 u)` changes by :math:`c'(t)`.

    Attributes:
        requires: The second derivatives that ``from_jet`` reads, such as ``Derivative.LAPLACIAN``. No others are
            computed, and reading another one raises an error.
        name: The short name; by default the name of the class in kebab case, without "Residual".
        acts_on: ``"potential"``, or ``"density"`` if the equation holds for a density and does not move points.

    Raises:
        TypeError: On subclassing, if ``requires`` is no :class:`Derivative`.
        ValueError: On subclassing, if ``requires`` needs probes.

    Example:
        >>> class Diffusion(PDEResidual):
        ...     requires = Derivative.LAPLACIAN
        ...     def from_jet(self, jet, z, t):
        ...         return jet.time_derivative - 0.5 * jet.laplacian
        >>> z = torch.randn(4, 3, dtype=torch.float64)
        >>> u = lambda z, t: z.pow(2).sum(-1) + 3 * t  # |z|^2 + 2 dim D t with D = 1/2
        >>> torch.testing.assert_close(Diffusion()(u, z, 0.7), torch.zeros(4, dtype=torch.float64))
        >>> assert Diffusion.name == "diffusion"
    """

    requires: ClassVar[Derivative] = NONE
    name: ClassVar[str]
    acts_on: ClassVar[Literal["potential", "density"]] = "potential"

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        check_requires(cls.requires)
        if "name" not in vars(cls):
            words = cls.__name__.removesuffix("Residual") or cls.__name__
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", words).lower()

    @classmethod
    def learnable(cls, dim: int, hidden: Sequence[int] = (64, 64)) -> Self:  # noqa: ARG003 - for subclasses
        """Build the equation with coefficients to be learned, from their customary starting values.

        Args:
            dim: The number of coordinates.
            hidden: The widths of the hidden layers of a network, where the equation has one.

        Returns:
            The residual; ``cls()`` unless overridden.
        """
        return cls()

    @abstractmethod
    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the residual ``(*batch,)`` from the jet at ``z`` of ``(*batch, dim)`` and ``t`` of ``(*batch,)``."""

    def penalty(self, z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002 - for subclasses
        """Compute the penalty ``(*batch,)`` that is added to the squared residual; zero unless overridden."""
        return torch.zeros_like(t)

    def forward(self, u: Field, z: Tensor, t: Time) -> Tensor:
        """Compute the residual ``(*batch,)`` of ``u(z, t)`` at ``z`` of ``(*batch, dim)`` and ``t``."""
        check_points(z)
        time = expand_time(t, z)
        return self.from_jet(evaluate_jet(u, z, time, JetRequest(self.requires)), z, time)

    def running_cost(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        r"""Compute the rate :math:`r(z, t)^2` plus penalty, ``(*batch,)``, to be integrated by :meth:`Flow.follow`."""
        return self.from_jet(jet, z, t).square() + self.penalty(z, t)

    def loss(
        self,
        u: Field,
        where: Trajectory | tuple[Tensor, Time],
        generator: torch.Generator | None = None,
        collocation: Collocation = AlongPath(),  # noqa: B008 - frozen
        weights: Tensor | Weighting | None = None,
    ) -> Tensor:
        r"""Compute the mean of :math:`w(z, t) \, (r(z, t)^2 + \text{penalty})`.

        Args:
            u: The potential, or any callable ``u(z, t)``.
            where: A trajectory, on which ``collocation`` chooses points, or a pair of points ``(*batch, dim)`` and
                times.
            generator: The source of random points and times.
            collocation: The choice of points on a trajectory.
            weights: The weights ``w``: a tensor that broadcasts to ``(*batch,)``, at least 0; a function of the
                squared residuals and the times, such as ``CausalWeighting()``; None for 1. The sum is divided by the
                number of points, not by the sum of the weights.

        Returns:
            The loss, of shape ``()``; zero without points.

        Raises:
            TypeError: If an argument is of another kind.
            ValueError: If a shape does not fit, or a weight is negative or NaN.
        """
        check_generator(generator)
        check_methods("collocation", collocation, ("points",), "a choice of points such as AlongPath()")
        if weights is not None and not isinstance(weights, Tensor) and not callable(weights):
            raise TypeError(f"weights: expected a tensor, a function or None, got {describe(weights)}")
        if not isinstance(where, Trajectory) and not (isinstance(where, tuple) and len(where) == 2):
            raise TypeError(f"where: expected a Trajectory or a pair (z, t), got {describe(where)}")
        z, t = collocation.points(where, generator) if isinstance(where, Trajectory) else where
        check_points(z)
        time = expand_time(t, z)
        jet = evaluate_jet(u, z, time, JetRequest(self.requires))
        square = self.from_jet(jet, z, time).square()
        cost = square + self.penalty(z, time)
        if weights is not None and not isinstance(weights, Tensor):
            weights = weights(square.detach(), time)
        if weights is not None:
            cost = cost * checked_weights(weights, cost)
        return cost.sum() / max(cost.numel(), 1)


def checked_weights(weights: Tensor, cost: Tensor) -> Tensor:
    """Check that weights are not negative and broadcast to ``(*batch,)``, and expand them like ``cost``."""
    check_tensor("weights", weights)
    if not (weights >= 0).all():
        raise ValueError(f"weights: expected numbers of at least 0, got {float(weights.min())}")
    try:
        return weights.to(cost).expand(cost.shape)
    except RuntimeError:
        message = f"weights: expected a shape that broadcasts to {tuple(cost.shape)}, got {tuple(weights.shape)}"
        raise ValueError(message) from None


class Weighting(Protocol):
    """A choice of weights, made from the squared residuals and the times."""

    def __call__(self, squared_residual: Tensor, t: Tensor) -> Tensor:
        """Compute weights ``(*batch,)`` from squared residuals, without a gradient, and times, both ``(*batch,)``."""


@dataclass(frozen=True)
class CausalWeighting:
    r"""Small weights for late times while the residual at earlier times is large.

    .. math::
        w_b = \exp\Big(-\varepsilon \sum_{j < b} L_j\Big)

    is the weight, without a gradient, of every point in bin ``b`` of the time range, with :math:`L_j` the mean squared
    residual in bin ``j``, zero without points.

    Attributes:
        tolerance: The number :math:`\varepsilon \ge 0`, in units of one over the squared residual.
        bins: The number of bins of equal length.

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
        check_nonnegative("tolerance", self.tolerance)
        check_count("bins", self.bins)

    def __call__(self, squared_residual: Tensor, t: Tensor) -> Tensor:
        """Compute the weights ``(*batch,)`` from squared residuals and times of that shape."""
        check_tensor("squared_residual", squared_residual)
        check_tensor("t", t, tuple(squared_residual.shape))
        check_finite_tensor("t", t)
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
