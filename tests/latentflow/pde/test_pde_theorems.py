"""What the equations say about the flow, and what they do not."""

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import hopf_lax, net, normal, ohj_quadratic, sigma_points, spd
from hypothesis import given, settings
from solutions import assert_zero, times

from latentflow import ODE, Derivative, FunctionPotential, HJResidual, PotentialFlow, gradient, jet

dims, seeds = st.integers(1, 4), st.integers(0, 2**31 - 100)
few = settings(max_examples=10)
near = {"rtol": 1e-11, "atol": 1e-11}
FINE = ODE(rtol=1e-8, atol=1e-9, divergence=None)


@few
@given(dims, seeds)
def test_initial_condition_stops_exact_flows(dim, seed):
    """Catches the belief that it sets a start: along a solution the speed stays what the initial condition measures."""
    u = ohj_quadratic(spd(dim, seed, -0.5, 0.5), normal(seed + 1, dim))
    z, t = normal(seed + 2, 4, dim), times(seed, 4)
    later = z + t.unsqueeze(-1) * gradient(u, z, 0.0)
    speed = gradient(u, z, 0.0).square().sum(-1)
    torch.testing.assert_close(gradient(u, later, t).square().sum(-1), speed, rtol=1e-11, atol=1e-11)
    weight = normal(seed, dim, dim)
    u, start, _ = hopf_lax(weight / torch.linalg.matrix_norm(weight, 2), 0.4)
    later, t = z + (t + 0.1).unsqueeze(-1) * start(z), t + 0.1
    torch.testing.assert_close(gradient(u, later, t), start(z), rtol=1e-11, atol=1e-11)


@few
@given(dims, seeds)
def test_inequality_is_vacuous(dim, seed):
    """Catches a hinge that is taken for a constraint: any u, lowered by the integral of M(t), satisfies it."""
    u, z, t = net(dim, seed), normal(seed + 1, 50, dim), times(seed, 50)
    with torch.no_grad():
        excess = HJResidual()(u, z, t)
        top = float(excess.max()) + 0.01
        torch.testing.assert_close(HJResidual.inequality()(u, z, t), excess.clamp(min=0), rtol=0, atol=0)

        def lowered(z, t):
            return u(z, t) - top * t - (1 - t.cos())  # M = top + sin t >= r for t in [0, 1]

        assert (HJResidual.inequality()(lowered, z, t) == 0).all()
        torch.testing.assert_close(HJResidual()(lowered, z, t), excess - top - t.sin(), **near)
        same, moved = (PotentialFlow(f).rollout(z, 3, dt=0.3, log_det=None).z for f in (u, lowered))
    torch.testing.assert_close(moved, same, rtol=0, atol=1e-14)


@few
@given(dims, seeds)
def test_inequality_is_the_best_force(dim, seed):
    """Catches a hinge of the wrong side: the best f <= 0 is min(0, r), and leaves max(0, r)."""
    u, z, t = net(dim, seed), normal(seed + 1, 20, dim), times(seed, 20)
    free = HJResidual()(u, z, t)

    class Best(torch.nn.Module):
        def forward(self, z, t):
            return HJResidual()(u, z, t).clamp(max=0)

    hinge = HJResidual.inequality()(u, z, t)
    torch.testing.assert_close(HJResidual(Best())(u, z, t), hinge, **near)
    for share in (0.0, 0.5, 1.5, 3.0):
        assert ((free - share * Best()(z, t)).square() >= hinge.square()).all()


@few
@given(dims, seeds)
def test_residual_of_a_sum(dim, seed):
    """Catches the belief that solutions add up: there is a cross term, which vanishes for orthogonal velocities."""
    first, second, third = (net(dim, seed + 20 * i) for i in range(3))
    z, t, r = normal(seed + 1, 4, dim), times(seed, 4), HJResidual()
    v = [gradient(u, z, t) for u in (first, second, third)]
    cross = (v[0] * v[1] + v[0] * v[2] + v[1] * v[2]).sum(-1)
    expected = r(first, z, t) + r(second, z, t) + r(third, z, t) + cross
    torch.testing.assert_close(r(first + second + third, z, t), expected, **near)
    left = ohj_quadratic(spd(1, seed, -0.5, 0.5), normal(seed, 1))
    z = normal(seed + 3, 4, 2)
    apart = [FunctionPotential(lambda z, t, i=i: left(z[..., i : i + 1], t)) for i in range(2)]
    assert_zero(r(apart[0] + apart[1], z, t))


class Lagrangian:
    """The rate |grad u|^2 / 2 + r along a flow."""

    requires = Derivative(0)

    def running_cost(self, jet, z, t):
        return jet.gradient.square().sum(-1) / 2 + HJResidual().from_jet(jet, z, t)


@pytest.mark.parametrize("seed", range(2))
def test_work_and_energy(seed):
    """Catches a time derivative of the wrong sign or weight; and a bounded potential has little work to give."""
    inner, z0 = net(2, seed), 2 * normal(seed, 5, 2)
    u = FunctionPotential(lambda z, t: inner(z, t).tanh())
    trajectory = PotentialFlow(u).integrate(z0, [0.0, 1.5], FINE, running_cost=Lagrangian())
    start, end = (u(trajectory.z[i], trajectory.times[i].expand(5)) for i in (0, 1))
    torch.testing.assert_close(trajectory.cost[-1], end - start, rtol=0, atol=1e-6)
    excess = trajectory.cost[-1] - trajectory.action[-1] / 2  # the integral of the residual
    assert ((trajectory.z[-1] - trajectory.z[0]).square().sum(-1) <= 1.5 * 2 * (2 - excess) + 1e-6).all()


@few
@given(dims, seeds, st.floats(0.1, 1), st.floats(0, 1))
def test_force_bounds_the_gap(dim, seed, a, excess):
    """Catches a penalty that does not measure the distance from optimality: K - Dual = int E|f|, around W2^2 / 2.

    u = a |z|^2 / 2(1 + bt) with b >= a stretches by (1 + bt)^{a/b}. All integrands are quadratic in z_0, so sigma
    points integrate them exactly; Gauss-Legendre nodes integrate over time.
    """
    b = a + excess
    z0 = sigma_points(torch.zeros(dim, dtype=torch.float64), spd(dim, seed))
    nodes, weights = gauss_legendre(30)

    def u(z, t):
        return a * z.square().sum(-1) / (2 * (1 + b * t))

    class Force(torch.nn.Module):
        def forward(self, z, t):
            return -(a * b - a * a) * z.square().sum(-1) / (2 * (1 + b * t) ** 2)

    residual = HJResidual(Force(), force_penalty=2.5)
    stretch = (1 + b * nodes) ** (a / b)
    z, t = stretch[:, None, None] * z0, nodes[:, None].expand(-1, len(z0))
    assert_zero(residual(u, z, t), scale=10)
    assert_zero(HJResidual.inequality()(u, z, t))
    kinetic = (weights @ (jet(u, z, t).gradient.square().sum(-1) / 2)).mean()
    gap = (weights @ residual.penalty(z, t)).mean() / 2.5
    end = (1 + b) ** (a / b) * z0
    dual = u(end, 1.0).mean() - u(z0, 0.0).mean()
    torch.testing.assert_close(kinetic - dual, gap, **near)
    optimal = (end - z0).square().sum(-1).mean() / 2
    assert dual - 1e-11 <= optimal <= kinetic + 1e-11


def gauss_legendre(count):
    """Nodes and weights on [0, 1], from the eigenvalues of the Jacobi matrix."""
    n = torch.arange(1, count, dtype=torch.float64)
    off = n / (4 * n * n - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (nodes + 1) / 2, vectors[0] ** 2
