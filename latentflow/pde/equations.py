"""The equations: Hamilton-Jacobi, Fokker-Planck, continuity, heat and wave."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import TypeAlias

import torch
from torch import Tensor, nn

from latentflow.calculus import Field, Jet, JetRequest, PositiveParameter, Time, evaluate_jet, expand_time
from latentflow.pde.residual import PDEResidual, required
from latentflow.potentials import MLPPotential
from latentflow.potentials.algebra import as_module

Coefficient: TypeAlias = Callable[[], float | Tensor]
"""A number that may learn; calling it gives the number."""


class Constant(nn.Module):
    """A number that does not learn, called like one that does.

    Args:
        value: The number.
    """

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self) -> float:
        """Return the number."""
        return self.value

    def extra_repr(self) -> str:
        """Show the number."""
        return str(self.value)


def as_coefficient(name: str, value: float | PositiveParameter) -> Coefficient:
    """Give a number and a learnable number the same form, a module without arguments.

    Args:
        name: The name of the argument.
        value: A number of at least 0, or a learnable positive one.

    Returns:
        The module; calling it gives the number.

    Raises:
        TypeError: If ``value`` is neither.
        ValueError: If it is a number that is negative or not finite.
    """
    if isinstance(value, PositiveParameter):
        return value
    if not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number or a PositiveParameter, got {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: expected a number of at least 0, got {value!r}")
    return Constant(float(value))


def as_field(name: str, field: Field) -> nn.Module:
    """Turn a field into a module, so that a residual owns its parameters.

    Args:
        name: The name of the argument.
        field: A potential, or any callable ``u(z, t)``.

    Returns:
        The module.

    Raises:
        TypeError: If ``field`` cannot be called.
    """
    if not callable(field):
        raise TypeError(f"{name}: expected a callable u(z, t), got {type(field).__name__}")
    return as_module(field)


class NonPositiveForce(nn.Module):
    r"""The force :math:`f(z, t) = -g(z, t)^2 \le 0` with a network ``g`` of its own.

    Args:
        dim: The number of coordinates.
        hidden: The widths of the hidden layers of ``g``.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), section 3.3
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> import torch
        >>> force = NonPositiveForce(3)
        >>> assert force(1e3 * torch.randn(100, 3), 2.0).max() <= 0
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.root = MLPPotential(dim, hidden)

    def forward(self, z: Tensor, t: Time) -> Tensor:
        """Evaluate the force at ``z`` of shape ``(*batch, dim)`` and ``t``; the result is ``(*batch,)``."""
        root: Tensor = self.root(z, expand_time(t, z))
        return -root.square()


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


class ViscousHJResidual(PDEResidual):
    r"""The residual :math:`r = \partial_t u + \tfrac12 |\nabla u|^2 - \nu \Delta u`.

    Its gradient is the Burgers equation for the velocity, :math:`\partial_t v + (v \cdot \nabla) v = \nu \Delta v`, and
    :math:`e^{-u / 2\nu}` solves the heat equation with diffusivity :math:`\nu` (Cole and Hopf). Viscosity keeps the
    potential smooth where characteristics of the Hamilton-Jacobi equation would cross; its flow is not optimal
    transport. The inherited initial condition :math:`\nabla u(\cdot, 0) = 0` stops it, because a constant stays
    constant.

    Args:
        viscosity: The coefficient :math:`\nu`, in squared lengths per time: a number of at least 0 or a
            :class:`PositiveParameter`. With 0 this is the Hamilton-Jacobi equation.

    Raises:
        TypeError: If ``viscosity`` is neither.
        ValueError: If it is negative or not finite.

    Example:
        >>> import torch
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> u = lambda z, t: z.square().sum(-1) / (2 * (1 + t)) + 0.2 * 3 * torch.log1p(t)  # spreads from a point
        >>> torch.testing.assert_close(ViscousHJResidual(0.2)(u, z, 0.3), torch.zeros(5, dtype=torch.float64))
    """

    requires = frozenset({"laplacian"})

    def __init__(self, viscosity: float | PositiveParameter) -> None:
        super().__init__()
        self.viscosity: Coefficient = as_coefficient("viscosity", viscosity)

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002 - the signature of every residual
        """Compute the residual, of shape ``(*batch,)``, from the derivatives at ``z`` and ``t``."""
        kinetic = jet.gradient.square().sum(-1) / 2
        return jet.time_derivative + kinetic - self.viscosity() * required(jet.laplacian, "laplacian")


class DriftDiffusion(PDEResidual):
    r"""What the forms of :math:`\partial_t p = -\operatorname{div}(p \nabla \phi) + D \Delta p` have in common.

    Args:
        diffusion: The coefficient ``D``.
        drift: The potential :math:`\phi` of the drift, or None.

    Raises:
        TypeError: If ``diffusion`` is no number and no :class:`PositiveParameter`, or ``drift`` cannot be called.
        ValueError: If ``diffusion`` is negative or not finite.
    """

    requires = frozenset({"laplacian"})

    def __init__(self, diffusion: float | PositiveParameter, drift: Field | None = None) -> None:
        super().__init__()
        self.diffusion: Coefficient = as_coefficient("diffusion", diffusion)
        self.drift = None if drift is None else as_field("drift", drift)


class FokkerPlanckResidual(DriftDiffusion):
    r"""The Fokker-Planck equation on the potential whose flow carries the diffusing density.

    A density that drifts along :math:`\nabla \phi` and diffuses, :math:`\partial_t p = -\operatorname{div}(p \nabla
    \phi) + D \Delta p`, is also carried, without noise, by the flow along :math:`u = \phi - D \log p`, the probability
    flow. Such a potential satisfies

    .. math::
        r = \partial_t u - \partial_t \phi + |\nabla u|^2 - \nabla \phi \cdot \nabla u - D \Delta u = 0 .

    The density does not appear. Which one is carried follows from ``u`` at one time, :math:`p = e^{(\phi - u) / D}`;
    a constant ``u`` belongs to the equilibrium :math:`e^{\phi / D}`. So the inherited initial condition
    :math:`\nabla u(\cdot, 0) = 0` starts in equilibrium, and stops the flow where :math:`\phi` does not change with
    time. Mind the factor of :math:`|\nabla u|^2`, which is 1: without a drift, ``2 u`` satisfies
    :class:`ViscousHJResidual` with :math:`\nu = D`.

    Args:
        diffusion: The coefficient ``D``, in squared lengths per time: a number of at least 0 or a
            :class:`PositiveParameter`.
        drift: The potential :math:`\phi(z, t)` of the drift, in squared lengths per time; None for no drift. A drift
            down a potential energy ``V`` has :math:`\phi = -V`. A module becomes a submodule, and its parameters train.

    Raises:
        TypeError: If ``diffusion`` is no number and no :class:`PositiveParameter`, or ``drift`` cannot be called.
        ValueError: If ``diffusion`` is negative or not finite.

    References:
        | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2020), section 4.3
        | https://arxiv.org/abs/2011.13456

    Example:
        >>> import torch
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> log_p = lambda z, t: -z.square().sum(-1) / (2 * (1 + t)) - 1.5 * torch.log1p(t)  # diffuses with D = 1/2
        >>> u = lambda z, t: -0.5 * log_p(z, t)
        >>> torch.testing.assert_close(FokkerPlanckResidual(0.5)(u, z, 0.3), torch.zeros(5, dtype=torch.float64))
    """

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the residual, of shape ``(*batch,)``, from the derivatives of ``u`` at ``z`` and ``t``."""
        spread = self.diffusion() * required(jet.laplacian, "laplacian")
        residual = jet.time_derivative + jet.gradient.square().sum(-1) - spread
        if self.drift is None:
            return residual
        phi = evaluate_jet(self.drift, z, t, JetRequest())
        return residual - phi.time_derivative - (phi.gradient * jet.gradient).sum(-1)


class LogFokkerPlanckResidual(DriftDiffusion):
    r"""The Fokker-Planck equation on a log-density :math:`l = \log p`.

    .. math::
        r = \partial_t l + \Delta \phi + \nabla \phi \cdot \nabla l - D (\Delta l + |\nabla l|^2)

    It acts on a density model ``l(z, t)``, not on a potential that moves points, and does not see a constant factor of
    ``p``. The inherited initial condition :math:`\nabla l(\cdot, 0) = 0` asks for a uniform density, which no
    normalised one is.

    Args:
        diffusion: The coefficient ``D``, see :class:`FokkerPlanckResidual`.
        drift: The potential :math:`\phi(z, t)` of the drift, see :class:`FokkerPlanckResidual`; None for no drift.

    Raises:
        TypeError: If ``diffusion`` is no number and no :class:`PositiveParameter`, or ``drift`` cannot be called.
        ValueError: If ``diffusion`` is negative or not finite.

    Example:
        >>> import torch
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> log_p = lambda z, t: -z.square().sum(-1) / (2 * (1 + t)) - 1.5 * torch.log1p(t)  # diffuses with D = 1/2
        >>> residual = LogFokkerPlanckResidual(0.5)(log_p, z, 0.3)
        >>> torch.testing.assert_close(residual, torch.zeros(5, dtype=torch.float64))
    """

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the residual, of shape ``(*batch,)``, from the derivatives of ``l`` at ``z`` and ``t``."""
        spread = required(jet.laplacian, "laplacian") + jet.gradient.square().sum(-1)
        residual = jet.time_derivative - self.diffusion() * spread
        if self.drift is None:
            return residual
        phi = evaluate_jet(self.drift, z, t, JetRequest(laplacian=True))
        return residual + required(phi.laplacian, "laplacian") + (phi.gradient * jet.gradient).sum(-1)


class LinearFokkerPlanckResidual(DriftDiffusion):
    r"""The Fokker-Planck equation on a density ``p``, in which it is linear.

    .. math::
        r = \partial_t p + \nabla \phi \cdot \nabla p + p \, \Delta \phi - D \Delta p

    The same formula can be put to a potential ``u`` in place of a density. This is one reading of the Fokker-Planck row
    of the paper's ablation (table 8), which states no formula: a linear equation for ``u``, as the heat and wave
    equations next to it are. The flow along such a ``u`` does not carry a solution of the Fokker-Planck equation; for
    that there is :class:`FokkerPlanckResidual`. Because ``u`` itself appears, ``u`` and ``u + c(t)`` have different
    residuals even for constant ``c``, where :math:`\Delta \phi` is not zero.

    The inherited initial condition :math:`\nabla u(\cdot, 0) = 0` is a uniform density in the first reading, and stops
    the flow in the second, if :math:`\Delta \phi` is the same everywhere.

    Args:
        diffusion: The coefficient ``D``, see :class:`FokkerPlanckResidual`.
        drift: The potential :math:`\phi(z, t)` of the drift, see :class:`FokkerPlanckResidual`; None for no drift, in
            which case this is the heat equation.

    Raises:
        TypeError: If ``diffusion`` is no number and no :class:`PositiveParameter`, or ``drift`` cannot be called.
        ValueError: If ``diffusion`` is negative or not finite.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), table 8
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> import torch
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> energy = lambda z, t: z.square().sum(-1) / 2
        >>> residual = LinearFokkerPlanckResidual(0.5, drift=lambda z, t: -energy(z, t))
        >>> gibbs = lambda z, t: torch.exp(-energy(z, t) / 0.5)  # stays
        >>> torch.testing.assert_close(residual(gibbs, z, 0.3), torch.zeros(5, dtype=torch.float64))
    """

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the residual, of shape ``(*batch,)``, from the derivatives of ``p`` at ``z`` and ``t``."""
        residual = jet.time_derivative - self.diffusion() * required(jet.laplacian, "laplacian")
        if self.drift is None:
            return residual
        phi = evaluate_jet(self.drift, z, t, JetRequest(laplacian=True))
        growth = jet.value * required(phi.laplacian, "laplacian")
        return residual + (phi.gradient * jet.gradient).sum(-1) + growth


class ContinuityResidual(PDEResidual):
    r"""The residual :math:`r = \partial_t l + \Delta u + \nabla u \cdot \nabla l` of a log-density ``l``.

    Zero where :math:`l = \log q` is the log-density that the flow along :math:`\nabla u` transports,
    :math:`\partial_t q = -\operatorname{div}(q \nabla u)`. It acts on ``l``, a density model ``l(z, t)``, and ``u`` is
    part of the equation. The inherited initial condition :math:`\nabla l(\cdot, 0) = 0` asks for a uniform density,
    which no normalised one is.

    Args:
        potential: The potential ``u``, or any callable ``u(z, t)``. A module becomes a submodule, and its parameters
            train.

    Raises:
        TypeError: If ``potential`` cannot be called.

    Example:
        >>> import torch
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> u = lambda z, t: z.square().sum(-1) / 2  # z grows like e^t, the volume like e^{3t}
        >>> l = lambda z, t: -z.square().sum(-1) * torch.exp(-2 * t) / 2 - 3 * t
        >>> torch.testing.assert_close(ContinuityResidual(u)(l, z, 0.3), torch.zeros(5, dtype=torch.float64))
    """

    def __init__(self, potential: Field) -> None:
        super().__init__()
        self.potential = as_field("potential", potential)

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the residual, of shape ``(*batch,)``, from the derivatives of ``l`` at ``z`` and ``t``."""
        u = evaluate_jet(self.potential, z, t, JetRequest(laplacian=True))
        return jet.time_derivative + required(u.laplacian, "laplacian") + (u.gradient * jet.gradient).sum(-1)


class HeatResidual(PDEResidual):
    r"""The residual :math:`r = \partial_t u - D \Delta u` of the heat equation.

    It smooths the potential, not the density that the potential transports; of the density it is
    :class:`LinearFokkerPlanckResidual` without a drift. Only :math:`D \ge 0` is allowed: against the direction of time
    the equation has no stable solutions. The inherited initial condition :math:`\nabla u(\cdot, 0) = 0` stops its flow,
    because a constant stays constant.

    Args:
        diffusivity: The coefficient ``D``, in squared lengths per time: a number of at least 0 or a
            :class:`PositiveParameter`. With 0 the equation says that ``u`` does not change.

    Raises:
        TypeError: If ``diffusivity`` is neither.
        ValueError: If it is negative or not finite.

    Example:
        >>> import torch
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> u = lambda z, t: z.sum(-1).cos() * torch.exp(-0.2 * 3 * t)  # cos(k.z) exp(-D |k|^2 t)
        >>> torch.testing.assert_close(HeatResidual(0.2)(u, z, 0.3), torch.zeros(5, dtype=torch.float64))
    """

    requires = frozenset({"laplacian"})

    def __init__(self, diffusivity: float | PositiveParameter) -> None:
        super().__init__()
        self.diffusivity: Coefficient = as_coefficient("diffusivity", diffusivity)

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002 - the signature of every residual
        """Compute the residual, of shape ``(*batch,)``, from the derivatives at ``z`` and ``t``."""
        return jet.time_derivative - self.diffusivity() * required(jet.laplacian, "laplacian")


class WaveResidual(PDEResidual):
    r"""The residual :math:`r = \partial_t^2 u - c^2 \Delta u` of the wave equation.

    It is of second order in time, so :math:`\partial_t u(\cdot, 0)` is free as well. The inherited initial condition
    :math:`\nabla u(\cdot, 0) = 0` therefore makes particles start at rest, and does not stop the flow. The potential
    has to be twice continuously differentiable in time.

    Args:
        speed: The speed ``c`` of the waves, in lengths per time: a number of at least 0 or a
            :class:`PositiveParameter`. With 0 the equation says that ``u`` is linear in time.

    Raises:
        TypeError: If ``speed`` is neither.
        ValueError: If it is negative or not finite.

    References:
        | Latent Traversals in Generative Models as Potential Flows (Song et al., 2023)
        | https://arxiv.org/abs/2304.12944

    Example:
        >>> import torch
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> u = lambda z, t: torch.tanh(z[..., 0] - 2 * t)  # travels along the first axis
        >>> torch.testing.assert_close(WaveResidual(2.0)(u, z, 0.3), torch.zeros(5, dtype=torch.float64))
    """

    requires = frozenset({"laplacian", "second_time_derivative"})

    def __init__(self, speed: float | PositiveParameter) -> None:
        super().__init__()
        self.speed: Coefficient = as_coefficient("speed", speed)

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002 - the signature of every residual
        """Compute the residual, of shape ``(*batch,)``, from the derivatives at ``z`` and ``t``."""
        acceleration = required(jet.second_time_derivative, "second_time_derivative")
        return acceleration - self.speed() ** 2 * required(jet.laplacian, "laplacian")
