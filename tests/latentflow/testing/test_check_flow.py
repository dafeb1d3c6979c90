"""What the check of flows lets through, and what it catches."""

from dataclasses import replace

import pytest
import torch
from closed_forms import spd
from strategies import network

from latentflow import HopfLaxFlow, ICNNPotential, PotentialBank, PotentialFlow, QuadraticPotential, Trajectory
from latentflow.flow import FirstOrder, PushForward
from latentflow.testing import check_flow

U = network(2, (5, 4), 1)
BANK = PotentialBank([network(2, (4,), 2), network(2, (4,), 3)])
FLOWS = {
    "network": lambda: PotentialFlow(U),
    "quadratic": lambda: PotentialFlow(QuadraticPotential(3, spd(3, 1))),
    "a potential for each sample": lambda: PotentialFlow(BANK.select(torch.tensor([0, 1, 1, 0]))),
    "Hopf-Lax of a convex network": lambda: HopfLaxFlow(ICNNPotential(2, (6,))),
    "Hopf-Lax for each sample": lambda: HopfLaxFlow(0.5 * BANK.select(torch.tensor([0, 1, 1, 0]))),
}


@pytest.mark.parametrize("name", FLOWS)
def test_flows_pass(name):
    """Catches a check that demands more than the contract, and a flow that breaks it."""
    check_flow(FLOWS[name](), 3 if name == "quadratic" else 2)


class Backwards(PotentialFlow):
    def velocity(self, z, t):
        return -super().velocity(z, t)


class Late(PotentialFlow):
    def rollout(self, z0, steps=8, start=0.0, dt=1.0, **options):
        trajectory = super().rollout(z0, steps, start + dt, dt, **options)
        return replace(trajectory, times=trajectory.times - dt)


class Timeless(PotentialFlow):
    def rollout(self, z0, steps=8, start=0.0, dt=1.0, **options):  # takes every trajectory for one from the first start
        trajectory = super().rollout(z0, steps, 0.125, dt, **options)
        return replace(trajectory, times=trajectory.times - 0.125 + start)


class Surrogate(PotentialFlow):
    def rollout(self, z0, steps=8, start=0.0, dt=1.0, log_det="exact"):
        return super().rollout(z0, steps, start, dt, FirstOrder() if log_det == "exact" else log_det)


class Speed(PotentialFlow):
    def rollout(self, z0, steps=8, start=0.0, dt=1.0, **options):
        trajectory = super().rollout(z0, steps, start, dt, **options)
        return replace(trajectory, action=trajectory.action / dt)


class Centred(PotentialFlow):
    def rollout(self, z0, *args, **options):
        trajectory = super().rollout(z0, *args, **options)
        return trajectory if z0.ndim < 2 else replace(trajectory, z=trajectory.z + 0 * trajectory.z + 1e-6 * z0.mean(0))


class Cut(PotentialFlow):
    def rollout(self, z0, *args, **options):
        trajectory = super().rollout(z0, *args, **options)
        return trajectory if trajectory.log_det is None else replace(trajectory, log_det=trajectory.log_det.detach())


class Eager(PotentialFlow):
    def rollout(self, z0, steps=8, start=0.0, dt=1.0, log_det="exact"):
        return super().rollout(z0, steps, start, dt)


class Forgetful(PotentialFlow):
    def inverse(self, z, *args, **options):
        trajectory = super().inverse(z, *args, **options)
        return replace(trajectory, log_det=-trajectory.log_det)


class Detached(PotentialFlow):
    def inverse(self, z, *args, **options):
        if isinstance(z, Trajectory):
            return super().inverse(z, *args, **options)
        trajectory = super().inverse(z.detach(), *args, **options)
        return replace(trajectory, z=torch.cat([z.unsqueeze(0), trajectory.z[1:]]))


class Halfway(PotentialFlow):
    def integrate(self, *args, **options):
        trajectory = super().integrate(*args, **options)
        return trajectory if trajectory.log_det is None else replace(trajectory, log_det=trajectory.log_det / 2)


class Energy(PotentialFlow):
    def integrate(self, *args, **options):
        trajectory = super().integrate(*args, **options)
        return replace(trajectory, action=trajectory.action / 2)


class Double(PotentialFlow):
    def rollout(self, z0, *args, **options):
        trajectory = super().rollout(z0, *args, **options)
        return replace(trajectory, z=trajectory.z.double())


class Growing(PushForward):
    def rsample_and_log_prob(self, sample_shape=()):
        z, log_prob = super().rsample_and_log_prob(sample_shape)
        return z, log_prob + 2 * self.transform.inverse_and_log_det(z)[1]


class Wrong(PotentialFlow):
    def push_forward(self, base, *args, **options):
        return Growing(base, super().push_forward(base, *args, **options).transform)


class Random(PotentialFlow):
    def rollout(self, z0, *args, **options):
        trajectory = super().rollout(z0, *args, **options)
        return replace(trajectory, action=trajectory.action * (1 + 1e-3 * torch.rand(())))


class NeedsGraph(PotentialFlow):
    def rollout(self, z0, *args, **options):
        if not torch.is_grad_enabled():
            raise RuntimeError("element 0 of tensors does not require grad")
        return super().rollout(z0, *args, **options)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Backwards, "velocity, against flow.potential"),
        (Late, "z, rollout: expected the points"),
        (Timeless, "z, rollout from the middle"),
        (Surrogate, "log_det, rollout: expected log"),
        (Speed, "action, rollout"),
        (Cut, "gradient of log_det of rollout in z0"),
        (Eager, "log_det, rollout with log_det=None"),
        (Forgetful, "log_det, inverse of integrate"),
        (Detached, "gradient of the start that inverse finds"),
        (Halfway, "log_det, integrate"),
        (Energy, "action, integrate"),
        (Centred, "z, rollout"),
        (Double, "z, rollout in float32: expected dtype torch.float32"),
        (Wrong, "log_prob, push_forward with Euler, where it samples"),
        (Random, "action, "),
        (NeedsGraph, "rollout, under torch.no_grad"),
    ],
)
def test_broken_flows_are_caught(broken, message):
    """Catches a check that looks at nothing, or blames the wrong part."""
    with pytest.raises(AssertionError, match=f"^{message}"):
        check_flow(broken(U), 2)


def test_the_flow_and_the_random_numbers_stay_as_they_were():
    """Catches a check that converts somebody's module or draws from the global generator."""
    flow, state = PotentialFlow(ICNNPotential(1, (3,))).eval(), torch.get_rng_state()
    check_flow(flow, 1, batch=(2,))
    assert next(flow.parameters()).dtype == torch.float32
    assert torch.equal(state, torch.get_rng_state())


def test_too_few_samples():
    """Catches a check of one sample, which cannot tell whether samples are mixed."""
    with pytest.raises(ValueError, match=r"^batch: expected a shape of at least two samples"):
        check_flow(PotentialFlow(U), 2, batch=(1,))
