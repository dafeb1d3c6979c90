r"""The continuity equation."""

from __future__ import annotations

from torch import Tensor

from latentflow.calculus import Field, Jet, JetRequest, evaluate_jet
from latentflow.pde.coefficients import as_field
from latentflow.pde.residual import PDEResidual, required


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
