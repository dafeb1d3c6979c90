"""Exact solutions of the equations, and every residual with coefficients and fields that learn, all in float64."""

import math

import torch
from closed_forms import generator, net, normal, spd

from latentflow import FokkerPlanckResidual, HeatResidual, HJResidual, ViscousHJResidual, WaveResidual
from latentflow.calculus import PositiveParameter
from latentflow.pde import ContinuityResidual, LinearFokkerPlanckResidual, LogFokkerPlanckResidual, NonPositiveForce


def times(seed, *shape):
    return torch.rand(shape, generator=generator(seed), dtype=torch.float64)


def assert_zero(residual, scale=1.0):
    torch.testing.assert_close(residual, torch.zeros_like(residual), rtol=0, atol=1e-11 * (1 + scale))


def positive(value):
    return PositiveParameter(value).double()


def learnable_residuals(dim, seed=0):
    """Every residual of the library, with all that can learn."""
    force, drift = NonPositiveForce(dim, (4,)).double(), net(dim, seed + 7, (4,))
    with torch.no_grad():
        for i, parameter in enumerate(force.parameters()):
            parameter.copy_(normal(seed + 20 + i, *parameter.shape))
    return {
        "hamilton-jacobi": HJResidual(),
        "forced": HJResidual(force, force_penalty=0.3),
        "inequality": HJResidual.inequality(),
        "viscous": ViscousHJResidual(positive(0.4)),
        "heat": HeatResidual(positive(0.7)),
        "wave": WaveResidual(positive(1.3)),
        "fokker-planck": FokkerPlanckResidual(positive(0.5), drift),
        "log fokker-planck": LogFokkerPlanckResidual(positive(0.5), drift),
        "linear fokker-planck": LinearFokkerPlanckResidual(positive(0.5), drift),
        "fokker-planck without drift": FokkerPlanckResidual(positive(0.5)),
        "log fokker-planck without drift": LogFokkerPlanckResidual(positive(0.5)),
        "linear fokker-planck without drift": LinearFokkerPlanckResidual(positive(0.5)),
        "continuity": ContinuityResidual(drift),
    }


class OrnsteinUhlenbeck:
    """N(m_t, S_t) under the drift -theta (z - c) with diffusion D, from N(m_0, S_0)."""

    def __init__(self, dim, seed, theta=0.8, diffusion=0.35):
        self.theta, self.diffusion = theta, diffusion
        self.centre, self.mean0, self.covariance0 = normal(seed, dim), normal(seed + 1, dim), spd(dim, seed + 2)

    def mean(self, t):
        return self.centre + torch.exp(-self.theta * t).unsqueeze(-1) * (self.mean0 - self.centre)

    def covariance(self, t):
        decay = torch.exp(-2 * self.theta * t)[..., None, None]
        eye = torch.eye(len(self.mean0), dtype=torch.float64)
        return decay * self.covariance0 + self.diffusion / self.theta * (1 - decay) * eye

    def log_density(self, z, t):
        factor = torch.linalg.cholesky(self.covariance(t))
        offset = torch.linalg.solve_triangular(factor, (z - self.mean(t)).unsqueeze(-1), upper=False).squeeze(-1)
        log_volume = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + z.shape[-1] / 2 * math.log(2 * math.pi)
        return -offset.square().sum(-1) / 2 - log_volume

    def density(self, z, t):
        return self.log_density(z, t).exp()

    def drift(self, z, t):
        return -self.theta * (z - self.centre).square().sum(-1) / 2

    def potential(self, z, t):
        return self.drift(z, t) - self.diffusion * self.log_density(z, t)


def softmin_of_planes(dim, seed, viscosity, count=4):
    """The viscous solution -2 nu log sum_i exp(-plane_i / 2 nu), and its planes, which solve the inviscid equation."""
    slopes, offsets = normal(seed, count, dim), normal(seed + 1, count)

    def planes(z, t):
        return z @ slopes.mT - slopes.square().sum(-1) * t.unsqueeze(-1) / 2 + offsets

    def u(z, t):
        return -2 * viscosity * torch.logsumexp(-planes(z, t) / (2 * viscosity), dim=-1)

    return u, planes
