"""Gradients, failures and limits of the continuous flow."""

from dataclasses import replace

import pytest
import torch
from closed_forms import generator, net, normal, spd
from torch import nn
from torchdiffeq._impl.odeint import SOLVERS

from latentflow import Derivative, FunctionPotential, Hutchinson, PotentialBank, PotentialFlow, QuadraticPotential
from latentflow.flow import ODE, SolverError
from latentflow.pde import NonPositiveForce

near = {"rtol": 1e-11, "atol": 1e-11}
rk4 = ODE("rk4", options={"step_size": 0.05})
tight = ODE(rtol=1e-9, atol=1e-9)
batches = [(), (5,), (2, 3), (0,), (3, 0)]


def total(trajectory):
    """A number that every part of a trajectory enters."""
    cost = 0 if trajectory.cost is None else trajectory.cost.square().sum()
    return trajectory.z.sin().sum() + trajectory.log_det.square().sum() + trajectory.action.square().sum() + cost


class Force(nn.Module):
    """A running cost with parameters of its own."""

    requires = Derivative.LAPLACIAN

    def __init__(self):
        super().__init__()
        self.force = NonPositiveForce(3, (4,)).double()

    def running_cost(self, jet, z, t):
        return jet.laplacian - self.force(z, t)


@pytest.mark.parametrize("times", [[0.2, 0.5, 1.0], [1.0, 0.5, 0.2]], ids=["forth", "back"])
@pytest.mark.parametrize("method", ["dopri5", "rk4", "scipy_solver"])
def test_adjoint_gradients_are_the_direct_ones(method, times):
    """Catches parameters, of the potential or of the cost, that the adjoint equation does not know."""
    torch.manual_seed(0)
    flow, cost, z = PotentialFlow(net(3, 2)), Force(), normal(3, 4, 3).requires_grad_()
    leaves = [z, *flow.parameters(), *cost.parameters()]
    step = {"step_size": 0.04} if method == "rk4" else None
    gradients = []
    for ode in (ODE(rtol=1e-8, atol=1e-8), ODE(method, 1e-8, 1e-8, adjoint=True, options=step)):
        trajectory = flow.integrate(z, times, ode, running_cost=cost)
        gradients.append(torch.autograd.grad(total(trajectory), leaves, allow_unused=True))
    for direct, adjoint in zip(*gradients, strict=True):
        if direct is None:  # the last bias moves nothing
            assert adjoint is None or not adjoint.any()
        else:
            torch.testing.assert_close(adjoint, direct, rtol=1e-4, atol=1e-5)


def test_adjoint_differentiates_automatic_derivatives():
    """Catches an adjoint that cannot look into the derivatives of a field without a rule of its own."""
    flow, z = PotentialFlow(FunctionPotential(net(2, 2, (3,)))), normal(3, 2, 2).requires_grad_()
    leaves, gradients = [z, *list(flow.parameters())[:2]], []
    for adjoint in (False, True):
        trajectory = flow.integrate(z, [0.0, 0.5], ODE(rtol=1e-7, atol=1e-7, adjoint=adjoint))
        gradients.append(torch.autograd.grad(total(trajectory), leaves))
    for direct, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, direct, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("adjoint", [False, True])
def test_gradients_of_a_linear_flow(adjoint):
    """Catches gradients that agree with each other and are wrong: they are those of the matrix exponential."""
    flow, z = PotentialFlow(QuadraticPotential(3, spd(3, 0, -0.5, 0.5))), normal(1, 4, 3).requires_grad_()
    leaves = [z, flow.potential.matrix]
    trajectory = flow.integrate(z, [0.0, 1.3], ODE(rtol=1e-9, atol=1e-9, adjoint=adjoint))
    found = torch.autograd.grad(trajectory.z[-1].sin().sum() + trajectory.log_det[-1].sum(), leaves)
    moved = z @ torch.linalg.matrix_exp(1.3 * flow.potential.symmetric)
    expected = torch.autograd.grad(moved.sin().sum() + 4 * 1.3 * flow.potential.matrix.trace(), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_adjoint_knows_weights_that_are_no_parameters():
    """Catches weights handed to a bank, as of a posterior over transformations, that get no gradient."""
    bank, z = PotentialBank([net(2, 0), net(2, 10)]), normal(1, 4, 2)
    logits = normal(2, 4, 2).requires_grad_()
    gradients = []
    for adjoint in (False, True):
        flow = PotentialFlow(bank.mix(logits.softmax(-1)))
        trajectory = flow.integrate(z, [0.0, 1.0], ODE(rtol=1e-9, atol=1e-9, adjoint=adjoint))
        gradients.append(torch.autograd.grad(total(trajectory), logits)[0])
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)


def test_adjoint_with_a_jump_backwards_in_time():
    """Catches a jump whose time is not negated where torchdiffeq negates time."""
    matrices = nn.ParameterList([spd(2, 0, -0.5, 0.5), spd(2, 1, -0.5, 0.5)])

    class Switch(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrices = matrices
            self.calls = 0

        def forward(self, z, t):
            self.calls += 1
            late = (t >= 0.3)[..., None, None]
            matrix = torch.where(late, self.matrices[1], self.matrices[0])
            return (z.unsqueeze(-2) @ matrix @ z.unsqueeze(-1)).squeeze(-1).squeeze(-1) / 2

    flow, z = PotentialFlow(Switch()), normal(1, 4, 2)
    ode = ODE(rtol=1e-8, atol=1e-8, adjoint=True, options={"jump_t": [0.3]})
    end = flow.integrate(z, [1.0, 0.0], ode).z[-1].sin().sum()
    there, flow.potential.calls = flow.potential.calls, 0
    found = torch.autograd.grad(end, [*matrices])
    assert flow.potential.calls < 2 * there  # a jump that it does not know of takes hundreds of rejected steps
    a, b = ((m + m.mT) / 2 for m in matrices)
    moved = z @ torch.linalg.matrix_exp(-0.7 * b) @ torch.linalg.matrix_exp(-0.3 * a)
    for one, other in zip(found, torch.autograd.grad(moved.sin().sum(), [*matrices]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_gradients_to_the_times():
    """Catches times that are detached: the end moves with its time at the velocity, log_det at the Laplacian."""
    flow, z = PotentialFlow(QuadraticPotential(3, spd(3, 0, -0.5, 0.5))), normal(1, 3)
    times = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64, requires_grad=True)
    step = ODE("rk4", options={"step_size": 0.15})
    for ode in (tight, ODE("rk4"), step, ODE(rtol=1e-9, atol=1e-9, adjoint=True)):
        trajectory = flow.integrate(z, times, ode)
        (slope,) = torch.autograd.grad(trajectory.z[-1].sum(), times, retain_graph=True)
        torch.testing.assert_close(slope[2], flow.velocity(trajectory.z[-1], 1.0).sum(), rtol=1e-3, atol=1e-3)
        (slope,) = torch.autograd.grad(trajectory.log_det[1], times)
        torch.testing.assert_close(slope[1], flow.potential.symmetric.trace(), rtol=1e-5, atol=1e-5)


def test_second_derivatives_go_through_the_solver():
    """Catches a graph that cannot be differentiated again; z(T) = z e^{aT} has d/da dz(T)/dz = T e^{aT}."""
    flow = PotentialFlow(QuadraticPotential(1, torch.tensor([[0.3]], dtype=torch.float64)))
    z = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    trajectory = flow.integrate(z, [0.0, 2.0], tight)
    (slope,) = torch.autograd.grad(trajectory.z[-1].sum(), z, create_graph=True)
    (mixed,) = torch.autograd.grad(slope.sum(), flow.potential.matrix)
    torch.testing.assert_close(mixed, 2 * torch.tensor([[0.6]], dtype=torch.float64).exp(), rtol=1e-6, atol=1e-6)


@pytest.mark.xfail(raises=RuntimeError, reason="torchdiffeq 0.2.5: the adjoint is not differentiable twice")
def test_second_derivatives_through_the_adjoint():
    """Tells when torchdiffeq learns it, so that the documentation changes."""
    flow = PotentialFlow(net(2, 0))
    z = normal(1, 3, 2).requires_grad_()
    trajectory = flow.integrate(z, [0.0, 1.0], ODE(adjoint=True))
    (slope,) = torch.autograd.grad(trajectory.z[-1].sin().sum(), z, create_graph=True)
    torch.autograd.grad(slope.square().sum(), z)


@pytest.mark.xfail(raises=RuntimeError, reason="torchdiffeq 0.2.5: adaptive methods write in place")
def test_functional_gradient_through_dopri5():
    """Tells when torchdiffeq learns it."""
    flow = PotentialFlow(net(2, 0))
    torch.func.grad(lambda z: flow.integrate(z, [0.0, 1.0]).z[-1].sin().sum())(normal(1, 2))


@pytest.mark.parametrize("batch", batches)
@pytest.mark.parametrize("ode", [ODE(), rk4, ODE(adjoint=True), ODE("scipy_solver", adjoint=True)])
@pytest.mark.parametrize("times", [[0.5], [0.0, 0.5, 1.0]])
def test_batch_shapes(batch, ode, times):
    """Catches samples mixed up in the flat state, and an empty batch or a single time that fails or loses its graph."""
    flow, z = PotentialFlow(net(2, 0)), normal(1, *batch, 2).requires_grad_()
    trajectory = flow.integrate(z, times, ode)
    flat = flow.integrate(z.reshape(-1, 2), times, rk4)
    torch.testing.assert_close(trajectory.z, flat.z.reshape(len(times), *batch, 2), rtol=1e-3, atol=1e-4)
    for name in ("log_det", "action"):
        expected = getattr(flat, name).reshape(len(times), *batch)
        torch.testing.assert_close(getattr(trajectory, name), expected, rtol=1e-3, atol=1e-4)
        assert not getattr(trajectory, name)[0].any()
    torch.testing.assert_close(trajectory.z[0], z)
    assert trajectory.z.requires_grad
    assert torch.autograd.grad(trajectory.z.sum() + trajectory.log_det.sum(), z)[0].shape == z.shape


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("potential", [net(2, 0), FunctionPotential(net(2, 0).forward)])
@pytest.mark.parametrize("ode", [ODE(), ODE("rk4"), ODE(adjoint=True), ODE("scipy_solver", 1e-3, 1e-3)])
def test_without_gradients(mode, potential, ode):
    """Catches derivatives that need a graph, a result that keeps one, and a changed input."""
    z = normal(0, 4, 2)
    kept, expected = z.clone(), PotentialFlow(net(2, 0)).integrate(z, [0.0, 0.25, 0.5], rk4)
    with mode():
        trajectory = PotentialFlow(potential).integrate(
            z, [0.0, 0.25, 0.5], replace(ode, divergence=Hutchinson(generator=generator(0)))
        )
        exact = PotentialFlow(potential).integrate(z, [0.0, 0.25, 0.5], ode)
    torch.testing.assert_close(exact.log_det, expected.log_det.detach(), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(trajectory.z, expected.z.detach(), rtol=1e-2, atol=1e-3)
    assert not trajectory.z.requires_grad
    assert torch.equal(z, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("times", [[0.0, 0.1], torch.tensor([0, 1]), torch.tensor([0.0, 0.1], dtype=torch.float64)])
def test_dtype_follows_the_points(dtype, times):
    """Catches a trajectory in the dtype of the times, and whole-numbered times that are refused."""
    flow = PotentialFlow(FunctionPotential(lambda z, t: t * z.sin().sum(-1)))
    trajectory = flow.integrate(torch.ones(2, 3, dtype=dtype), times)
    assert trajectory.times.dtype == torch.float64
    for name in ("z", "log_det", "action"):
        assert getattr(trajectory, name).dtype == dtype


@pytest.mark.parametrize("method", sorted(set(SOLVERS) - {"scipy_solver"}))
def test_what_is_asked_for_does_not_change_the_end(method):
    """Catches requested times that are interpolated, from which the points there are less accurate than the steps."""
    flow, z = PotentialFlow(QuadraticPotential(2, spd(2, 0, -0.5, 0.5))), normal(1, 3, 2)
    adaptive = method in ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun")
    ode = ODE(method, 1e-7, 1e-7, options=None if adaptive else {"step_size": 0.07})
    if "adams" in method:  # they need equal steps
        ode = ODE(method, options={"step_size": 0.03})
    if method in ("euler", "midpoint", "heun2", "fehlberg2", "adaptive_heun"):
        ode = ODE(method, 1e-5, 1e-5, options=None if adaptive else {"step_size": 0.02})
    with torch.no_grad():
        trajectory = flow.integrate(z, [0.0, 0.33, 0.9], ode)
    error = 1e-2 if method == "euler" else 1e-3 if method in ("fehlberg2", "midpoint", "heun2") else 1e-5
    for n in (1, 2):
        exact = z @ torch.linalg.matrix_exp(trajectory.times[n] * flow.potential.symmetric.detach())
        torch.testing.assert_close(trajectory.z[n], exact, rtol=error, atol=error)


def test_steps_are_those_asked_for():
    """Catches a step size that is ignored, or exceeded: Euler's steps by hand, equal ones within each interval."""
    flow, z = PotentialFlow(QuadraticPotential(2, spd(2, 0, -0.5, 0.5))), normal(1, 3, 2)
    eye, a = torch.eye(2, dtype=torch.float64), flow.potential.symmetric
    trajectory = flow.integrate(z, [0.0, 0.5, 0.6], ODE("euler", options={"step_size": 0.2}))
    first = z @ torch.linalg.matrix_power(eye + a / 6, 3)
    torch.testing.assert_close(trajectory.z[1], first, **near)
    torch.testing.assert_close(trajectory.z[2], first @ (eye + a / 10), **near)


def test_samples_do_not_meet_on_a_fixed_grid():
    """Catches a batch that is coupled by more than the steps of an adaptive method."""
    flow, z = PotentialFlow(net(3, 0)), normal(1, 4, 3)
    together, alone = flow.integrate(z, [0.0, 1.0], rk4), flow.integrate(z[2], [0.0, 1.0], rk4)
    torch.testing.assert_close(together.z[:, 2], alone.z, **near)
    torch.testing.assert_close(together.log_det[:, 2], alone.log_det, **near)


exploding = FunctionPotential(lambda z, t: z.pow(3).sum(-1) / 3)  # z' = z^2 reaches infinity at t = 1/z_0


@pytest.mark.parametrize("adjoint", [False, True])
def test_an_explosion_is_a_solver_error(adjoint):
    """Catches a bare AssertionError, and a message without time and remedy."""
    z = torch.tensor([[1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    with pytest.raises(SolverError, match=r"near t = 0\.(5|49999?7)\d*;.* (use|loosen|raise)"):
        PotentialFlow(exploding).integrate(z, [0.0, 2.0], ODE(rtol=0.1, atol=0.1, adjoint=adjoint), None)


def test_too_many_steps_are_a_solver_error():
    """Catches a limit that is not handed over."""
    flow, ode = PotentialFlow(net(2, 0) * 30.0), ODE(options={"max_num_steps": 3})
    with pytest.raises(SolverError, match=r"max_num_steps near t = 0\.\d+; raise it"):
        flow.integrate(normal(1, 4, 2), [0.0, 1.0], ode)


def test_a_velocity_that_is_not_finite():
    """Catches an underflow that is blamed on the tolerance where the potential returns NaN."""
    half = FunctionPotential(lambda z, t: z.sum(-1) * (0.5 - t).sqrt())
    with pytest.raises(SolverError, match=r"velocity or its divergence is not finite near t = 0\.\d"):
        PotentialFlow(half).integrate(torch.ones(2, 1, dtype=torch.float64), [0.0, 1.0], ODE(divergence=None))


def test_the_solver_of_scipy_gives_up():
    """Catches a trajectory that is shorter than its times."""
    half, z = FunctionPotential(lambda z, t: z.sum(-1) * (0.5 - t).sqrt()), torch.ones(1, 1, dtype=torch.float64)
    for solver, message in (("RK45", "scipy's solver stopped"), ("BDF", "the velocity or its divergence is not")):
        ode = ODE("scipy_solver", options={"solver": solver})
        with (
            torch.no_grad(),
            pytest.warns(UserWarning, match="min_step"),
            pytest.raises(SolverError, match=message + r".* near t = 0\.\d"),
        ):
            PotentialFlow(half).integrate(z, [0.0, 0.25, 2.0], replace(ode, divergence=None))


def test_an_error_of_the_potential_is_its_own():
    """Catches an explanation put in the place of a mistake in the user's field."""

    def broken(z, t):
        return z.sum(-1).reshape(7, 3)

    with torch.no_grad(), pytest.raises(RuntimeError, match="invalid for input of size") as caught:
        PotentialFlow(broken).integrate(torch.ones(2, 1), [0.0, 1.0], ODE("scipy_solver"))
    assert not isinstance(caught.value, SolverError)


def test_leaving_the_finite_numbers_on_a_fixed_grid():
    """Catches NaN that comes out silently where the method does not look."""
    z = torch.tensor([[0.1], [1e40], [0.2]], dtype=torch.float64)
    quartic = FunctionPotential(lambda z, t: z.pow(4).sum(-1))
    with pytest.raises(FloatingPointError, match=r"step 2 \(t = 2\) for 1 of 3 samples \(numbers 1\)"):
        PotentialFlow(quartic).integrate(z, [0.0, 1.0, 2.0], ODE("euler"))
    with pytest.raises(FloatingPointError, match="z0: expected finite points"):
        PotentialFlow(quartic).integrate(z * torch.inf, [0.0, 1.0])
    rough = FunctionPotential(lambda z, t: z.square().sum(-1).pow(0.75))
    with pytest.raises(FloatingPointError, match=r"log_det|not finite"):
        PotentialFlow(rough).integrate(torch.zeros(2, 3), [0.0, 1.0], ODE("euler"))


def test_scipy_does_not_lose_gradients_silently():
    """Catches a trajectory without a graph where one is asked for."""
    flow, z = PotentialFlow(net(2, 0)), normal(1, 4, 2)
    with pytest.raises(ValueError, match=r"^ode: expected adjoint=True with 'scipy_solver'"):
        flow.integrate(z, [0.0, 1.0], ODE("scipy_solver"))


def test_every_method_is_accepted():
    """Catches a list of methods that is older than torchdiffeq."""
    for method in SOLVERS:
        assert ODE(method).method == method
    assert hash(ODE(options={"step_size": 0.1})) == hash(ODE())


class Unknown:
    requires = frozenset({"third"})

    def running_cost(self, jet, z, t):
        return jet.value


class Reduced:
    requires = Derivative(0)

    def running_cost(self, jet, z, t):
        return jet.value.mean()


flow, z = PotentialFlow(net(2, 0)), torch.ones(3, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("error", "name", "call"),
    [
        (ValueError, "method", lambda: ODE("rk45")),
        (ValueError, "rtol", lambda: ODE(rtol=0.0)),
        (ValueError, "step_size", lambda: ODE("rk4", options={"step_size": 0.0})),
        (ValueError, "atol", lambda: ODE(atol=float("nan"))),
        (ValueError, "times", lambda: flow.integrate(z, [])),
        (ValueError, "times", lambda: flow.integrate(z, [[0.0, 1.0]])),
        (ValueError, "times", lambda: flow.integrate(z, [0.0, 1.0, 1.0])),
        (ValueError, "times", lambda: flow.integrate(z, [0.0, 1.0, 0.5])),
        (ValueError, "times", lambda: flow.integrate(z, [0.0, torch.inf])),
        (TypeError, "times", lambda: flow.integrate(z, "now")),
        (TypeError, "z0", lambda: flow.integrate(z.long(), [0.0, 1.0])),
        (TypeError, "requires", lambda: flow.integrate(z, [0.0, 1.0], running_cost=Unknown())),
        (ValueError, "running_cost", lambda: flow.integrate(z, [0.0, 1.0], running_cost=Reduced())),
    ],
)
def test_wrong_arguments(error, name, call):
    """Catches messages that do not name the argument."""
    with pytest.raises(error, match=f"^{name}: expected"):
        call()
