"""What the check of flows lets through, and what it catches."""

from dataclasses import replace

import pytest
import torch
from closed_forms import spd
from strategies import network

from latentflow import (
    FirstOrder,
    HopfLaxFlow,
    ICNNPotential,
    PotentialBank,
    PotentialFlow,
    PushForward,
    QuadraticPotential,
)
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
        path = super().rollout(z0, steps, start + dt, dt, **options)
        return replace(path, times=path.times - dt)


class Timeless(PotentialFlow):
    def rollout(self, z0, steps=8, start=0.0, dt=1.0, **options):  # takes every path for one from the first start
        path = super().rollout(z0, steps, 0.125, dt, **options)
        return replace(path, times=path.times - 0.125 + start)


class Surrogate(PotentialFlow):
    def rollout(self, z0, steps=8, start=0.0, dt=1.0, volume="exact"):
        return super().rollout(z0, steps, start, dt, FirstOrder() if volume == "exact" else volume)


class Speed(PotentialFlow):
    def rollout(self, z0, steps=8, start=0.0, dt=1.0, **options):
        path = super().rollout(z0, steps, start, dt, **options)
        return replace(path, action=path.action / dt)


class Centred(PotentialFlow):
    def rollout(self, z0, *args, **options):
        path = super().rollout(z0, *args, **options)
        return path if z0.ndim < 2 else replace(path, z=path.z + 0 * path.z + 1e-6 * z0.mean(0))


class Cut(PotentialFlow):
    def rollout(self, z0, *args, **options):
        path = super().rollout(z0, *args, **options)
        return path if path.log_det is None else replace(path, log_det=path.log_det.detach())


class Eager(PotentialFlow):
    def rollout(self, z0, steps=8, start=0.0, dt=1.0, volume="exact"):
        return super().rollout(z0, steps, start, dt)


class Forgetful(PotentialFlow):
    def inverse(self, z, *args, **options):
        path = super().inverse(z, *args, **options)
        return replace(path, log_det=-path.log_det)


class Detached(PotentialFlow):
    def inverse(self, z, *args, **options):
        path = super().inverse(z.detach(), *args, **options)
        return replace(path, z=torch.cat([z.unsqueeze(0), path.z[1:]]))


class Halfway(PotentialFlow):
    def integrate(self, *args, **options):
        path = super().integrate(*args, **options)
        return path if path.log_det is None else replace(path, log_det=path.log_det / 2)


class Energy(PotentialFlow):
    def integrate(self, *args, **options):
        path = super().integrate(*args, **options)
        return replace(path, action=path.action / 2)


class Double(PotentialFlow):
    def rollout(self, z0, *args, **options):
        path = super().rollout(z0, *args, **options)
        return replace(path, z=path.z.double())


class Growing(PushForward):
    def rsample_and_log_prob(self, sample_shape=()):
        z, log_prob = super().rsample_and_log_prob(sample_shape)
        return z, log_prob + 2 * self.flow.inverse(z).log_det[-1]


class Wrong(PotentialFlow):
    def push_forward(self, base, *args, **options):
        return Growing(base, super().push_forward(base, *args, **options).flow)


class Random(PotentialFlow):
    def rollout(self, z0, *args, **options):
        path = super().rollout(z0, *args, **options)
        return replace(path, action=path.action * (1 + 1e-3 * torch.rand(())))


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
        (Eager, "log_det, rollout with volume=None"),
        (Forgetful, "log_det, inverse of integrate"),
        (Detached, "gradient of the start that inverse finds"),
        (Halfway, "log_det, integrate"),
        (Energy, "action, integrate"),
        (Centred, "z, rollout"),
        (Double, "z, rollout in float32: expected dtype torch.float32"),
        (Wrong, "log_prob, push_forward with Discrete, where it samples"),
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
    with pytest.raises(ValueError, match=r"^batch: expected at least two samples"):
        check_flow(PotentialFlow(U), 2, batch=(1,))
