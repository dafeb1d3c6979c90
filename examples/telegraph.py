r"""A PDE of one's own in the digits run: the telegraph equation, of waves that fade.

    latentflow train digits --pde examples/telegraph.py:Telegraph

One method from the jet of the potential to one number for each sample is all that it takes.
"""

from __future__ import annotations

import torch
from torch import Tensor

import latentflow as lf


class Telegraph(lf.PDEResidual):
    r"""The residual :math:`\partial_t^2 u + 2 a \partial_t u - \Delta u` with a damping ``a`` that is learned."""

    requires = lf.Derivative.SECOND_TIME_DERIVATIVE | lf.Derivative.LAPLACIAN

    def __init__(self) -> None:
        super().__init__()
        self.damping = torch.nn.Parameter(torch.tensor(0.1))

    def from_jet(self, jet: lf.Jet, z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002 - the method's signature
        """Compute the residual, of shape ``(*batch,)``."""
        return jet.second_time_derivative + 2 * self.damping * jet.time_derivative - jet.laplacian
