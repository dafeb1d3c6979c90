"""Closed forms of equations, straight flows, mixtures and distances, for the errors of single precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latentflow import (
    Euler,
    FokkerPlanckResidual,
    FunctionPotential,
    HeatResidual,
    HopfLaxFlow,
    MixturePrior,
    PDEResidual,
    QuadraticPotential,
    ViscousHJResidual,
    WaveResidual,
    gaussian_transport_potential,
    gaussian_wasserstein2,
    transport_certificate,
    wasserstein2,
)

Answer = tuple[Tensor, Tensor, float]
"""What the library computes, the closed form in float64, and the size of the terms."""


@dataclass(frozen=True)
class Case:
    """Something with a closed form.

    Attributes:
        name: What is computed.
        run: Computes it in a precision.
    """

    name: str
    run: Callable[[torch.dtype], Answer]


def draw(*shape: int, seed: int) -> Tensor:
    """Draw numbers of float32, as float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def symmetric(dim: int, seed: int, norm: float = 0.5) -> Tensor:
    """Draw a symmetric matrix of float32 numbers with about this spectral norm."""
    matrix = draw(dim, dim, seed=seed)
    matrix = matrix + matrix.mT
    return (norm * matrix / torch.linalg.matrix_norm(matrix, 2)).float().double()


def answered(actual: Tensor, expected: Tensor) -> Answer:
    """Take the size of what is computed from the closed form itself."""
    return actual, expected, float(expected.detach().abs().max())


def plane_wave(name: str) -> Callable[[torch.dtype], Answer]:
    """The residual of a solution in 8 coordinates: zero, next to its largest term."""

    def run(dtype: torch.dtype) -> Answer:
        k, z = draw(8, seed=5) / 2, draw(8, 8, seed=1)
        square = float(k.square().sum())

        def phase(z: Tensor) -> Tensor:
            return (z * k.to(z)).sum(-1)

        cases: dict[str, tuple[PDEResidual, Callable[[Tensor, Tensor], Tensor]]] = {
            "heat": (HeatResidual(0.5), lambda z, t: phase(z).cos() * torch.exp(-0.5 * square * t)),
            "wave": (WaveResidual(2.0), lambda z, t: torch.sin(phase(z) - 2 * math.sqrt(square) * t)),
            "viscous": (
                ViscousHJResidual(0.5),
                lambda z, t: -torch.logsumexp(torch.stack([phase(z) + square * t / 2, -phase(z) + square * t / 2]), 0),
            ),
            "Fokker-Planck": (
                FokkerPlanckResidual(1.0, lambda z, _t: -z.square().sum(-1) / 2),
                spreading,
            ),
        }
        residual, u = cases[name]
        return residual(FunctionPotential(u), z.to(dtype), 0.5), torch.zeros(8).double(), 1 + square

    return run


def spreading(z: Tensor, t: Tensor) -> Tensor:
    """The potential of the Ornstein-Uhlenbeck process with variance s = 1 + 3 exp(-2t): -|z|^2 / 2 - log N(z; 0, s)."""
    s = 1 + 3 * torch.exp(-2 * t)
    return -z.square().sum(-1) / 2 + z.square().sum(-1) / (2 * s) + z.shape[-1] / 2 * s.log()


def straight(what: str) -> Callable[[torch.dtype], Answer]:
    """The flow that solves the Hamilton-Jacobi equation from a quadratic, and its inverse."""

    def run(dtype: torch.dtype) -> Answer:
        A, b, z = symmetric(8, 3), draw(8, seed=4), draw(8, 8, seed=1)
        flow = HopfLaxFlow(QuadraticPotential(8, A, b).to(dtype))
        eye = torch.eye(8).double()
        if what == "inverse":
            start = torch.linalg.solve(eye + A, (z - b).mT).mT
            return answered(flow.inverse(z.to(dtype), [0.0, 1.0], Euler()).z[-1], start)
        trajectory = flow.rollout(z.to(dtype), 4, dt=0.25)
        if what == "points":
            return answered(trajectory.z[-1], z + z @ A + b)
        assert trajectory.log_det is not None
        return answered(trajectory.log_det[-1], torch.linalg.eigvalsh(A).log1p().sum().expand(8))

    return run


def mixture(dtype: torch.dtype) -> Answer:
    """The log-density of a mixture in 8 dimensions, by its definition."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = MixturePrior(8, components=5)
    z = draw(8, 8, seed=1)
    law = prior.double()()
    normal = law.component_distribution.base_dist
    each = -((z[:, None] - normal.loc) / normal.scale).square() / 2 - normal.scale.log() - math.log(2 * math.pi) / 2
    expected = torch.logsumexp(each.sum(-1) + law.mixture_distribution.probs.log(), -1)
    return answered(prior.to(dtype)().log_prob(z.to(dtype)), expected)


def translated(dtype: torch.dtype) -> Answer:
    """The Wasserstein distance of a cloud from itself, moved."""
    x, c = draw(60, 3, seed=1), draw(3, seed=2)
    return answered(wasserstein2(x.to(dtype), x.to(dtype) + c.to(dtype)), c.norm())


def gaussians() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two Gaussians in 8 dimensions with covariances that do not commute."""
    eye = torch.eye(8).double()
    return draw(8, seed=6), eye + symmetric(8, 7), draw(8, seed=8), eye + symmetric(8, 9)


def between_gaussians(dtype: torch.dtype) -> Answer:
    """The Wasserstein distance between two Gaussians, by square roots of matrices."""
    m0, S0, m1, S1 = gaussians()
    half = root(S0)
    shared = root(half @ S1 @ half).trace()
    expected = ((m1 - m0).square().sum() + (S0 + S1).trace() - 2 * shared).sqrt()
    return answered(gaussian_wasserstein2(*(x.to(dtype) for x in (m0, S0, m1, S1))), expected)


def root(matrix: Tensor) -> Tensor:
    """Take the square root of a symmetric positive matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ values.sqrt().diag() @ vectors.mT


def certified(dtype: torch.dtype) -> Answer:
    """The ratio that the certificate gives for the optimal transport between two Gaussians: one."""
    start = gaussians()
    u = gaussian_transport_potential(*(x.to(dtype) for x in start))
    z = (start[0] + draw(100, 8, seed=1) @ torch.linalg.cholesky(start[1]).mT).to(dtype)
    trajectory = HopfLaxFlow(u).rollout(z, 4, dt=0.25)
    return answered(transport_certificate(trajectory, HopfLaxFlow(u).potential).ratio, torch.ones(()).double())


EQUATIONS_AND_TRANSPORT = (
    Case("viscous Hamilton-Jacobi residual of a solution", plane_wave("viscous")),
    Case("heat residual of a solution", plane_wave("heat")),
    Case("wave residual of a solution", plane_wave("wave")),
    Case("Fokker-Planck residual of a solution", plane_wave("Fokker-Planck")),
    Case("straight flow: points", straight("points")),
    Case("straight flow: log-determinant", straight("log_det")),
    Case("straight flow: inverse", straight("inverse")),
    Case("log-density of a mixture of five, 8 coordinates", mixture),
    Case("Sinkhorn's distance of a translated cloud", translated),
    Case("distance between Gaussians, 8 coordinates", between_gaussians),
    Case("ratio of the certificate of an optimal transport", certified),
)
