"""Log-determinants of a discrete step: exact, of first order, and by a power series."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from latentflow.calculus import (
    Derivative,
    Estimator,
    Exact,
    Field,
    InnerHessian,
    Jet,
    JetRequest,
    Noise,
    Time,
    hessian_vector_product,
)
from latentflow.calculus.checks import check_count, check_flag, check_methods, check_points, check_positive
from latentflow.calculus.estimators import check_noise, draw_probes
from latentflow.calculus.jets import transformed
from latentflow.calculus.operators import check_estimator


@dataclass(frozen=True)
class StepDeterminant:
    r"""The determinant of a step :math:`z \mapsto z + h \nabla u`, and its folds.

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


class LogDet(Protocol):
    """A log-determinant of a step: a request to the derivative pass, and a rule for the jet that answers it."""

    @property
    def stochastic(self) -> bool:
        """Whether the result is random; a reported likelihood bound refuses it."""

    def request(self, u: Field, z: Tensor, t: Time) -> JetRequest:
        """Return the request for ``u`` at ``z`` of shape ``(*batch, dim)`` and ``t``."""

    def determinant(self, jet: Jet, dt: float) -> StepDeterminant:
        """Compute the determinant of a step of length ``dt`` from the jet at its start."""


def check_log_det(log_det: LogDet | None) -> None:
    """Check that a log-determinant has the methods of one, or is None; raise a TypeError otherwise."""
    if log_det is not None:
        check_methods("log_det", log_det, ("request", "determinant"), "SlogDet(), another LogDet or None")


@dataclass(frozen=True)
class SlogDet:
    r"""The exact log-determinant :math:`\log|\det(I + h \nabla^2 u)|`, by LU factorization.

    A Cholesky factorization finds folds, without a gradient. For a network with a first layer narrower than ``dim``,
    the Hessian is :math:`F^\top C F`, and the determinant has the width of that layer:
    :math:`\det(I + h F^\top C F) = \det(I + h\,C F F^\top)` (Sylvester).

    Args:
        eigenvalues: Whether to compute the smallest eigenvalue as well, at a higher cost.

    Example:
        >>> from latentflow import PotentialFlow, QuadraticPotential
        >>> A = torch.tensor([[0.0, 0.5], [0.5, 0.0]])
        >>> trajectory = PotentialFlow(QuadraticPotential(2, A)).rollout(torch.randn(3, 2), steps=1)
        >>> torch.testing.assert_close(trajectory.log_det[-1], torch.full((3,), 0.75).log())
    """

    eigenvalues: bool = False

    def __post_init__(self) -> None:
        check_flag("eigenvalues", self.eigenvalues)

    @property
    def stochastic(self) -> bool:
        """False."""
        return False

    def request(self, u: Field, z: Tensor, t: Time) -> JetRequest:  # noqa: ARG002 - the protocol's signature
        """Request the Hessian, in factors where they are narrower."""
        width = None if self.eigenvalues else getattr(u, "inner_width", None)
        narrow = width is not None and width < z.shape[-1]
        return JetRequest(Derivative.INNER_HESSIAN if narrow else Derivative.HESSIAN)

    def determinant(self, jet: Jet, dt: float) -> StepDeterminant:
        """Compute the determinant of a step of length ``dt``."""
        if jet.factors is not None and not self.eigenvalues:
            return _determinant_at_width(jet.factors, dt)
        jacobian = _identity_plus(dt * jet.hessian)
        sign, log_det = _slogdet(jacobian)
        if self.eigenvalues:  # not for the log-determinant: second derivatives of close eigenvalues are not finite
            smallest = torch.linalg.eigvalsh(jacobian)[..., 0]
            return StepDeterminant(log_det, sign, smallest <= 0, smallest)
        return StepDeterminant(log_det, sign, _not_positive(jacobian.detach()))


def _determinant_at_width(hessian: InnerHessian, dt: float) -> StepDeterminant:
    gram = hessian.factor @ hessian.factor.mT
    sign, log_det = _slogdet(_identity_plus(dt * (hessian.core @ gram)))
    # C F F' is not symmetric. With F F' = R R', I + h R' C R has the eigenvalues of I + h H that differ from one.
    values, vectors = torch.linalg.eigh(gram.detach())
    root = vectors * values.clamp(min=0).sqrt()
    return StepDeterminant(log_det, sign, _not_positive(_identity_plus(dt * (root.mT @ hessian.core.detach() @ root))))


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
    r"""The first-order surrogate :math:`\log|1 + h \Delta u|` of the log-determinant (equation 10 of the paper).

    It is off by :math:`-h^2 e_2 + O(h^3)`, with :math:`e_2 = ((\operatorname{tr} H)^2 - \operatorname{tr} H^2)/2`,
    needs :math:`d\,h|H| \ll 1`, and is not a density: a parity option. It is neither clamped nor floored.

    Args:
        laplacian: The estimator of the Laplacian.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), equation 10
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> from latentflow import PotentialFlow, QuadraticPotential
        >>> A = torch.tensor([[0.0, 0.5], [0.5, 0.0]])
        >>> flow = PotentialFlow(QuadraticPotential(2, A))
        >>> trajectory = flow.rollout(torch.randn(3, 2), steps=1, log_det=FirstOrder())
        >>> torch.testing.assert_close(trajectory.log_det[-1], torch.zeros(3))  # exact: log(1 - 1/4)
    """

    laplacian: Estimator = field(default_factory=lambda: Exact())  # noqa: PLW0108 - torch.compile traces functions

    def __post_init__(self) -> None:
        check_estimator("laplacian", self.laplacian)

    @property
    def stochastic(self) -> bool:
        """Whether the Laplacian is estimated by random probes."""
        return self.laplacian.stochastic

    def request(self, u: Field, z: Tensor, t: Time) -> JetRequest:
        """Return the request of the Laplacian."""
        return self.laplacian.request(u, z, t)

    def determinant(self, jet: Jet, dt: float) -> StepDeterminant:
        """Compute the surrogate for a step of length ``dt``."""
        growth = dt * self.laplacian.laplacian(jet)
        near = growth > -0.5
        log_det = torch.where(near, torch.where(near, growth, 0).log1p(), torch.where(near, 1, 1 + growth).abs().log())
        return StepDeterminant(log_det, (1 + growth).sign(), growth <= -1)


class SeriesWarning(RuntimeWarning):
    """A warning that the power series of a log-determinant does not converge at some points."""


@dataclass(frozen=True)
class LogDetSeries:
    r"""An estimate of :math:`\log|\det(I + hH)|` from products with the Hessian, for training in many dimensions.

    .. math::
        \log\det(I + hH) = \sum_{k \ge 1} \frac{(-1)^{k+1} h^k}{k} \operatorname{tr} H^k
        \approx \frac1m \sum_{i=1}^m \sum_{k=1}^{N} \frac{(-1)^{k+1} h^k}{k}\, v_i^\top H^k v_i,
        \qquad E\,vv^\top = I

    The series converges where :math:`\rho = |hH|_2 < 1`; there the step does not fold. This is assumed, so ``folded``
    is None, and a warning is given where a product contradicts it. The error of ``N`` terms is at most
    :math:`d\,\rho^{N+1} / ((N+1)(1-\rho))`, and they cost ``N/2`` products in a row.

    With ``roulette`` each further pair of terms is added with that probability, and weighted by the inverse of its
    chance: unbiased, and of finite variance where :math:`\rho^4` is below the probability. An unbiased log-determinant
    still biases a likelihood: use it to train only.

    Args:
        terms: The number ``N`` of terms.
        probes: The number ``m`` of probes for each point.
        noise: The distribution of the entries of a probe.
        roulette: The probability of a further pair of terms, between 0 and 1, or None for none.
        generator: The source of randomness.

    Raises:
        ValueError: If a number is out of its range, or ``noise`` is unknown.

    References:
        | Residual Flows for Invertible Generative Modeling (Chen et al., 2019)
        | https://arxiv.org/abs/1906.02735

    Example:
        >>> from latentflow import PotentialFlow, QuadraticPotential
        >>> flow = PotentialFlow(QuadraticPotential(2, torch.diag(torch.tensor([0.5, -0.25]))))
        >>> trajectory = flow.rollout(torch.randn(3, 2), steps=1, log_det=LogDetSeries(terms=20))
        >>> torch.testing.assert_close(trajectory.log_det[-1], torch.full((3,), math.log(1.5 * 0.75)))
    """

    terms: int = 6
    probes: int = 1
    noise: Noise = "rademacher"
    roulette: float | None = None
    generator: torch.Generator | None = None

    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in (("terms", self.terms), ("probes", self.probes)):
            check_count(name, value)
        check_noise(self.noise, self.generator)
        if self.roulette is not None and not check_positive("roulette", self.roulette) < 1:
            raise ValueError(f"roulette: expected a probability between 0 and 1, or None, got {self.roulette!r}")

    def request(self, u: Field, z: Tensor, t: Time) -> JetRequest:
        r"""Request the products of :math:`v, Hv, \dots, H^{j} v` with the Hessian, where ``j`` is ``ceil(N/2) - 1``."""
        check_points(z)
        powers = [draw_probes(z, self.probes, self.noise, self.generator)]
        for _ in range(math.ceil(self._draw_terms(z) / 2) - 1):
            powers.append(hessian_vector_product(u, z, t, powers[-1]))
        return JetRequest(Derivative.QUADRATIC | Derivative.PRODUCTS, torch.cat(powers, dim=-2))

    def determinant(self, jet: Jet, dt: float) -> StepDeterminant:
        """Add up the series for a step of length ``dt``."""
        *batch, together = jet.quadratic.shape
        groups = together // self.probes
        odd = jet.quadratic.reshape(*batch, groups, self.probes)  # v' H^(2j+1) v
        even = jet.products.square().sum(-1).reshape(*batch, groups, self.probes)  # v' H^(2j+2) v
        moments = torch.stack([odd, even], dim=-2).flatten(-3, -2).mean(-1)
        self._warn_of_divergence(even, dt)
        log_det = moments.new_zeros(moments.shape[:-1])
        for k, moment in enumerate(moments[..., : self._count(groups)].unbind(-1), start=1):
            log_det = log_det - (-dt) ** k / k * self._weight(k) * moment
        return StepDeterminant(log_det, sign=torch.ones_like(log_det))

    def _draw_terms(self, z: Tensor) -> int:
        if self.roulette is None:
            return self.terms
        device = z.device if self.generator is None else self.generator.device
        uniform = float(torch.rand((), generator=self.generator, dtype=torch.float64, device=device))
        return self.terms + 2 * math.floor(math.log1p(-uniform) / math.log(self.roulette))

    def _count(self, groups: int) -> int:
        """Return the number of terms of the request, of the parity of ``terms``."""
        return 2 * groups - self.terms % 2

    def _weight(self, k: int) -> float:
        extra = max(0, math.ceil((k - self.terms) / 2))
        return 1.0 if self.roulette is None else self.roulette**-extra

    def _warn_of_divergence(self, even: Tensor, dt: float) -> None:
        squares = even.detach()
        if squares.shape[-2] < 2:
            return
        # |H w| / |w| for the w = H^j v at hand never exceeds the norm of H
        growth = dt**2 * squares[..., 1:, :] - squares[..., :-1, :]
        bad = (growth > 0).flatten(-2).any(-1)
        if bad.any():
            warnings.warn(
                f"the series for log|det(I + dt * Hessian)| does not converge for {int(bad.sum())} of {bad.numel()} "
                "points: |dt * Hessian| is above 1 there. Use smaller steps or a smoother potential, or SlogDet()",
                SeriesWarning,
                stacklevel=2,
            )
