"""Potentials that follow one another: which one acts, on which clock, at which samples."""

from operator import itemgetter

import pytest
import torch
from hypothesis import given
from strategies import Well, close, jets_close, network, rand, randn, request_of, seeds, wave

from latentflow import PotentialBank, SwitchedPotential, gradient, jet
from latentflow.calculus import evaluate_jet


def constant(slope):
    """A field that moves at the speed ``slope``."""
    return lambda z, t: slope * z.sum(-1)


def clocked(rate):
    """A field that shows the time it reads: u = rate t^2 + t z."""
    return lambda z, t: rate * t.square() + t * z.sum(-1)


@pytest.mark.parametrize(
    ("t", "slope"),
    [(-5.0, 1.0), (0.0, 1.0), (1.999, 1.0), (2.0, 2.0), (2.5, 2.0), (2.999, 2.0), (3.0, 3.0), (9.0, 3.0)],
)
@pytest.mark.parametrize("clock", ["continue", "restart"])
def test_which_potential_acts(t, slope, clock):
    """Row 42; catches a switch one step late, that is t_{i-1} < t <= t_i, and a wrong end."""
    u = SwitchedPotential([constant(1.0), constant(2.0), constant(3.0)], [2.0, 3.0], clock)
    close(gradient(u, torch.zeros(4, 1, dtype=torch.float64), t), torch.full((4, 1), slope, dtype=torch.float64))


def test_unit_steps():
    """Row 42; catches an off-by-one count: times=[4] gives four unit steps with the first potential."""
    u = SwitchedPotential([constant(1.0), constant(10.0)], times=[4])
    z = torch.zeros(1, 1, dtype=torch.float64)
    for n in range(6):
        z = z + gradient(u, z, float(n))
    close(z, torch.tensor([[4 * 1.0 + 2 * 10.0]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("clock", "reads"), [("continue", [0.0, 0.5, 1.0, 2.5, 3.0, 7.0]), ("restart", [0.0, 0.5, 0.0, 1.5, 0.0, 4.0])]
)
def test_what_the_clock_reads(clock, reads):
    """Row 42; catches a restart that subtracts the wrong switch, or the length of the stretch."""
    u = SwitchedPotential([clocked(1.0), clocked(10.0), clocked(100.0)], [1.0, 3.0], clock)
    t = torch.tensor([0.0, 0.5, 1.0, 2.5, 3.0, 7.0], dtype=torch.float64)
    rate = torch.tensor([1.0, 1.0, 10.0, 10.0, 100.0, 100.0], dtype=torch.float64)
    read = torch.tensor(reads, dtype=torch.float64)
    z = randn(6, 2)
    result = jet(u, z, t)
    close(result.value, rate * read.square() + read * z.sum(-1))
    close(result.gradient, read.unsqueeze(-1).expand(6, 2))
    close(result.time_derivative, 2 * rate * read + z.sum(-1))
    close(u(z, t), result.value)


@pytest.mark.parametrize("t", [0.2, 1.4, 2.0])
def test_a_first_clock_starts_at_time_zero(t):
    """Catches a restart relative to the first switch before that switch has happened."""
    u = SwitchedPotential([wave, Well()], [2.5], "restart")
    z = randn(3, 2)
    jets_close(jet(u, z, t), jet(wave, z, t))


@given(seeds)
def test_every_sample_has_its_own_time(seed):
    """Catches groups put back in a wrong order, and a switch decided by the first sample for all."""
    fields, times = [network(3, seed=1), wave, Well()], [0.3, 0.7]
    z, t = randn(4, 3, 3, seed=seed), rand(4, 3, seed=seed)
    probes = torch.stack([z.cos(), z.sin()], dim=-2)
    for clock in ("continue", "restart"):
        whole = evaluate_jet(
            SwitchedPotential(fields, times, clock), z, t, request_of(probes, laplacian=True, hessian=True)
        )
        for i in range(4):
            for j in range(3):
                stage = sum(t[i, j] >= time for time in times)
                own = t[i, j] - ([0.0, *times][stage] if clock == "restart" else 0.0)
                request = request_of(probes[i, j], laplacian=True, hessian=True)
                alone = evaluate_jet(fields[stage], z[i, j], own, request)
                jets_close(whole.map(itemgetter((i, j))), alone)


def test_gradients_reach_the_time():
    """Catches a detached clock: d/dt of the gradient is the acceleration of a trained time."""
    t = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    for clock in ("continue", "restart"):
        u = SwitchedPotential([clocked(1.0), clocked(3.0)], [1.0], clock)
        slope = torch.autograd.grad(jet(u, randn(2, 2), t).time_derivative.sum(), t)[0]
        close(slope, torch.tensor([2.0, 6.0], dtype=torch.float64))


@pytest.mark.parametrize("batch", [(2,), (3, 2)])
def test_selections_follow_one_another(batch):
    """Row 42; catches a batch flattened before a selection of its own samples sees it (shared time)."""
    bank = PotentialBank([constant(1.0), constant(10.0)])
    u = SwitchedPotential([bank.select(torch.tensor([0, 1])), bank.select(torch.tensor([1, 0]))], [3.0])
    z = torch.zeros(*batch, 1)
    close(gradient(u, z, 1.0), torch.tensor([[1.0], [10.0]]).expand(*batch, 1))
    close(gradient(u, z, 5.0), torch.tensor([[10.0], [1.0]]).expand(*batch, 1))


@pytest.mark.parametrize("kind", ["select", "mix", "scale"])
def test_choices_of_each_sample_are_kept_when_times_differ(kind):
    """Catches weights or indices handed silently to other samples when a group is taken out of the batch."""
    bank = PotentialBank([constant(1.0), constant(10.0)])
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    slopes = torch.tensor([1.0, 10.0])
    field = {
        "select": bank.select(torch.tensor([0, 1])),
        "mix": bank.mix(weights),
        "scale": slopes * bank[0],
    }[kind]
    u = SwitchedPotential([field, field], [3.0])
    velocity = gradient(u, torch.zeros(2, 2, 1), torch.tensor([[0.0, 5.0], [0.0, 5.0]]))
    close(velocity.squeeze(-1), slopes.expand(2, 2))


@pytest.mark.parametrize(
    ("times", "clock", "message"),
    [
        ([], "continue", "times: expected one fewer than the 2 potentials, got 0"),
        ([1.0, 2.0], "continue", "times: expected one fewer than the 2 potentials, got 2"),
        ([1.0], "reset", "clock: expected 'continue' or 'restart', got 'reset'"),
    ],
)
def test_arguments_are_checked(times, clock, message):
    """Catches a potential that never acts, and a clock that falls back silently."""
    with pytest.raises(ValueError, match=message):
        SwitchedPotential([wave, wave], times, clock)


@pytest.mark.parametrize("times", [[2.0, 1.0], [1.0, 1.0]])
def test_times_increase(times):
    """Catches a bisection in times that are not sorted."""
    with pytest.raises(ValueError, match="times: expected finite, increasing times, got "):
        SwitchedPotential([wave, wave, wave], times)
    with pytest.raises(ValueError, match=r"(times: expected one fewer|potentials: expected at least one)"):
        SwitchedPotential([], [])


def test_one_potential_acts_always():
    """Catches an empty list of switches that fails or that delays the first potential."""
    z, t = randn(3, 2), 10 * rand(3)
    jets_close(jet(SwitchedPotential([wave], []), z, t), jet(wave, z, t))
