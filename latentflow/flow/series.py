r"""The log-determinant of a step by a power series and random probes."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from latentflow.calculus import (
    Field,
    Jet,
    JetRequest,
    Noise,
    Time,
    check_count,
    check_noise,
    check_points,
    draw_probes,
    hessian_vector_product,
)
from latentflow.flow.volume import VolumeChange


class SeriesWarning(RuntimeWarning):
    """The power series of a log-determinant does not converge at some points."""


@dataclass(frozen=True)
class LogDetSeries:
    r"""An estimate of :math:`\log|\det(I + hH)|` from products with the Hessian, for training in many dimensions.

    .. math::
        \log\det(I + hH) = \sum_{k \ge 1} \frac{(-1)^{k+1} h^k}{k} \operatorname{tr} H^k
        \approx \frac1m \sum_{i=1}^m \sum_{k=1}^{N} \frac{(-1)^{k+1} h^k}{k}\, v_i^\top H^k v_i,
        \qquad E\,vv^\top = I

    The series converges where :math:`\rho = |hH|_2 < 1`, where also the step cannot fold and the determinant is
    positive. This is assumed, not known: ``folded`` is None. Where a product shows that it fails, a warning is given.
    Cutting the series after ``N`` terms costs at most :math:`d\,\rho^{N+1} / ((N+1)(1-\rho))`.

    As :math:`v^\top H^{2j} v = |H^j v|^2` and :math:`v^\top H^{2j+1} v = (H^j v)^\top H (H^j v)`, ``N`` terms take
    ``N/2`` products in a row, and no Hessian is formed.

    With ``roulette`` the sum goes on after ``N`` terms: each further pair of terms is added with that probability,
    given that the pair before was, and weighs the inverse of its chance. This is unbiased for the whole series, and of
    finite variance where :math:`\rho^4` is below the probability. The number of terms is drawn once for a batch.

    An unbiased log-determinant is not an unbiased likelihood: it trains, and is refused where one is reported.

    Args:
        terms: The number ``N`` of terms that are always taken.
        probes: The number ``m`` of probes for each point.
        noise: The distribution of the entries of a probe.
        roulette: The probability to go on after the last term, between 0 and 1, or None to stop there.
        generator: The source of randomness, or None for torch's global one.

    Raises:
        ValueError: If a number is out of its range, or ``noise`` is unknown.

    References:
        | Residual Flows for Invertible Generative Modeling (Chen et al., 2019)
        | https://arxiv.org/abs/1906.02735

    Example:
        >>> from latentflow import PotentialFlow, QuadraticPotential
        >>> flow = PotentialFlow(QuadraticPotential(2, torch.diag(torch.tensor([0.5, -0.25]))))
        >>> path = flow.rollout(torch.randn(3, 2), steps=1, volume=LogDetSeries(terms=20))
        >>> torch.testing.assert_close(path.log_det[-1], torch.full((3,), math.log(1.5 * 0.75)))  # H is diagonal: exact
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
        check_noise(self.noise)
        if self.roulette is not None and not 0 < self.roulette < 1:
            raise ValueError(f"roulette: expected a probability between 0 and 1, or None, got {self.roulette!r}")

    def request(self, u: Field, z: Tensor, t: Time) -> JetRequest:
        r"""Ask for the products of :math:`v, Hv, \dots, H^{j} v` with the Hessian, where ``j`` is ``ceil(N/2) - 1``."""
        check_points(z)
        powers = [draw_probes(z, self.probes, self.noise, self.generator)]
        for _ in range(math.ceil(self._draw_terms(z) / 2) - 1):
            powers.append(hessian_vector_product(u, z, t, powers[-1]))
        return JetRequest(probes=torch.cat(powers, dim=-2), products=True)

    def change(self, jet: Jet, dt: float) -> VolumeChange:
        """Add up the series for a step of length ``dt``."""
        if jet.quadratic is None or jet.products is None:
            raise ValueError("jet: expected a jet with quadratic forms and products of probes, got one without")
        *batch, together = jet.quadratic.shape
        groups = together // self.probes
        odd = jet.quadratic.reshape(*batch, groups, self.probes)  # v' H^(2j+1) v
        even = jet.products.square().sum(-1).reshape(*batch, groups, self.probes)  # v' H^(2j+2) v
        moments = torch.stack([odd, even], dim=-2).flatten(-3, -2).mean(-1)
        self._warn_of_divergence(even, dt)
        log_det = moments.new_zeros(moments.shape[:-1])
        for k, moment in enumerate(moments[..., : self._count(groups)].unbind(-1), start=1):
            log_det = log_det - (-dt) ** k / k * self._weight(k) * moment
        return VolumeChange(log_det, sign=torch.ones_like(log_det))

    def _draw_terms(self, z: Tensor) -> int:
        if self.roulette is None:
            return self.terms
        device = z.device if self.generator is None else self.generator.device
        uniform = float(torch.rand((), generator=self.generator, dtype=torch.float64, device=device))
        return self.terms + 2 * math.floor(math.log1p(-uniform) / math.log(self.roulette))

    def _count(self, groups: int) -> int:
        """The number of terms that the request asked for, of the parity of ``terms``."""
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
