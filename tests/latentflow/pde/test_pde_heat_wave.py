"""The heat equation and the wave equation: solutions, and symmetries that hold for any field."""

import math

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import net, normal
from hypothesis import given, settings
from solutions import assert_zero, times

from latentflow import HeatResidual, WaveResidual, gradient

dims, seeds, coefficients = st.integers(1, 5), st.integers(0, 2**31 - 100), st.floats(0.2, 2)
few = settings(max_examples=10)
near = {"rtol": 1e-11, "atol": 1e-11}


def points(dim, seed):
    return normal(seed + 1, 2, 3, dim), times(seed, 2, 3)


@few
@given(dims, seeds, coefficients)
def test_heat_solutions(dim, seed, diffusivity):
    """Catches a sign, a factor 1/2, and a mean over coordinates."""
    k, (z, t) = normal(seed, dim), points(dim, seed)
    r = HeatResidual(diffusivity)
    assert_zero(r(lambda z, t: (z @ k + 0.3).cos() * torch.exp(-diffusivity * (k @ k) * t), z, t), scale=50)
    assert_zero(r(lambda z, t: z.square().sum(-1) + 2 * dim * diffusivity * t, z, t), scale=10)

    def kernel(z, t):
        spread = 4 * diffusivity * (t + 0.5)
        return (math.pi * spread) ** (-dim / 2) * torch.exp(-z.square().sum(-1) / spread)

    assert_zero(r(kernel, z, t), scale=10)


@few
@given(dims, seeds, coefficients, st.floats(0.5, 2))
def test_heat_scales_parabolically(dim, seed, diffusivity, a):
    """Catches terms of different dimension, on any field."""
    u, (z, t), r = net(dim, seed), points(dim, seed), HeatResidual(diffusivity)
    torch.testing.assert_close(
        r(lambda z, t: u(a * z, a * a * t), z, t), a * a * r(u, a * z, a * a * t), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("shape", ["tanh", "sin", "exp"])
@few
@given(dims, seeds, coefficients)
def test_plane_waves(shape, dim, seed, speed):
    """Catches c for c^2 and u_t for u_tt: any shape travels along k with the speed c, both ways."""
    k, (z, t), phi = normal(seed, dim) / dim**0.5, points(dim, seed), getattr(torch, shape)
    for way in (speed, -speed):
        phase = lambda z, t, way=way: z @ k - way * k.norm() * t  # noqa: E731
        size = float(phi(phase(z, t)).abs().max()) * float(k @ k) * speed**2
        assert_zero(WaveResidual(speed)(lambda z, t, phase=phase: phi(phase(z, t)), z, t), scale=50 * size)


@few
@given(dims, seeds, coefficients)
def test_standing_and_spherical_waves(dim, seed, speed):
    """Catches errors that cancel on plane waves: the 2/r of the Laplacian in three dimensions."""
    k, (z, t), r = normal(seed, dim), points(dim, seed), WaveResidual(speed)
    assert_zero(r(lambda z, t: (z @ k).cos() * (speed * k.norm() * t).cos(), z, t), scale=100)
    z = 1.0 + torch.rand_like(normal(seed, 2, 3, 3))

    def sphere(z, t):
        radius = z.square().sum(-1).sqrt()
        return torch.exp(-((radius - speed * t) ** 2)) / radius

    assert_zero(r(sphere, z, t), scale=100)


@few
@given(st.integers(1, 4), seeds, coefficients, st.floats(-0.8, 0.8))
def test_lorentz_boost(dim, seed, speed, share):
    """Catches a mixed or missing term, on any field: moving observers see the same equation."""
    u, (z, t), r = net(dim, seed), points(dim, seed), WaveResidual(speed)
    velocity, gamma = share * speed, 1 / math.sqrt(1 - share**2)

    def boost(z, t):
        first = gamma * (z[..., :1] - velocity * t.unsqueeze(-1))
        return torch.cat([first, z[..., 1:]], -1), gamma * (t - velocity / speed**2 * z[..., 0])

    torch.testing.assert_close(r(lambda z, t: u(*boost(z, t)), z, t), r(u, *boost(z, t)), rtol=1e-11, atol=1e-11)


@few
@given(dims, seeds, st.sampled_from([HeatResidual, WaveResidual]))
def test_linear(dim, seed, equation):
    """Catches a nonlinear term: residuals superpose."""
    u, v, (z, t), r = net(dim, seed), net(dim, seed + 20), points(dim, seed), equation(0.7)
    torch.testing.assert_close(r(2 * u - 3 * v, z, t), 2 * r(u, z, t) - 3 * r(v, z, t), **near)


def test_waves_start_at_rest():
    """Catches the claim that the initial condition stops waves too: it holds here, and the particles move."""
    z, r = normal(0, 5, 2), WaveResidual(1.0)

    def u(z, t):  # u(z, 0) = 0, and u_t(z, 0) = sin(z_0)
        return z[..., 0].sin() * t.sin()

    assert_zero(r(u, z, times(1, 5)))
    assert_zero(gradient(u, z, 0.0).square().sum(-1))
    assert (torch.func.grad(lambda z: u(z, torch.tensor(1.0)).sum())(z)[:, 0].abs() > 0.01).all()


def test_without_a_coefficient():
    """Catches a coefficient 0 that is refused, or taken for absent."""
    u, (z, t) = net(2, 0), points(2, 0)
    change = torch.func.jvp(lambda t: u(z, t), (t,), (torch.ones_like(t),))[1]
    torch.testing.assert_close(HeatResidual(0)(u, z, t), change, **near)
    assert_zero(WaveResidual(0.0)(lambda z, t: z.sum(-1).sin() * t, z, t))
