"""Motions over more steps, back and in both orders, against numbers worked out by hand."""

from dataclasses import dataclass

import pytest
import torch

from latentflow import FlowVAE, GaussianPrior, PotentialBank, QuadraticPotential
from latentflow.flow import InversionError
from latentflow_experiments.methods.autoencoder import SingleDimension
from latentflow_experiments.methods.method import FlowMotion, Traversal
from latentflow_experiments.methods.tvae import TVAE
from latentflow_experiments.metrics.consistency import (
    Adapter,
    consistency_table,
    measure_commutators,
    measure_consistency,
    measure_way_back,
)
from tests.experiments.toy_sequences import identity


@dataclass(frozen=True)
class Line:
    """Points of the plane that go to the right or up by one in each step, and stop after four."""

    z0: torch.Tensor
    steps: int = 4
    names: tuple[str, ...] = ("right", "up")

    def starts(self, k):
        return torch.arange(len(self.z0))

    def composed_starts(self, kinds):
        return torch.arange(len(self.z0))

    def composed(self, indices, states):
        return (self.z0[indices][:, None] + states.clamp(max=4).float())[:, :, None, None]

    def sequence(self, indices, k):
        states = torch.zeros(self.steps + 1, 2)
        states[:, k] = torch.arange(self.steps + 1.0)
        return self.composed(indices, states)


def walk(z0, k, steps):
    """Go on at the same speed for ever."""
    states = torch.zeros(steps + 1, 1, 2)
    states[:, 0, k] = torch.arange(steps + 1.0)
    return z0 + states


def adapter(move):
    return Adapter(lambda x: x.flatten(1), lambda z: z.unflatten(-1, (1, 1, 2)), move)


class Walker(Adapter):
    """The walk with its inverse."""

    def back(self, z, k, steps):
        return walk(z - steps * torch.eye(2)[k], k, steps)


def test_errors_beyond_the_trained_steps_are_those_of_the_steps_after_them():
    """Catches a trained step that is counted, and a ratio of means in place of sums."""
    points = torch.tensor([[0.0, 0.0], [5.0, -1.0]])
    found = measure_consistency(adapter(walk), Line(points), Line(points, steps=6))
    assert found.beyond["right"].output == (0, 0, 0, 0, 1, 2)
    assert [errors.relative for errors in found.beyond.values()] == [3 / 8, 3 / 8]
    assert found.back == {}
    assert "| 0.500 |" in consistency_table(found).replace("  ", " ")


@pytest.mark.parametrize(("backwards", "round_trip", "output"), [(True, 0.0, 0.0), (False, 1.0, 40.0)])
def test_the_way_back_of_a_walk(backwards, round_trip, output):
    """Catches frames that are compared in the wrong order: standing still is off by 4 + 3 + 2 + 1."""
    kind = (
        Walker
        if backwards
        else type("Lost", (Adapter,), {"back": lambda _s, z, _k, steps: z.expand(steps + 1, -1, -1)})
    )
    motion = kind(lambda x: x.flatten(1), lambda z: z.unflatten(-1, (1, 1, 2)), walk)
    found = measure_way_back(motion, Line(torch.zeros(3, 2)))["up"]
    assert found is not None
    assert found.round_trip == round_trip
    assert found.output == output / 4
    assert found.static == 10


def test_a_step_that_cannot_be_inverted_is_reported_for_its_transformation_only():
    """Catches one bad flow that takes all numbers away."""

    class Stuck(Walker):
        def back(self, z, k, steps):
            if k == 1:
                raise InversionError("no inverse")
            return super().back(z, k, steps)

    motion = Stuck(lambda x: x.flatten(1), lambda z: z.unflatten(-1, (1, 1, 2)), walk)
    found = measure_consistency(motion, Line(torch.zeros(1, 2)), None)
    assert found.beyond == {}
    assert found.back["up"] is None
    assert found.back["right"] is not None
    assert "cannot be inverted" in consistency_table(found)


def test_walks_commute():
    """Catches a switch that does not start where the first motion ended."""
    (found,) = measure_commutators(adapter(walk), Line(torch.tensor([[2.0, 3.0]]))).values()
    assert found is not None
    assert (found.apart, found.error) == (0, 0)


@pytest.mark.parametrize("steps", [3, 4])
def test_a_start_that_depends_on_neighbors_sees_as_many_frames_as_were_trained(steps):
    """Catches a frame less where half of the steps is no whole number, which a topographic VAE refuses."""
    seen = []

    class Topographic(Adapter):
        def start(self, frames):
            seen.append(frames.shape[1])
            return super().start(frames)

    motion = Topographic(lambda x: x.flatten(1), lambda z: z.unflatten(-1, (1, 1, 2)), walk)
    (found,) = measure_commutators(motion, Line(torch.zeros(2, 2), steps=steps)).values()
    assert found is not None
    assert (found.apart, found.error) == (0, 0)
    assert seen == [steps + 1] * 2


def test_two_orders_that_end_apart():
    """Catches a distance from the wrong point: (1 + 2) 4 = 12 beside 1 * 4 + 2 = 6, from 1, where (3, 2) is true."""

    def move(z0, k, steps):
        doubled = z0 * 2.0 ** torch.arange(steps + 1.0)[:, None, None]
        return doubled if k == 1 else walk(z0, 0, steps)

    (found,) = measure_commutators(adapter(move), Line(torch.tensor([[1.0, 0.0]]))).values()
    assert found is not None
    assert found.apart == pytest.approx(6 / ((11 + 5) / 2))
    assert found.error == pytest.approx(((9 + 2) + (3 + 2)) / 2 / 4)


def test_the_way_back_of_flows_inverts_eulers_steps():
    """Catches a way back by Euler's scheme, which ends elsewhere: half of z, thrice, is undone by doubling."""
    bank = PotentialBank([QuadraticPotential(2, -0.5 * torch.eye(2))])
    model = FlowVAE(torch.nn.Identity(), torch.nn.Identity(), bank, GaussianPrior(2), residual=None).eval()
    z = FlowMotion(model, (0,)).back(torch.tensor([[1.0, -2.0]]), 0, 3)
    torch.testing.assert_close(z[:, 0], torch.tensor([[8.0, -16.0], [4.0, -8.0], [2.0, -4.0], [1.0, -2.0]]))


def test_the_way_back_of_capsules_rolls_the_other_way():
    """Catches a roll in the same direction."""
    model = TVAE(torch.nn.Identity(), torch.nn.Identity(), torch.nn.Identity(), torch.nn.Identity(), dim=10, frames=5)
    z = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    path = model.follow(z, 0, 3)
    torch.testing.assert_close(model.back(path[-1], 0, 3), path)


def test_a_coordinate_moves_on_at_its_speed_beyond_its_bound():
    """Catches a motion whose speed depends on how many steps are asked for."""
    motion = SingleDimension(identity(2), (Traversal(1, 3.0, 0.0, steps=4),))
    z = motion.follow(torch.tensor([[7.0, 1.0]]), 0, 6)
    assert z[:, 0, 1].tolist() == [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    assert motion.follow(torch.tensor([[7.0, 1.0]]), 0, 2)[-1, 0, 1] == 2
