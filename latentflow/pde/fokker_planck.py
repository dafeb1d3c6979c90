r"""The Fokker-Planck equation, on a potential, on a log-density and on a density."""

from __future__ import annotations

from torch import Tensor

from latentflow.calculus import Field, Jet, JetRequest, PositiveParameter, evaluate_jet
from latentflow.pde.coefficients import Coefficient, as_coefficient, as_field
from latentflow.pde.residual import PDEResidual, required


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
