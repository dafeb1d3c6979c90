"""Estimators of the Laplacian: exact, Hutchinson and Hutch++."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from latentflow.calculus.checks import check_choice, check_count, check_generator, check_tensor
from latentflow.calculus.jets import Derivative, Field, Jet, JetRequest, Time, evaluate_jet, transformed

Noise: TypeAlias = Literal["rademacher", "gaussian"]
"""The distribution of the entries of a probe."""


class Estimator(Protocol):
    """An estimator of the Laplacian: a request to the derivative pass, and a rule for the jet that answers it."""

    @property
    def stochastic(self) -> bool:
        """Whether the result is random; a reported likelihood bound refuses such an estimate."""

    def request(self, u: Field, z: Tensor, t: Time) -> JetRequest:
        """Return the request for ``u`` at ``z`` of shape ``(*batch, dim)`` and ``t``."""

    def laplacian(self, jet: Jet) -> Tensor:
        """Compute the Laplacian ``(*batch,)`` from the jet that answers the request."""

    def fixed(self, z: Tensor) -> Estimator:
        """Return the estimator with fixed noise for points like ``z``: a smooth function of the point."""


@dataclass(frozen=True)
class Exact:
    r"""The exact Laplacian :math:`\Delta u = \operatorname{tr} \nabla^2 u`.

    Networks, quadratics, their sums and banks have rules of their own. The operations of any other callable carry its
    Laplacian forward, see :func:`latentflow.calculus.forward_jet`, at the cost of about ``dim + 2`` evaluations; where
    one of them cannot, it takes ``dim`` derivatives in forward over reverse mode, which is slower by a multiple.

    With ``gradient="one probe"`` the value is exact, and its gradient is that of :math:`v^\top H v` for one random
    ``v`` with :math:`E\,vv^\top = I` in each point: unbiased, noisy, and cheaper: a training step takes 0.3 to 0.8 of
    the time, less for larger problems. A loss whose gradient is differentiated again would be biased, and is refused.

    Args:
        gradient: ``"exact"``, or ``"one probe"`` for a random estimate of the gradient.
        noise: The distribution of the entries of the probe.
        generator: The source of randomness of the probe.

    Raises:
        ValueError: If ``gradient`` or ``noise`` is unknown; where it is differentiated inside of a ``torch.func``
            transform with ``gradient="one probe"``.
        RuntimeError: If a gradient of one probe is differentiated again.

    Example:
        >>> from latentflow import laplacian
        >>> z = torch.randn(4, 3, dtype=torch.float64)
        >>> value = laplacian(lambda z, t: z.pow(2).sum(-1), z, 0.0, Exact())
        >>> torch.testing.assert_close(value, torch.full((4,), 6.0, dtype=torch.float64))
    """

    gradient: Literal["exact", "one probe"] = "exact"
    noise: Noise = "rademacher"
    generator: torch.Generator | None = None

    stochastic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("gradient", self.gradient, ("exact", "one probe"))
        check_noise(self.noise, self.generator)

    def request(self, u: Field, z: Tensor, t: Time) -> JetRequest:
        """Request the exact trace, and the quadratic form of the probe if there is one."""
        return JetRequest(Derivative.LAPLACIAN) if self.gradient == "exact" else self.fixed(z).request(u, z, t)

    def laplacian(self, jet: Jet) -> Tensor:
        """Return the trace."""
        return jet.laplacian if self.gradient == "exact" else _exact_with_gradient(jet)

    def fixed(self, z: Tensor) -> Exact | ExactWithProbe:
        """Return the estimator itself, or the one with a probe drawn for points like ``z``."""
        return self if self.gradient == "exact" else ExactWithProbe(draw_probes(z, 1, self.noise, self.generator))


@dataclass(frozen=True)
class ExactWithProbe:
    """The exact Laplacian with the gradient of a given probe, see :class:`Exact`.

    Args:
        probe: The probe, of shape ``(*batch, 1, dim)``.
    """

    probe: Tensor

    stochastic: ClassVar[bool] = False

    def request(self, u: Field, z: Tensor, t: Time) -> JetRequest:  # noqa: ARG002 - the protocol's signature
        """Request the trace without a gradient, and the quadratic form of the probe."""
        return JetRequest(Derivative.LAPLACIAN | Derivative.QUADRATIC, self.probe, detached=Derivative.LAPLACIAN)

    def laplacian(self, jet: Jet) -> Tensor:
        """Return the trace, with the gradient of the quadratic form."""
        return _exact_with_gradient(jet)

    def fixed(self, z: Tensor) -> ExactWithProbe:  # noqa: ARG002 - the protocol's signature
        """Return the estimator itself."""
        return self


def _exact_with_gradient(jet: Jet) -> Tensor:
    if transformed():
        raise ValueError("gradient: expected 'exact' inside of torch.func transforms, got 'one probe'")
    value: Tensor = _WithGradientOf.apply(jet.laplacian, jet.quadratic[..., 0])  # type: ignore[no-untyped-call]  # torch has no types for it
    return value


class _WithGradientOf(torch.autograd.Function):
    """Returns a value whose gradient is that of an estimate of it, once."""

    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor, estimate: Tensor) -> Tensor:  # noqa: ARG004 - as torch has it
        return value.clone()

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[None, Tensor]:  # noqa: ARG004 - as torch has it
        if torch.is_grad_enabled():
            raise RuntimeError("Exact: expected gradient='exact' to differentiate a gradient again, got 'one probe'")
        return None, grad


def draw_probes(z: Tensor, count: int, noise: Noise, generator: torch.Generator | None) -> Tensor:
    r"""Draw probes with :math:`E\,vv^\top = I`, of shape ``(*batch, count, dim)``, for ``z`` of ``(*batch, dim)``."""
    check_tensor("z", z, ("*batch", "dim"))
    shape = (*z.shape[:-1], count, z.shape[-1])
    if noise == "gaussian":
        return torch.randn(shape, generator=generator, dtype=z.dtype, device=z.device)
    bits = torch.randint(0, 2, shape, generator=generator, dtype=z.dtype, device=z.device)
    return 2 * bits - 1


def check_noise(noise: Noise, generator: torch.Generator | None = None) -> None:
    """Check the name of a distribution of probes and its source; raise a TypeError or ValueError otherwise."""
    check_choice("noise", noise, ("rademacher", "gaussian"))
    check_generator(generator)


@dataclass(frozen=True)
class FixedProbes:
    r"""Hutchinson's estimate :math:`\frac1m \sum_i v_i^\top H v_i` with given probes.

    With the same probes along a trajectory the right-hand side of an ODE stays smooth.

    Args:
        probes: The probes :math:`v_i`, of shape ``(*batch, m, dim)``.

    Example:
        >>> from latentflow import laplacian
        >>> z = torch.randn(4, 2, dtype=torch.float64)
        >>> probes = 2**0.5 * torch.eye(2, dtype=torch.float64).expand(4, 2, 2)  # orthogonal: exact
        >>> value = laplacian(lambda z, t: z.pow(2).sum(-1), z, 0.0, FixedProbes(probes))
        >>> torch.testing.assert_close(value, torch.full((4,), 4.0, dtype=torch.float64))
    """

    probes: Tensor

    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_tensor("probes", self.probes, ("*batch", "m", "dim"))

    def request(self, u: Field, z: Tensor, t: Time) -> JetRequest:  # noqa: ARG002 - the protocol's signature
        """Request the quadratic forms of the probes."""
        return JetRequest(Derivative.QUADRATIC, self.probes)

    def laplacian(self, jet: Jet) -> Tensor:
        """Average the quadratic forms over the probes."""
        return jet.quadratic.mean(-1)

    def standard_error(self, jet: Jet) -> Tensor:
        r"""Estimate the standard error :math:`s/\sqrt m` ``(*batch,)``; raise a ValueError for a single probe."""
        return mean_error(jet.quadratic)

    def fixed(self, z: Tensor) -> FixedProbes:  # noqa: ARG002 - the protocol's signature
        """Return the estimator itself."""
        return self


@dataclass(frozen=True)
class Hutchinson:
    r"""Hutchinson's estimate of the Laplacian, :math:`\frac1m \sum_i v_i^\top H v_i` with :math:`E\,vv^\top = I`.

    It is unbiased, with the variance :math:`\frac2m (\|H\|_F^2 - \sum_i H_{ii}^2)` for Rademacher noise and
    :math:`\frac2m \|H\|_F^2` for Gaussian noise. It biases :math:`\log|1 + \Delta u|` and importance weights: use it
    to train only.

    Args:
        probes: The number ``m`` of probes for each point.
        noise: The distribution of the entries of a probe.
        generator: The source of randomness.

    Raises:
        ValueError: If ``probes`` is not a positive integer, or ``noise`` is unknown.

    References:
        | A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines
          (Hutchinson, 1989)

    Example:
        >>> from latentflow import laplacian
        >>> z = torch.randn(4, 3, dtype=torch.float64)
        >>> value = laplacian(lambda z, t: z.pow(2).sum(-1), z, 0.0, Hutchinson(probes=2))
        >>> torch.testing.assert_close(value, torch.full((4,), 6.0, dtype=torch.float64))  # exact: H is diagonal
    """

    probes: int = 1
    noise: Noise = "rademacher"
    generator: torch.Generator | None = None

    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("probes", self.probes)
        check_noise(self.noise, self.generator)

    def draw(self, z: Tensor) -> Tensor:
        """Draw probes ``(*batch, probes, dim)`` for points ``z`` of shape ``(*batch, dim)``."""
        return draw_probes(z, self.probes, self.noise, self.generator)

    def request(self, u: Field, z: Tensor, t: Time) -> JetRequest:  # noqa: ARG002 - the protocol's signature
        """Request the quadratic forms of new probes."""
        return JetRequest(Derivative.QUADRATIC, self.draw(z))

    def laplacian(self, jet: Jet) -> Tensor:
        """Average the quadratic forms over the probes."""
        return jet.quadratic.mean(-1)

    def standard_error(self, jet: Jet) -> Tensor:
        """Estimate the standard error; see :meth:`FixedProbes.standard_error`."""
        return mean_error(jet.quadratic)

    def fixed(self, z: Tensor) -> FixedProbes:
        """Return the estimator with probes drawn for points like ``z``."""
        return FixedProbes(self.draw(z))


def mean_error(samples: Tensor) -> Tensor:
    r"""Estimate the standard error :math:`s/\sqrt m` of the mean of samples ``(*batch, m)``, of shape ``(*batch,)``."""
    count: int = samples.shape[-1]
    if count < 2:
        raise ValueError(f"probes: expected at least 2 for a standard error, got {count}")
    deviations = samples - samples.mean(-1, keepdim=True)
    return (deviations.square().sum(-1) / (count - 1)).sqrt() / math.sqrt(count)


@dataclass(frozen=True)
class HutchPlusPlus:
    r"""The Hutch++ estimate of the Laplacian.

    With ``k = probes / 3``, a Gaussian ``S`` and a random ``G`` of ``k`` columns each, and
    :math:`Q = \operatorname{orth}(HS)`,

    .. math::
        \Delta u \approx \operatorname{tr}(Q^\top H Q)
        + \frac1k \sum_{i=1}^k g_i^\top (I - QQ^\top) H (I - QQ^\top) g_i .

    It is unbiased, as is its gradient, which does not flow through ``Q``, and exact where the rank of ``H`` is at most
    ``k``. For positive semidefinite ``H`` the error falls as :math:`1/m` in the number ``m`` of products, against
    :math:`1/\sqrt m` for Hutchinson's estimate. Use it to train only.

    Args:
        probes: The number of products with the Hessian, a multiple of 3.
        noise: The distribution of the entries of ``G``.
        generator: The source of randomness.

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
        check_noise(self.noise, self.generator)

    def request(self, u: Field, z: Tensor, t: Time) -> JetRequest:
        """Compute ``Q`` by one pass, and request the forms of ``Q`` and of the rest of ``G``."""
        return self.fixed(z).request(u, z, t)

    def laplacian(self, jet: Jet) -> Tensor:
        """Add the trace in the subspace and the average over the rest."""
        return _laplacian(jet, self.probes // 3)

    def standard_error(self, jet: Jet) -> Tensor:
        """Estimate the standard error given ``Q``, of shape ``(*batch,)``."""
        return mean_error(_split(jet, self.probes // 3)[1])

    def fixed(self, z: Tensor) -> FixedHutchPlusPlus:
        """Return the estimator with ``S`` and ``G`` drawn for points like ``z``."""
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
        """Compute ``Q`` by one pass, and request the forms of ``Q`` and of the rest of ``G``."""
        with torch.no_grad():
            products = evaluate_jet(u, z, t, JetRequest(Derivative.PRODUCTS, self.sketch)).products
            precise = torch.promote_types(products.dtype, torch.float32)
            basis = torch.linalg.qr(products.mT.to(precise)).Q.mT.to(products)
            outside = self.rest - (self.rest @ basis.mT) @ basis
        return JetRequest(Derivative.QUADRATIC, torch.cat([basis, outside], dim=-2).detach())

    def laplacian(self, jet: Jet) -> Tensor:
        """Add the trace in the subspace and the average over the rest."""
        return _laplacian(jet, self.rest.shape[-2])

    def standard_error(self, jet: Jet) -> Tensor:
        """Estimate the standard error given ``Q``, of shape ``(*batch,)``."""
        return mean_error(_split(jet, self.rest.shape[-2])[1])

    def fixed(self, z: Tensor) -> FixedHutchPlusPlus:  # noqa: ARG002 - the protocol's signature
        """Return the estimator itself."""
        return self


def _split(jet: Jet, rest: int) -> tuple[Tensor, Tensor]:
    inside, outside = torch.split(jet.quadratic, [jet.quadratic.shape[-1] - rest, rest], dim=-1)
    return inside, outside


def _laplacian(jet: Jet, rest: int) -> Tensor:
    inside, outside = _split(jet, rest)
    return inside.sum(-1) + outside.mean(-1)
