"""Five distributions in the plane, each with its exact density, so that a learned one has something to be held against.

Every set lies in about [-4, 4] x [-4, 4], draws samples from a generator and knows its log-density in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class ToySet(Protocol):
    """A distribution in the plane."""

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw samples, of shape ``(count, 2)``, in float64."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute the log-density at ``z`` of shape ``(*batch, 2)``; the result is ``(*batch,)``."""


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _uniform(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def _rotate(z: Tensor, angle: Tensor) -> Tensor:
    x, y = z.unbind(-1)
    return torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], dim=-1)


def _gaussian(offset: Tensor, deviation: Tensor) -> Tensor:
    """Compute the log-density of independent coordinates of mean zero."""
    return -((offset / deviation).square() / 2 + deviation.log() + math.log(2 * math.pi) / 2).sum(-1)


class EightGaussians:
    """Eight round Gaussians of deviation 0.35 on a circle of radius 2.8."""

    radius, deviation = 2.8, 0.35

    def __init__(self) -> None:
        angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
        self.centres = self.radius * torch.stack([angles.cos(), angles.sin()], dim=-1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Pick a centre and add noise."""
        chosen = torch.randint(8, (count,), generator=generator)
        return self.centres[chosen] + self.deviation * _normal(generator, count, 2)

    def log_prob(self, z: Tensor) -> Tensor:
        """Sum over the centres."""
        deviation = torch.full((2,), self.deviation, dtype=z.dtype)
        parts = _gaussian(z.unsqueeze(-2) - self.centres.to(z), deviation)
        return parts.logsumexp(-1) - math.log(8)


class Checkerboard:
    """The uniform distribution on eight of the sixteen squares of side 2, with the entropy log 32."""

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Pick a column, one of its two squares, and a point there."""
        column = torch.randint(4, (count,), generator=generator)
        row = 2 * torch.randint(2, (count,), generator=generator) + column % 2
        return 2 * (torch.stack([column, row], dim=-1) + _uniform(generator, count, 2)) - 4

    def log_prob(self, z: Tensor) -> Tensor:
        """Return -log 32 on the squares of the samples and minus infinity off them."""
        cell = (z / 2).floor()
        inside = (z.abs() < 4).all(-1) & (cell.sum(-1) % 2 == 0)
        outside = torch.full_like(z[..., 0], -math.inf)
        return outside.masked_fill(inside, -math.log(32))


class Pinwheel:
    r"""Five Gaussian blades, twisted about the origin.

    A blade is N((2, 0), diag(0.6, 0.2)^2) turned by k 2 pi / 5. The twist turns a point at distance r by
    exp(r / 2) / 4 - 1 and so keeps areas: the density goes along unchanged.
    """

    blades = 5

    def __init__(self) -> None:
        self.mean = torch.tensor([2.0, 0.0], dtype=torch.float64)
        self.deviation = torch.tensor([0.6, 0.2], dtype=torch.float64)
        self.turns = torch.arange(self.blades, dtype=torch.float64) * 2 * math.pi / self.blades

    @staticmethod
    def _twist(z: Tensor) -> Tensor:
        distance: Tensor = torch.linalg.vector_norm(z, dim=-1)
        return (distance / 2).exp() / 4 - 1

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw a point of the first blade, turn it to another, twist it."""
        turn = self.turns[torch.randint(self.blades, (count,), generator=generator)]
        point = self.mean + self.deviation * _normal(generator, count, 2)
        return _rotate(point, turn + self._twist(point))

    def log_prob(self, z: Tensor) -> Tensor:
        """Undo the twist and the turns, and sum over the blades."""
        back = _rotate(z.unsqueeze(-2), -self._twist(z).unsqueeze(-1) - self.turns.to(z))
        return _gaussian(back - self.mean.to(z), self.deviation.to(z)).logsumexp(-1) - math.log(self.blades)


class NoisyCurve:
    r"""Points c(s) of a plane curve and of its mirror image -c(s), with round Gaussian noise.

    The parameter has the density w(s) on [0, 1] and the noise the deviation a, so that

        p(z) = 1/2 \int_0^1 w(s) (N(z; c(s), a^2 I) + N(z; -c(s), a^2 I)) ds,

    which Gauss-Legendre nodes less than a deviation apart integrate to many digits.
    """

    def __init__(
        self,
        curve: Callable[[Tensor], Tensor],
        quantile: Callable[[Tensor], Tensor],
        weight: Callable[[Tensor], Tensor],
        noise: float,
        nodes: int,
    ) -> None:
        self.curve, self.quantile, self.noise = curve, quantile, noise
        roots, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(nodes))
        s = (roots + 1) / 2
        self.points = torch.cat([curve(s), -curve(s)])
        self.log_weights = (weights / 4 * weight(s)).log().repeat(2)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw a point of the curve, mirror half of them, add noise."""
        point = self.curve(self.quantile(_uniform(generator, count)))
        sign = 2 * torch.randint(2, (count, 1), generator=generator) - 1
        return sign * point + self.noise * _normal(generator, count, 2)

    def log_prob(self, z: Tensor) -> Tensor:
        """Integrate along both curves."""
        flat = z.reshape(-1, 2)
        parts = [
            (self.log_weights.to(z) - torch.cdist(some, self.points.to(z)).square() / (2 * self.noise**2)).logsumexp(-1)
            for some in flat.split(8192)
        ]
        return torch.cat(parts).reshape(z.shape[:-1]) - math.log(2 * math.pi * self.noise**2)


def two_moons() -> NoisyCurve:
    """Two half circles of radius 2 that reach into each other, with noise of deviation 0.2."""
    angle = math.pi

    def curve(s: Tensor) -> Tensor:
        return torch.stack([2 * (angle * s).cos() - 1, 2 * (angle * s).sin() - 0.5], dim=-1)

    return NoisyCurve(curve, quantile=lambda p: p, weight=torch.ones_like, noise=0.2, nodes=64)


def two_spirals() -> NoisyCurve:
    """Two spirals of one turn and a half that end at radius 3.5, with noise of deviation 0.12."""
    angle = 3 * math.pi

    def curve(s: Tensor) -> Tensor:
        return 3.5 * s.unsqueeze(-1) * torch.stack([-(angle * s).cos(), (angle * s).sin()], dim=-1)

    return NoisyCurve(curve, quantile=torch.sqrt, weight=lambda s: 2 * s, noise=0.12, nodes=256)


TOY_SETS: dict[str, Callable[[], ToySet]] = {
    "eight gaussians": EightGaussians,
    "two moons": two_moons,
    "checkerboard": Checkerboard,
    "pinwheel": Pinwheel,
    "spirals": two_spirals,
}


def entropy(toy: ToySet, bound: float = 6.0, points: int = 240) -> float:
    """Integrate -p log p over [-bound, bound]^2 by the midpoint rule.

    Midpoints never meet the edges of the checkerboard, and for the smooth densities the rule converges faster than any
    power of the spacing.
    """
    line = ((torch.arange(points, dtype=torch.float64) + 0.5) / points * 2 - 1) * bound
    log_p = toy.log_prob(torch.cartesian_prod(line, line))
    return float(torch.special.entr(log_p.exp()).sum() * (2 * bound / points) ** 2)
