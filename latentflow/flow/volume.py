r"""The change of volume of one discrete step :math:`z \mapsto z + h \nabla u(z, t)`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from latentflow.calculus import Estimator, Exact, Field, InnerHessian, Jet, JetRequest, Time, transformed


@dataclass(frozen=True)
class VolumeChange:
    r"""The volume change of a step.

    Attributes:
        log_det: :math:`\log|\det(I + hH)|`, or a surrogate of it, of shape ``(*batch,)``.
        sign: The sign of the determinant or of its surrogate, of shape ``(*batch,)``; None if it is not known.
        folded: Whether :math:`I + hH` is not positive definite, or its surrogate not positive, of shape ``(*batch,)``;
            None if it is not known.
        smallest_eigenvalue: :math:`\lambda_{\min}(I + hH)`, of shape ``(*batch,)``; None if it is not known.
    """

    log_det: Tensor
    sign: Tensor | None = None
    folded: Tensor | None = None
    smallest_eigenvalue: Tensor | None = None


class Volume(Protocol):
    """Asks the derivative pass of a step for what it needs and computes the volume change from it."""

    @property
    def stochastic(self) -> bool:
        """Whether the result is random; a reported likelihood bound refuses such a volume."""

    def request(self, u: Field, z: Tensor, t: Time) -> JetRequest:
        """Say which second derivatives of ``u`` are needed at ``z`` of shape ``(*batch, dim)`` and ``t``."""

    def change(self, jet: Jet, dt: float) -> VolumeChange:
        """Compute the volume change of a step of length ``dt`` from the jet at its start."""


@dataclass(frozen=True)
class SlogDet:
    r"""The exact volume change :math:`\log|\det(I + h \nabla^2 u)|`, by LU factorisation.

    On a solution of the Hamilton-Jacobi equation, Euler steps with this volume reproduce the density of the
    continuous flow to roundoff. A Cholesky factorisation tells, without a gradient, where the map folds.

    Where the points enter a network through a first layer narrower than ``dim``, the Hessian is :math:`F^\top C F`
    at the width of that layer, and the determinant is taken there:
    :math:`\det(I + h F^\top C F) = \det(I + h\,C F F^\top)` (Sylvester).

    Args:
        eigenvalues: Whether to factorise by eigenvalues instead, which makes the smallest one known, at a
            higher cost.

    Example:
        >>> from latentflow import PotentialFlow, QuadraticPotential
        >>> A = torch.tensor([[0.0, 0.5], [0.5, 0.0]])
        >>> path = PotentialFlow(QuadraticPotential(2, A)).rollout(torch.randn(3, 2), steps=1, volume=SlogDet())
        >>> torch.testing.assert_close(path.log_det[-1], torch.full((3,), 0.75).log())  # log(1 - 1/4), not log(1 + 0)
    """

    eigenvalues: bool = False

    @property
    def stochastic(self) -> bool:
        """False: the determinant is exact."""
        return False

    def request(self, u: Field, z: Tensor, t: Time) -> JetRequest:  # noqa: ARG002 - the protocol's signature
        """Ask for the Hessian, in factors where that is narrower."""
        width = None if self.eigenvalues else getattr(u, "inner_width", None)
        narrow = width is not None and width < z.shape[-1]
        return JetRequest(hessian=not narrow, inner_hessian=narrow)

    def change(self, jet: Jet, dt: float) -> VolumeChange:
        """Compute the volume change of a step of length ``dt``."""
        if jet.inner_hessian is not None and not self.eigenvalues:
            return _change_at_width(jet.inner_hessian, dt)
        if jet.hessian is None:
            raise ValueError("jet: expected a jet with a Hessian, got one without")
        jacobian = _identity_plus(dt * jet.hessian)
        if self.eigenvalues:
            eigenvalues = torch.linalg.eigvalsh(jacobian)
            smallest = eigenvalues[..., 0]
            return VolumeChange(eigenvalues.abs().log().sum(-1), eigenvalues.sign().prod(-1), smallest <= 0, smallest)
        sign, log_det = _slogdet(jacobian)
        return VolumeChange(log_det, sign, _not_positive(jacobian.detach()))


def _change_at_width(hessian: InnerHessian, dt: float) -> VolumeChange:
    gram = hessian.factor @ hessian.factor.mT
    sign, log_det = _slogdet(_identity_plus(dt * (hessian.core @ gram)))
    # C F F' is not symmetric. With F F' = R R', I + h R' C R has the eigenvalues of I + h H that differ from one.
    values, vectors = torch.linalg.eigh(gram.detach())
    root = vectors * values.clamp(min=0).sqrt()
    return VolumeChange(log_det, sign, _not_positive(_identity_plus(dt * (root.mT @ hessian.core.detach() @ root))))


def _slogdet(matrix: Tensor) -> tuple[Tensor, Tensor]:
    if not transformed():
        sign, log_det = torch.linalg.slogdet(matrix)
        return sign, log_det
    factors, pivots, _ = torch.linalg.lu_factor_ex(matrix)
    diagonal = factors.diagonal(dim1=-2, dim2=-1)
    swaps = (pivots != torch.arange(1, matrix.shape[-1] + 1, device=matrix.device)).sum(-1)
    return diagonal.sign().prod(-1) * (1 - 2 * (swaps % 2)), diagonal.abs().log().sum(-1)


def _identity_plus(matrix: Tensor) -> Tensor:
    return matrix + torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


def _not_positive(matrix: Tensor) -> Tensor:
    info: Tensor = torch.linalg.cholesky_ex(matrix).info
    return info != 0


@dataclass(frozen=True)
class FirstOrder:
    r"""The first-order surrogate :math:`\log|1 + h \Delta u|` of the volume change (equation 10 of the paper).

    It is off by :math:`-h^2 e_2 + O(h^3)`, with :math:`e_2 = ((\operatorname{tr} H)^2 - \operatorname{tr} H^2)/2`,
    needs :math:`d\,h|H| \ll 1`, and is not a density: a parity option. It is neither clamped nor floored.

    Args:
        laplacian: How to obtain the Laplacian.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), equation 10
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> from latentflow import PotentialFlow, QuadraticPotential
        >>> A = torch.tensor([[0.0, 0.5], [0.5, 0.0]])
        >>> path = PotentialFlow(QuadraticPotential(2, A)).rollout(torch.randn(3, 2), steps=1, volume=FirstOrder())
        >>> torch.testing.assert_close(path.log_det[-1], torch.zeros(3))  # misses the exact log(1 - 1/4)
    """

    laplacian: Estimator = field(default_factory=lambda: Exact())  # noqa: PLW0108 - torch.compile traces functions

    @property
    def stochastic(self) -> bool:
        """Whether the Laplacian is estimated by random probes."""
        return self.laplacian.stochastic

    def request(self, u: Field, z: Tensor, t: Time) -> JetRequest:
        """Ask for what the Laplacian needs."""
        return self.laplacian.request(u, z, t)

    def change(self, jet: Jet, dt: float) -> VolumeChange:
        """Compute the surrogate for a step of length ``dt``."""
        growth = dt * self.laplacian.laplacian(jet)
        near = growth > -0.5
        log_det = torch.where(near, torch.where(near, growth, 0).log1p(), torch.where(near, 1, 1 + growth).abs().log())
        return VolumeChange(log_det, (1 + growth).sign(), growth <= -1)
