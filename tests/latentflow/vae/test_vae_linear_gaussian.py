"""The bounds of a linear-Gaussian model against its evidence.

The samples are sigma points, at which the mean of a quadratic is its expectation: nothing here is random.
"""

import math
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import bures_map, normal, sigma_points, spd
from hypothesis import given
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    FunctionPotential,
    GaussianPrior,
    HJResidual,
    JointBound,
    MarginalBound,
    PotentialBank,
    QuadraticPotential,
    SlogDet,
)
from latentflow.flow import FirstOrder
from latentflow.vae import GaussianLikelihood

seeds = st.integers(0, 2**31 - 100)
DIM, PIXELS, SCALE, STEPS = 2, 3, 0.7, 2
near = {"rtol": 1e-11, "atol": 1e-11}


class SigmaPoints(MultivariateNormal):
    """A normal distribution whose "sample" of batch size 2 dim is its sigma points."""

    def rsample(self, sample_shape=()):
        return sigma_points(self.loc[0], self.covariance_matrix[0])


class LinearDecoder(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, z):
        return (z @ self.weight.mT).reshape(len(z), 1, PIXELS, 1)


def affine(maps):
    """The potential whose unit step at time n is z -> F_n z + b_n."""
    eye = torch.eye(DIM, dtype=torch.float64)
    steps = [QuadraticPotential(DIM, matrix - eye, vector) for matrix, vector in maps]
    return FunctionPotential(lambda z, t: sum((t.floor() == n) * u(z, t) for n, u in enumerate(steps)))


def build(weight, maps, mean, covariance, bound, prior):
    """A model with a fixed posterior and the flow z -> F_n z + b_n, in evaluation mode."""
    posterior = SigmaPoints(mean.expand(2 * DIM, DIM), covariance)
    return FlowVAE(
        encoder=lambda x: posterior,
        decoder=LinearDecoder(weight),
        bank=PotentialBank([affine(maps)]),
        prior=prior,
        residual=HJResidual(),
        likelihood=GaussianLikelihood(SCALE),
        bound=bound,
    ).eval()


def evaluate(model, x):
    """The objective of one sequence of pixels (T+1, P), with the expectation taken over the posterior."""
    frames = x.reshape(1, len(x), 1, PIXELS, 1).expand(2 * DIM, -1, -1, -1, -1)
    return model.objective(frames, torch.zeros(2 * DIM, dtype=torch.int64))


def evidence(weight, offset, x, variance):
    """The log-density of x = W z + offset + noise with z ~ N(0, variance I), and the posterior of z."""
    noise = SCALE**2
    eye = torch.eye(len(x), dtype=torch.float64)
    log_evidence = MultivariateNormal(offset, variance * weight @ weight.mT + noise * eye).log_prob(x)
    precision = weight.mT @ weight / noise + torch.eye(DIM, dtype=torch.float64) / variance
    covariance = torch.linalg.inv(precision)
    covariance = (covariance + covariance.mT) / 2
    return log_evidence, MultivariateNormal(covariance @ weight.mT @ (x - offset) / noise, covariance)


def random_case(seed):
    weight, x = normal(seed, PIXELS, DIM), normal(seed + 1, STEPS + 1, PIXELS)
    maps = [(spd(DIM, seed + 2 + n), normal(seed + 10 + n, DIM)) for n in range(STEPS)]
    return weight, x, maps, normal(seed + 20, DIM), spd(DIM, seed + 21, 0.1, 1.0)


def stacked(weight, maps):
    """The linear map and the offset from z_0 to the pixels of all frames."""
    power, shift = torch.eye(DIM, dtype=torch.float64), torch.zeros(DIM, dtype=torch.float64)
    weights, offsets = [weight], [weight @ shift]
    for matrix, vector in maps:
        power, shift = matrix @ power, matrix @ shift + vector
        weights.append(weight @ power)
        offsets.append(weight @ shift)
    return torch.cat(weights), torch.cat(offsets)


def diffusion():
    return DiffusionPrior(DIM, diffusivity=0.3).double()


@given(seeds)
def test_joint_bound_is_the_evidence_minus_the_divergence(seed):
    """Catches a divergence at every time, a reversed one, and a Jacobian that enters it."""
    weight, x, maps, mean, covariance = random_case(seed)
    objective = evaluate(build(weight, maps, mean, covariance, JointBound(), diffusion()), x)
    log_evidence, posterior = evidence(*stacked(weight, maps), x.flatten(), 1.0)
    gap = kl_divergence(MultivariateNormal(mean, covariance), posterior)
    torch.testing.assert_close(objective.bound, log_evidence - gap, **near)
    standard = MultivariateNormal(torch.zeros(DIM, dtype=torch.float64), torch.eye(DIM, dtype=torch.float64))
    first = kl_divergence(MultivariateNormal(mean, covariance), standard)
    torch.testing.assert_close(objective.kl_per_time, torch.stack([first, first * 0, first * 0]), **near)


@given(seeds)
def test_joint_bound_is_tight_at_the_posterior_of_the_sequence(seed):
    """Catches any constant that is missing from the likelihood, the posterior or the prior."""
    weight, x, maps, _, _ = random_case(seed)
    log_evidence, posterior = evidence(*stacked(weight, maps), x.flatten(), 1.0)
    model = build(weight, maps, posterior.loc, posterior.covariance_matrix, JointBound(), GaussianPrior(DIM).double())
    torch.testing.assert_close(evaluate(model, x).bound, log_evidence, **near)


@given(seeds)
def test_marginal_bounds_are_the_evidences_minus_the_divergences(seed):
    """Catches a prior at z_0 or time 0, a reversed divergence, log_det of the wrong sign, step or time."""
    weight, x, maps, mean, covariance = random_case(seed)
    prior = diffusion()
    objective = evaluate(build(weight, maps, mean, covariance, MarginalBound(), prior), x)
    for time in range(STEPS + 1):
        variance = 1 + 2 * prior.diffusivity.item() * time
        if time > 0:
            matrix, vector = maps[time - 1]
            mean, covariance = matrix @ mean + vector, matrix @ covariance @ matrix.mT
        carried = MultivariateNormal(mean, (covariance + covariance.mT) / 2)
        log_evidence, posterior = evidence(weight, torch.zeros(PIXELS, dtype=torch.float64), x[time], variance)
        bound = -(objective.reconstruction_per_time + objective.kl_per_time)[time]
        torch.testing.assert_close(bound, log_evidence - kl_divergence(carried, posterior), **near)
        eye = torch.eye(DIM, dtype=torch.float64)
        marginal = MultivariateNormal(torch.zeros(DIM, dtype=torch.float64), variance * eye)
        torch.testing.assert_close(objective.kl_per_time[time], kl_divergence(carried, marginal), **near)


@given(seeds)
def test_marginal_bounds_are_tight_where_the_flow_carries_posterior_to_posterior(seed):
    """Catches terms that are right in the mean only: every sample's weight is the evidence here."""
    weight, x, _, _, _ = random_case(seed)
    prior, zero = diffusion(), torch.zeros(PIXELS, dtype=torch.float64)
    variances = [1 + 2 * prior.diffusivity.item() * time for time in range(STEPS + 1)]
    evidences, posteriors = zip(
        *(evidence(weight, zero, *case) for case in zip(x, variances, strict=True)), strict=True
    )
    maps = []
    for now, then in pairwise(posteriors):
        matrix = bures_map(now.covariance_matrix, then.covariance_matrix)
        maps.append((matrix, then.loc - matrix @ now.loc))
    model = build(weight, maps, posteriors[0].loc, posteriors[0].covariance_matrix, MarginalBound(), prior)
    objective = evaluate(model, x)
    bounds = -(objective.reconstruction_per_time + objective.kl_per_time)
    torch.testing.assert_close(bounds, torch.stack(evidences), **near)
    torch.testing.assert_close(objective.bound, torch.stack(evidences).sum(), **near)


@given(seeds)
def test_every_summand_of_the_marginal_bound_stays_below_its_evidence(seed):
    """Catches a gain that no posterior can have, which the surrogate volume gives."""
    weight, x, maps, mean, covariance = random_case(seed)
    objective = evaluate(build(weight, maps, mean, covariance, MarginalBound(), GaussianPrior(DIM).double()), x)
    for time in range(STEPS + 1):
        log_evidence, _ = evidence(weight, torch.zeros(PIXELS, dtype=torch.float64), x[time], 1.0)
        assert -(objective.reconstruction_per_time + objective.kl_per_time)[time] <= log_evidence + 1e-9


class FlatPrior(nn.Module):
    """A prior of log-density 0 everywhere."""

    def forward(self, t=0.0, k=None):
        return self

    def log_prob(self, z):
        return torch.zeros_like(z[..., 0])


@pytest.mark.parametrize(("volume", "factor"), [(SlogDet(), 3.0 * 1.5), (FirstOrder(), 1 + 2.0 + 0.5)])
def test_the_volume_of_the_bound_is_the_one_asked_for(volume, factor):
    """Catches a bound that ignores its volume, or applies it with the other sign."""
    maps = [(torch.tensor([3.0, 1.5], dtype=torch.float64).diag(), normal(0, DIM))]
    covariance = spd(DIM, 3)
    model = build(normal(1, PIXELS, DIM), maps, normal(2, DIM), covariance, MarginalBound(volume), FlatPrior())
    entropy = (DIM * (1 + math.log(2 * math.pi)) + torch.logdet(covariance)) / 2
    expected = torch.stack([-entropy, -entropy - math.log(factor)])
    torch.testing.assert_close(evaluate(model, normal(4, 2, PIXELS)).kl_per_time, expected, **near)
