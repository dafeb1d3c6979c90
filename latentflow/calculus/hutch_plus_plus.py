r"""Hutch++: the part of the trace in a small subspace exactly, the rest by probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from latentflow.calculus.arguments import Field, Time
from latentflow.calculus.estimators import Noise, check_noise, draw_probes, mean_error
from latentflow.calculus.jets import Jet, JetRequest
from latentflow.calculus.operators import hessian_vector_product


@dataclass(frozen=True)
class HutchPlusPlus:
    r"""The Hutch++ estimate of the Laplacian.

    With ``k = probes / 3``, a Gaussian ``S`` and a random ``G`` of ``k`` columns each, and
    :math:`Q = \operatorname{orth}(HS)`,

    .. math::
        \Delta u \approx \operatorname{tr}(Q^\top H Q)
        + \frac1k \sum_{i=1}^k g_i^\top (I - QQ^\top) H (I - QQ^\top) g_i .

    It is unbiased for any ``Q`` that does not depend on ``G``; so no gradient flows through ``Q``, and the gradient is
    unbiased too. It is exact where the rank of ``H`` is at most ``k``. For positive semidefinite ``H`` its error falls
    as :math:`1/m` in the number ``m`` of products, Hutchinson's as :math:`1/\sqrt m`; the Hessian of a network is
    indefinite, where nothing is promised. Like every stochastic Laplacian it is for training only.

    Args:
        probes: The number of products with the Hessian, a multiple of 3.
        noise: The distribution of the entries of ``G``.
        generator: The source of randomness, or None for torch's global one.

    Raises:
        ValueError: If ``probes`` is not a positive multiple of 3, or ``noise`` is unknown.

    References:
        | Hutch++: Optimal Stochastic Trace Estimation (Meyer et al., 2021)
        | https://arxiv.org/abs/2010.09649

    Example:
        >>> from latentflow import laplacian
        >>> z = torch.randn(4, 9, dtype=torch.float64)
        >>> rank_two = lambda z, t: z[..., 0] * z[..., 1] + z[..., 0] ** 2
        >>> value = laplacian(rank_two, z, 0.0, HutchPlusPlus(probes=6))
        >>> torch.testing.assert_close(value, torch.full((4,), 2.0, dtype=torch.float64))
    """

    probes: int = 3
    noise: Noise = "rademacher"
    generator: torch.Generator | None = None

    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.probes, int) or self.probes < 3 or self.probes % 3:
            raise ValueError(f"probes: expected a positive multiple of 3, got {self.probes!r}")
        check_noise(self.noise)

    def request(self, u: Field, z: Tensor, t: Time) -> JetRequest:
        """Multiply the Hessian by ``S`` once, and ask for the forms of ``Q`` and of the rest of ``G``."""
        return self.fixed(z).request(u, z, t)

    def laplacian(self, jet: Jet) -> Tensor:
        """Add the trace in the subspace and the average over the rest."""
        return _laplacian(jet, self.probes // 3)

    def standard_error(self, jet: Jet) -> Tensor:
        """Estimate the standard deviation given ``Q``: that of the average over the rest, of shape ``(*batch,)``."""
        return mean_error(_split(jet, self.probes // 3)[1])

    def fixed(self, z: Tensor) -> FixedHutchPlusPlus:
        """Draw ``S`` and ``G`` for points of the shape ``(*batch, dim)`` of ``z`` now; ``Q`` follows the point."""
        sketch = draw_probes(z, self.probes // 3, "gaussian", self.generator)  # signs alone are often parallel
        return FixedHutchPlusPlus(sketch, draw_probes(z, self.probes // 3, self.noise, self.generator))


@dataclass(frozen=True)
class FixedHutchPlusPlus:
    """Hutch++ with given noise.

    Args:
        sketch: The columns of ``S``, of shape ``(*batch, k, dim)``.
        rest: The columns of ``G``, of shape ``(*batch, k, dim)``.
    """

    sketch: Tensor
    rest: Tensor

    stochastic: ClassVar[bool] = True

    def request(self, u: Field, z: Tensor, t: Time) -> JetRequest:
        """Multiply the Hessian by ``S`` once, and ask for the forms of ``Q`` and of the rest of ``G``."""
        with torch.no_grad():
            products = hessian_vector_product(u, z, t, self.sketch)
            precise = torch.promote_types(products.dtype, torch.float32)
            basis = torch.linalg.qr(products.mT.to(precise)).Q.mT.to(products)
            outside = self.rest - (self.rest @ basis.mT) @ basis
        return JetRequest(probes=torch.cat([basis, outside], dim=-2).detach())

    def laplacian(self, jet: Jet) -> Tensor:
        """Add the trace in the subspace and the average over the rest."""
        return _laplacian(jet, self.rest.shape[-2])

    def standard_error(self, jet: Jet) -> Tensor:
        """Estimate the standard deviation given ``Q``, see :meth:`HutchPlusPlus.standard_error`."""
        return mean_error(_split(jet, self.rest.shape[-2])[1])

    def fixed(self, z: Tensor) -> FixedHutchPlusPlus:  # noqa: ARG002 - the protocol's signature
        """Return the estimator itself."""
        return self


def _split(jet: Jet, rest: int) -> tuple[Tensor, Tensor]:
    if jet.quadratic is None:
        raise ValueError("jet: expected a jet with quadratic forms of probes, got one without")
    inside, outside = torch.split(jet.quadratic, [jet.quadratic.shape[-1] - rest, rest], dim=-1)
    return inside, outside


def _laplacian(jet: Jet, rest: int) -> Tensor:
    inside, outside = _split(jet, rest)
    return inside.sum(-1) + outside.mean(-1)
