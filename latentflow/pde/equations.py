"""The equations: Hamilton-Jacobi, Fokker-Planck, continuity, heat and wave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self, TypeAlias

import torch
from torch import Tensor, nn

from latentflow.calculus import Derivative, Field, Jet, JetRequest, PositiveParameter, Time, evaluate_jet
from latentflow.calculus.checks import check_callable, check_nonnegative, check_points, describe, expand_time
from latentflow.pde.residual import PDEResidual
from latentflow.potentials import MLPPotential
from latentflow.potentials.algebra import as_module

Coefficient: TypeAlias = Callable[[], float | Tensor]
"""A module without arguments that returns a number, learnable or not."""


class Constant(nn.Module):
    """A number as a module, without parameters."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self) -> float:
        """Return the number."""
        return self.value

    def extra_repr(self) -> str:
        """Return the number as text."""
        return str(self.value)


def as_coefficient(name: str, value: float | PositiveParameter) -> Coefficient:
    """Return a coefficient as a module; raise a TypeError or ValueError unless it is a number of at least 0."""
    if isinstance(value, PositiveParameter):
        return value
    if isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a number or, to learn it, a PositiveParameter, got {describe(value)}")
    return Constant(check_nonnegative(name, value))


def restoring_drift(z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG001 - the signature of a field
    r"""Compute :math:`-|z|^2 / 2`, the potential of the drift ``-z``."""
    return -z.square().sum(-1) / 2


class NonPositiveForce(nn.Module):
    r"""The force :math:`f(z, t) = -g(z, t)^2 \le 0` with a network ``g`` of its own.

    Args:
        dim: The number of coordinates.
        hidden: The widths of the hidden layers of ``g``.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), section 3.3
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> force = NonPositiveForce(3)
        >>> assert force(1e3 * torch.randn(100, 3), 2.0).max() <= 0
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.root = MLPPotential(dim, hidden)

    def forward(self, z: Tensor, t: Time) -> Tensor:
        """Compute the force ``(*batch,)`` at ``z`` of shape ``(*batch, dim)`` and ``t``."""
        check_points(z, self.root.dim)
        root: Tensor = self.root(z, expand_time(t, z))
        return -root.square()


class HJResidual(PDEResidual):
    r"""The residual :math:`r = \partial_t u + \tfrac12 |\nabla u|^2 - f` of the Hamilton-Jacobi equation.

    Without a force, a potential with :math:`r = 0` moves every particle in a straight line at constant speed: optimal
    transport between any two of its times. A bounded potential limits transport: :math:`|u| \le 1` lets no particle
    move further than :math:`2 \sqrt{T}`. With a force, the kinetic energy exceeds the least possible one by at most the
    mean of :math:`|f|`. The residual of :math:`u_1 + u_2` is :math:`r_1 + r_2 + \nabla u_1 \cdot \nabla u_2`.

    Args:
        force: The force ``f``, or None for the ordinary equation.
        force_penalty: The weight of the mean of :math:`|f|` in :meth:`loss`.

    Raises:
        ValueError: If ``force_penalty`` is negative.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), equation 13
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> u = lambda z, t: z.pow(2).sum(-1) / (2 * (t + 1))  # an exact solution
        >>> torch.testing.assert_close(HJResidual()(u, z, 0.3), torch.zeros(5, dtype=torch.float64))
    """

    def __init__(self, force: NonPositiveForce | None = None, force_penalty: float = 1.0) -> None:
        super().__init__()
        check_nonnegative("force_penalty", force_penalty)
        if force is not None:
            check_callable("force", force, "a NonPositiveForce or None")
        self.force = force
        self.force_penalty = force_penalty

    @staticmethod
    def inequality() -> HJInequality:
        """Build the residual of the inequality, :class:`HJInequality`."""
        return HJInequality()

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the residual ``(*batch,)`` from the jet of ``u``."""
        residual = jet.time_derivative + jet.gradient.square().sum(-1) / 2
        return residual if self.force is None else residual - self.force(z, t)

    def penalty(self, z: Tensor, t: Tensor) -> Tensor:
        r"""Compute ``force_penalty`` times :math:`|f|`, of shape ``(*batch,)``; zero without a force."""
        return super().penalty(z, t) if self.force is None else self.force_penalty * self.force(z, t).abs()


class HJInequality(PDEResidual):
    r"""The residual :math:`r = \max(0, \partial_t u + \tfrac12 |\nabla u|^2)` of the Hamilton-Jacobi inequality.

    It is zero for potentials that are admissible in the dual of optimal transport. Alone it does not constrain the
    flow: if :math:`\partial_t u + \tfrac12 |\nabla u|^2 \le M(t)`, then :math:`u - \int M \, dt` has the same flow.

    Example:
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> u = lambda z, t: z.square().sum(-1) / (2 * (1 + 2 * t))  # pushed down by a force
        >>> torch.testing.assert_close(HJInequality()(u, z, 0.3), torch.zeros(5, dtype=torch.float64))
    """

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002 - the signature of every residual
        """Compute the residual ``(*batch,)`` from the jet of ``u``."""
        return torch.relu(jet.time_derivative + jet.gradient.square().sum(-1) / 2)


class ViscousHJResidual(PDEResidual):
    r"""The residual :math:`r = \partial_t u + \tfrac12 |\nabla u|^2 - \nu \Delta u` of the viscous equation.

    The velocity solves the Burgers equation :math:`\partial_t v + (v \cdot \nabla) v = \nu \Delta v`, and
    :math:`e^{-u / 2\nu}` the heat equation with diffusivity :math:`\nu` (Cole and Hopf). The potential stays smooth
    where characteristics of the Hamilton-Jacobi equation would cross; the flow is not optimal transport.

    Args:
        viscosity: The coefficient :math:`\nu`, in squared lengths per time: a number or a :class:`PositiveParameter`.

    Raises:
        TypeError: If ``viscosity`` is neither.
        ValueError: If it is negative or not finite.

    Example:
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> u = lambda z, t: z.square().sum(-1) / (2 * (1 + t)) + 0.2 * 3 * torch.log1p(t)  # spreads from a point
        >>> torch.testing.assert_close(ViscousHJResidual(0.2)(u, z, 0.3), torch.zeros(5, dtype=torch.float64))
    """

    requires = Derivative.LAPLACIAN

    def __init__(self, viscosity: float | PositiveParameter) -> None:
        super().__init__()
        self.viscosity: Coefficient = as_coefficient("viscosity", viscosity)

    @classmethod
    def learnable(cls, dim: int, hidden: Sequence[int] = (64, 64)) -> Self:  # noqa: ARG003 - no network
        """Build the equation with a learnable viscosity that starts at 0.1."""
        return cls(PositiveParameter(0.1))

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002 - the signature of every residual
        """Compute the residual ``(*batch,)`` from the jet of ``u``."""
        kinetic = jet.gradient.square().sum(-1) / 2
        return jet.time_derivative + kinetic - self.viscosity() * jet.laplacian


class DriftDiffusion(PDEResidual):
    r"""An equation for :math:`\partial_t p = -\operatorname{div}(p \nabla \phi) + D \Delta p` in one of its forms."""

    requires = Derivative.LAPLACIAN

    def __init__(self, diffusion: float | PositiveParameter, drift: Field | None = None) -> None:
        super().__init__()
        self.diffusion: Coefficient = as_coefficient("diffusion", diffusion)
        self.drift = None if drift is None else as_module(drift, "drift")

    @classmethod
    def learnable(cls, dim: int, hidden: Sequence[int] = (64, 64)) -> Self:  # noqa: ARG003 - no network
        """Build the equation with the drift ``-z`` and a learnable diffusion that starts at 0.1."""
        return cls(PositiveParameter(0.1), restoring_drift)


class FokkerPlanckResidual(DriftDiffusion):
    r"""The Fokker-Planck equation on the potential whose flow carries the diffusing density.

    The density of :math:`\partial_t p = -\operatorname{div}(p \nabla \phi) + D \Delta p` is carried, without noise, by
    the probability flow along :math:`u = \phi - D \log p`. This potential satisfies

    .. math::
        r = \partial_t u - \partial_t \phi + |\nabla u|^2 - \nabla \phi \cdot \nabla u - D \Delta u = 0 .

    The density :math:`p = e^{(\phi - u) / D}` follows from ``u`` at one time; a constant ``u`` belongs to the
    equilibrium :math:`e^{\phi / D}`. The factor of :math:`|\nabla u|^2` is 1: without a drift, ``2 u`` satisfies
    :class:`ViscousHJResidual` with :math:`\nu = D`.

    Args:
        diffusion: The coefficient ``D``, in squared lengths per time: a number of at least 0 or a
            :class:`PositiveParameter`.
        drift: The potential :math:`\phi(z, t)` of the drift, in squared lengths per time; None for no drift. A module
            becomes a submodule, and its parameters train.

    Raises:
        TypeError: If ``diffusion`` is no number and no :class:`PositiveParameter`, or ``drift`` cannot be called.
        ValueError: If ``diffusion`` is negative or not finite.

    References:
        | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2020), section 4.3
        | https://arxiv.org/abs/2011.13456

    Example:
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> log_p = lambda z, t: -z.square().sum(-1) / (2 * (1 + t)) - 1.5 * torch.log1p(t)  # diffuses with D = 1/2
        >>> u = lambda z, t: -0.5 * log_p(z, t)
        >>> torch.testing.assert_close(FokkerPlanckResidual(0.5)(u, z, 0.3), torch.zeros(5, dtype=torch.float64))
    """

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the residual ``(*batch,)`` from the jet of ``u``."""
        spread = self.diffusion() * jet.laplacian
        residual = jet.time_derivative + jet.gradient.square().sum(-1) - spread
        if self.drift is None:
            return residual
        phi = evaluate_jet(self.drift, z, t, JetRequest())
        return residual - phi.time_derivative - (phi.gradient * jet.gradient).sum(-1)


class LogFokkerPlanckResidual(DriftDiffusion):
    r"""The Fokker-Planck equation on a log-density :math:`l = \log p`.

    .. math::
        r = \partial_t l + \Delta \phi + \nabla \phi \cdot \nabla l - D (\Delta l + |\nabla l|^2)

    A constant factor of ``p`` does not change the residual.

    Arguments and errors are those of :class:`FokkerPlanckResidual`.

    Example:
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> log_p = lambda z, t: -z.square().sum(-1) / (2 * (1 + t)) - 1.5 * torch.log1p(t)  # diffuses with D = 1/2
        >>> residual = LogFokkerPlanckResidual(0.5)(log_p, z, 0.3)
        >>> torch.testing.assert_close(residual, torch.zeros(5, dtype=torch.float64))
    """

    acts_on = "density"

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the residual ``(*batch,)`` from the jet of ``l``."""
        spread = jet.laplacian + jet.gradient.square().sum(-1)
        residual = jet.time_derivative - self.diffusion() * spread
        if self.drift is None:
            return residual
        phi = evaluate_jet(self.drift, z, t, JetRequest(Derivative.LAPLACIAN))
        return residual + phi.laplacian + (phi.gradient * jet.gradient).sum(-1)


class LinearFokkerPlanckResidual(DriftDiffusion):
    r"""The Fokker-Planck equation on a density ``p``, in which it is linear.

    .. math::
        r = \partial_t p + \nabla \phi \cdot \nabla p + p \, \Delta \phi - D \Delta p

    With a potential ``u`` in place of ``p``, this is one reading of the Fokker-Planck row of the paper's ablation,
    which states no formula; the flow along such a ``u`` carries no solution of the Fokker-Planck equation. Without a
    drift, this is the heat equation. Arguments and errors are those of :class:`FokkerPlanckResidual`.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), table 8
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> energy = lambda z, t: z.square().sum(-1) / 2
        >>> residual = LinearFokkerPlanckResidual(0.5, drift=lambda z, t: -energy(z, t))
        >>> gibbs = lambda z, t: torch.exp(-energy(z, t) / 0.5)  # stays
        >>> torch.testing.assert_close(residual(gibbs, z, 0.3), torch.zeros(5, dtype=torch.float64))
    """

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the residual ``(*batch,)`` from the jet of ``p``."""
        residual = jet.time_derivative - self.diffusion() * jet.laplacian
        if self.drift is None:
            return residual
        phi = evaluate_jet(self.drift, z, t, JetRequest(Derivative.LAPLACIAN))
        growth = jet.value * phi.laplacian
        return residual + (phi.gradient * jet.gradient).sum(-1) + growth


class ContinuityResidual(PDEResidual):
    r"""The residual :math:`r = \partial_t l + \Delta u + \nabla u \cdot \nabla l` of a log-density ``l``.

    It is zero where the flow along :math:`\nabla u` transports :math:`q = e^l`, by
    :math:`\partial_t q = -\operatorname{div}(q \nabla u)`.

    Args:
        potential: The potential ``u``, or any callable ``u(z, t)``. A module becomes a submodule, and its parameters
            train.

    Raises:
        TypeError: If ``potential`` cannot be called.

    Example:
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> u = lambda z, t: z.square().sum(-1) / 2  # z grows like e^t, the volume like e^{3t}
        >>> l = lambda z, t: -z.square().sum(-1) * torch.exp(-2 * t) / 2 - 3 * t
        >>> torch.testing.assert_close(ContinuityResidual(u)(l, z, 0.3), torch.zeros(5, dtype=torch.float64))
    """

    acts_on = "density"

    def __init__(self, potential: Field) -> None:
        super().__init__()
        self.potential = as_module(potential)

    @classmethod
    def learnable(cls, dim: int, hidden: Sequence[int] = (64, 64)) -> Self:
        """Build the equation of the flow along a network."""
        return cls(MLPPotential(dim, hidden))

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the residual ``(*batch,)`` from the jet of ``l``."""
        u = evaluate_jet(self.potential, z, t, JetRequest(Derivative.LAPLACIAN))
        return jet.time_derivative + u.laplacian + (u.gradient * jet.gradient).sum(-1)


class HeatResidual(PDEResidual):
    r"""The residual :math:`r = \partial_t u - D \Delta u` of the heat equation.

    It smooths the potential, not the density that the potential transports.

    Args:
        diffusivity: The coefficient ``D``, in squared lengths per time: a number of at least 0 or a
            :class:`PositiveParameter`.

    Raises:
        TypeError: If ``diffusivity`` is neither.
        ValueError: If it is negative or not finite.

    Example:
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> u = lambda z, t: z.sum(-1).cos() * torch.exp(-0.2 * 3 * t)  # cos(k.z) exp(-D |k|^2 t)
        >>> torch.testing.assert_close(HeatResidual(0.2)(u, z, 0.3), torch.zeros(5, dtype=torch.float64))
    """

    requires = Derivative.LAPLACIAN

    def __init__(self, diffusivity: float | PositiveParameter) -> None:
        super().__init__()
        self.diffusivity: Coefficient = as_coefficient("diffusivity", diffusivity)

    @classmethod
    def learnable(cls, dim: int, hidden: Sequence[int] = (64, 64)) -> Self:  # noqa: ARG003 - no network
        """Build the equation with a learnable diffusivity that starts at 0.1."""
        return cls(PositiveParameter(0.1))

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002 - the signature of every residual
        """Compute the residual ``(*batch,)`` from the jet of ``u``."""
        return jet.time_derivative - self.diffusivity() * jet.laplacian


class WaveResidual(PDEResidual):
    r"""The residual :math:`r = \partial_t^2 u - c^2 \Delta u` of the wave equation.

    It is of second order in time: :math:`\partial_t u(\cdot, 0)` is free, so particles that start at rest can move. The
    potential has to be twice continuously differentiable in time.

    Args:
        speed: The speed ``c`` of the waves, in lengths per time: a number of at least 0 or a
            :class:`PositiveParameter`.

    Raises:
        TypeError: If ``speed`` is neither.
        ValueError: If it is negative or not finite.

    References:
        | Latent Traversals in Generative Models as Potential Flows (Song et al., 2023)
        | https://arxiv.org/abs/2304.12944

    Example:
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> u = lambda z, t: torch.tanh(z[..., 0] - 2 * t)  # travels along the first axis
        >>> torch.testing.assert_close(WaveResidual(2.0)(u, z, 0.3), torch.zeros(5, dtype=torch.float64))
    """

    requires = Derivative.LAPLACIAN | Derivative.SECOND_TIME_DERIVATIVE

    def __init__(self, speed: float | PositiveParameter) -> None:
        super().__init__()
        self.speed: Coefficient = as_coefficient("speed", speed)

    @classmethod
    def learnable(cls, dim: int, hidden: Sequence[int] = (64, 64)) -> Self:  # noqa: ARG003 - no network
        """Build the equation with a learnable speed that starts at 1."""
        return cls(PositiveParameter(1.0))

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002 - the signature of every residual
        """Compute the residual ``(*batch,)`` from the jet of ``u``."""
        acceleration = jet.second_time_derivative
        return acceleration - self.speed() ** 2 * jet.laplacian
