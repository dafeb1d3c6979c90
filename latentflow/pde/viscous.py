r"""The viscous Hamilton-Jacobi equation."""

from __future__ import annotations

from torch import Tensor

from latentflow.calculus import Jet, PositiveParameter
from latentflow.pde.coefficients import Coefficient, as_coefficient
from latentflow.pde.residual import PDEResidual, required


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
