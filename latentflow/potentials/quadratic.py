"""Quadratic potentials, of full and of low rank."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentflow.calculus import InnerHessian, Jet, JetRequest
from latentflow.calculus.checks import (
    check_count,
    check_finite_number,
    check_finite_tensor,
    check_instance,
    check_points,
    check_tensor,
    check_time,
    expand_time,
)
from latentflow.potentials.algebra import Potential
from latentflow.potentials.features import IdentityEmbedding, TimeEmbedding


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
        check_count("dim", dim)
        if matrix is None:
            matrix = vector.new_zeros(dim, dim) if isinstance(vector, Tensor) else torch.zeros(dim, dim)
        check_tensor("matrix", matrix, (dim, dim))
        vector = matrix.new_zeros(dim) if vector is None else vector
        check_tensor("vector", vector, (dim,), like=matrix)
        for name, tensor in (("matrix", matrix), ("vector", vector)):
            check_finite_tensor(name, tensor)
        constant = check_finite_number("constant", constant)
        self.dim = dim
        self.matrix = nn.Parameter(matrix.detach().clone())
        self.vector = nn.Parameter(vector.detach().clone())
        self.constant = nn.Parameter(torch.full((), constant, dtype=matrix.dtype, device=matrix.device))

    @property
    def symmetric(self) -> Tensor:
        """The symmetric matrix :math:`A`, of shape ``(dim, dim)``."""
        return (self.matrix + self.matrix.mT) / 2

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the potential at ``z`` of shape ``(*batch, dim)``; the result is ``(*batch,)``."""
        check_points(z, self.dim, self.matrix)
        check_time(t)
        return ((z @ self.symmetric / 2 + self.vector) * z).sum(-1) + self.constant

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Return the derivatives in closed form."""
        check_points(z, self.dim, self.matrix)
        matrix, batch = self.symmetric, z.shape[:-1]
        product = z @ matrix
        return Jet.answer(
            request,
            value=((product / 2 + self.vector) * z).sum(-1) + self.constant,
            gradient=product + self.vector,
            time_derivative=torch.zeros_like(t),
            laplacian=lambda: matrix.trace().expand(batch),
            hessian=lambda: matrix.expand(*batch, -1, -1),
            products=lambda v: v @ matrix,
            second_time_derivative=lambda: torch.zeros_like(t),
            gradient_time_derivative=lambda: torch.zeros_like(z),
        )

    def lipschitz_gradient(self) -> Tensor:
        r"""Compute :math:`|A|_2`, the Lipschitz constant of the velocity itself."""
        norm: Tensor = torch.linalg.eigvalsh(self.symmetric).abs().amax()
        return norm


class LowRankQuadratic(Potential):
    r"""The potential :math:`u(z, t) = \tfrac12 |A z + V e(t)|^2 + b^\top z + c^\top e(t)` with ``rank`` rows of ``A``.

    Args:
        dim: The number of coordinates.
        rank: The number of rows of ``A``, at least one.
        time_embedding: Features of time, the time itself if None.

    Raises:
        ValueError: If ``dim`` or ``rank`` is not a positive integer.

    Example:
        >>> from latentflow import hessian
        >>> u = LowRankQuadratic(5, rank=2)
        >>> A = u.point.weight
        >>> torch.testing.assert_close(hessian(u, torch.randn(3, 5), 0.5), (A.mT @ A).expand(3, 5, 5))
    """

    def __init__(self, dim: int, rank: int, time_embedding: TimeEmbedding | None = None) -> None:
        super().__init__()
        for name, number in (("dim", dim), ("rank", rank)):
            check_count(name, number)
        self.dim = dim
        self.embedding = IdentityEmbedding() if time_embedding is None else time_embedding
        check_instance("time_embedding", self.embedding, TimeEmbedding, "a TimeEmbedding or None")
        self.point = nn.Linear(dim, rank, bias=False)
        self.time = nn.Linear(self.embedding.features, rank, bias=False)
        self.slope = nn.Linear(dim, 1, bias=False)
        self.drift = nn.Linear(self.embedding.features, 1, bias=False)
        nn.init.zeros_(self.slope.weight)
        nn.init.zeros_(self.drift.weight)

    @property
    def inner_width(self) -> int:
        """The rank."""
        return self.point.out_features

    def lipschitz_gradient(self) -> Tensor:
        r"""Compute :math:`|A^\top A|_2`, the norm of the Hessian itself.

        Returns:
            The norm, of shape ``()``.
        """
        A = self.point.weight
        norm: Tensor = torch.linalg.eigvalsh(A @ A.mT)[-1]
        return norm

    def _value(self, z: Tensor, features: Tensor, y: Tensor) -> Tensor:
        value: Tensor = y.square().sum(-1) / 2 + (self.slope(z) + self.drift(features)).squeeze(-1)
        return value

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the potential at ``z`` of shape ``(*batch, dim)`` and ``t``; the result is ``(*batch,)``."""
        check_points(z, self.dim, self.point.weight)
        features = self.embedding(expand_time(t, z))
        return self._value(z, features, self.point(z) + self.time(features))

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Return the derivatives in closed form."""
        check_points(z, self.dim, self.point.weight)
        A, batch = self.point.weight, z.shape[:-1]
        features, features_dot = self.embedding.with_derivative(t)
        y, y_dot = self.point(z) + self.time(features), self.time(features_dot)

        def second_time_derivative() -> Tensor:
            second = self.embedding.second_derivative(t)
            curvature: Tensor = y_dot.square().sum(-1) + (y * self.time(second)).sum(-1)
            drift: Tensor = self.drift(second).squeeze(-1)
            return curvature + drift

        def inner_hessian() -> InnerHessian:
            return InnerHessian(torch.eye(len(A), dtype=A.dtype, device=A.device).expand(*batch, -1, -1), A)

        return Jet.answer(
            request,
            value=self._value(z, features, y),
            gradient=y @ A + self.slope.weight.squeeze(0),
            time_derivative=(y * y_dot).sum(-1) + self.drift(features_dot).squeeze(-1),
            laplacian=lambda: A.square().sum().expand(batch),
            hessian=lambda: (A.mT @ A).expand(*batch, -1, -1),
            quadratic=lambda v: self.point(v).square().sum(-1),
            products=lambda v: self.point(v) @ A,
            second_time_derivative=second_time_derivative,
            gradient_time_derivative=lambda: y_dot @ A,
            inner_hessian=inner_hessian,
        )
