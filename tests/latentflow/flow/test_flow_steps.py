"""What an adaptive solver steps on: short pulses, requested times, and no more than it needs."""

import math

import pytest
import torch
from closed_forms import normal

from latentflow import FunctionPotential, HopfLaxFlow, MLPPotential, PotentialFlow, QuadraticPotential
from latentflow.flow import ODE


def gust(center, width, box):
    """The potential that pushes along the first axis, at a time and for a while, by 1 in all."""

    def u(z, t):
        away = (t - center) / width
        rate = (away.abs() < 0.5).to(t) if box else (-away.square() / 2).exp() / (2 * math.pi) ** 0.5
        return z[..., 0] * rate / width

    return FunctionPotential(u)


@pytest.mark.parametrize("points", [1, 200])
@pytest.mark.parametrize(
    ("center", "width", "box", "times"),
    [
        (0.05, 0.01, False, [0.0, 1.0]),
        (0.05, 0.01, True, [0.0, 1.0]),
        (0.55, 0.04, False, [0.0, 1.0]),
        (0.37, 0.01, True, [1.0, 0.0]),
        (1.5, 0.03, False, [0.0, 1.0, 2.0]),
    ],
)
def test_a_short_pulse_is_not_stepped_over(points, center, width, box, times):
    """Catches a first step as long as the interval, whose error estimate sees nothing of a pulse between its times."""
    z = normal(0, points, 2)
    smooth = () if box else (ODE("dopri8", 1e-7, 1e-7),)  # at a jump its steps become very short
    for scheme in (ODE(), ODE("bosh3", 1e-3, 1e-3), *smooth):
        trajectory = PotentialFlow(gust(center, width, box)).integrate(z, times, scheme)
        move = trajectory.z[-1] - z
        sign = 1.0 if times[-1] > times[0] else -1.0
        error = 2e-2 if scheme.method == "bosh3" else 1e-2 if box else 1e-4
        assert (move[:, 0] - sign).abs().max() < error
        assert move[:, 1].abs().max() < 1e-12


def test_a_bump_in_space_is_not_stepped_over():
    """Catches a look ahead at the times alone: this point meets the change on its way."""
    width = 0.01
    u = FunctionPotential(
        lambda z, t: (z + width * (math.pi / 2) ** 0.5 * ((z - 0.55) / (2**0.5 * width)).erf())[..., 0]
    )
    z = torch.zeros(1, 1, dtype=torch.float64)
    found = PotentialFlow(u).integrate(z, [0.0, 1.0], ODE(rtol=1e-7, atol=1e-9, divergence=None)).z[-1]
    x = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    bump = (-((x - 0.55) / width).square() / 2).exp()
    gain = torch.trapezoid(1 - 1 / (1 + bump), x)  # the time saved, and beyond the bump the way made in it
    assert float(found) == pytest.approx(1 + float(gain), abs=1e-6)


def test_data_of_each_sample_is_looked_at_for_all():
    """Catches a look ahead that fails, or takes some samples for others, where the potential holds data of each."""
    weight, z = torch.linspace(0, 1, 50, dtype=torch.float64), normal(0, 50, 2)
    flow = PotentialFlow(gust(0.55, 0.06, box=False) * weight)
    move = flow.integrate(z, [0.0, 1.0]).z[-1] - z
    torch.testing.assert_close(move[:, 0], weight, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_straight_path_is_one_step(dtype):
    """Catches a look ahead that takes rounding errors for structure, or that asks for the divergence."""
    calls = []

    class Counted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.solution = HopfLaxFlow(MLPPotential(3, (8,)).to(dtype)).potential

        def forward(self, z, t):
            return self.solution(z, t)

        def jet_rule(self, z, t, request):
            calls.append(request.derivatives)
            return self.solution.jet_rule(z, t, request)

    z = normal(0, 40, 3).to(dtype)
    PotentialFlow(Counted()).integrate(z, [0.0, 0.5], ODE(rtol=1e-5, atol=1e-5))
    assert [bool(each) for each in calls] == [False, False] + [True] * 7


def test_all_times_are_stepped_on():
    """Catches a solver that forgets the times after a first step that ends on one by itself, and interpolates."""
    flow, z = PotentialFlow(QuadraticPotential(2, 0.5 * torch.eye(2)).double()), normal(0, 4, 2)
    times = torch.linspace(0, 2, 9, dtype=torch.float64)
    trajectory = flow.integrate(z, times)
    torch.testing.assert_close(trajectory.z, z * (times / 2).exp()[:, None, None], atol=1e-6, rtol=0)
