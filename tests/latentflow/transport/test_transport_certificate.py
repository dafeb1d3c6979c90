"""Certificates of paths: bounds that hold for every flow, and are equalities for optimal transport."""

import math
from dataclasses import replace
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import ot
import pytest
import torch
from closed_forms import generator, hopf_lax, net, normal, spd
from hypothesis import given, settings

from latentflow import (
    FunctionPotential,
    PotentialFlow,
    QuadraticPotential,
    Trajectory,
    gaussian_transport_potential,
    transport_certificate,
)
from latentflow.transport.certificate import c_transform, dual_values

dims, seeds = st.integers(1, 5), st.integers(0, 2**31 - 100)


def emd2(trajectory):
    """The exact squared distance of a trajectory's ends by linear programming."""
    x, y = trajectory.z[0].reshape(-1, trajectory.z.shape[-1]), trajectory.z[-1].reshape(-1, trajectory.z.shape[-1])
    weights = np.full(len(x), 1 / len(x))
    return float(ot.emd2(weights, weights, (x.unsqueeze(1) - y).square().sum(-1).numpy()))


def straight(start, end, time=1.0, actions=None):
    """The trajectory that moves points in straight lines, or one with other actions between the same ends."""
    action = (end - start).square().sum(-1) / time if actions is None else actions
    times = torch.tensor([0.0, time], dtype=torch.float64)
    return Trajectory(times, torch.stack([start, end]), None, torch.stack([torch.zeros_like(action), action]))


def close(a, b, tolerance=1e-10):
    assert abs(float(a) - float(b)) <= tolerance * (1 + abs(float(b))), (float(a), float(b))


@given(dims, seeds, st.sampled_from([(50,), (5, 4), ()]), st.sampled_from([0.5, 1.0]))
def test_the_transport_between_gaussians_is_certified(dim, seed, batch, time):
    """Catches a dual of the wrong sign, factor or time, and Sinkhorn's error where there need be none."""
    u = gaussian_transport_potential(
        normal(seed, dim), spd(dim, seed + 1), normal(seed + 2, dim), spd(dim, seed + 3, 0.5)
    )
    trajectory = PotentialFlow(u).rollout(normal(seed + 4, *batch, dim), steps=4, dt=time / 4)
    found = transport_certificate(trajectory, u, generator=generator(0))
    displacement = (trajectory.z[-1] - trajectory.z[0]).square().sum(-1).mean()
    for number in (found.cost, found.displacement, found.dual, found.lower, found.wasserstein**2, emd2(trajectory)):
        close(number, displacement)
    close(found.gap, 0)
    close(found.ratio, 1, 1e-9)
    assert found.sinkhorn is None
    assert found.gap_interval.abs().max() < 1e-9 * (1 + displacement)
    assert found.samples == max(1, math.prod(batch))


@pytest.mark.parametrize("forth", [True, False])
def test_a_solution_that_is_not_quadratic(forth):
    """Catches a bound that is right for quadratics alone, or only forwards in time."""
    u, gradient, _ = hopf_lax(spd(2, 0), 0.1)
    y = normal(1, 60, 2)
    z = torch.stack([y + t * gradient(y) for t in (0.1, 0.8)])
    steps = torch.tensor([0.1, 0.8], dtype=torch.float64)
    action = torch.stack([torch.zeros(60).double(), 0.7 * gradient(y).square().sum(-1)])
    trajectory = Trajectory(steps, z, None, action) if forth else Trajectory(steps.flip(0), z.flip(0), None, -action)
    found = transport_certificate(trajectory, u)
    for number in (found.cost, found.dual, found.wasserstein**2, emd2(trajectory)):
        close(number, (z[1] - z[0]).square().sum(-1).mean())


@given(dims, seeds)
@settings(max_examples=4)
def test_bounds_on_any_flow(dim, seed):
    """Catches ends that are swapped, a bound that needs conditions, and an estimate that leaves its bounds."""
    u = net(dim, seed)
    with torch.no_grad():
        trajectory = PotentialFlow(u).rollout(3 * normal(seed + 9, 40, dim), steps=3, dt=0.5, on_fold="ignore")
    found, exact = transport_certificate(trajectory, u, blur=0.03, scaling=0.9), emd2(trajectory)
    x, y = trajectory.z[0], trajectory.z[-1]
    assert (y.mean(0) - x.mean(0)).square().sum() <= exact + 1e-10
    chain = [found.dual, found.lower, exact, found.displacement, found.cost]
    assert all(float(a) <= float(b) + 1e-10 for a, b in pairwise(chain)), chain
    assert found.lower - 1e-10 <= found.wasserstein**2 <= found.displacement + 1e-10
    close(found.gap, found.cost - found.wasserstein**2)
    close(found.ratio, found.cost / found.wasserstein**2)
    free = transport_certificate(trajectory, blur=0.03, scaling=0.9)
    assert free.dual is None
    assert free.lower <= found.lower + 1e-10
    gauge = transport_certificate(trajectory, lambda z, t: u(z, t) + 50 * t.cos() - 7, blur=0.03, scaling=0.9)
    close(gauge.dual, found.dual)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_either_end_of_the_potential_is_enough(end):
    """Catches a bound at one end with the wrong sign, which the other end makes up for."""
    u = gaussian_transport_potential(normal(0, 2), spd(2, 1), normal(2, 2), spd(2, 3))
    trajectory = PotentialFlow(u).rollout(normal(4, 50, 2), steps=2, dt=0.5)

    def known_at_one_end(z, t):
        return torch.where(t == end, u(z, t), (3 * z).sin().sum(-1))

    found = transport_certificate(trajectory, known_at_one_end)
    close(found.dual, found.cost)


def test_an_estimate_stays_within_its_bounds():
    """Catches an estimate of few iterations that is above what the flow itself pays, or below a lower bound."""
    above, below = [], []
    for seed in range(12):
        z = normal(seed, 4 + seed, 2)
        found = transport_certificate(straight(z, 2 * z + 5), blur=0.3 if seed % 2 else 0.05, scaling=0.5)
        assert found.lower - 1e-12 <= found.wasserstein**2 <= found.displacement + 1e-12
        assert found.lower > 0.99 * found.displacement  # without a potential, by those of the iterations alone
        above.append(found.sinkhorn**2 > found.displacement + 1e-4)
        below.append(found.sinkhorn**2 < found.lower - 1e-4)
    assert any(above)
    assert any(below)


@given(dims, seeds)
def test_any_function_bounds(dim, seed):
    """Catches a transform that takes the minimum over the wrong points, and one wrong between chunks."""
    x, y, psi = normal(seed, 12, dim), normal(seed + 1, 12, dim), normal(seed + 2, 12)
    trajectory = straight(x, y)
    values = dual_values(psi, x, y)
    assert (values <= (x - y).square().sum(-1) + 1e-12).all()
    once = psi.mean() + c_transform(psi, x, y).mean()
    assert once - 1e-12 <= values.mean() <= emd2(trajectory) + 1e-12
    costs = (x.unsqueeze(1) - y).square().sum(-1)
    torch.testing.assert_close(c_transform(psi, x, y), (costs - psi.unsqueeze(1)).amin(0), rtol=1e-11, atol=1e-11)
    # the potentials of the linear program reach its value
    plan = ot.lp.emd(np.full(12, 1 / 12), np.full(12, 1 / 12), costs.numpy(), log=True)[1]
    close(dual_values(torch.as_tensor(plan["u"]), x, y).mean(), emd2(trajectory))


def test_a_turned_ring():
    """Catches the claim that a cost is a distance: the points move and the ring does not."""
    angle = torch.arange(12, dtype=torch.float64) * math.pi / 6
    ring = torch.stack([angle.cos(), angle.sin()], -1)
    found = transport_certificate(straight(ring, ring.roll(-1, 0)))
    close(found.displacement, 2 - 2 * math.cos(math.pi / 6))
    close(found.cost, found.displacement)
    assert found.wasserstein**2 < 1e-3 * found.cost
    assert found.ratio > 1e3
    shut = transport_certificate(straight(ring, ring.roll(-1, 0)), lambda z, t: 0 * z.sum(-1), blur=1e-3)
    close(shut.dual, 0)
    assert shut.ratio > 1e4
    still = transport_certificate(straight(ring, ring), generator=generator(0))
    assert still.cost == still.wasserstein == still.gap == 0
    assert still.ratio == 1
    back = transport_certificate(straight(ring, ring, actions=torch.ones(12).double()))  # there and back again
    assert back.gap == back.cost == 1
    assert back.ratio == back.ratio_interval[0] == math.inf


def test_a_product_of_optimal_maps_is_not_optimal():
    """Catches a certificate that composes: each step is a gradient of a convex function, their product is not."""
    stretch = torch.diag(torch.tensor([4.0, 0.25], dtype=torch.float64))
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / 2**0.5
    start = normal(0, 200, 2)
    trajectory = straight(start, start @ stretch @ turn @ stretch @ turn.mT)
    found = transport_certificate(trajectory, generator=generator(0))
    exact = emd2(trajectory)
    assert float(found.displacement) - exact > 3
    assert float(found.wasserstein) ** 2 == pytest.approx(exact, rel=0.01)
    assert float(found.sinkhorn) ** 2 == pytest.approx(exact, rel=0.01)
    assert float(found.lower) == pytest.approx(exact, rel=0.01)
    assert found.gap_interval[0] <= found.gap <= found.gap_interval[1]
    assert 1 < found.ratio_interval[0] <= found.ratio <= found.ratio_interval[1]


@given(st.floats(0.2, 1), st.floats(0, 1), st.integers(1, 3))
def test_the_bound_of_the_fluid_formulation_is_below(a, excess, dim):
    """Catches a dual that is weaker than that of the equation with a force f <= 0, whose gap is the mean of |f|."""
    b = a + excess
    u = FunctionPotential(lambda z, t: a * z.square().sum(-1) / (2 * (1 + b * t)))
    start = normal(1, 40, dim)
    end = start * (1 + b) ** (a / b)
    rate = 2 * a / b - 1  # the action is a^2 |z0|^2 times the integral of (1 + bt)^(2a/b - 2)
    integral = ((1 + b) ** rate - 1) / (b * rate) if abs(rate) > 1e-6 else math.log1p(b) / b
    actions = a**2 * integral * start.square().sum(-1)
    found = transport_certificate(straight(start, end, actions=actions), u, blur=0.1, scaling=0.8)
    fluid = 2 * (u(end, torch.tensor(1.0)) - u(start, torch.tensor(0.0))).mean()
    exact = (end - start).square().sum(-1).mean()  # a scaling is optimal
    assert fluid - 1e-10 <= found.dual <= exact + 1e-10
    assert exact <= found.cost + 1e-10
    # r = f: 2K - fluid = 2 int E|f|, where |f| along the flow is (ab - a^2) / (2 a^2) of |v|^2
    close(found.cost - fluid, (b - a) / a * actions.mean(), 1e-8)


def test_intervals_cover():
    """Catches an interval of the wrong width or level: 95 % of 300 hold the mean of the population."""
    matrix = torch.tensor([[0.5, 0.2], [0.2, -0.3]], dtype=torch.float64)
    whole = torch.linalg.matrix_exp(matrix)
    eye = torch.eye(2, dtype=torch.float64)
    u = QuadraticPotential(2, whole - eye)  # so that the distance is exact
    speed = matrix @ torch.linalg.solve(2 * matrix, torch.linalg.matrix_exp(2 * matrix) - eye) @ matrix
    gap = float(speed.trace() - (whole - eye).square().sum())
    ratio = float(speed.trace() / (whole - eye).square().sum())
    hits = np.zeros(2)
    for i in range(300):
        z = normal(i, 80, 2)
        trajectory = straight(z, z @ whole, actions=((z @ speed) * z).sum(-1))
        found = transport_certificate(trajectory, u, resamples=300, generator=generator(i))
        for k, (interval, value) in enumerate(((found.gap_interval, gap), (found.ratio_interval, ratio))):
            hits[k] += bool(interval[0] <= value <= interval[1])
    error = 3 * (0.95 * 0.05 / 300) ** 0.5
    assert (abs(hits / 300 - 0.95) < error + 0.02).all(), hits  # a percentile interval of 80 samples is short by 1 %


def test_an_interval_of_a_lower_level_is_shorter():
    """Catches a level that is ignored, or turned round, and a generator that is not used."""
    trajectory = PotentialFlow(QuadraticPotential(2, spd(2, 0))).rollout(normal(1, 64, 2), steps=3, dt=1 / 3)

    def interval(level, seed=0):
        return transport_certificate(trajectory, level=level, blur=0.05, generator=generator(seed)).gap_interval

    assert interval(0.5).diff() < interval(0.95).diff()
    assert torch.equal(interval(0.9), interval(0.9))
    assert not torch.equal(interval(0.9), interval(0.9, seed=1))


def test_a_part_of_many_samples():
    """Catches pairs that are torn apart, and a potential at points of other samples."""
    u = gaussian_transport_potential(normal(0, 2), spd(2, 1), normal(2, 2), spd(2, 3))
    trajectory = PotentialFlow(u).rollout(normal(4, 30, 20, 2), steps=2, dt=0.5)
    found = transport_certificate(trajectory, u, samples=100, generator=generator(0))
    assert found.samples == 100
    close(found.dual, found.cost)
    assert found.cost != transport_certificate(trajectory, u, samples=100, generator=generator(1)).cost
    assert transport_certificate(trajectory, u, samples=10_000).samples == 600


def test_single_precision_and_no_gradients():
    """Catches gradients that stay attached, and a dtype that is not that of the trajectory."""
    u = QuadraticPotential(2, spd(2, 0).float())
    trajectory = PotentialFlow(u).rollout(normal(1, 20, 2).float(), steps=2, dt=0.5)
    found = transport_certificate(trajectory, u)
    for number in (found.cost, found.wasserstein, found.gap, found.ratio, found.dual, found.lower, found.gap_interval):
        assert number.dtype == torch.float32
        assert not number.requires_grad
    assert found.gap > 0


trajectory = straight(normal(0, 5, 2), normal(1, 5, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: transport_certificate(
                Trajectory(trajectory.times[:1], trajectory.z[:1], None, trajectory.action[:1])
            ),
            "trajectory: expected at least two times, got 1",
        ),
        (lambda: transport_certificate(straight(*normal(0, 2, 0, 3))), "trajectory: expected samples"),
        (
            lambda: transport_certificate(replace(trajectory, z=trajectory.z * math.nan)),
            "trajectory: expected finite points",
        ),
        (
            lambda: transport_certificate(replace(trajectory, action=trajectory.action + math.inf)),
            "trajectory: expected finite points",
        ),
        (lambda: transport_certificate(trajectory, lambda z, t: z), "potential: expected finite values of shape"),
        (
            lambda: transport_certificate(trajectory, lambda z, t: z.sum(-1) * math.nan),
            "potential: expected finite values",
        ),
        (lambda: transport_certificate(trajectory, level=95), "level: expected a number between 0 and 1, got 95"),
        (lambda: transport_certificate(trajectory, samples=0), "samples: expected a positive integer"),
        (lambda: transport_certificate(trajectory, resamples=0), "resamples: expected a positive integer"),
        (lambda: transport_certificate(trajectory, blur=2.0), "blur: expected"),
        (lambda: transport_certificate(trajectory, lambda z, t: z.sum(-1), scaling=0.0), "scaling: expected"),
    ],
)
def test_wrong_input_is_named(call, message):
    """Catches a certificate of nothing."""
    with pytest.raises(ValueError, match=message):
        call()
