"""Clouds of weighted points, and Sinkhorn's iterations between them until they have converged."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from latentflow.calculus.checks import check_like, check_positive, check_tensor

MISPLACED = 1e-3
"""The share of the mass that may be missing where it should arrive when the iterations stop."""

MAX_ITERATIONS = 2000
"""The largest number of iterations at the final blur."""

CHECK = 10
"""How many of these iterations are made between two looks at the convergence."""

RELAXATION = 1.8
"""By how much an iteration at the final blur goes beyond its own result, which takes about half the iterations."""


FAR = 1e9
"""The largest coordinate of a point without weight, in units of the size of the clouds, so that sums stay finite."""


class ConvergenceWarning(RuntimeWarning):
    """A warning that Sinkhorn's iterations have stopped before they converged."""


def check_clouds(x: Tensor, y: Tensor) -> None:
    """Check clouds ``(*batch, n, dim)`` and ``(*batch, m, dim)``; raise a TypeError or ValueError if one is wrong."""
    for name, cloud in (("x", x), ("y", y)):
        check_tensor(name, cloud)
        if cloud.ndim < 2 or cloud.shape[-2] == 0 or cloud.shape[-1] == 0:
            raise ValueError(f"{name}: expected shape (*batch, points, dim) with points, got {tuple(cloud.shape)}")
        if not torch.isfinite(cloud).all():
            raise ValueError(f"{name}: expected finite points, got others")
    check_like("y", y, x)
    if x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        raise ValueError(f"y: expected the batch shape and dim of x, {tuple(x.shape)}, got {tuple(y.shape)}")


def check_blur(blur: float, scaling: float) -> None:
    """Check the numbers of Sinkhorn's iterations; raise a ValueError if one is out of range."""
    if not check_positive("blur", blur) < 1:
        raise ValueError(f"blur: expected a number between 0 and 1, in units of the size of the clouds, got {blur!r}")
    if not check_positive("scaling", scaling) < 1:
        raise ValueError(f"scaling: expected a number between 0 and 1, got {scaling!r}")


def expand_weights(name: str, weights: Tensor | None, shape: torch.Size, like: Tensor) -> Tensor:
    """Expand weights, equal ones if None, to ``(*batch, n)``; raise a ValueError unless they are a distribution."""
    if weights is None:
        return like.new_full(shape, 1 / shape[-1])
    check_tensor(name, weights)
    if weights.ndim == 0 or weights.shape[-1] != shape[-1] or weights.ndim > len(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)} or {tuple(shape[-1:])}, got {tuple(weights.shape)}")
    try:
        weights = weights.to(like).expand(shape)
    except RuntimeError:
        message = f"{name}: expected shape {tuple(shape)} or {tuple(shape[-1:])}, got {tuple(weights.shape)}"
        raise ValueError(message) from None
    total = weights.detach().sum(-1)
    if not (weights >= 0).all() or not ((total - 1).abs() <= torch.finfo(total.dtype).eps ** 0.5).all():
        raise ValueError(f"{name}: expected weights of at least 0 that sum to 1, got sums {total.flatten().tolist()}")
    return weights


def without_weightless(points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Leave points of weight zero out of ``points`` ``(*batch, n, dim)`` with weights ``(*batch, n)``.

    They are moved onto the heaviest point, where they have no part in any sum, and get no gradient.
    """
    kept = weights > 0
    heaviest = weights.detach().argmax(-1, keepdim=True).unsqueeze(-1)
    stand_in = points.detach().gather(-2, heaviest.expand(*heaviest.shape[:-1], points.shape[-1]))
    return torch.where(kept.unsqueeze(-1), points, stand_in), torch.where(kept, weights, 0.0)


@dataclass(frozen=True)
class Clouds:
    r"""Two clouds, each about its own mean, divided by ``size``, the sum of the largest distances from the means.

    The split :math:`W_2^2 = |m_y - m_x|^2 + W_2^2(\text{centered})` is exact, also for the debiased divergence. The
    numbers are in float64 where the device has it: a small blur needs it.
    """

    x: Tensor
    y: Tensor
    x_weights: Tensor
    y_weights: Tensor
    x_mean: Tensor
    y_mean: Tensor
    size: Tensor

    @staticmethod
    def build(x: Tensor, y: Tensor, x_weights: Tensor | None, y_weights: Tensor | None) -> Clouds:
        """Check, center and scale clouds of shapes ``(*batch, n, dim)`` and ``(*batch, m, dim)``."""
        check_clouds(x, y)
        a = expand_weights("x_weights", x_weights, x.shape[:-1], x).reshape(-1, x.shape[-2])
        b = expand_weights("y_weights", y_weights, y.shape[:-1], y).reshape(-1, y.shape[-2])
        best = torch.float32 if x.device.type == "mps" else torch.float64
        x, a = without_weightless(x.reshape(len(a), *x.shape[-2:]).to(best), a.to(best))
        y, b = without_weightless(y.reshape(len(b), *y.shape[-2:]).to(best), b.to(best))
        x_mean, y_mean = (a.unsqueeze(-1) * x).sum(-2), (b.unsqueeze(-1) * y).sum(-2)
        x, y = x - x_mean.unsqueeze(-2), y - y_mean.unsqueeze(-2)
        size = x.detach().norm(dim=-1).amax(-1) + y.detach().norm(dim=-1).amax(-1)
        unit = torch.where(size > 0, size, 1.0)[:, None, None]
        return Clouds(x / unit, y / unit, a, b, x_mean, y_mean, size)

    def scaled(self, x: Tensor) -> Tensor:
        """Return points of the first cloud ``(*batch, n, dim)``, also those of weight zero, as ``x`` has them."""
        unit = torch.where(self.size > 0, self.size, 1.0)[:, None, None]
        own = (x.reshape(self.x.shape).to(self.x) - self.x_mean.unsqueeze(-2)) / unit
        return own.clamp(-FAR, FAR)

    def potentials(self, blur: float, scaling: float, *, debias: bool, stacklevel: int = 3) -> tuple[Tensor, Tensor]:
        r"""Compute Sinkhorn's potentials ``(batch, n)`` and ``(batch, m)`` for the cost :math:`\tfrac12 |x - y|^2`.

        Their gradients are those of converged iterations. A ConvergenceWarning says that some are not.
        """
        check_blur(blur, scaling)
        if len(self.x) == 0:
            return self.x_weights, self.y_weights
        a, b, epsilon = self.x_weights.detach().log(), self.y_weights.detach().log(), blur**2
        f, g, misplaced = _iterate(_cost(self.x, self.y).detach(), a, b, blur, scaling)
        bad = ~(misplaced <= MISPLACED)
        if bad.any():
            warnings.warn(
                f"Sinkhorn's iterations have not converged in {int(bad.sum())} of {len(bad)} cases: up to "
                f"{float(misplaced.max()):.2g} of the mass is out of place; use a larger blur (now {blur:g}) or a "
                f"scaling closer to 1 (now {scaling:g})",
                ConvergenceWarning,
                stacklevel=stacklevel,
            )
        over_x = _softmin(_cost(self.x, self.y.detach()), b, g, epsilon)
        over_y = _softmin(_cost(self.y, self.x.detach()), a, f, epsilon)
        if not debias:
            return over_x, over_y
        return (
            over_x - _own_potential(self.x, a, blur, scaling),
            over_y - _own_potential(self.y, b, blur, scaling),
        )


def _own_potential(x: Tensor, weights: Tensor, blur: float, scaling: float) -> Tensor:
    """Compute the potential of a cloud to itself, by the iterations between two clouds, so that equal clouds cancel."""
    f, g, _ = _iterate(_cost(x, x).detach(), weights, weights, blur, scaling)
    cost = _cost(x, x.detach())
    return (_softmin(cost, weights, g, blur**2) + _softmin(cost, weights, f, blur**2)) / 2


def _cost(x: Tensor, y: Tensor) -> Tensor:
    squares = x.square().sum(-1).unsqueeze(-1) + y.square().sum(-1).unsqueeze(-2)
    return squares / 2 - x @ y.mT


def _softmin(cost: Tensor, log_weights: Tensor, potential: Tensor, epsilon: float) -> Tensor:
    """Average ``cost - potential`` softly over the last dimension; the result has one dimension less."""
    return -epsilon * (log_weights.unsqueeze(-2) + (potential.unsqueeze(-2) - cost) / epsilon).logsumexp(-1)


@torch.no_grad()
def _iterate(cost: Tensor, a: Tensor, b: Tensor, blur: float, scaling: float) -> tuple[Tensor, Tensor, Tensor]:
    """Iterate from a blur of the size of the clouds down to the final one, and there until convergence.

    Every case stops by itself. The results are the potentials, and the share of the mass that is out of place.
    """
    count = max(0, math.ceil(math.log(blur) / math.log(scaling)))
    f, g = a.new_zeros(cost.shape[:-1]), b.new_zeros(cost.shape[:-2] + cost.shape[-1:])
    back = cost.mT.contiguous()
    for length in [*(scaling**n for n in range(count)), blur]:
        over_x, over_y = _softmin(cost, b, g, length**2), _softmin(back, a, f, length**2)
        f, g = (over_x, over_y) if length == 1.0 else ((f + over_x) / 2, (g + over_y) / 2)
    epsilon, mass = blur**2, b.exp()

    def improve(f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        f = f + RELAXATION * (_softmin(cost, b, g, epsilon) - f)
        return f, g + RELAXATION * (_softmin(back, a, f, epsilon) - g)

    def complete(g: Tensor) -> tuple[Tensor, Tensor]:
        """Return the potential ``f`` of ``g``, with which all mass leaves, and the share that does not arrive."""
        f = _softmin(cost, b, g, epsilon)
        arrived = ((g - _softmin(back, a, f, epsilon)) / epsilon).exp()
        return f, (mass * (arrived - 1).abs()).sum(-1) / 2

    start, misplaced = complete(g)
    for _ in range(MAX_ITERATIONS // CHECK):
        going = (misplaced > MISPLACED).unsqueeze(-1)
        if not going.any():
            break
        further, other = f, g
        for _ in range(CHECK):
            further, other = improve(further, other)
        f, g = torch.where(going, further, f), torch.where(going, other, g)
        start, misplaced = complete(g)
    return start, g, misplaced
