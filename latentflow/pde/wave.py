r"""The wave equation."""

from __future__ import annotations

from torch import Tensor

from latentflow.calculus import Jet, PositiveParameter
from latentflow.pde.coefficients import Coefficient, as_coefficient
from latentflow.pde.residual import PDEResidual, required


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
