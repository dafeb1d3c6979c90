"""The viscous Hamilton-Jacobi equation."""

import math

import hypothesis.strategies as st
import torch
from closed_forms import net, normal
from hypothesis import given, settings
from solutions import assert_zero, softmin_of_planes, times

from latentflow import HeatResidual, HJResidual, ViscousHJResidual, gradient, laplacian

dims, seeds, viscosities = st.integers(1, 4), st.integers(0, 2**31 - 100), st.floats(0.2, 1)
few = settings(max_examples=10)
near = {"rtol": 1e-11, "atol": 1e-11}


@few
@given(dims, seeds, viscosities, st.integers(1, 5))
def test_softmin_of_planes(dim, seed, viscosity, count):
    """Catches a viscosity of the wrong sign, or twice or half of it."""
    u, planes = softmin_of_planes(dim, seed, viscosity, count)
    z, t = normal(seed + 2, 2, 3, dim), times(seed, 2, 3)
    assert_zero(ViscousHJResidual(viscosity)(u, z, t), scale=100)
    bend, gap = laplacian(u, z, t), planes(z, t).amin(-1) - u(z, t)
    assert (bend <= 1e-12).all()
    assert (gap >= -1e-12).all()
    assert (gap <= 2 * viscosity * math.log(count) + 1e-12).all()
    torch.testing.assert_close(HJResidual()(u, z, t), viscosity * bend, rtol=1e-11, atol=1e-11)


@few
@given(st.integers(1, 3), seeds, viscosities)
def test_gradient_solves_burgers(dim, seed, viscosity):
    """Catches errors that are constant in space: the velocity has to solve the Burgers equation, by autodiff alone."""
    u, _ = softmin_of_planes(dim, seed, viscosity)
    z, t = normal(seed + 2, dim), times(seed)
    func = torch.func
    velocity = func.grad(u)
    change, jacobian = func.jacfwd(velocity, 1)(z, t), func.jacfwd(velocity)(z, t)
    diffusion = func.jacfwd(lambda z: func.jacfwd(velocity)(z, t))(z).diagonal(dim1=-2, dim2=-1).sum(-1)
    v = gradient(u, z, t)
    assert_zero(change + jacobian @ v - viscosity * diffusion, scale=1e4)


@few
@given(seeds, viscosities, st.floats(0.2, 1.5), st.floats(-1, 1))
def test_travelling_shock(seed, viscosity, size, speed):
    """Catches a factor in the width of a shock, u_x = c - a tanh(a (x - ct) / 2 nu)."""
    x, t = normal(seed, 9, 1), times(seed, 9)

    def u(z, t):
        phase = size * (z[..., 0] - speed * t) / (2 * viscosity)
        log_cosh = phase.abs() + torch.log1p(torch.exp(-2 * phase.abs())) - math.log(2)
        return speed * z[..., 0] - (speed**2 + size**2) * t / 2 - 2 * viscosity * log_cosh

    assert_zero(ViscousHJResidual(viscosity)(u, x, t), scale=100)
    shock = speed - size * torch.tanh(size * (x[:, 0] - speed * t) / (2 * viscosity))
    torch.testing.assert_close(gradient(u, x, t)[:, 0], shock, **near)


@few
@given(dims, seeds, viscosities)
def test_cole_hopf(dim, seed, viscosity):
    """Catches any wrong factor, on any field: e^{-u/2nu} turns the viscous residual into that of heat."""
    u, z, t = net(dim, seed), normal(seed + 1, 5, dim), times(seed, 5)
    heat = HeatResidual(viscosity)(lambda z, t: torch.exp(-u(z, t) / (2 * viscosity)), z, t)
    expected = -2 * viscosity * torch.exp(u(z, t) / (2 * viscosity)) * heat
    torch.testing.assert_close(ViscousHJResidual(viscosity)(u, z, t), expected, rtol=1e-11, atol=1e-11)


@few
@given(dims, seeds, viscosities)
def test_covariance(dim, seed, viscosity):
    """Catches a wrong weight between terms, on any field: Galilei, time reversal, gauge, and the inviscid limit."""
    u, z, t, r = net(dim, seed), normal(seed + 1, 4, dim), times(seed, 4), ViscousHJResidual(viscosity)
    c = normal(seed + 2, dim)

    def boosted(z, t):
        return u(z - t.unsqueeze(-1) * c, t) + (z * c).sum(-1) - c.square().sum() * t / 2

    torch.testing.assert_close(r(boosted, z, t), r(u, z - t.unsqueeze(-1) * c, t), **near)
    reverse = r(u, z, 1 - t) + 2 * viscosity * laplacian(u, z, 1 - t)  # the viscosity changes its sign
    torch.testing.assert_close(r(lambda z, t: -u(z, 1 - t), z, t), reverse, **near)
    torch.testing.assert_close(r(lambda z, t: u(z, t) + t.sin(), z, t), r(u, z, t) + t.cos(), **near)
    torch.testing.assert_close(ViscousHJResidual(0)(u, z, t), HJResidual()(u, z, t), **near)
