"""What moves the latents of a composition, on models whose flows are known."""

import pytest
import torch
from digit_latents import clocked, model, translation

from latentflow import FunctionPotential, HopfLaxFlow, PotentialFlow, QuadraticPotential, SwitchedPotential
from latentflow_experiments.metrics.composition import Backwards, Superposed, Switched


@pytest.mark.parametrize("steps", [2, 5, 8])
@pytest.mark.parametrize("clock", ["continue", "restart"])
def test_segments_are_the_flow_of_a_switched_potential(steps, clock):
    """Catches a switch one step early or late, and a clock that starts at 1 or goes on where it restarts."""
    potentials = [clocked(0) + translation(1), FunctionPotential(lambda z, t: (t + 1) * z.cos().sum(-1))]
    z0 = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    z = Switched(0, 1, clock == "restart").follow(model(potentials), z0, steps)
    turn = (steps + 1) // 2
    switched = SwitchedPotential(potentials, [turn], clock)
    assert torch.equal(z, PotentialFlow(switched).rollout(z0, steps, log_det=None).z)


def test_the_clocks_differ():
    """Catches two clocks that are one."""
    z0 = torch.zeros(1, 4)
    known = model([translation(0), clocked(1)])
    going, anew = (Switched(0, 1, restart).follow(known, z0, 8)[-1, 0] for restart in (False, True))
    assert going.tolist() == [4, 4 + 5 + 6 + 7, 0, 0]
    assert anew.tolist() == [4, 0 + 1 + 2 + 3, 0, 0]


def test_a_solution_that_is_switched_to():
    """Catches straight paths that start at a time other than that of the solution."""
    matrix = torch.diag(torch.tensor([1.0, 0.5, -0.1, 0.0]))
    known = model([translation(0), QuadraticPotential(4, matrix)], HopfLaxFlow)
    z0 = torch.ones(1, 4)
    start = z0 + 2 * torch.eye(4)[0]
    speed = start * matrix.diagonal()
    anew = Switched(0, 1, restart=True).follow(known, z0, 4)[-1]
    torch.testing.assert_close(anew, start + 2 * speed)
    going = Switched(0, 1, restart=False).follow(known, z0, 4)[-1]  # the velocity at time 2 is A (I + 2 A)^-1 z
    torch.testing.assert_close(going, start + 2 * speed / (1 + 2 * matrix.diagonal()))


def test_the_way_back_reads_the_clock_backwards():
    """Catches steps that run on, and times counted from 0."""
    z = Backwards(0).follow(model([clocked(2)]), torch.zeros(1, 4), 4)
    assert z[:, 0, 2].tolist() == [6, 6 - 4, 2 - 3, -1 - 2, -3 - 1]
    still = Backwards(0).follow(model([translation(2)], HopfLaxFlow), torch.zeros(1, 4), 4)
    assert still[:, 0, 2].tolist() == [4, 3, 2, 1, 0]


def test_terms_of_one_potential_add():
    """Catches a weight that replaces another one, as where two transformations share a potential."""
    z = Superposed(((1, 1.0), (1, 0.5))).follow(model([translation(0), translation(2)]), torch.zeros(1, 4), 2)
    assert z[:, 0].tolist() == [[0, 0, 0, 0], [0, 0, 1.5, 0], [0, 0, 3, 0]]
