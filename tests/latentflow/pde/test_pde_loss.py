"""The force, and what a residual makes of many points."""

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import autograd_gradient, generator, net, normal
from hypothesis import given

from latentflow import HJResidual, PotentialFlow, QuadraticPotential
from latentflow.pde import NonPositiveForce

near = {"rtol": 1e-11, "atol": 1e-11}
u = net(2, 0)


def force(seed=5, scale=1.0):
    module = NonPositiveForce(2, (4, 4)).double()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(scale * normal(seed + i, *parameter.shape))
    return module


def points(*batch):
    return normal(1, *batch, 2), torch.rand(batch, generator=generator(2), dtype=torch.float64)


def residual_by_hand(z, t):
    t = t.detach().requires_grad_()
    (u_t,) = torch.autograd.grad(u(z, t).sum(), t)
    return u_t + (autograd_gradient(u, z, t.detach()) ** 2).sum(-1) / 2


@given(st.integers(0, 1000), st.sampled_from([1e-3, 1.0, 1e3]), st.sampled_from([1.0, 1e6, 1e150]))
def test_force_is_never_positive(seed, scale, size):
    """Catches f = +g^2, and a clamp in place of the square."""
    f, z = force(seed, scale), size * normal(seed, 20, 2)
    value = f(z, 0.5)
    assert (value <= 0).all()
    torch.testing.assert_close(value, -(f.root(z, torch.full((20,), 0.5, dtype=torch.float64)) ** 2), rtol=0, atol=0)
    z, t = normal(seed, 20, 2), torch.linspace(0, 1, 20, dtype=torch.float64)
    free, forced = HJResidual()(u, z, t), HJResidual(f)(u, z, t)
    torch.testing.assert_close(forced, free - f(z, t))
    assert (forced.square() >= free.relu().square()).all()  # no force does better than the hinge


def test_force_has_parameters_of_its_own():
    """Catches a force that shares the network of the potential, and one that is not registered."""
    first, second = HJResidual(NonPositiveForce(2)), HJResidual(NonPositiveForce(2))
    mine = {id(parameter) for parameter in first.parameters()}
    assert len(mine) == len(list(first.force.root.parameters())) > 0
    assert mine.isdisjoint(map(id, second.parameters()))
    assert list(HJResidual().parameters()) == []
    first.double().loss(u, points(8)).backward()
    assert all((parameter.grad != 0).any() for parameter in first.parameters())


@pytest.mark.parametrize("batch", [(6,), (2, 3)])
@pytest.mark.parametrize("weight", [None, 0.0, 0.7])
def test_loss_on_points(batch, weight):
    """Catches a mean before the square, a sum over the batch, and a penalty of another sign or weight."""
    z, t = points(*batch)
    expected, residual = residual_by_hand(z, t), HJResidual()
    penalty = 0.0
    if weight is not None:
        f = force()
        expected, residual = expected - f(z, t), HJResidual(f, force_penalty=weight)
        penalty = weight * -f(z, t)
        torch.testing.assert_close(residual.penalty(z, t), penalty)
    torch.testing.assert_close(residual.loss(u, (z, t)), (expected**2 + penalty).mean(), **near)
    by_number = residual.loss(u, (z, 0.5))
    torch.testing.assert_close(by_number, residual.loss(u, (z, torch.full(batch, 0.5, dtype=torch.float64))), **near)


def test_loss_on_a_trajectory():
    """Catches points at the ends of the steps only, points that are paired with wrong times, and lost randomness."""
    trajectory = PotentialFlow(u).rollout(normal(1, 5, 2), 3, start=1.0, dt=0.5, log_det=None)
    fraction = torch.rand(3, 5, generator=generator(9), dtype=torch.float64)
    start = torch.tensor([1.0, 1.5, 2.0], dtype=torch.float64).unsqueeze(-1)
    z = (trajectory.z[:-1] + fraction.unsqueeze(-1) * (trajectory.z[1:] - trajectory.z[:-1])).detach()
    expected = (residual_by_hand(z, start + 0.5 * fraction) ** 2).mean()
    state = torch.get_rng_state()
    torch.testing.assert_close(HJResidual().loss(u, trajectory, generator(9)), expected, **near)
    assert torch.equal(state, torch.get_rng_state())
    assert HJResidual().loss(u, trajectory) != expected


def test_loss_moves_the_potential_and_not_the_points():
    """Catches a residual that is lowered by moving latents to where it is small."""
    z0, mover = normal(1, 5, 2).requires_grad_(), QuadraticPotential(2, torch.eye(2, dtype=torch.float64) / 3)
    trajectory, residual = PotentialFlow(mover).rollout(z0, 3), HJResidual(force())
    learner = net(2, 3)
    residual.loss(learner, trajectory, generator(0)).backward()
    assert z0.grad is None
    assert mover.matrix.grad is None
    assert all((parameter.grad != 0).any() for parameter in learner.parameters())


@pytest.mark.parametrize("structured", [True, False])
def test_gradients_of_the_loss(structured):
    """Catches a detached term, for every parameter of the potential and of the force."""
    learner, residual = net(2, 3, (3,)), HJResidual(force())
    names, parameters = zip(*learner.named_parameters(), strict=True)
    z, t = points(3)

    def loss(z, t, *parameters):
        values = dict(zip(names, parameters, strict=True))
        if structured:
            return torch.func.functional_call(Loss(), {f"u.{name}": value for name, value in values.items()}, (z, t))
        return residual.loss(lambda z, t: torch.func.functional_call(learner, values, (z, t)), (z, t))

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.u = learner

        def forward(self, z, t):
            return residual.loss(self.u, (z, t))

    assert torch.autograd.gradcheck(loss, (z.requires_grad_(), t.requires_grad_(), *parameters))


@pytest.mark.parametrize("penalty", [-1.0, float("nan")])
def test_negative_penalty(penalty):
    """Catches a reward for forces."""
    with pytest.raises(ValueError, match=r"^force_penalty: expected"):
        HJResidual(NonPositiveForce(2), force_penalty=penalty)
