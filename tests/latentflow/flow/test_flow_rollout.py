"""What a rollout keeps account of, and what it refuses."""

import math

import pytest
import torch
from closed_forms import autograd_gradient, generator, net, normal
from torch import nn

from latentflow import FunctionPotential, Hutchinson, PotentialBank, PotentialFlow, QuadraticPotential, SlogDet
from latentflow.flow import FirstOrder

near = {"rtol": 1e-11, "atol": 1e-11}
batches = [(), (5,), (2, 3), (0,)]


@pytest.mark.parametrize("dt", [0.5, -0.25])
def test_action_accumulates_the_squared_speed(dt):
    """Catches a mean over coordinates, a missing step length, the factor 1/2, and an action of the last step only."""
    u, z = net(3, 0), normal(1, 4, 3)
    trajectory = PotentialFlow(u).rollout(z, 4, start=2.0, dt=dt)
    action = torch.zeros(4, dtype=torch.float64)
    for i in range(4):
        velocity = autograd_gradient(u, z, torch.full((4,), 2 + i * dt, dtype=torch.float64))
        action = action + dt * (velocity**2).sum(-1)
        z = z + dt * velocity
        torch.testing.assert_close(trajectory.z[i + 1], z, **near)
        torch.testing.assert_close(trajectory.action[i + 1], action, **near)
    assert (trajectory.action[0] == 0).all()


def test_the_step_length_is_not_a_difference_of_times():
    """Catches steps whose length is rounded where the times are large."""
    flow = PotentialFlow(QuadraticPotential(1, torch.eye(1, dtype=torch.float64)))
    trajectory = flow.rollout(torch.ones(1, dtype=torch.float64), 3, start=1e9, dt=1e-6)
    torch.testing.assert_close(trajectory.log_det[-1].item(), 3 * math.log1p(1e-6), rtol=1e-9, atol=0)


def test_step_and_velocity_are_those_of_the_rollout():
    """Catches a step or velocity with conventions of its own, and a step that drops a time of each sample."""
    u, z, t = net(3, 0), normal(1, 4, 3), torch.linspace(0, 1, 4, dtype=torch.float64)
    flow = PotentialFlow(u)
    step = flow.step(z, t, 0.5, SlogDet())
    torch.testing.assert_close(flow.velocity(z, t), autograd_gradient(u, z, t), **near)
    for i in range(4):
        trajectory = flow.rollout(z[i], 1, start=float(t[i]), dt=0.5)
        torch.testing.assert_close(step.z[i], trajectory.z[1], **near)
        torch.testing.assert_close(step.determinant.log_det[i], trajectory.log_det[1], **near)
        torch.testing.assert_close(step.action[i], trajectory.action[1], **near)
    assert flow.step(z, t).determinant is None


@pytest.mark.parametrize("batch", batches)
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("volume", [SlogDet(), SlogDet(eigenvalues=True), FirstOrder(), FirstOrder(Hutchinson()), None])
@pytest.mark.parametrize("potential", [net(2, 0), FunctionPotential(net(2, 0).forward)])
def test_batch_shapes(batch, steps, volume, potential):
    """Catches samples that are mixed up or coupled, and an empty batch or trajectory that fails."""
    z = normal(1, *batch, 2)
    trajectory = PotentialFlow(potential).rollout(z, steps, log_det=volume, on_fold="ignore")
    flat = PotentialFlow(potential).rollout(z.reshape(-1, 2), steps, log_det=SlogDet(), on_fold="ignore")
    assert trajectory.z.shape == (steps + 1, *batch, 2)
    torch.testing.assert_close(trajectory.z, flat.z.reshape(trajectory.z.shape), **near)
    torch.testing.assert_close(trajectory.action, flat.action.reshape(trajectory.action.shape), **near)
    if volume is not None:
        assert trajectory.log_det.shape == (steps + 1, *batch)
        assert (trajectory.log_det[0] == 0).all()
    if isinstance(volume, SlogDet):
        torch.testing.assert_close(trajectory.log_det, flat.log_det.reshape(trajectory.log_det.shape), **near)
    assert (trajectory.folded is None) == (volume is None or steps == 0)


@pytest.mark.parametrize("batch", batches)
@pytest.mark.parametrize("volume", [SlogDet(), FirstOrder(), FirstOrder(Hutchinson(2))])
def test_linear_potential_keeps_volume(batch, volume):
    """Catches a Hessian that is lost where the gradient does not depend on the point."""
    trajectory = PotentialFlow(lambda z, t: t * z.sum(-1)).rollout(normal(1, *batch, 3), 2, log_det=volume)
    assert torch.equal(trajectory.log_det, torch.zeros(3, *batch, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_points(dtype):
    """Catches times or zeros made in the default dtype."""
    trajectory = PotentialFlow(lambda z, t: t * z.sin().sum(-1)).rollout(torch.ones(2, 3, dtype=dtype), 2)
    assert trajectory.times.dtype == torch.float64
    for name in ("z", "log_det", "action", "sign"):
        assert getattr(trajectory, name).dtype == dtype


@pytest.mark.parametrize("volume", [SlogDet(), SlogDet(eigenvalues=True), FirstOrder(), None])
def test_leaving_the_finite_numbers(volume):
    """Catches NaN that travels on silently, a LAPACK error in its place, and wrong samples in the message."""
    z = torch.tensor([[0.0, 0.1], [1e40, 2e40], [0.1, 0.0]], dtype=torch.float64)
    flow = PotentialFlow(lambda z, t: z.square().sum(-1).square())
    with pytest.raises(FloatingPointError, match=r"step 2 \(t = 2\) for 1 of 3 samples \(numbers 1\)"):
        flow.rollout(z, 3, log_det=volume, on_fold="ignore")


def test_one_point_leaves_the_finite_numbers():
    """Catches a message that needs a batch."""
    with pytest.raises(FloatingPointError, match="for 1 of 1"):
        PotentialFlow(lambda z, t: z.pow(4).sum(-1)).rollout(torch.tensor([1e20]), 3, log_det=None)


@pytest.mark.parametrize(
    ("error", "name", "arguments"),
    [
        (ValueError, "steps", {"steps": -1}),
        (ValueError, "steps", {"steps": 1.5}),
        (TypeError, "z0", {"z0": torch.ones(3, 2, dtype=torch.int64)}),
        (ValueError, "z0", {"z0": torch.tensor(1.0)}),
    ],
)
def test_wrong_arguments(error, name, arguments):
    """Catches messages that do not name the argument."""
    with pytest.raises(error, match=f"^{name}: expected"):
        PotentialFlow(lambda z, t: z.sum(-1)).rollout(**({"z0": torch.ones(3, 2)} | arguments))


def test_not_a_potential():
    """Catches a mistake that shows only at the first step."""
    with pytest.raises(TypeError, match=r"^potential: expected"):
        PotentialFlow(1.0)


def test_mixed_bank_equals_separate_rollouts():
    """Catches groups put back in the wrong order, and a flow that uses one potential for all samples."""
    bank = PotentialBank([net(3, 10 * i) for i in range(3)])
    k, z = torch.tensor([2, 0, 2, 1, 0]), normal(0, 5, 3)
    trajectory = PotentialFlow(bank.select(k)).rollout(z, 3, on_fold="ignore")
    for i in range(5):
        alone = PotentialFlow(bank[int(k[i])]).rollout(z[i], 3, on_fold="ignore")
        for name in ("z", "log_det", "action", "folded"):
            torch.testing.assert_close(getattr(trajectory, name)[:, i], getattr(alone, name), **near)


def test_superposed_flow_adds_the_velocities_of_each_step():
    """Catches potentials that are applied one after the other."""
    bank, z = PotentialBank([net(3, 10 * i) for i in range(3)]), normal(0, 5, 3)
    trajectory = PotentialFlow(bank.superpose()).rollout(z, 3, on_fold="ignore")
    for n in range(3):
        t = torch.full((5,), float(n), dtype=torch.float64)
        z = z + sum(autograd_gradient(u, z, t) for u in bank.potentials)
        torch.testing.assert_close(trajectory.z[n + 1], z, **near)


@pytest.mark.parametrize("volume", [SlogDet(), SlogDet(eigenvalues=True), FirstOrder()])
def test_gradients_of_the_log_determinant(volume):
    """Catches a detached volume or point, for the points and for every parameter."""

    class LogDet(nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = PotentialFlow(net(2, 3, (3,)))

        def forward(self, z):
            trajectory = self.flow.rollout(z, 2, start=1.0, log_det=volume, on_fold="ignore")
            return trajectory.log_det[-1] + 2 * trajectory.action[-1]  # one output: gradcheck skips a detached one

    module, z = LogDet(), normal(4, 2, 2).requires_grad_()
    names, parameters = zip(*module.named_parameters(), strict=True)

    def function(z, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (z,))

    assert torch.autograd.gradcheck(function, (z, *parameters))


@pytest.mark.parametrize("growth", [1e-6, -1e-6, 1e-9, -0.5, -0.75, -3.0, 4.0])
def test_first_order_is_accurate_in_float32(growth):
    """Catches log(1 + x), which loses four digits at 1e-6, and a wrong branch or sign below -1/2."""
    flow = PotentialFlow(QuadraticPotential(1, torch.tensor([[growth]])))
    log_det = flow.rollout(torch.ones(3, 1), 1, log_det=FirstOrder(), on_fold="ignore").log_det[-1]
    exact = torch.tensor(growth, dtype=torch.float32).double()
    exact = exact.log1p() if growth > -1 else (1 + exact).abs().log()
    torch.testing.assert_close(log_det, exact.float().expand(3), rtol=3e-7, atol=0)
    assert log_det.requires_grad
    (slope,) = torch.autograd.grad(log_det.sum(), flow.potential.matrix)
    torch.testing.assert_close(slope, torch.tensor([[3 / (1 + growth)]]), rtol=1e-5, atol=0)


def test_stochastic_volume_is_reproducible_and_unbiased_to_first_order():
    """Catches a probe that ignores the generator, and a surrogate that ignores the estimator."""
    u, z = net(3, 0), normal(1, 4, 3)

    def log_det(seed):
        volume = FirstOrder(Hutchinson(generator=generator(seed)))
        assert volume.stochastic
        return PotentialFlow(u).rollout(z, 3, dt=0.1, log_det=volume).log_det

    assert torch.equal(log_det(0), log_det(0))
    assert not torch.equal(log_det(0), log_det(1))
    many = FirstOrder(Hutchinson(probes=4000, generator=generator(0)))
    estimate = PotentialFlow(u).rollout(z, 3, dt=0.1, log_det=many).log_det
    torch.testing.assert_close(
        estimate, PotentialFlow(u).rollout(z, 3, dt=0.1, log_det=FirstOrder()).log_det, rtol=0, atol=5e-3
    )
    assert not FirstOrder().stochastic
    assert not SlogDet().stochastic


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("potential", [net(2, 0), FunctionPotential(net(2, 0).forward)])
def test_without_gradients(mode, potential):
    """Catches derivatives that need a graph, and a rollout that changes its input."""
    z = normal(0, 4, 2)
    kept, trajectory = z.clone(), PotentialFlow(potential).rollout(z, 3, on_fold="ignore")
    with mode():
        free = PotentialFlow(potential).rollout(z, 3, on_fold="ignore")
    for name in ("z", "log_det", "action"):
        torch.testing.assert_close(getattr(free, name), getattr(trajectory, name).detach(), **near)
        assert not getattr(free, name).requires_grad
    assert torch.equal(z, kept)
    assert torch.equal(trajectory.z[0], kept)


def test_a_volume_that_is_not_a_number():
    """Catches a NaN log-density of a finite trajectory: the Hessian of |z|^1.5 at 0 is infinite."""
    flow = PotentialFlow(lambda z, t: z.square().sum(-1).pow(0.75))
    with pytest.raises(FloatingPointError, match=r"log_det|not finite"):
        flow.rollout(torch.zeros(2, 3), 1, on_fold="ignore")
