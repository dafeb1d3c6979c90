r"""Integrate a density over points with weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

SPAN = 12.0
POINTS = {1: 1001, 2: 201}
WIDER = 1.3


@dataclass(frozen=True)
class Reference:
    """Points that an integral is summed over.

    Attributes:
        z: The points, of shape ``(points, dim)``.
        weight: Their weights, of shape ``(points,)``.
    """

    z: Tensor
    weight: Tensor

    def mean(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Sum the weighted values over the points, and give the standard error if the points are random.

        Args:
            values: The values, of shape ``(points, n)``.

        Returns:
            The sums and their standard errors, each of shape ``(n,)``.
        """
        terms = self.weight.unsqueeze(-1) * values
        total = terms.sum(0)
        random = self.z.shape[-1] not in POINTS
        return total, terms.std(0) * len(terms) ** 0.5 if random else torch.zeros_like(total)


def reference_points(sample: Tensor) -> Reference:
    """Give the points of an integral over a density from which a sample was drawn.

    In one and two dimensions they are a grid; in more, they are drawn from a normal distribution a little wider than
    the sample, whose density divides their weights.

    Args:
        sample: The sample, of shape ``(draws, dim)``.
    """
    dim, centre = sample.shape[-1], sample.mean(0)
    if dim in POINTS:
        spread = SPAN * sample.std(0)
        line = torch.linspace(-1, 1, POINTS[dim], dtype=sample.dtype, device=sample.device)
        grid = torch.cartesian_prod(*[line] * dim).reshape(-1, dim)
        cell = (spread * (line[1] - line[0])).prod()
        return Reference(centre + spread * grid, cell.expand(len(grid)))
    eye = torch.eye(dim, dtype=sample.dtype, device=sample.device)
    covariance = WIDER * sample.mT.cov() + 1e-6 * sample.var(0).mean() * eye
    proposal = MultivariateNormal(centre, covariance)
    z = proposal.sample(torch.Size((4 * len(sample),)))
    log_density: Tensor = proposal.log_prob(z)  # type: ignore[no-untyped-call]
    return Reference(z, (-log_density).exp() / len(z))


def moments(z: Tensor) -> Tensor:
    """Give the coordinates, their squares and the square of their sum, of shape ``(points, 2 dim + 1)``."""
    return torch.cat([z, z.square(), z.sum(-1, keepdim=True).square()], dim=-1)
