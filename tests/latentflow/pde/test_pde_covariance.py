"""Symmetries of the Hamilton-Jacobi residual that hold for any potential, solution or not."""

import hypothesis.strategies as st
import torch
from closed_forms import generator, net, normal
from hypothesis import given

from latentflow import FunctionPotential, HJResidual

dims, seeds = st.integers(1, 5), st.integers(0, 2**31 - 100)
near = {"rtol": 1e-11, "atol": 1e-11}
r = HJResidual()


def case(dim, seed, batch=(4,)):
    t = torch.rand(batch, generator=generator(seed), dtype=torch.float64)
    return net(dim, seed), normal(seed + 50, *batch, dim), t


@given(dims, seeds)
def test_gauge(dim, seed):
    """Catches a wrong weight of the time derivative."""
    u, z, t = case(dim, seed)
    torch.testing.assert_close(r(lambda z, t: u(z, t) + t.sin(), z, t), r(u, z, t) + t.cos(), **near)


@given(dims, seeds)
def test_rotation(dim, seed):
    """Catches anything that depends on the axes, such as a norm other than the Euclidean one."""
    u, z, t = case(dim, seed)
    q = torch.linalg.qr(normal(seed, dim, dim)).Q
    torch.testing.assert_close(r(lambda z, t: u(z @ q.mT, t), z, t), r(u, z @ q.mT, t), **near)


@given(dims, seeds)
def test_time_reversal(dim, seed):
    """Catches a wrong sign between the terms."""
    u, z, t = case(dim, seed)
    torch.testing.assert_close(r(lambda z, t: -u(z, 1 - t), z, t), r(u, z, 1 - t), **near)


@given(dims, seeds)
def test_galilei(dim, seed):
    """Catches a missing 1/2: only with it do moving observers see the same equation."""
    u, z, t = case(dim, seed)
    c = normal(seed + 1, dim)

    def boosted(z, t):
        return u(z - t.unsqueeze(-1) * c, t) + (z * c).sum(-1) - c.square().sum() * t / 2

    torch.testing.assert_close(r(boosted, z, t), r(u, z - t.unsqueeze(-1) * c, t), **near)


@given(dims, seeds, st.floats(0.5, 2), st.floats(0.5, 2))
def test_units(dim, seed, a, s):
    """Catches terms of different dimension, such as a gradient norm that is not squared."""
    u, z, t = case(dim, seed)
    scaled = r(lambda z, t: a * a / s * u(z / a, t / s), z, t)
    torch.testing.assert_close(scaled, (a / s) ** 2 * r(u, z / a, t / s), **near)


@given(dims, seeds)
def test_gradient_is_the_acceleration(dim, seed):
    """Catches a detached term, and a rule whose own derivatives are wrong."""
    u, z, t = case(dim, seed)
    z.requires_grad_()
    (slope,) = torch.autograd.grad(r(u, z, t).sum(), z)

    def acceleration(z, t):
        def velocity(z, t):
            return torch.func.grad(lambda z: u(z, t))(z)

        return torch.func.jvp(velocity, (z, t), (velocity(z, t), torch.ones_like(t)))[1]

    expected = torch.stack([acceleration(*point) for point in zip(z.detach(), t, strict=True)])
    torch.testing.assert_close(slope, expected.detach(), **near)


@given(dims, seeds, st.booleans())
def test_samples_do_not_see_each_other(dim, seed, structured):
    """Catches means or sums over the batch inside the residual, and a shared time treated unlike an own one."""
    u, z, t = case(dim, seed, (2, 3))
    u = u if structured else FunctionPotential(u.forward)
    whole = r(u, z, t)
    order = torch.tensor([1, 0, 1])
    torch.testing.assert_close(r(u, z[:, order], t[:, order]), whole[:, order], **near)
    torch.testing.assert_close(r(u, z.repeat(2, 1, 1), t.repeat(2, 1)), whole.repeat(2, 1), **near)
    torch.testing.assert_close(r(u, z[1, 2], t[1, 2]), whole[1, 2], **near)
    torch.testing.assert_close(r(u, z, 0.5), r(u, z, torch.full((2, 3), 0.5, dtype=torch.float64)), **near)
    assert r(u, z[:0], t[:0]).shape == (0, 3)
