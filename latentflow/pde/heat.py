r"""The heat equation."""

from __future__ import annotations

from torch import Tensor

from latentflow.calculus import Jet, PositiveParameter
from latentflow.pde.coefficients import Coefficient, as_coefficient
from latentflow.pde.residual import PDEResidual, required


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
