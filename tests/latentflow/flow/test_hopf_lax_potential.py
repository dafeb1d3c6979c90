"""The solution of the Hamilton-Jacobi equation from a given start: its rule, its equation and its formula."""

import pytest
import torch
from closed_forms import normal, spd
from hypothesis import given, settings
from strategies import close, dims, network, opaque, rand, randn, seeds

from latentflow import (
    ODE,
    Exact,
    HJResidual,
    HopfLaxFlow,
    ICNNPotential,
    PotentialBank,
    PotentialFlow,
    QuadraticPotential,
    SwitchedPotential,
    gradient,
    jet,
)
from latentflow.calculus import second_time_derivative
from latentflow.flow import HopfLaxPotential, InversionError, Newton
from latentflow.testing import check_potential


def mild(dim, seed, size=0.5):
    u = network(dim, (5, 4), seed)
    return (size / float(u.lipschitz_gradient().detach())) * u


STARTS = {
    "network": lambda: mild(2, 1),
    "convex": lambda: ICNNPotential(2, (4,)),
    "quadratic": lambda: QuadraticPotential(3, spd(3, 1, -0.5, 0.5), normal(2, 3)),
    "chosen": lambda: PotentialBank([mild(2, 1), mild(2, 2)]).select(torch.tensor([1, 0, 0, 1])),
}


@pytest.mark.parametrize("name", STARTS)
def test_its_rule(name):
    """Catches every wrong derivative of the closed form, and gradients that do not pass the solver."""
    check_potential(HopfLaxPotential(STARTS[name]()), 3 if name == "quadratic" else 2)


@given(dims, seeds)
@settings(max_examples=10)
def test_the_equation_holds_by_differentiation_of_the_values(dim, seed):
    """Catches a value that solves another equation, such as one without the half."""
    u = HopfLaxPotential(mild(dim, seed))
    z, t = randn(4, dim, seed=seed), rand(4, seed=seed + 1)
    residual = HJResidual()(opaque(u), z, t)
    close(residual, torch.zeros_like(residual), 1e-10)
    close(u(z, torch.zeros_like(t)), u.u0(z, torch.zeros_like(t)))
    rule = jet(u, z, t, laplacian=Exact())
    close(rule.time_derivative, -rule.gradient.square().sum(-1) / 2, 1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_no_other_start_gives_less(seed):
    """Catches a saddle or a maximum in place of the minimum of u0(y) + |z - y|^2 / 2t."""
    u0, time = mild(3, seed), 1.2
    z = randn(1, 3, seed=seed)
    u = HopfLaxPotential(u0)
    value = u(z, torch.tensor(time, dtype=torch.float64))
    start = u.start(z, time)
    close(value, u0(start, torch.zeros(1).double()) + (z - start).square().sum(-1) / (2 * time), 1e-12)
    for spread in (1e-3, 0.1, 3.0):
        others = start + spread * randn(2000, 3, seed=seed + 5)
        assert (u0(others, torch.zeros(2000).double()) + (z - others).square().sum(-1) / (2 * time) >= value).all()


def test_galilean_invariance_and_gauge():
    """Catches a velocity that is lost: u0 + p.y + c moves the solution along and adds p.z - |p|^2 t / 2 + c."""
    u0, p, z, t = mild(3, 4), normal(5, 3), randn(6, 3, seed=6), rand(6, seed=7)
    moving = HopfLaxPotential(lambda y, s: u0(y, s) + y @ p + 0.7)
    expected = HopfLaxPotential(u0)(z - t.unsqueeze(-1) * p, t) + z @ p - p.square().sum() * t / 2 + 0.7
    close(moving(z, t), expected, 1e-10)


def test_composites():
    """Catches a solution that cannot be added, switched or integrated like any other potential."""
    one, two = HopfLaxPotential(mild(2, 1)), HopfLaxPotential(mild(2, 2))
    z, t = randn(4, 2, seed=3), 0.5
    both = jet(one + two, z, t, laplacian=Exact())
    cross = (gradient(one, z, t) * gradient(two, z, t)).sum(-1)
    close(both.time_derivative + both.gradient.square().sum(-1) / 2, cross, 1e-10)
    switched = SwitchedPotential([one, two], times=[1.0], clock="restart")
    trajectory = PotentialFlow(switched).rollout(z, 4, dt=0.5)
    middle = HopfLaxFlow(one.u0).rollout(z, 1)
    end = HopfLaxFlow(two.u0).rollout(middle.z[-1], 1)
    close(trajectory.z[-1], end.z[-1], 1e-10)
    close(trajectory.log_det[-1], middle.log_det[-1] + end.log_det[-1], 1e-10)
    solved = PotentialFlow(one).integrate(z, [0.0, 1.0], ODE(rtol=1e-8, atol=1e-8))
    close(solved.z[-1], middle.z[-1], 1e-6)
    close(solved.log_det[-1], middle.log_det[-1], 1e-6)


def test_orders_of_derivatives():
    """Catches an order that the solver's option does not reach: fields of the jet are right once more with it."""
    u0, z, t = mild(2, 1), randn(3, 2, seed=2), rand(3, seed=3)
    for order in (1, 2):
        u = HopfLaxPotential(u0, Newton(order=order))
        assert torch.autograd.gradcheck(lambda z, u=u: gradient(u, z, t), (z.clone().requires_grad_(),))
    assert torch.autograd.gradgradcheck(lambda z: gradient(u, z, t), (z.clone().requires_grad_(),))
    close(second_time_derivative(u, z, t), second_time_derivative(opaque(u), z, t), 1e-9)


def test_parameters_are_registered_once():
    """Catches a start whose parameters are lost or counted twice."""
    flow = HopfLaxFlow(mild(2, 1))
    assert len(list(flow.parameters())) == len(list(flow.u0.parameters())) > 0
    assert all(name.startswith("potential.u0.") for name in flow.state_dict())


def test_after_the_shock():
    """Catches a failure that passes in silence: where all paths meet there is no start."""
    collapse = HopfLaxPotential(QuadraticPotential(1, -torch.eye(1, dtype=torch.float64)))
    z = torch.ones(2, 1, dtype=torch.float64)
    close(collapse(z, torch.full((2,), 0.5, dtype=torch.float64)), torch.full((2,), -1.0, dtype=torch.float64))
    with pytest.raises(InversionError, match=r"^the start of a characteristic: "):
        collapse(z, torch.ones(2, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"^u0: expected a callable"):
        HopfLaxPotential(1.0)
    with pytest.raises(ValueError, match=r"^t: expected"):
        collapse.start(z, torch.zeros(3))
