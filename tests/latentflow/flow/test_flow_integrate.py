"""The continuous flow against closed forms and plain computations."""

import math
from dataclasses import replace
from itertools import product

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import (
    autograd_gradient,
    bures_map,
    generator,
    hopf_lax,
    net,
    normal,
    ohj_quadratic,
    root,
    sigma_points,
    spd,
)
from hypothesis import given, settings
from torch.distributions import MultivariateNormal
from torchdiffeq._impl.odeint import SOLVERS

from latentflow import (
    Derivative,
    FunctionPotential,
    HJResidual,
    Hutchinson,
    PotentialBank,
    PotentialFlow,
    QuadraticPotential,
    SwitchedPotential,
)
from latentflow.calculus import FixedProbes
from latentflow.flow import ODE

dims, seeds = st.integers(1, 4), st.integers(0, 2**31 - 100)
near = {"rtol": 1e-11, "atol": 1e-11}
tight = ODE(rtol=1e-9, atol=1e-9)
rk4 = ODE("rk4", options={"step_size": 0.05})
ADAPTIVE = {"dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun", "scipy_solver"}
ERRORS = {"euler": 0.08, "midpoint": 1e-3, "heun2": 1e-3, "heun3": 1e-4, "explicit_adams": 1e-4, "fehlberg2": 2e-3}


def linear_flow(matrix, vector, z, t):
    """The point, and the action up to t, of the flow of the velocity Az + b, by the spectrum of A."""
    values, q = torch.linalg.eigh(matrix)
    speed = (z @ matrix + vector) @ q
    growth = torch.expm1(values * t) / values
    return z + speed * growth @ q.mT, (speed.square() * torch.expm1(2 * values * t) / (2 * values)).sum(-1)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("method", sorted(SOLVERS))
def test_every_solver_follows_a_linear_flow(method, backwards):
    """Catches v = -grad u, a wrong sign of log_det either way in time, action with 1/2, and a method left uncalled."""
    matrix, vector, z = spd(3, 0, -0.8, 0.6), normal(1, 3), normal(2, 5, 3)
    fixed = method not in ADAPTIVE
    low = method in ("bosh3", "fehlberg2", "adaptive_heun")  # of low order: a tight tolerance would take long
    rtol = 1e-5 if low else 1e-9
    ode = ODE(method, rtol, rtol, options={"step_size": 0.025} if fixed else None)
    times = torch.tensor([0.5, -0.25, -0.5] if backwards else [-0.5, 0.25, 0.5], dtype=torch.float64)
    with torch.no_grad():
        trajectory = PotentialFlow(QuadraticPotential(3, matrix, vector)).integrate(z, times, ode)
    error = ERRORS.get(method, 1e-4 if low else 1e-7)
    for n, time in enumerate(times - times[0]):
        points, action = linear_flow(matrix, vector, z, time)
        torch.testing.assert_close(trajectory.z[n], points, rtol=error, atol=error)
        torch.testing.assert_close(trajectory.action[n], action, rtol=error, atol=error)
        torch.testing.assert_close(trajectory.log_det[n], (time * matrix.trace()).expand(5), **near)
    assert torch.equal(trajectory.times, times)
    assert trajectory.cost is None
    assert (trajectory.action[-1] < 0).all() == backwards


@given(dims, seeds)
def test_gaussian_stays_gaussian(dim, seed):
    """Catches a log-density of the wrong sign: it is compared with N(m, S) carried by the matrix exponential."""
    matrix, mean, covariance = spd(dim, seed, -0.5, 0.5), normal(seed + 1, dim), spd(dim, seed + 2)
    z = normal(seed + 3, 4, dim)
    trajectory = PotentialFlow(QuadraticPotential(dim, matrix)).integrate(z, [0.0, 1.5], tight)
    f = torch.linalg.matrix_exp(1.5 * matrix)
    log_q = MultivariateNormal(mean, covariance).log_prob(z) - trajectory.log_det[-1]
    expected = MultivariateNormal(f @ mean, f @ covariance @ f.mT).log_prob(trajectory.z[-1])
    torch.testing.assert_close(log_q, expected, rtol=1e-6, atol=1e-6)


@given(st.integers(1, 3), seeds)
@settings(max_examples=3)
def test_optimal_transport_between_gaussians(dim, seed):
    """Catches wrong times handed to u, action with 1/2 or a mean, and a Laplacian with the time in it."""
    mean0, mean1 = normal(seed, dim), normal(seed + 1, dim)
    cov0, cov1 = spd(dim, seed + 2), spd(dim, seed + 3)
    transport = bures_map(cov0, cov1)
    eye = torch.eye(dim, dtype=torch.float64)
    vector = mean1 - transport @ mean0
    z = sigma_points(mean0, cov0)
    flow = PotentialFlow(ohj_quadratic(transport - eye, vector))
    trajectory = flow.integrate(z, [0.0, 0.3, 1.0], ODE(rtol=1e-7, atol=1e-7))
    log_q = MultivariateNormal(mean0, cov0).log_prob(z) - trajectory.log_det[-1]
    torch.testing.assert_close(log_q, MultivariateNormal(mean1, cov1).log_prob(trajectory.z[-1]), rtol=1e-5, atol=1e-5)
    half = root(cov0)
    wasserstein = (mean1 - mean0).square().sum() + (cov0 + cov1 - 2 * root(half @ cov1 @ half)).trace()
    torch.testing.assert_close(trajectory.action[-1].mean(), wasserstein, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(trajectory.action[1].mean(), 0.3 * wasserstein, rtol=1e-5, atol=1e-5)


@given(st.integers(1, 3), seeds, st.sampled_from([1, 3, 10]))
@settings(max_examples=2)
def test_one_euler_step_is_the_whole_hamilton_jacobi_flow(dim, seed, n):
    """Catches a velocity read at the wrong time, and an integral of the Laplacian that is not log det(I + tH)."""
    weight = normal(seed, dim, dim)
    u, gradient, hessian = hopf_lax(weight / torch.linalg.matrix_norm(weight, 2), 0.4)
    y = normal(seed + 1, 3, dim)
    flow, start = PotentialFlow(u), y + 0.25 * gradient(y)
    times = torch.linspace(0.25, 1, n + 1, dtype=torch.float64)
    trajectory = flow.integrate(start, times, ODE("euler", divergence=None))
    torch.testing.assert_close(trajectory.z[-1], y + gradient(y), rtol=1e-9, atol=1e-9)
    smooth = flow.integrate(start, [0.25, 0.625, 1.0], ODE("rk4"))
    eye = torch.eye(dim, dtype=torch.float64)
    volume = torch.logdet(eye + hessian(y)) - torch.logdet(eye + 0.25 * hessian(y))
    torch.testing.assert_close(smooth.log_det[-1], volume, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("potential", [net(3, 7), FunctionPotential(net(3, 7).forward)])
def test_liouville(potential):
    """Catches any error of sign or trace: log_det against the determinant of the derivative of the whole map."""
    flow, z = PotentialFlow(potential), normal(1, 3)
    trajectory = flow.integrate(z, [0.2, 1.1], ODE("rk4", options={"step_size": 0.05}))
    jacobian = torch.autograd.functional.jacobian(
        lambda z: flow.integrate(z, [0.2, 1.1], ODE("rk4", options={"step_size": 0.05}, divergence=None)).z[-1], z
    )
    truth = torch.linalg.slogdet(jacobian).logabsdet
    assert abs(truth) > 0.04
    torch.testing.assert_close(trajectory.log_det[-1], truth, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_mean_over_all_probes_is_exact(dim):
    """Catches probes that are drawn again at each stage, and a quadratic form of the wrong scale."""
    flow, z = PotentialFlow(net(dim, 3)), normal(4, 2, dim)
    exact = flow.integrate(z, [0.0, 1.0], rk4)
    every = torch.tensor(list(product([-1.0, 1.0], repeat=dim)), dtype=torch.float64)
    paths = [flow.integrate(z, [0.0, 1.0], replace(rk4, divergence=FixedProbes(v.expand(2, 1, dim)))) for v in every]
    log_dets = torch.stack([trajectory.log_det[-1] for trajectory in paths])
    torch.testing.assert_close(log_dets.mean(0), exact.log_det[-1], **near)
    for trajectory in paths:
        torch.testing.assert_close(trajectory.z, exact.z, **near)
    if dim > 1:  # noise in a log-density raises a likelihood
        assert (log_dets.logsumexp(0) - math.log(len(every)) > exact.log_det[-1] + 1e-6).all()


def test_noise_is_drawn_once_for_a_path():
    """Catches an estimator that draws at every evaluation: its steps would shrink, its trajectory would change."""
    flow, z = PotentialFlow(net(3, 3)), normal(4, 5, 3)
    trajectory = flow.integrate(z, [0.0, 0.4, 1.0], replace(rk4, divergence=Hutchinson(2, generator=generator(0))))
    probes = Hutchinson(2, generator=generator(0)).draw(z)
    once = flow.integrate(z, [0.0, 0.4, 1.0], replace(rk4, divergence=FixedProbes(probes)))
    assert torch.equal(trajectory.log_det, once.log_det)
    assert not torch.equal(trajectory.log_det, flow.integrate(z, [0.0, 0.4, 1.0], rk4).log_det)


@given(dims, seeds)
@settings(max_examples=6)
def test_there_and_back_again(dim, seed):
    """Catches a log_det that changes sign with the direction of time twice or not at all, and unsigned action."""
    flow, z = PotentialFlow(net(dim, seed)), normal(seed + 1, 4, dim)
    trajectory = flow.integrate(z, [0.0, 0.4, 1.0], tight)
    back = flow.inverse(trajectory.z[-1], [0.0, 0.4, 1.0], tight)
    torch.testing.assert_close(back.times, trajectory.times.flip(0))
    torch.testing.assert_close(back.z, trajectory.z.flip(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(back.log_det, trajectory.log_det.flip(0) - trajectory.log_det[-1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(back.action, trajectory.action.flip(0) - trajectory.action[-1], rtol=1e-6, atol=1e-6)
    assert torch.equal(back.z[0], trajectory.z[-1])


def test_group_law():
    """Catches a start time that only labels the trajectory, and accounts that do not add up."""
    flow, z = PotentialFlow(net(3, 0)), normal(1, 4, 3)
    whole, first = flow.integrate(z, [-0.5, 0.25, 1.0], tight), flow.integrate(z, [-0.5, 0.25], tight)
    rest = flow.integrate(first.z[-1], [0.25, 1.0], tight)
    torch.testing.assert_close(rest.z[-1], whole.z[-1], rtol=1e-6, atol=1e-6)
    for name in ("log_det", "action"):
        total = getattr(first, name)[-1] + getattr(rest, name)[-1]
        torch.testing.assert_close(total, getattr(whole, name)[-1], rtol=1e-6, atol=1e-6)


class Power:
    """The rate of du/dt along a trajectory: |v|^2 + u_t, which is |v|^2 / 2 plus the Hamilton-Jacobi residual."""

    requires = Derivative(0)

    def running_cost(self, jet, z, t):
        assert t.shape == z.shape[:-1]
        return jet.gradient.square().sum(-1) + jet.time_derivative


class Needy:
    """Reads the second derivatives, and refuses to do without."""

    requires = Derivative.LAPLACIAN | Derivative.HESSIAN

    def running_cost(self, jet, z, t):
        return jet.laplacian + 2 * jet.hessian.diagonal(dim1=-2, dim2=-1).sum(-1)


@given(dims, seeds)
@settings(max_examples=6)
def test_work_and_energy(dim, seed):
    """Catches a time derivative of the wrong sign, a running cost at another point, and a missing integral."""
    u, z = net(dim, seed), normal(seed + 1, 4, dim)
    trajectory = PotentialFlow(u).integrate(z, [0.2, 0.7, 1.2], replace(tight, divergence=None), Power())
    for n in range(3):
        time = trajectory.times[n].expand(4)
        torch.testing.assert_close(
            trajectory.cost[n], u(trajectory.z[n], time) - u(z, time * 0 + 0.2), rtol=1e-6, atol=1e-6
        )
    assert trajectory.log_det is None


@pytest.mark.parametrize("divergence", [None, Hutchinson(generator=generator(0))])
def test_running_cost_gets_exact_second_derivatives(divergence):
    """Catches a request that is not merged, and an estimate handed over as the Laplacian."""
    flow, z = PotentialFlow(net(3, 0)), normal(1, 4, 3)
    trajectory = flow.integrate(z, [0.0, 1.0], replace(rk4, divergence=divergence), Needy())
    torch.testing.assert_close(trajectory.cost, 3 * flow.integrate(z, [0.0, 1.0], rk4).log_det, **near)


def test_residual_is_a_running_cost():
    """Catches a protocol that residuals do not meet: u = b.z has residual |b|^2 / 2."""
    b = torch.tensor([1.0, 2.0], dtype=torch.float64)
    flow = PotentialFlow(FunctionPotential(lambda z, t: (z * b).sum(-1)))
    trajectory = flow.integrate(normal(0, 3, 2), [0.0, 2.0], running_cost=HJResidual())
    torch.testing.assert_close(trajectory.cost[-1], torch.full((3,), 2 * 2.5**2, dtype=torch.float64))


@given(dims, seeds)
@settings(max_examples=6)
def test_nobody_moves_farther_than_the_action_allows(dim, seed):
    """Catches an action of the wrong scale: |z_T - z_0|^2 <= T int |v|^2 dt for every sample."""
    flow, z = PotentialFlow(net(dim, seed)), normal(seed + 1, 8, dim)
    trajectory = flow.integrate(z, [0.5, 3.0], ODE("rk4", options={"step_size": 0.25}))
    assert ((trajectory.z[-1] - z).square().sum(-1) <= 2.5 * trajectory.action[-1] + 1e-6).all()
    trajectory = flow.rollout(z, 5, start=0.5, dt=0.5, on_fold="ignore")
    assert ((trajectory.z[-1] - z).square().sum(-1) <= 2.5 * trajectory.action[-1] + 1e-10).all()


@pytest.mark.parametrize("clock", ["continue", "restart"])
@pytest.mark.parametrize(
    "ode",
    [
        ODE("rk4", options={"step_size": 0.05, "perturb": True}),
        ODE("euler", options={"step_size": 0.005}),
        ODE(rtol=1e-9, atol=1e-9, options={"jump_t": [0.5]}),
    ],
    ids=["rk4", "euler", "jump"],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_switch_in_time(ode, clock, backwards):
    """Catches the potentials in the wrong order, a step that reads the potential of the other side, a lost jump."""
    first, second = spd(3, 0, -0.5, 0.5), spd(3, 1, -0.5, 0.5)
    parts = [QuadraticPotential(3, first), FunctionPotential(lambda z, t: t * ((z @ second) * z).sum(-1) / 2)]
    flow, z = PotentialFlow(SwitchedPotential(parts, [0.5], clock)), normal(2, 4, 3)
    grown = 0.5**2 / 2 if clock == "restart" else (1 - 0.5**2) / 2  # the integral of its own time
    if backwards:
        trajectory = flow.integrate(z, [1.0, 0.0], ode)
        expected = z @ torch.linalg.matrix_exp(-grown * second) @ torch.linalg.matrix_exp(-0.5 * first)
    else:
        trajectory = flow.integrate(z, [0.0, 1.0], ode)
        expected = z @ torch.linalg.matrix_exp(0.5 * first) @ torch.linalg.matrix_exp(grown * second)
    error = 0.02 if ode.method == "euler" else 1e-7
    torch.testing.assert_close(trajectory.z[-1], expected, rtol=error, atol=error)


def test_each_sample_follows_its_own_potential():
    """Catches samples that are mixed up in the flat state of the solver, and coupled ones on a fixed grid."""
    bank = PotentialBank([net(2, 0), net(2, 10), QuadraticPotential(2, spd(2, 0))])
    k, z = torch.tensor([[2, 0], [1, 1], [0, 2]]), normal(0, 3, 2, 2)
    trajectory = PotentialFlow(bank.select(k)).integrate(z, [0.0, 0.4, 1.0], rk4)
    for i, j in product(range(3), range(2)):
        alone = PotentialFlow(bank[int(k[i, j])]).integrate(z[i, j], [0.0, 0.4, 1.0], rk4)
        for name in ("z", "log_det", "action"):
            torch.testing.assert_close(getattr(trajectory, name)[:, i, j], getattr(alone, name), **near)


def test_superposition_adds_velocities():
    """Catches potentials followed one after the other: the sum of non-commuting linear flows is the flow of the sum."""
    first, second = spd(3, 0, -0.5, 0.5), spd(3, 1, -0.5, 0.5)
    bank, z = PotentialBank([QuadraticPotential(3, first), QuadraticPotential(3, second)]), normal(2, 4, 3)
    trajectory = PotentialFlow(bank.superpose()).integrate(z, [0.0, 1.0], tight)
    torch.testing.assert_close(trajectory.z[-1], z @ torch.linalg.matrix_exp(first + second), rtol=1e-7, atol=1e-7)


def test_velocity_is_that_of_plain_autograd_and_evaluated_once():
    """Catches a derivative pass for each part of the state, which would cost three times as much."""
    u, calls = net(2, 0), []

    def counted(z, t):
        calls.append(1)
        return u(z, t)

    z = normal(1, 3, 2)
    trajectory = PotentialFlow(counted).integrate(z, [0.5, 0.75], ODE("midpoint"), running_cost=Power())
    middle = z + 0.125 * autograd_gradient(u, z, torch.full((3,), 0.5, dtype=torch.float64))
    velocity = autograd_gradient(u, middle, torch.full((3,), 0.625, dtype=torch.float64))
    torch.testing.assert_close(trajectory.z[-1], z + 0.25 * velocity, **near)
    torch.testing.assert_close(trajectory.action[-1], 0.25 * velocity.square().sum(-1), **near)
    assert len(calls) <= 2 * 3  # at each of two points: the gradient, and the same inside of the Hessian's columns
