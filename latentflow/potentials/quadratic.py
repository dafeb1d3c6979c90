r"""The quadratic potential, whose flow is linear."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentflow.calculus import Jet, JetRequest, check_points
from latentflow.potentials.algebra import Potential


class QuadraticPotential(Potential):
    r"""The potential :math:`u(z) = \tfrac12 z^\top A z + b^\top z + c` with a symmetric matrix :math:`A`.

    Its velocity :math:`A z + b` is linear, its Laplacian :math:`\operatorname{tr} A`, its flow
    :math:`z_t = e^{tA} z_0 + \int_0^t e^{(t-s)A} b\,ds`. The parameter is any square matrix; its symmetric part
    is :math:`A`.

    Args:
        dim: The number of coordinates.
        matrix: The matrix to start from, of shape ``(dim, dim)``; zero if None.
        vector: The vector :math:`b` to start from, of shape ``(dim,)``; zero if None.
        constant: The number :math:`c` to start from; it does not move the flow.

    Raises:
        ValueError: If a shape does not fit.

    Example:
        >>> from latentflow import jet
        >>> A = torch.tensor([[1.0, 2.0], [2.0, -3.0]])
        >>> z = torch.randn(4, 2)
        >>> result = jet(QuadraticPotential(2, matrix=A), z, 0.0)
        >>> torch.testing.assert_close(result.gradient, z @ A)
        >>> torch.testing.assert_close(result.laplacian, torch.full((4,), -2.0))
    """

    def __init__(
        self, dim: int, matrix: Tensor | None = None, vector: Tensor | None = None, constant: float = 0.0
    ) -> None:
        super().__init__()
        matrix = torch.zeros(dim, dim) if matrix is None else matrix
        vector = torch.zeros(dim, dtype=matrix.dtype, device=matrix.device) if vector is None else vector
        if matrix.shape != (dim, dim):
            raise ValueError(f"matrix: expected shape ({dim}, {dim}), got {tuple(matrix.shape)}")
        if vector.shape != (dim,):
            raise ValueError(f"vector: expected shape ({dim},), got {tuple(vector.shape)}")
        self.dim = dim
        self.matrix = nn.Parameter(matrix.detach().clone())
        self.vector = nn.Parameter(vector.detach().clone())
        self.constant = nn.Parameter(torch.full((), constant, dtype=matrix.dtype, device=matrix.device))

    @property
    def symmetric(self) -> Tensor:
        """The symmetric matrix :math:`A`, of shape ``(dim, dim)``."""
        return (self.matrix + self.matrix.mT) / 2

    def forward(self, z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002 - the same at all times
        """Evaluate the potential at ``z`` of shape ``(*batch, dim)``; the result is ``(*batch,)``."""
        check_points(z, self.dim)
        return ((z @ self.symmetric / 2 + self.vector) * z).sum(-1) + self.constant

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Return the derivatives in closed form."""
        check_points(z, self.dim)
        matrix, batch = self.symmetric, z.shape[:-1]
        product = z @ matrix
        probes = request.probes
        return Jet(
            value=((product / 2 + self.vector) * z).sum(-1) + self.constant,
            gradient=product + self.vector,
            time_derivative=torch.zeros_like(t),
            laplacian=matrix.trace().expand(batch) if request.laplacian else None,
            hessian=matrix.expand(*batch, -1, -1) if request.hessian else None,
            quadratic=None if probes is None else ((probes @ matrix) * probes).sum(-1),
            products=probes @ matrix if probes is not None and request.products else None,
            second_time_derivative=torch.zeros_like(t) if request.second_time_derivative else None,
            gradient_time_derivative=torch.zeros_like(z) if request.gradient_time_derivative else None,
        )

    def lipschitz_gradient(self) -> Tensor:
        r"""Compute :math:`|A|_2`, the Lipschitz constant of the velocity itself."""
        norm: Tensor = torch.linalg.eigvalsh(self.symmetric).abs().amax()
        return norm
