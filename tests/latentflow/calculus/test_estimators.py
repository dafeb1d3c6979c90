"""Random Laplacians, by enumeration of all probes: exact mean and variance, no Monte Carlo."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    close,
    dims,
    jet_of,
    network,
    opaque,
    orthogonal,
    rand,
    randn,
    reference_jet,
    request_of,
    seeds,
    symmetric,
)

from latentflow import Exact, Hutchinson, QuadraticPotential, laplacian
from latentflow.calculus import evaluate_jet


def grid(nodes, dim):
    """All points of a product rule, of shape (n^dim, dim)."""
    return torch.tensor(list(product(nodes, repeat=dim)), dtype=torch.float64)


def forms(u, z, t, probes):
    """The quadratic forms of the same probes at each point."""
    return evaluate_jet(u, z, t, request_of(probes=probes.expand(*z.shape[:-1], *probes.shape))).quadratic


@given(dims, seeds, st.booleans())
def test_all_rademacher_probes(dim, seed, rule):
    """Row 5; catches probes of unit norm, a wrong variance, and different probes on the two sides of v'Hv."""
    u, z, t = network(dim, hidden=(5, 4), seed=seed), randn(2, dim, seed=seed), rand(2, seed=seed)
    H = reference_jet(u, z, t).hessian
    values = forms(u if rule else opaque(u), z, t, grid([-1.0, 1.0], dim))
    off_diagonal = H.square().sum((-1, -2)) - H.diagonal(dim1=-2, dim2=-1).square().sum(-1)
    close(Hutchinson().laplacian(jet_of(t, z, t, quadratic=values)), H.diagonal(dim1=-2, dim2=-1).sum(-1))
    close(values.var(-1, correction=0), 2 * off_diagonal)


@given(st.integers(1, 4), seeds, st.booleans())
def test_all_gauss_hermite_probes(dim, seed, rule):
    """Row 5; catches a wrong scale of Gaussian forms: three nodes integrate mean and variance 2|H|^2 exactly."""
    u, z, t = network(dim, hidden=(5, 4), seed=seed), randn(2, dim, seed=seed), rand(2, seed=seed)
    H = reference_jet(u, z, t).hessian
    values = forms(u if rule else opaque(u), z, t, grid([-(3**0.5), 0.0, 3**0.5], dim))
    weights = grid([1 / 6, 2 / 3, 1 / 6], dim).prod(-1)
    mean = (weights * values).sum(-1)
    close(mean, H.diagonal(dim1=-2, dim2=-1).sum(-1))
    close((weights * (values - mean.unsqueeze(-1)).square()).sum(-1), 2 * H.square().sum((-1, -2)))


@given(dims, seeds)
def test_orthogonal_probes_are_exact(dim, seed):
    """Row 6; catches a missing normalisation: d orthogonal probes of norm sqrt(d) give the trace."""
    u, z = network(dim, seed=seed), randn(3, dim, seed=seed)
    values = forms(u, z, 0.3, orthogonal(dim, seed) * dim**0.5)
    close(values.mean(-1), laplacian(u, z, 0.3))


@given(dims, seeds)
def test_one_rademacher_probe_of_a_diagonal_hessian_is_exact(dim, seed):
    """Catches an average that divides by the dimension, or a probe that is not of signs."""
    A = symmetric(dim, seed).diagonal().diag()
    u = QuadraticPotential(dim, matrix=A)
    estimate = Hutchinson(probes=1, generator=torch.Generator().manual_seed(seed))
    close(laplacian(u, randn(5, dim), 0.0, estimate), A.trace().expand(5))


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_law_of_the_probes(noise):
    """Catches probes shared by samples, by each other or by coordinates, and entries of variance other than one."""
    v = Hutchinson(2, noise, torch.Generator().manual_seed(0)).draw(torch.zeros(10_000, 2, 3, dtype=torch.float64))
    assert v.shape == (10_000, 2, 2, 3)
    flat = v.reshape(10_000, 12)
    moment = flat.mT @ flat / 10_000
    deviation = (moment - torch.eye(12)) * 100  # standard errors: 1 off the diagonal, sqrt(2) at most on it
    assert deviation.abs().max() < 5 * 2**0.5
    assert flat.mean(0).abs().max() * 100 < 5
    if noise == "rademacher":
        assert torch.equal(v.abs(), torch.ones_like(v))
    else:
        assert (flat.pow(4).mean(0) - 3).abs().max() * 100 < 5 * 96**0.5


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probes_follow_generator_and_dtype(noise, dtype):
    """Catches a generator that is ignored, a dtype that is not the points', and a global state that is consumed."""
    z = torch.zeros(5, 3, dtype=dtype)
    state = torch.get_rng_state()
    first, second, third = (Hutchinson(4, noise, torch.Generator().manual_seed(seed)).draw(z) for seed in (1, 1, 2))
    assert first.dtype == dtype
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(torch.get_rng_state(), state)


def test_each_call_draws_anew():
    """Catches an estimator that keeps the probes of its first call."""
    estimate, z = Hutchinson(generator=torch.Generator().manual_seed(0)), randn(64, 6)
    assert not torch.equal(estimate.draw(z), estimate.draw(z))


def test_which_estimates_are_random():
    """Catches a random log-density that a likelihood bound would accept."""
    assert Hutchinson().stochastic
    assert not Exact().stochastic


@given(dims, seeds)
def test_gradient_of_the_mean_is_the_gradient_of_the_trace(dim, seed):
    """Catches a detached probe pass: the estimate must be differentiable in the parameters without bias."""
    u, z = network(dim, hidden=(4, 3), seed=seed), randn(2, dim, seed=seed)
    parameters = [p for name, p in u.named_parameters() if "embedding" not in name]
    mean = forms(u, z, 0.2, grid([-1.0, 1.0], dim)).mean(-1).sum()
    exact = laplacian(opaque(u), z, 0.2).sum()
    for a, b in zip(torch.autograd.grad(mean, parameters), torch.autograd.grad(exact, parameters), strict=True):
        close(a, b)
