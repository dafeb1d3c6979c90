"""Identities of flows and their densities that hold for every potential, or in closed form."""

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import net, normal, ohj_quadratic, spd
from hypothesis import given, settings
from torch.distributions import Independent, MultivariateNormal, Normal

from latentflow import (
    ODE,
    Euler,
    FunctionPotential,
    HJResidual,
    PotentialFlow,
    QuadraticPotential,
    SwitchedPotential,
)

dims, seeds = st.integers(1, 5), st.integers(0, 2**31 - 100)
near = {"rtol": 1e-11, "atol": 1e-11}
rk4 = ODE("rk4", options={"step_size": 0.5})


@given(dims, seeds)
@settings(max_examples=4)
def test_a_rotated_potential_has_the_rotated_flow(dim, seed):
    """Catches a volume of each coordinate alone: u(Qz) moves Q'z to Q'z_t with the same log_det and action."""
    u, z = net(dim, seed) * 0.3, normal(seed + 20, 4, dim)
    q = torch.linalg.qr(normal(seed + 30, dim, dim)).Q
    turned = FunctionPotential(lambda z, t: u(z @ q.mT, t))
    for follow in (lambda flow, z: flow.rollout(z, 3, dt=0.5), lambda flow, z: flow.integrate(z, [0.0, 0.5, 1.5], rk4)):
        trajectory, other = follow(PotentialFlow(u), z), follow(PotentialFlow(turned), z @ q)
        torch.testing.assert_close(other.z, trajectory.z @ q, **near)
        torch.testing.assert_close(other.log_det, trajectory.log_det, **near)
        torch.testing.assert_close(other.action, trajectory.action, **near)


@given(dims, seeds)
@settings(max_examples=8)
def test_a_linear_flow_to_the_accuracy_of_its_solver(dim, seed):
    """Catches v = -grad u, a sign of log_det, and b that does not move: z_t = e^At z + int e^As b ds."""
    matrix, vector, z = spd(dim, seed, -0.8, 0.8), normal(seed + 1, dim), normal(seed + 2, 4, dim)
    base = MultivariateNormal(normal(seed + 3, dim), spd(dim, seed + 4))
    flow, time = PotentialFlow(QuadraticPotential(dim, matrix, vector)), 1.5
    trajectory = flow.integrate(z, [0.0, time], ODE(rtol=1e-9, atol=1e-9))
    # the exponential of [[A, b], [0, 0]] holds both parts
    both = torch.zeros(dim + 1, dim + 1, dtype=torch.float64)
    both[:dim, :dim], both[:dim, dim] = matrix, vector
    whole = torch.linalg.matrix_exp(time * both)
    f, c = whole[:dim, :dim], whole[:dim, dim]
    growth = float((time * torch.linalg.eigvalsh(matrix).abs().max()).exp())
    accuracy = {"rtol": 1e-7 * growth, "atol": 1e-7 * growth}
    torch.testing.assert_close(trajectory.z[-1], z @ f.mT + c, **accuracy)
    torch.testing.assert_close(trajectory.log_det[-1], (time * matrix.trace()).expand(4), **near)
    carried = MultivariateNormal(f @ base.mean + c, f @ base.covariance_matrix @ f.mT)
    log_q = base.log_prob(z) - trajectory.log_det[-1]
    torch.testing.assert_close(log_q, carried.log_prob(z @ f.mT + c), **near)


@given(dims, seeds, st.integers(1, 4), st.sampled_from([0.5, -0.5]))
def test_chain_rule_of_determinants_to_roundoff(dim, seed, steps, dt):
    """Catches a stale point or time and a diagonal determinant, where no step is near a fold."""
    u, z = net(dim, seed) * 0.3, normal(seed + 20, dim)
    trajectory = PotentialFlow(u).rollout(z, steps, start=0.3, dt=dt, on_fold="raise")

    def euler(z):
        for n in range(steps):
            t = torch.tensor(0.3 + n * dt, dtype=torch.float64)
            z = z + dt * torch.func.grad(lambda z, t=t: u(z, t))(z)
        return z

    expected = torch.linalg.slogdet(torch.func.jacrev(euler)(z)).logabsdet
    torch.testing.assert_close(trajectory.log_det[-1], expected, **near)


@pytest.mark.parametrize("seed", range(3))
def test_points_converge_at_first_order(seed):
    """Catches a discrete flow that tends to another one than the continuous: an error that does not halve."""
    flow, z = PotentialFlow(net(3, seed)), normal(seed + 20, 5, 3)
    exact = flow.integrate(z, [0.0, 1.0], ODE(rtol=1e-9, atol=1e-9)).z[-1]
    errors = [(flow.rollout(z, n, dt=1 / n, log_det=None).z[-1] - exact).norm() for n in (40, 80)]
    assert 0.95 < torch.log2(errors[0] / errors[1]) < 1.1


line = torch.linspace(-12, 12, 2401, dtype=torch.float64)


def pushed(seed, scheme):
    """A standard normal on the line, carried by a network, and its log-density and score on a grid."""
    flow = PotentialFlow(net(1, seed) * 0.5).eval()
    base = Independent(Normal(torch.zeros(1, dtype=torch.float64), 1.0), 1)
    y = line.unsqueeze(-1).requires_grad_()
    log_q = flow.push_forward(base, [0.0, 0.5, 1.0], scheme).log_prob(y)
    (score,) = torch.autograd.grad(log_q.sum(), y)
    return flow, log_q.detach(), score.squeeze(-1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("scheme", "accuracy"), [(Euler(), 1e-10), (ODE(rtol=1e-9, atol=1e-11), 1e-6)])
def test_the_score_integrates_by_parts(seed, scheme, accuracy):
    """Catches a density evaluated at one point and a score at another: E[g'' + (log q)' g'] = 0."""
    _, log_q, score = pushed(seed, scheme)
    for k in (0.7, 2.0):
        for first, second in (((k * line).cos() * k, -k * k * (k * line).sin()), (2 * line, 2 + 0 * line)):
            total = torch.trapezoid(log_q.exp() * (second + score * first), line)
            assert abs(total) < accuracy


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("scheme", "accuracy"), [(Euler(), 1e-10), (ODE(rtol=1e-9, atol=1e-11), 1e-6)])
def test_the_entropy_grows_by_the_mean_log_determinant(seed, scheme, accuracy):
    """Catches log_det of the wrong sign or point: H(q_T) = H(q_0) + E log_det, by two quadratures."""
    flow, log_q, _ = pushed(seed, scheme)
    there = -torch.trapezoid(log_q.exp() * log_q, line)
    start = Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    with torch.no_grad():
        if isinstance(scheme, Euler):
            trajectory = flow.rollout(line.unsqueeze(-1), 2, dt=0.5)
        else:
            trajectory = flow.integrate(line.unsqueeze(-1), [0.0, 0.5, 1.0], scheme)
    growth = torch.trapezoid(start.log_prob(line).exp() * trajectory.log_det[-1], line)
    assert abs(growth) > 1e-3
    assert abs(there - start.entropy() - growth) < accuracy


A, B = spd(3, 0, -0.8, 0.8), spd(3, 1, -0.8, 0.8)


def alternate(n, order):
    """The flow of A and B in turn, both for the time 1 in all; Strang's order halves the first and the last stretch."""
    stretches = [(A, 1 / n), (B, 1 / n)] * n
    if order == 2:
        stretches = [(A, 0.5 / n), (B, 1 / n), *[(A, 1 / n), (B, 1 / n)] * (n - 1), (A, 0.5 / n)]
    ends = torch.tensor([0.0, *(length for _, length in stretches)], dtype=torch.float64).cumsum(0)
    potential = SwitchedPotential([QuadraticPotential(3, matrix) for matrix, _ in stretches], ends[1:-1].tolist())
    ode = ODE("rk4", options={"step_size": 0.5 / n, "perturb": True}, divergence=None)
    with torch.no_grad():
        return PotentialFlow(potential).integrate(torch.eye(3, dtype=torch.float64), ends, ode).z[-1]


def test_switching_tends_to_superposing_at_the_order_of_its_splitting():
    """Catches potentials in the wrong order and a clock that skips: both constants are known or halve."""
    together = torch.linalg.matrix_exp(A + B)
    errors = {(n, order): alternate(n, order) - together for n in (16, 32) for order in (1, 2)}
    s, w = torch.linspace(0, 1, 201, dtype=torch.float64), torch.full((201,), 1 / 200, dtype=torch.float64)
    w[[0, -1]] /= 2
    # first A, then B: to first order [B, A] / 2n, carried along; rows of the identity are moved from the right
    between = [torch.linalg.matrix_exp(a * (A + B)) for a in s]
    commutator = sum(c * e @ (A @ B - B @ A) @ f for c, e, f in zip(w, between, between[::-1], strict=True)) / 2
    torch.testing.assert_close(32 * errors[32, 1], commutator, rtol=0.05, atol=0.05 * float(commutator.norm()))
    assert commutator.norm() > 0.01
    assert 3.8 < errors[16, 2].norm() / errors[32, 2].norm() < 4.2


def test_the_order_of_commuting_potentials_does_not_matter():
    """Catches a potential that acts for a step more than the other."""
    q = torch.linalg.qr(normal(0, 3, 3)).Q
    one, two = (QuadraticPotential(3, q @ normal(seed, 3).mul(0.3).diag() @ q.mT) for seed in (1, 2))
    z, trajectories = normal(3, 4, 3), []
    for pair in ([one, two], [two, one]):
        trajectories.append(PotentialFlow(SwitchedPotential(pair, [2.0])).rollout(z, 4, on_fold="ignore"))
    torch.testing.assert_close(trajectories[0].z[-1], trajectories[1].z[-1], **near)
    torch.testing.assert_close(trajectories[0].log_det[-1], trajectories[1].log_det[-1], **near)


@given(dims, seeds)
def test_volumes_do_not_superpose(dim, seed):
    """Catches the log-determinant of a sum taken for the sum of log-determinants."""
    one, two = (spd(dim, seed + i, -0.4, 0.4) for i in (0, 1))
    u, v, z = QuadraticPotential(dim, one), QuadraticPotential(dim, two), normal(seed, 3, dim)
    eye = torch.eye(dim, dtype=torch.float64)
    log_det = PotentialFlow(u + v).rollout(z, 1).log_det[-1]
    torch.testing.assert_close(log_det, torch.logdet(eye + one + two).expand(3), **near)
    apart = torch.logdet((eye + one) @ (eye + two)) - torch.logdet(eye + one + two)
    total = PotentialFlow(u).rollout(z, 1).log_det[-1] + PotentialFlow(v).rollout(z, 1).log_det[-1]
    torch.testing.assert_close(total - log_det, apart.expand(3), **near)


@given(dims, seeds)
def test_the_residual_of_a_sum_has_a_cross_term(dim, seed):
    """Catches a residual that adds up: what is left over is grad u . grad v, for any two potentials."""
    u, v = net(dim, seed), net(dim, seed + 10)
    z, t, r = normal(seed + 20, 4, dim), torch.rand(4, dtype=torch.float64), HJResidual()
    cross = (PotentialFlow(u).velocity(z, t) * PotentialFlow(v).velocity(z, t)).sum(-1)
    torch.testing.assert_close(r(u + v, z, t), r(u, z, t) + r(v, z, t) + cross, **near)


@given(seeds)
@settings(max_examples=10)
def test_solutions_in_orthogonal_subspaces_superpose(seed):
    """Catches a gradient that leaks between coordinates."""
    u, v = (ohj_quadratic(spd(2, seed + i, -0.4, 0.4), normal(seed + i, 2)) for i in (0, 1))
    both = FunctionPotential(lambda z, t: u(z[..., :2], t)) + FunctionPotential(lambda z, t: v(z[..., 2:], t))
    z, t = normal(seed + 5, 4, 4), torch.linspace(0, 1, 4, dtype=torch.float64)
    torch.testing.assert_close(HJResidual()(both, z, t), torch.zeros(4, dtype=torch.float64), **near)
    joined = PotentialFlow(both).rollout(z, 2, dt=0.5).log_det[-1]
    halves = [PotentialFlow(f).rollout(z[:, i : i + 2], 2, dt=0.5).log_det[-1] for f, i in ((u, 0), (v, 2))]
    torch.testing.assert_close(joined, halves[0] + halves[1], **near)


def test_the_adjoint_reaches_through_an_automatic_laplacian():
    """Catches parameters or derivatives that the adjoint equation loses, at the accuracy of the solver."""
    flow, z = PotentialFlow(FunctionPotential(net(2, 2, (3,)))), normal(3, 2, 2).requires_grad_()
    leaves, gradients = [z, *list(flow.parameters())[:3]], []
    for adjoint in (False, True):
        trajectory = flow.integrate(z, [0.0, 1.0], ODE(rtol=1e-9, atol=1e-9, adjoint=adjoint))
        total = trajectory.z[-1].sin().sum() + trajectory.log_det[-1].square().sum()
        gradients.append(torch.autograd.grad(total, leaves))
    for direct, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, direct, rtol=1e-6, atol=1e-6)


@pytest.mark.xfail(raises=RuntimeError, reason="torchdiffeq 0.2.5: adaptive methods look at values")
def test_adaptive_methods_under_vmap():
    """Tells when torchdiffeq learns it, so that the documentation changes."""
    flow = PotentialFlow(net(2, 0))
    torch.func.vmap(lambda z: flow.integrate(z, [0.0, 1.0]).z[-1])(normal(1, 3, 2))
