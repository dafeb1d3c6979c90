"""One way to follow a flow: the scheme holds every numerical choice, and a trajectory remembers it."""

from dataclasses import dataclass, replace

import pytest
import torch
from closed_forms import net, normal, spd
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform, ComposeTransform

from latentflow import Derivative, Exact, HopfLaxFlow, Hutchinson, PotentialFlow, QuadraticPotential
from latentflow.calculus import JetRequest, evaluate_jet
from latentflow.flow import ODE, Euler, FirstOrder, Flow, Newton, Scheme, Trajectory

DIM = 3
POTENTIAL = net(DIM, 0) * 0.3
Z = normal(1, 5, DIM)
TIMES = [0.0, 0.4, 1.1, 1.5]
FINE = ODE("dopri5", rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scheme", [Euler(), Euler(FirstOrder(), Newton(max_iterations=30)), FINE])
@pytest.mark.parametrize("kind", [PotentialFlow, HopfLaxFlow])
def test_a_trajectory_remembers_its_scheme(kind, scheme):
    """Catches an inverse by another scheme than the one that led to the end."""
    flow = kind(POTENTIAL)
    trajectory = flow.follow(Z, TIMES, scheme)
    assert trajectory.scheme == scheme
    back, named = flow.inverse(trajectory), flow.inverse(trajectory.z[-1], TIMES, scheme)
    assert torch.equal(back.z, named.z)
    torch.testing.assert_close(back.z[-1], Z, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(back.log_det[-1], -trajectory.log_det[-1], rtol=1e-6, atol=1e-6)


def test_the_inverse_of_another_scheme_ends_elsewhere():
    """Catches schemes that are taken for each other: few steps of Euler and the continuous flow differ visibly."""
    flow = PotentialFlow(POTENTIAL)
    end = flow.follow(Z, TIMES, Euler()).z[-1]
    error = (flow.inverse(end, TIMES, FINE).z[-1] - Z).norm() / Z.norm()
    assert 1e-3 < error < 0.5


@pytest.mark.parametrize("forget", [lambda t: replace(t, scheme=None), lambda t: PotentialFlow(POTENTIAL).inverse(t)])
def test_a_trajectory_without_a_scheme_is_refused(forget):
    """Catches undone steps, or points made by hand, that are undone as if Euler's scheme had made them."""
    flow = PotentialFlow(POTENTIAL)
    other = forget(flow.follow(Z, TIMES, Euler()))
    with pytest.raises(ValueError, match=r"^trajectory: expected one that a flow followed by a scheme"):
        flow.inverse(other)


@pytest.mark.parametrize(
    "arguments", [lambda t: (t, TIMES), lambda t: (t, None, Euler()), lambda t: (t.z[-1],), lambda t: (t.z[-1], TIMES)]
)
def test_an_inverse_needs_one_scheme(arguments):
    """Catches a scheme that is guessed, and two that contradict each other."""
    flow = PotentialFlow(POTENTIAL)
    with pytest.raises(TypeError, match=r"^times, scheme: expected"):
        flow.inverse(*arguments(flow.follow(Z, TIMES, Euler())))


@dataclass(frozen=True)
class Midpoint:
    """The explicit midpoint rule with the trace of the Hessian there, in no class of the library."""

    density: Exact | None = Exact()  # noqa: RUF009 - frozen

    def without_density(self):
        return replace(self, density=None)

    def follow(self, potential, z0, times, cost=None):
        assert cost is None
        request = JetRequest(Derivative.LAPLACIAN)
        z, log_det, action = [z0], [torch.zeros_like(z0[:, 0])], [torch.zeros_like(z0[:, 0])]
        for start, end in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
            half = evaluate_jet(potential, z[-1], start, JetRequest()).gradient * (end - start) / 2
            jet = evaluate_jet(potential, z[-1] + half, (start + end) / 2, request)
            z.append(z[-1] + (end - start) * jet.gradient)
            log_det.append(log_det[-1] + (end - start) * jet.laplacian)
            action.append(action[-1] + (end - start) * jet.gradient.square().sum(-1))
        known = None if self.density is None else torch.stack(log_det)
        return Trajectory(times, torch.stack(z), known, torch.stack(action), scheme=self)

    def invert(self, potential, z, times):
        return self.follow(potential, z, times.flip(0))


def test_a_scheme_of_ones_own():
    """Catches a scheme that has to derive from a class of the library, or to be listed in it."""
    assert isinstance(Midpoint(), Scheme)
    flow = PotentialFlow(POTENTIAL)
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    found, exact = flow.follow(Z, times, Midpoint()), flow.follow(Z, times, FINE)
    torch.testing.assert_close(found.z, exact.z, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.log_det, exact.log_det, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(flow.inverse(found).z[-1], Z, rtol=1e-4, atol=1e-4)
    base = Independent(Normal(torch.zeros(DIM, dtype=torch.float64), 1.0), 1)
    densities = [flow.push_forward(base, times, scheme).log_prob(Z) for scheme in (Midpoint(), FINE)]
    torch.testing.assert_close(*densities, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scheme", [None, "euler", FirstOrder()])
def test_no_scheme(scheme):
    """Catches an argument that is no scheme, found only deep in the loop."""
    with pytest.raises(TypeError, match=r"^scheme: expected Euler\(\.\.\.\), ODE\(\.\.\.\) or another Scheme"):
        PotentialFlow(POTENTIAL).follow(Z, TIMES, scheme)


def test_a_flow_in_closed_form_is_a_sibling():
    """Catches straight lines that are taken for a flow along any potential, with a step that is not theirs."""
    flow = HopfLaxFlow(POTENTIAL)
    assert isinstance(flow, Flow)
    assert not isinstance(flow, PotentialFlow)
    coarse, fine = flow.follow(Z, [0.0, 1.5], Euler()), flow.follow(Z, TIMES, FINE)
    torch.testing.assert_close(coarse.z[-1], fine.z[-1])


def test_the_divergence_is_a_choice_of_the_solver():
    """Catches a log-determinant without its estimator, and one that is computed where none is wanted."""
    flow = PotentialFlow(POTENTIAL)
    plain = flow.integrate(Z, TIMES, replace(FINE, divergence=None))
    exact = flow.integrate(Z, TIMES, FINE)
    noisy = flow.integrate(
        Z, TIMES, replace(FINE, divergence=Hutchinson(8, generator=torch.Generator().manual_seed(0)))
    )
    assert plain.log_det is None
    torch.testing.assert_close(plain.z, exact.z, rtol=1e-7, atol=1e-7)
    assert 0 < (noisy.log_det[-1] - exact.log_det[-1]).abs().max() < 1


def test_a_running_cost_of_discrete_steps():
    """Catches rates at the end of a step, and a cost without the length of a step."""

    class Speed:
        requires = Derivative.HESSIAN

        def running_cost(self, jet, z, t):
            return jet.gradient.square().sum(-1) + t * jet.hessian.diagonal(dim1=-2, dim2=-1).sum(-1)

    matrix = spd(DIM, 3, -0.4, 0.4)
    flow = PotentialFlow(QuadraticPotential(DIM, matrix))
    trajectory = flow.follow(Z, TIMES, Euler(), running_cost=Speed())
    times = torch.tensor(TIMES, dtype=torch.float64)
    increments = times[:-1, None] * times.diff()[:, None] * matrix.diagonal().sum()
    expected = torch.cat([torch.zeros(1, 5, dtype=torch.float64), increments.expand(-1, 5).cumsum(0)])
    torch.testing.assert_close(trajectory.cost - trajectory.action, expected)


@pytest.mark.parametrize("scheme", [Euler(), FINE])
def test_a_transform_composes_with_those_of_torch(scheme):
    """Catches a determinant of the wrong sign, a cache of another point, and a transform that torch cannot compose."""
    base = Independent(Normal(torch.zeros(DIM, dtype=torch.float64), 1.0), 1)
    matrix = spd(DIM, 3, -0.4, 0.4)
    flow = PotentialFlow(QuadraticPotential(DIM, matrix)).transform(TIMES, scheme)
    stretch = AffineTransform(torch.zeros(DIM, dtype=torch.float64), 2.0, event_dim=1)
    both = ComposeTransform([flow, stretch])
    x = flow(Z)
    torch.testing.assert_close(flow.log_abs_det_jacobian(Z, x), -flow.inv.log_abs_det_jacobian(x, flow.inv(x)))
    jacobian = torch.stack([torch.autograd.functional.jacobian(both, z) for z in Z])
    torch.testing.assert_close(
        both.log_abs_det_jacobian(Z, both(Z)), jacobian.slogdet().logabsdet, rtol=1e-5, atol=1e-5
    )
    found = TransformedDistribution(base, [flow, stretch]).log_prob(Z)
    affine = torch.linalg.solve(jacobian[0], Z.mT).mT
    torch.testing.assert_close(found, base.log_prob(affine) - jacobian[0].slogdet().logabsdet, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheme", [Euler(), FINE])
def test_the_determinant_is_that_of_the_points_asked_for(scheme):
    """Catches a transform that remembers the determinant of the points that it inverted last."""
    transform = PotentialFlow(POTENTIAL).transform(TIMES, scheme)
    other = normal(9, 5, DIM)
    ends, expected = transform.call_and_log_det(other)
    transform.inv(transform(Z))
    torch.testing.assert_close(transform.log_abs_det_jacobian(other, ends), expected, rtol=1e-6, atol=1e-6)


def test_the_repr_shows_shapes():
    """Catches a notebook full of numbers."""
    shown = repr(PotentialFlow(POTENTIAL).rollout(Z, steps=2, log_det=None))
    assert shown == "Trajectory(times=(3,), z=(3, 5, 3), action=(3, 5), scheme=Euler(log_det=None, solver=None))"
