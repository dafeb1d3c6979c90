"""Random points on a trajectory."""

import hypothesis.strategies as st
import torch
from closed_forms import generator, net, normal
from hypothesis import given

from latentflow import PotentialFlow

flow = PotentialFlow(net(2, 0))


@given(st.sampled_from([(), (5,), (2, 3), (0,)]), st.integers(0, 4), st.integers(0, 99), st.sampled_from([0.5, -2.0]))
def test_points_lie_on_the_segment_of_their_time(batch, steps, seed, dt):
    """Catches a time that does not belong to its point, and times of another step."""
    trajectory = flow.rollout(normal(seed, *batch, 2), steps, start=3.0, dt=dt, log_det=None)
    points, times = trajectory.sample(generator(seed))
    assert points.shape == (steps, *batch, 2)
    assert times.shape == (steps, *batch)
    for n in range(steps):
        fraction = (times[n] - (3 + n * dt)) / dt
        assert ((fraction >= 0) & (fraction <= 1)).all()
        velocity = flow.velocity(trajectory.z[n], 3 + n * dt)
        moved = trajectory.z[n] + (times[n] - 3 - n * dt).unsqueeze(-1) * velocity
        torch.testing.assert_close(points[n], moved.detach())


def test_every_sample_and_step_has_a_time_of_its_own():
    """Catches one fraction for all, and times that avoid a part of the step."""
    trajectory = flow.rollout(normal(0, 500, 2), 4, log_det=None)
    _, times = trajectory.sample(generator(0))
    fractions = (times - torch.arange(4.0, dtype=torch.float64).unsqueeze(-1)).flatten()
    assert len(fractions.unique()) == 2000
    assert abs(fractions.mean() - 0.5) < 5 / (12 * 2000) ** 0.5
    assert abs(fractions.square().mean() - 1 / 3) < 5 * (4 / 45 / 2000) ** 0.5


def test_detached_by_default():
    """Catches residuals that are lowered by moving the points."""
    z = normal(0, 5, 2).requires_grad_()
    trajectory = flow.rollout(z, 3)
    assert not trajectory.sample()[0].requires_grad
    attached, _ = trajectory.sample(detach=False)
    attached.sum().backward()
    assert (z.grad != 0).all()


def test_generator():
    """Catches a sample that reads the global source."""
    trajectory = flow.rollout(normal(0, 5, 2), 3)
    state = torch.get_rng_state()
    first, second, other = (trajectory.sample(generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], other[1])
