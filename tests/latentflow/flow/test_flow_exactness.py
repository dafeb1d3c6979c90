"""The discrete flow and its density against closed forms."""

import math

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import bures_map, generator, hopf_lax, net, normal, ohj_quadratic, root, sigma_points, spd
from hypothesis import given
from torch.distributions import MultivariateNormal

from latentflow import FunctionPotential, PotentialFlow, QuadraticPotential, SlogDet
from latentflow.flow import FirstOrder

dims, seeds = st.integers(1, 5), st.integers(0, 2**31 - 100)
near = {"rtol": 1e-11, "atol": 1e-11}


@given(dims, seeds, st.sampled_from([1, 3, 10]))
def test_euler_is_exact_on_optimal_transport(dim, seed, n):
    """Catches a missing step length, a wrong time index, and log|1 + lap| in place of the determinant."""
    matrix, vector = spd(dim, seed, -0.5, 0.5), normal(seed + 1, dim)
    z = normal(seed + 2, 4, dim)
    trajectory = PotentialFlow(ohj_quadratic(matrix, vector)).rollout(z, steps=n, dt=1 / n)
    velocity = z @ matrix + vector
    eye = torch.eye(dim, dtype=torch.float64)
    for time, points, log_det, action in zip(
        trajectory.times, trajectory.z, trajectory.log_det, trajectory.action, strict=True
    ):
        torch.testing.assert_close(points, z + time * velocity, **near)
        torch.testing.assert_close(log_det, torch.logdet(eye + time * matrix).expand(4), **near)
        torch.testing.assert_close(action, time * velocity.square().sum(-1), **near)


@given(dims, seeds, st.sampled_from([1, 3]))
def test_euler_moves_a_gaussian_onto_another(dim, seed, n):
    """Catches log_det of the wrong sign, and an action with the factor 1/2 or a mean over coordinates."""
    mean0, mean1 = normal(seed, dim), normal(seed + 1, dim)
    cov0, cov1 = spd(dim, seed + 2), spd(dim, seed + 3)
    transport = bures_map(cov0, cov1)
    potential = ohj_quadratic(transport - torch.eye(dim, dtype=torch.float64), mean1 - transport @ mean0)
    z = sigma_points(mean0, cov0)
    trajectory = PotentialFlow(potential).rollout(z, steps=n, dt=1 / n)
    log_q = MultivariateNormal(mean0, cov0).log_prob(z) - trajectory.log_det[-1]
    torch.testing.assert_close(log_q, MultivariateNormal(mean1, cov1).log_prob(trajectory.z[-1]), rtol=1e-9, atol=1e-9)
    half = root(cov0)
    wasserstein = (mean1 - mean0).square().sum() + (cov0 + cov1 - 2 * root(half @ cov1 @ half)).trace()
    torch.testing.assert_close(trajectory.action[-1].mean(), wasserstein, rtol=1e-9, atol=1e-9)


@given(dims, seeds, st.sampled_from([1, 3]))
def test_euler_is_exact_on_a_nonquadratic_hamilton_jacobi_solution(dim, seed, n):
    """Catches a Hessian at the wrong point or time, which quadratics cannot see."""
    weight = normal(seed, dim, dim)
    u, gradient, hessian = hopf_lax(weight / torch.linalg.matrix_norm(weight, 2), 0.4)
    y = normal(seed + 1, 3, dim)
    trajectory = PotentialFlow(u).rollout(y + 0.25 * gradient(y), steps=n, start=0.25, dt=0.75 / n)
    eye = torch.eye(dim, dtype=torch.float64)
    volume = torch.logdet(eye + hessian(y)) - torch.logdet(eye + 0.25 * hessian(y))
    torch.testing.assert_close(trajectory.z[-1], y + gradient(y), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(trajectory.log_det[-1], volume, rtol=1e-9, atol=1e-9)


def plain_euler(u, z, steps, start=0.0, dt=1.0):
    """The Euler map of one point, by torch.func alone."""
    for i in range(steps):
        t = torch.tensor(start + i * dt, dtype=z.dtype)
        z = z + dt * torch.func.grad(lambda z, t=t: u(z, t))(z)
    return z


@given(dims, seeds, st.integers(1, 4), st.sampled_from([0.5, -0.3]))
def test_log_det_is_that_of_the_whole_map(dim, seed, steps, dt):
    """Catches a stale point or time, a diagonal determinant, and log-determinants that do not accumulate."""
    u = net(dim, seed)
    z = normal(seed + 20, dim)
    trajectory = PotentialFlow(u).rollout(z, steps, start=1.0, dt=dt, on_fold="ignore")
    jacobian = torch.func.jacrev(lambda z: plain_euler(u, z, steps, 1.0, dt))(z)
    torch.testing.assert_close(trajectory.z[-1], plain_euler(u, z, steps, 1.0, dt), **near)
    sign, log_det = torch.linalg.slogdet(jacobian)
    torch.testing.assert_close(trajectory.log_det[-1], log_det, rtol=1e-9, atol=1e-9)
    assert trajectory.sign.prod(0) == sign


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_time_index(start, steps):
    """Catches a step that reads the time after it."""
    z, b = normal(0, 3, 2), torch.tensor([1.0, -2.0], dtype=torch.float64)
    flow = PotentialFlow(FunctionPotential(lambda z, t: t * (z * b).sum(-1)))
    trajectory = flow.rollout(z, steps, start=float(start), log_det=None)
    total = steps * (steps - 1) / 2 if start == 0 else steps * (steps + 1) / 2
    torch.testing.assert_close(trajectory.z[-1], z + total * b, **near)
    torch.testing.assert_close(trajectory.times, start + torch.arange(steps + 1.0, dtype=torch.float64), **near)


@given(dims, seeds)
def test_error_constants(dim, seed):
    """Catches a volume of the wrong first order, such as the surrogate in place of the determinant."""
    n, matrix = 80, spd(dim, seed, -0.5, 0.5)
    flow, z = PotentialFlow(QuadraticPotential(dim, matrix)), normal(seed, dim)
    eigenvalues, trace = torch.linalg.eigvalsh(matrix), matrix.trace()
    exact = flow.rollout(z, n, dt=1 / n).log_det[-1]
    assert abs(n * (exact - trace) + eigenvalues.square().sum() / 2) <= eigenvalues.abs().pow(3).sum() / (2 * n) + 1e-9
    surrogate = flow.rollout(z, n, dt=1 / n, log_det=FirstOrder()).log_det[-1]
    assert abs(n * (surrogate - trace) + trace.square() / 2) <= trace.abs().pow(3) / (2 * n) + 1e-9


@pytest.mark.parametrize("dim", [2, 4, 8])
def test_mild_contraction_kills_the_surrogate(dim):
    """Catches a floor or clamp on the surrogate, and a guard that sleeps where it is -inf."""
    flow = PotentialFlow(QuadraticPotential(dim, -torch.eye(dim, dtype=torch.float64) / dim))
    exact = flow.rollout(normal(0, 3, dim), 1, on_fold="ignore")
    torch.testing.assert_close(exact.log_det[-1], torch.full_like(exact.log_det[-1], dim * math.log1p(-1 / dim)))
    assert not exact.folded.any()
    surrogate = flow.rollout(normal(0, 3, dim), 1, log_det=FirstOrder(), on_fold="ignore")
    assert (surrogate.log_det[-1] == -torch.inf).all()
    assert surrogate.folded.all()


@given(st.floats(-0.9, 0.9))
def test_traceless_hessian(a):
    """Catches a determinant of the diagonal, which sees no volume change here."""
    matrix = torch.tensor([[0.0, a], [a, 0.0]], dtype=torch.float64)
    flow, z = PotentialFlow(QuadraticPotential(2, matrix)), normal(0, 2)
    assert flow.rollout(z, 1).log_det[-1].item() == pytest.approx(math.log1p(-a * a), abs=1e-12)
    assert flow.rollout(z, 1, log_det=FirstOrder()).log_det[-1].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("volume", [SlogDet(), FirstOrder()])
def test_liouville(volume):
    """Catches a volume that does not converge at first order to that of the continuous flow of a nonlinear field."""
    u, z = 3 * net(2, 7), normal(1, 2)

    def velocity(z, t):
        return torch.func.grad(lambda z: u(z, torch.tensor(t, dtype=z.dtype)))(z)

    def runge_kutta(z, n=40):
        h = 1 / n
        for i in range(n):
            k1 = velocity(z, i * h)
            k2 = velocity(z + h / 2 * k1, i * h + h / 2)
            k3 = velocity(z + h / 2 * k2, i * h + h / 2)
            z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(z + h * k3, i * h + h))
        return z

    truth = torch.linalg.slogdet(torch.func.jacrev(runge_kutta)(z)).logabsdet
    small, smaller = (PotentialFlow(u).rollout(z, n, dt=1 / n, log_det=volume).log_det[-1] for n in (80, 160))
    truth, small, smaller = truth.item(), small.item(), smaller.item()
    assert abs(truth) > 0.05
    assert abs(2 * smaller - small - truth) < 1e-3 * abs(truth)
    assert 0.95 < math.log2((small - truth) / (smaller - truth)) < 1.1


@given(dims, seeds)
def test_rollout_resumes(dim, seed):
    """Catches a start time that only labels the trajectory."""
    u, z = net(dim, seed), torch.rand(3, dim, generator=generator(seed), dtype=torch.float64)
    flow = PotentialFlow(u)
    whole, first = flow.rollout(z, 5, dt=0.5, on_fold="ignore"), flow.rollout(z, 2, dt=0.5, on_fold="ignore")
    rest = flow.rollout(first.z[-1], 3, start=1.0, dt=0.5, on_fold="ignore")
    torch.testing.assert_close(torch.cat([first.z, rest.z[1:]]), whole.z, **near)
    torch.testing.assert_close(first.log_det[-1] + rest.log_det[-1], whole.log_det[-1], **near)
    torch.testing.assert_close(first.action[-1] + rest.action[-1], whole.action[-1], **near)
