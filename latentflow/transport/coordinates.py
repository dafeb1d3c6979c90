r"""Linear coordinates in which two clouds agree in mean and covariance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentflow.calculus import Derivative, Field, Jet, JetRequest, evaluate_jet
from latentflow.calculus.checks import check_instance, check_points, check_tensor, expand_time
from latentflow.potentials.algebra import Potential, as_module

SMALLEST = 1e-6  # of the largest variance, below which a direction counts as constant


@dataclass(frozen=True)
class Coordinates:
    r"""Coordinates :math:`\tilde x = A^{1/2} (x - m_0) / s` and :math:`\tilde y = A^{-1/2} (y - m_1) / s` of clouds.

    Optimal transport with a squared distance is that with the cost :math:`-\langle x, y \rangle`, which this change
    multiplies by a number: a map is optimal in the one coordinates if it is in the others. With the symmetric
    :math:`A` that transports one covariance to the other, :math:`A S_0 A = S_1`, both sides have the mean zero and the
    covariance :math:`A^{1/2} S_0 A^{1/2} / s^2`, and the best linear map is the identity.

    Attributes:
        root: The matrix :math:`A^{1/2}`, symmetric and positive definite, of shape ``(dim, dim)``.
        inverse: The matrix :math:`A^{-1/2}`.
        start: The mean :math:`m_0` of the source, of shape ``(dim,)``.
        end: The mean :math:`m_1` of the target, of shape ``(dim,)``.
        unit: The length :math:`s`, of shape ``()``: the root of the mean variance.
    """

    root: Tensor
    inverse: Tensor
    start: Tensor
    end: Tensor
    unit: Tensor

    @staticmethod
    def match(x: Tensor, y: Tensor) -> Coordinates:
        """Match the moments of two clouds, ``(n, dim)`` and ``(m, dim)``.

        Directions in which a cloud is constant get a small variance, so that the change can be undone.
        """
        m0, m1 = x.double().mean(0), y.double().mean(0)
        root0, inverse0 = _roots(_covariance(x.double() - m0))
        middle, _ = _roots(root0 @ _covariance(y.double() - m1) @ root0)
        matrix = inverse0 @ middle @ inverse0
        root, inverse = _roots((matrix + matrix.mT) / 2)
        unit = (root @ root0).square().sum().div(len(root)).sqrt()
        return Coordinates(*(part.to(x) for part in (root, inverse, m0, m1, unit)))

    def source(self, x: Tensor) -> Tensor:
        """Change points of the source, of shape ``(*batch, dim)``."""
        return (x - self.start) @ self.root / self.unit

    def target(self, y: Tensor) -> Tensor:
        """Change points of the target, of shape ``(*batch, dim)``."""
        return (y - self.end) @ self.inverse / self.unit

    def from_source(self, x: Tensor) -> Tensor:
        """Change points of the source back."""
        return x @ self.inverse * self.unit + self.start

    def from_target(self, y: Tensor) -> Tensor:
        """Change points of the target back."""
        return y @ self.root * self.unit + self.end


class MatchedPotential(Potential):
    r"""A potential of transport that is given in matched coordinates.

    With a potential :math:`v` whose map is :math:`\tilde x + \nabla v(\tilde x)` there,

    .. math::
        \tfrac12 |x|^2 + u(x) = s^2 \bigl(\tfrac12 |\tilde x|^2 + v(\tilde x)\bigr) + \langle m_1, x \rangle , \qquad
        x + \nabla u(x) = m_1 + s\,A^{1/2} \bigl(\tilde x + \nabla v(\tilde x)\bigr) .

    For :math:`v = 0` it is the optimal transport of one Gaussian to another.

    Args:
        potential: The potential :math:`v`: a :class:`Potential` or any callable ``v(z, t)``.
        coordinates: The coordinates.

    Raises:
        TypeError: If an argument is of another kind.

    Example:
        >>> from latentflow import gradient
        >>> x, y = torch.randn(100, 2), torch.randn(100, 2) * torch.tensor([3.0, 0.5]) + 1
        >>> u = MatchedPotential(lambda z, t: 0.0 * z.sum(-1), Coordinates.match(x, y))
        >>> images = x + gradient(u, x, 0.0)
        >>> torch.testing.assert_close(images.mean(0), y.mean(0), rtol=1e-4, atol=1e-4)
        >>> torch.testing.assert_close(images.T.cov(), y.T.cov(), rtol=1e-3, atol=1e-3)
    """

    root: Tensor
    inverse: Tensor
    start: Tensor
    end: Tensor
    unit: Tensor

    def __init__(self, potential: Field, coordinates: Coordinates) -> None:
        super().__init__()
        self.potential = as_module(potential, "potential")
        check_instance("coordinates", coordinates, Coordinates, "Coordinates")
        check_tensor("coordinates", coordinates.root, ("dim", "dim"))
        self.dim = len(coordinates.root)
        for name in ("root", "inverse", "start", "end", "unit"):
            self.register_buffer(name, getattr(coordinates, name).detach().clone())

    @property
    def coordinates(self) -> Coordinates:
        """The coordinates."""
        return Coordinates(self.root, self.inverse, self.start, self.end, self.unit)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the potential at ``z`` of shape ``(*batch, dim)`` and ``t``; the result is ``(*batch,)``."""
        check_points(z, self.dim, self.root)
        own = self.coordinates.source(z)
        return self._complete(self.potential(own, expand_time(t, z)), own, z)

    def _complete(self, value: Tensor, own: Tensor, z: Tensor) -> Tensor:
        bowl = value + own.square().sum(-1) / 2
        return self.unit.square() * bowl + z @ self.end - z.square().sum(-1) / 2

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Return the derivatives by the chain rule from one jet of the potential in its coordinates."""
        check_points(z, self.dim, self.root)
        own = self.coordinates.source(z)
        wanted = request.derivatives
        if Derivative.LAPLACIAN in wanted:  # a trace in other coordinates is no trace here
            wanted = (wanted & ~Derivative.LAPLACIAN) | Derivative.HESSIAN
        if Derivative.INNER_HESSIAN in wanted:
            raise ValueError("request: expected no factors of the Hessian, which a change of coordinates does not keep")
        probes = None if request.probes is None else request.probes @ self.root
        jet = evaluate_jet(self.potential, own, t, JetRequest(wanted, probes))
        square = self.unit.square()
        eye = torch.eye(self.dim, dtype=z.dtype, device=z.device)

        def quadratic(v: Tensor) -> Tensor:
            moved = v @ self.root
            return jet.quadratic + moved.square().sum(-1) - v.square().sum(-1)

        return Jet.answer(
            request,
            value=self._complete(jet.value, own, z),
            gradient=self.unit * (jet.gradient + own) @ self.root + self.end - z,
            time_derivative=square * jet.time_derivative,
            hessian=lambda: self.root @ (jet.hessian + eye) @ self.root - eye,
            products=lambda v: (jet.products + v @ self.root) @ self.root - v,
            quadratic=quadratic if Derivative.QUADRATIC in request else None,
            second_time_derivative=lambda: square * jet.second_time_derivative,
            gradient_time_derivative=lambda: self.unit * jet.gradient_time_derivative @ self.root,
        )


def _covariance(centered: Tensor) -> Tensor:
    """Compute a covariance whose eigenvalues are positive."""
    covariance = centered.mT @ centered / len(centered)
    values, axes = torch.linalg.eigh(covariance)
    largest = values[-1].clamp(min=torch.finfo(values.dtype).tiny)
    kept: Tensor = (axes * values.clamp(min=SMALLEST * float(largest))) @ axes.mT
    return kept


def _roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the symmetric root of a positive definite matrix, and its inverse."""
    values, axes = torch.linalg.eigh(matrix)
    root = values.sqrt()
    return (axes * root) @ axes.mT, (axes / root) @ axes.mT
