"""Faults that strangers' cases found in flows: eigenvalues, times, pulses, points that are not finite."""

import math
import time

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from latentflow import (
    ODE,
    Euler,
    GaussianPrior,
    HopfLaxFlow,
    MLPPotential,
    PotentialFlow,
    QuadraticPotential,
    SlogDet,
    TransportedPrior,
)
from latentflow.flow import HopfLaxPotential, InversionError, Newton


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("close", [0.0, 1e-13, 1e-9])
def test_second_derivatives_of_an_exact_log_det_with_equal_eigenvalues(close):
    """Catches A1: a log-determinant through eigenvalues, whose second derivative divides by their differences."""
    matrix = torch.diag(torch.tensor([0.5, 0.5 + close, -0.25], dtype=torch.float64)).requires_grad_()
    found = []
    for log_det in (SlogDet(eigenvalues=True), SlogDet()):
        flow = PotentialFlow(lambda z, t: ((z @ matrix) * z).sum(-1) / 2 + z.pow(3).sum(-1) / 6)
        z = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
        volume = flow.rollout(z, 1, log_det=log_det, on_fold="ignore").log_det[-1].sum()
        slope = torch.autograd.grad(volume, z, create_graph=True)[0]
        found.append(torch.autograd.grad(slope.square().sum(), matrix)[0])
    assert torch.isfinite(found[0]).all()
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
    # d/dz_i log det(I + A + diag z) = (I + A)^-1_ii, so the penalty is 2 sum_i (1 + a_i)^-2
    a = matrix.detach().diagonal()
    torch.testing.assert_close(found[0].diagonal(), -4 * (1 + a) ** -3)


def test_a_penalty_on_the_slope_of_the_volume_of_a_network():
    """Catches A1 on the case that was reported: two hidden units in five dimensions, so three equal eigenvalues."""
    torch.manual_seed(0)
    z, found = torch.randn(4, 5, dtype=torch.float64, requires_grad=True), []
    u = MLPPotential(5, (2,)).double()
    for log_det in (SlogDet(eigenvalues=True), SlogDet()):
        volume = PotentialFlow(u).rollout(z, 1, log_det=log_det, on_fold="ignore").log_det[-1].sum()
        penalty = torch.autograd.grad(volume, z, create_graph=True)[0].square().sum()
        found.append(torch.autograd.grad(penalty, list(u.parameters()), allow_unused=True))
    for ours, theirs in zip(*found, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scheme", [Euler(), ODE(rtol=1e-6, atol=1e-6)])
@pytest.mark.parametrize(("start", "dt"), [(1e5, 0.1), (1e6, 0.01), (1e9, 0.5)])
def test_times_keep_their_precision(scheme, start, dt):
    """Catches A5: late times rounded to float32 with the points, by which steps get other lengths or none."""
    flow = PotentialFlow(QuadraticPotential(2, torch.diag(torch.tensor([0.5, -0.25]))))
    z0, times = torch.ones(3, 2), [start + n * dt for n in range(4)]
    trajectory = flow.follow(z0, times, scheme)
    assert trajectory.times.dtype == torch.float64
    torch.testing.assert_close(trajectory.times, torch.tensor(times, dtype=torch.float64), rtol=0, atol=0)
    torch.testing.assert_close(flow.inverse(trajectory).z[-1], z0, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(trajectory.z, flow.follow(z0, [n * dt for n in range(4)], scheme).z, rtol=1e-4, atol=0)


class Pulse(torch.nn.Module):
    """A velocity of one for a short while: a normal pulse of unit area along the first coordinate."""

    def __init__(self, at, width):
        super().__init__()
        self.at, self.width, self.calls = at, width, 0

    def forward(self, z, t):
        self.calls += 1
        shape = torch.exp(-(((t - self.at) / self.width) ** 2) / 2) / (self.width * math.sqrt(2 * math.pi))
        return shape * z[..., 0]


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "fehlberg2", "adaptive_heun", "dopri8"])
@pytest.mark.parametrize("at", [0.05, 0.25, 0.55, 0.7, 0.95])
@pytest.mark.parametrize("width", [0.004, 0.01, 0.03])
def test_a_pulse_between_the_stages_of_a_long_step_is_found(method, at, width):
    """Catches A6: a first step over the whole interval whose stages all miss the pulse; it moves points by one."""
    flow = PotentialFlow(Pulse(at, width))
    end = flow.integrate(torch.zeros(5, 2, dtype=torch.float64), [0.0, 1.0], ODE(method, divergence=None)).z[-1, :, 0]
    inside = (math.erf((1 - at) / width / math.sqrt(2)) + math.erf(at / width / math.sqrt(2))) / 2
    torch.testing.assert_close(end, torch.full((5,), inside, dtype=torch.float64), rtol=0, atol=2e-3)


def test_the_search_for_structure_costs_little_on_a_straight_path():
    """Catches a search that makes the solver take small steps where the velocity is smooth."""

    class Straight(torch.nn.Module):
        calls = 0

        def forward(self, z, t):
            self.calls += 1
            return z[..., 0] * (1 + t) + z[..., 1].sin() * 0.1

    straight = Straight()
    PotentialFlow(straight).integrate(torch.ones(100, 2), [0.0, 1.0], ODE(divergence=None))
    assert straight.calls <= 2 + 2 * 7  # two for the search; one or two steps of seven stages


def test_points_that_are_not_finite_are_refused_at_once():
    """Catches C6: an iteration that goes on for 20 seconds at one point that is NaN."""
    potential = HopfLaxPotential(MLPPotential(3, (64, 64)))
    z = torch.randn(512, 3, generator=seeded())
    z[7, 1] = math.nan
    before = time.perf_counter()
    with pytest.raises(InversionError, match="1 of 512 points is not finite"):
        potential(z, torch.tensor(0.5))
    with pytest.raises(InversionError, match="not finite"):
        Newton().solve(lambda z, t: (z - 1).abs().log().sum(-1), torch.ones(4, 2), 0.0, 1.0)
    assert time.perf_counter() - before < 5


def test_too_many_steps_are_refused_at_once():
    """Catches C6: a grid over a long time that is built step by step before anything is said."""
    flow, z0 = PotentialFlow(QuadraticPotential(2)), torch.zeros(1, 2)
    with pytest.raises(ValueError, match="step_size: expected at most 1,000,000 steps"):
        flow.integrate(z0, [0.0, 1e6], ODE("rk4", options={"step_size": 1e-2}))
    with pytest.raises(ValueError, match="steps: expected at most 1,000,000"):
        flow.rollout(z0, 10**9)


def test_the_divergence_of_two_push_forwards_by_one_map():
    """Catches a divergence that is refused though the map does not change it; checked against the closed form."""
    matrix = torch.diag(torch.tensor([0.5, -0.25])).double()
    flow, times = PotentialFlow(QuadraticPotential(2, matrix)), [0.0, 1.0, 2.0]
    p = Independent(Normal(torch.zeros(2).double(), torch.ones(2).double()), 1)
    q = Independent(Normal(torch.ones(2).double(), 2 * torch.ones(2).double()), 1)
    moved = [flow.push_forward(law, times, Euler()) for law in (p, q)]
    step = torch.linalg.matrix_power(torch.eye(2).double() + matrix, 2)
    exact = [MultivariateNormal(step @ law.mean, step @ torch.diag(law.variance) @ step) for law in (p, q)]
    torch.testing.assert_close(kl_divergence(*moved), kl_divergence(*exact))
    with pytest.raises(NotImplementedError):
        kl_divergence(moved[0], flow.push_forward(q, [0.0, 1.0], Euler()))
    with pytest.raises(NotImplementedError):
        kl_divergence(moved[0], PotentialFlow(QuadraticPotential(2)).double().push_forward(q, times, Euler()))


def test_the_divergence_of_a_transported_prior_from_itself():
    """Catches maps of one prior that count as different because each call builds its own."""
    prior = TransportedPrior(GaussianPrior(2), MLPPotential(2, (4,), output_scale=0.1))
    torch.testing.assert_close(kl_divergence(prior(2.0), prior(2.0)), torch.tensor(0.0))
    with pytest.raises(NotImplementedError):
        kl_divergence(prior(2.0), prior(1.0))


@pytest.mark.parametrize("flow", [PotentialFlow(MLPPotential(2, (4,))), HopfLaxFlow(MLPPotential(2, (4,)))])
def test_empty_batches(flow):
    """Catches a reshape or a maximum over no samples."""
    z = torch.zeros(0, 2)
    for scheme in (Euler(), ODE()):
        trajectory = flow.follow(z, [0.0, 0.5, 1.0], scheme)
        assert trajectory.z.shape == (3, 0, 2)
        assert trajectory.log_det.shape == (3, 0)
        assert flow.inverse(trajectory).z.shape == (3, 0, 2)
    law = flow.push_forward(Independent(Normal(torch.zeros(2), torch.ones(2)), 1), [0.0, 0.5], Euler())
    assert law.log_prob(z).shape == (0,)
    assert law.sample((0,)).shape == (0, 2)
