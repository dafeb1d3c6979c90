"""Importance weights of a linear-Gaussian model, from the prior, the trajectory and the posterior, as a user would."""

import math

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import bures_map, normal, ohj_quadratic, spd
from hypothesis import given, settings
from torch.distributions import MultivariateNormal

from latentflow import DiffusionPrior, Euler, PotentialFlow
from latentflow.vae import GaussianLikelihood

seeds = st.integers(0, 2**31 - 100)
DIM, PIXELS, SCALE, TIME = 2, 3, 0.7, 1.0
grid = [0.0, 0.25, 0.5, 1.0]


def model(seed):
    """The decoder's matrix, an image, the prior, the evidence of the image and the posterior of its latent at TIME."""
    prior = DiffusionPrior(DIM, diffusivity=0.3).double()
    weight, x = normal(seed, PIXELS, DIM), normal(seed + 1, PIXELS)
    kappa = 1 + 2 * prior.diffusivity.item() * TIME
    eye = torch.eye(PIXELS, dtype=torch.float64)
    evidence = MultivariateNormal(0 * x, kappa * weight @ weight.mT + SCALE**2 * eye).log_prob(x)
    covariance = torch.linalg.inv(weight.mT @ weight / SCALE**2 + torch.eye(DIM, dtype=torch.float64) / kappa)
    covariance = (covariance + covariance.mT) / 2
    return weight, x, prior, evidence, MultivariateNormal(covariance @ weight.mT @ x / SCALE**2, covariance)


def log_weights(weight, x, prior, distribution, count):
    """The logarithms of p(x | z) p_T(z) / q_T(z) of samples of q_T."""
    with torch.no_grad():
        z, log_q = distribution.rsample_and_log_prob((count,))
        likelihood = GaussianLikelihood(SCALE)((z @ weight.mT).reshape(count, 1, PIXELS, 1))
        return likelihood.log_prob(x.reshape(1, PIXELS, 1)) + prior(TIME).log_prob(z) - log_q


def carried(seed, target):
    """A distribution over z_0 and its push-forward, along an optimal transport, onto the target."""
    start = MultivariateNormal(normal(seed + 2, DIM), 0.2 * spd(DIM, seed + 3))
    matrix = bures_map(start.covariance_matrix, target.covariance_matrix)
    u = ohj_quadratic(matrix - torch.eye(DIM, dtype=torch.float64), target.loc - matrix @ start.loc)
    return PotentialFlow(u).push_forward(start, grid, Euler())


@given(seeds)
@settings(max_examples=8)
def test_weights_are_the_evidence_where_the_flow_ends_at_the_posterior(seed):
    """Catches a density of another point, time or sign, and any constant: every single weight is p(x)."""
    weight, x, prior, evidence, posterior = model(seed)
    torch.manual_seed(seed % 1000)
    weights = log_weights(weight, x, prior, carried(seed, posterior), 8)
    torch.testing.assert_close(weights, evidence.expand(8), rtol=1e-10, atol=1e-10)


def second_moment(posterior, proposal):
    """E_q[(p / q)^2] of two normal distributions, finite where 2 P - Q is positive definite (P, Q the precisions)."""
    p, q = posterior.precision_matrix, proposal.precision_matrix
    both = 2 * p - q
    assert torch.linalg.eigvalsh(both).min() > 0
    shift = 2 * p @ posterior.loc - q @ proposal.loc
    exponent = shift @ torch.linalg.solve(both, shift)
    exponent = exponent - 2 * posterior.loc @ p @ posterior.loc + proposal.loc @ q @ proposal.loc
    return float((torch.logdet(p) - (torch.logdet(q) + torch.logdet(both)) / 2 + exponent / 2).exp())


@pytest.mark.parametrize("seed", [1, 2])
def test_weights_are_the_evidence_in_the_mean(seed):
    """Catches a biased weight: the z-score of the mean of 20000, with their exact variance."""
    weight, x, prior, evidence, posterior = model(seed)
    proposal = MultivariateNormal(posterior.loc + 0.1, 1.5 * posterior.covariance_matrix)
    deviation = math.sqrt((second_moment(posterior, proposal) - 1) / 20_000)
    torch.manual_seed(seed)
    weights = log_weights(weight, x, prior, carried(seed, proposal), 20_000)
    assert abs(float((weights - evidence).exp().mean() - 1) / deviation) < 5
