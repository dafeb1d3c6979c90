"""Hessian products, second time derivatives and the change of the velocity in time, against closed forms."""

import pytest
import torch
from hypothesis import given
from strategies import BATCHES, batches, close, dims, network, rand, randn, seeds, symmetric

from latentflow import Hutchinson, MLPPotential, laplacian
from latentflow.calculus import (
    HutchPlusPlus,
    estimate_laplacian,
    gradient_time_derivative,
    hessian_vector_product,
    second_time_derivative,
)
from latentflow.potentials.features import IdentityEmbedding


def dot(a, b):
    return (a * b).sum(-1)


def growing_quadratic(dim, seed):
    """(1 + t^3) z'Az/2 + sin(t) b.z + 7 t^2."""
    A, b = symmetric(dim, seed), randn(dim, seed=seed + 1)

    def u(z, t):
        return (1 + t**3) * dot(z @ A, z) / 2 + t.sin() * (z @ b) + 7 * t**2

    def product(z, t, v):
        return (1 + t**3)[..., None] * (v @ A)

    def second(z, t):
        return 3 * t * dot(z @ A, z) - t.sin() * (z @ b) + 14

    def mixed(z, t):
        return (3 * t**2)[..., None] * (z @ A) + t.cos()[..., None] * b

    return u, product, second, mixed


def travelling_wave(dim, seed):
    """sin(k.z - c t)."""
    k, c = randn(dim, seed=seed), 1.7

    def u(z, t):
        return torch.sin(z @ k - c * t)

    def product(z, t, v):
        return -(u(z, t) * (v @ k))[..., None] * k

    def second(z, t):
        return -(c**2) * u(z, t)

    def mixed(z, t):
        return c * u(z, t)[..., None] * k

    return u, product, second, mixed


def moving_gaussian(dim, seed):
    """exp(-|z - m t|^2 / 2)."""
    m = randn(dim, seed=seed)

    def offset(z, t):
        return z - t[..., None] * m

    def u(z, t):
        return torch.exp(-offset(z, t).square().sum(-1) / 2)

    def product(z, t, v):
        y = offset(z, t)
        return u(z, t)[..., None] * (y * dot(y, v)[..., None] - v)

    def second(z, t):
        return u(z, t) * ((offset(z, t) @ m).square() - m.square().sum())

    def mixed(z, t):
        y = offset(z, t)
        return u(z, t)[..., None] * (m - y * (y @ m)[..., None])

    return u, product, second, mixed


def wave_network(dim, seed):
    """Four waves w_j sin(k_j.z - c_j t + b_j) as a network of one hidden layer, so by the network's own rule."""
    network = MLPPotential(dim, (4,), IdentityEmbedding(), torch.sin).double()
    with torch.no_grad():
        for i, parameter in enumerate(network.parameters()):
            parameter.copy_(randn(*parameter.shape, seed=seed + i))
    K, b, c, w = network.point.weight, network.point.bias, -network.time.weight[:, 0], network.output.weight[0]

    def waves(z, t):
        return w * torch.sin(z @ K.mT - t[..., None] * c + b)

    def product(z, t, v):
        return -(waves(z, t) * (v @ K.mT)) @ K

    def second(z, t):
        return -(waves(z, t) @ c.square())

    def mixed(z, t):
        return (waves(z, t) * c) @ K

    return network, product, second, mixed


FIELDS_IN_CLOSED_FORM = [growing_quadratic, travelling_wave, moving_gaussian, wave_network]


@pytest.mark.parametrize("build", FIELDS_IN_CLOSED_FORM)
@given(dims, batches, seeds)
def test_operators_in_closed_form(build, dim, batch, seed):
    """Catches a swapped order of time and space, a factor 2, a sign, and a time derivative summed over the batch."""
    u, product, second, mixed = build(dim, seed)
    z, t, v = randn(*batch, dim, seed=seed + 5), 2 * rand(*batch, seed=seed + 6), randn(*batch, dim, seed=seed + 7)
    close(hessian_vector_product(u, z, t, v), product(z, t, v).detach())
    close(second_time_derivative(u, z, t), second(z, t).detach())
    close(gradient_time_derivative(u, z, t), mixed(z, t).detach())


@pytest.mark.parametrize("build", FIELDS_IN_CLOSED_FORM)
@pytest.mark.parametrize("batch", BATCHES)
def test_times_of_every_form(build, batch):
    """Catches a shared time whose derivatives are added over the samples, and a number that loses precision."""
    u, product, second, mixed = build(3, 11)
    z, v, full = randn(*batch, 3, seed=1), randn(*batch, 3, seed=2), torch.full(batch, 0.7, dtype=torch.float64)
    for t in (0.7, torch.tensor(0.7, dtype=torch.float64), full):
        close(hessian_vector_product(u, z, t, v), product(z, full, v).detach())
        close(second_time_derivative(u, z, t), second(z, full).detach())
        close(gradient_time_derivative(u, z, t), mixed(z, full).detach())


@pytest.mark.parametrize("build", FIELDS_IN_CLOSED_FORM)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_vectors_at_each_point(build, batch, count):
    """Catches vectors and points mixed up, seen where there are as many of both, and one vector taken for many."""
    u, product, _, _ = build(3, 4)
    z, t, v = randn(*batch, 3, seed=1), rand(*batch, seed=2), randn(*batch, count, 3, seed=3)
    products = hessian_vector_product(u, z, t, v)
    close(products, torch.stack([product(z, t, v[..., i, :]) for i in range(count)], dim=-2).detach())


@pytest.mark.parametrize("u", [network(3), moving_gaussian(3, 0)[0]])
@pytest.mark.parametrize("shape", [(), (3,), (4, 2), (3, 3), (1, 3), (2, 4, 3), (2, 4, 2, 3), (4, 3, 2)])
def test_vectors_of_another_shape_are_refused(u, shape):
    """Catches a vector that is broadcast to all points, and a stack of vectors in front of the batch."""
    with pytest.raises(ValueError, match=r"v: expected shape \(4, 3\) or \(4, m, 3\), got \("):
        hessian_vector_product(u, randn(4, 3), 0.0, randn(*shape))
    with pytest.raises(TypeError, match="v: expected a tensor, got list"):
        hessian_vector_product(u, randn(4, 3), 0.0, [1.0, 2.0, 3.0])


@given(dims, batches, seeds)
def test_a_travelling_wave_solves_the_wave_equation(dim, batch, seed):
    """Catches a second time derivative that leaves out the curvature: u_tt = (c / |k|)^2 times the Laplacian."""
    u, _, _, _ = travelling_wave(dim, seed)
    z, t = randn(*batch, dim, seed=seed), rand(*batch, seed=seed)
    speed = 1.7**2 / randn(dim, seed=seed).square().sum()
    close(second_time_derivative(u, z, t), speed * laplacian(u, z, t), tolerance=1e-9)


@pytest.mark.parametrize("make", [Hutchinson, HutchPlusPlus])
@pytest.mark.parametrize("rule", [True, False])
@pytest.mark.parametrize("batch", BATCHES)
def test_an_estimate_is_that_of_the_operator(make, rule, batch):
    """Catches an estimate and an error from two different draws: with the same noise, the value is the operator's."""
    build = wave_network if rule else moving_gaussian
    u, product, _, _ = build(4, 2)
    z, t = randn(*batch, 4, seed=1), rand(*batch, seed=2)
    probes = 6 if make is HutchPlusPlus else 3
    one, same = (make(probes, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    estimate = estimate_laplacian(u, z, t, one)
    close(estimate.value, laplacian(u, z, t, same))
    assert estimate.standard_error.shape == batch
    if make is HutchPlusPlus:
        return
    v = Hutchinson(probes, generator=torch.Generator().manual_seed(3)).draw(z)
    forms = torch.stack([dot(v[..., i, :], product(z, t, v[..., i, :])) for i in range(3)], dim=-1).detach()
    mean = forms.mean(-1)
    deviation = ((forms - mean.unsqueeze(-1)).square().sum(-1) / 2).sqrt()
    close(estimate.value, mean)
    close(estimate.standard_error, deviation / 3**0.5)


@pytest.mark.parametrize("estimator", [Hutchinson(1), HutchPlusPlus(3)])
def test_the_error_of_a_single_form_is_refused(estimator):
    """Catches a standard error of nan, or of zero, from one sample."""
    with pytest.raises(ValueError, match="probes: expected at least 2 for a standard error, got 1"):
        estimate_laplacian(travelling_wave(3, 0)[0], randn(4, 3), 0.0, estimator)
