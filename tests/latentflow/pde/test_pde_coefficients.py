"""Numbers and fields that residuals own, what they learn, and the gradients of every loss."""

import math

import pytest
import torch
from closed_forms import net, normal
from solutions import OrnsteinUhlenbeck, learnable_residuals, positive, softmin_of_planes, times
from strategies import request_of

from latentflow import (
    Derivative,
    FokkerPlanckResidual,
    HeatResidual,
    PDEResidual,
    PotentialFlow,
    QuadraticPotential,
    ViscousHJResidual,
    WaveResidual,
)
from latentflow.calculus import JetRequest, PositiveParameter, autodiff_jet, evaluate_jet
from latentflow.calculus.positive import inverse_softplus
from latentflow.pde import ContinuityResidual, LinearFokkerPlanckResidual, LogFokkerPlanckResidual
from latentflow.testing import check_residual

process = OrnsteinUhlenbeck(2, 3, theta=0.8, diffusion=0.35)
k = normal(8, 2)
WITH_COEFFICIENT = {
    "diffusivity": HeatResidual,
    "speed": WaveResidual,
    "viscosity": ViscousHJResidual,
    "diffusion": FokkerPlanckResidual,
}
RECOVERED = {  # the residual of a coefficient, its true value, a solution
    "heat": (HeatResidual, 0.45, lambda z, t: (z @ k).cos() * torch.exp(-0.45 * (k @ k) * t)),
    "wave": (WaveResidual, 1.3, lambda z, t: (z @ k - 1.3 * k.norm() * t).tanh()),
    "viscous": (ViscousHJResidual, 0.3, softmin_of_planes(2, 5, 0.3)[0]),
    "fokker-planck": (lambda c: FokkerPlanckResidual(c, process.drift), 0.35, process.potential),
    "log": (lambda c: LogFokkerPlanckResidual(c, process.drift), 0.35, process.log_density),
    "linear": (lambda c: LinearFokkerPlanckResidual(c, process.drift), 0.35, process.density),
}


@pytest.mark.parametrize("value", [1e-12, 1e-2, 1.0, 19.0, 25.0, 1e3])
def test_positive_parameter(value):
    """Catches an overflow, a start elsewhere, and a dead start where nothing is learned."""
    raw = torch.tensor(inverse_softplus(value), dtype=torch.float64)
    expected = torch.tensor(value, dtype=torch.float64)
    torch.testing.assert_close(torch.logaddexp(raw, torch.zeros_like(raw)), expected, rtol=1e-9, atol=0)
    number = PositiveParameter(value)
    assert number().shape == ()
    torch.testing.assert_close(number(), expected.float(), rtol=1e-5, atol=0)
    number().backward()
    assert number.raw.grad > 0
    assert set(number.state_dict()) == {"raw"}


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_positive_parameter_refuses(value):
    """Catches a start that softplus does not reach."""
    with pytest.raises(ValueError, match=r"^value: expected a positive number, got"):
        PositiveParameter(value)


@pytest.mark.parametrize(("name", "equation"), WITH_COEFFICIENT.items(), ids=WITH_COEFFICIENT)
def test_coefficients(name, equation):
    """Catches a coefficient that is not registered, a number that learns, and one that is negative or no number."""
    learned = PositiveParameter(0.4)
    assert [p is learned.raw for p in equation(learned).parameters()] == [True]
    assert list(equation(0.4).parameters()) == []
    assert getattr(equation(2), name)() == 2.0
    u, z, t = net(2, 0), normal(1, 4, 2), times(2, 4)
    torch.testing.assert_close(equation(positive(0.4))(u, z, t), equation(0.4)(u, z, t), rtol=1e-6, atol=1e-6)
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"^{name}: expected a number of at least 0, got {wrong}"):
            equation(wrong)
    with pytest.raises(
        TypeError, match=rf"^{name}: expected a number or, to learn it, a PositiveParameter, got a tensor"
    ):
        equation(torch.tensor(0.4))
    assert "0.4" in repr(equation(0.4))


@pytest.mark.parametrize(("make", "truth", "solution"), RECOVERED.values(), ids=RECOVERED)
def test_coefficient_is_recovered(make, truth, solution):
    """Catches a coefficient whose gradient is cut or wrong: zero at the truth, and downhill from both sides."""
    z, t = normal(1, 40, 2), times(2, 40)
    exact = positive(truth)
    with torch.no_grad():
        exact.raw.copy_(torch.tensor(inverse_softplus(truth)))
    loss = make(exact).loss(solution, (z, t))
    (slope,) = torch.autograd.grad(loss, exact.raw)
    assert loss < 1e-12
    assert slope.abs() < 1e-5
    jet = evaluate_jet(solution, z, t, JetRequest(make(exact).requires))
    for start in (truth / 1.5, truth * 1.5):
        coefficient = positive(start)
        optimizer = torch.optim.Adam(coefficient.parameters(), lr=0.05)
        for _ in range(60):
            optimizer.zero_grad()
            make(coefficient).running_cost(jet, z, t).mean().backward()
            optimizer.step()
        assert abs(coefficient().item() - truth) < 0.1 * abs(start - truth)


def test_drift_is_recovered():
    """Catches a drift whose parameters are not those of the residual, or do not reach its loss."""
    z, t = normal(1, 60, 2), times(2, 60)
    drift = QuadraticPotential(2, -0.5 * torch.eye(2, dtype=torch.float64))
    residual = LogFokkerPlanckResidual(0.35, drift)
    jet = evaluate_jet(process.log_density, z, t, request_of(laplacian=True))
    optimizer = torch.optim.Adam(residual.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        residual.running_cost(jet, z, t).mean().backward()
        optimizer.step()
    expected = -0.8 * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(drift.symmetric.detach(), expected, rtol=0, atol=0.03)
    torch.testing.assert_close(drift.vector.detach(), 0.8 * process.centre, rtol=0, atol=0.03)


def test_fields_are_owned():
    """Catches a potential or a drift that does not follow .to(...) nor appear in state_dict."""
    u = net(2, 0)
    for residual, name in ((ContinuityResidual(u), "potential"), (FokkerPlanckResidual(0.1, u), "drift")):
        assert getattr(residual, name) is u
        assert {id(p) for p in residual.parameters()} == {id(p) for p in u.parameters()}
    assert FokkerPlanckResidual(0.1).drift is None


@pytest.mark.parametrize("name", learnable_residuals(2))
def test_gradients_of_the_loss(name):
    """Catches a detached term, in the points, the times, and all parameters of potential and residual."""
    torch.manual_seed(0)
    residual, learner = learnable_residuals(2)[name], net(2, 3, (3,))
    names, parameters = zip(*learner.named_parameters(), strict=True)
    own = [p for p in residual.parameters() if p.requires_grad]
    own_names = [n for n, p in residual.named_parameters() if p.requires_grad]

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.u, self.residual = learner, residual

        def forward(self, z, t):
            return self.residual.loss(self.u, (z, t))

    module = Loss()

    def loss(z, t, *values):
        keys = [f"u.{n}" for n in names] + [f"residual.{n}" for n in own_names]
        return torch.func.functional_call(module, dict(zip(keys, values, strict=True)), (z, t))

    z, t = normal(1, 3, 2).requires_grad_(), times(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(loss, (z, t, *parameters, *own), fast_mode=True)


@pytest.mark.parametrize("name", learnable_residuals(2))
def test_contract(name):
    """Catches samples that couple, requires that are incomplete, and dtypes or modes that are not followed."""
    residual = learnable_residuals(2)[name]
    gauge = name in {"hamilton-jacobi", "forced", "viscous", "heat", "fokker-planck", "fokker-planck without drift"}
    check_residual(residual, dim=2, batch=(2, 3), gauge=gauge)


@pytest.mark.parametrize("name", learnable_residuals(2))
def test_only_what_is_required_is_computed(name):
    """Catches second derivatives that are computed for nothing, which is most of the cost of a residual."""
    residual, asked = learnable_residuals(2)[name], []

    class Spy(torch.nn.Module):
        def forward(self, z, t):
            return z.square().sum(-1) + t

        def jet_rule(self, z, t, request):
            asked.append(request)
            return autodiff_jet(self, z, t, request)

    residual(Spy(), normal(0, 4, 2), 0.3)
    laplacian = Derivative.LAPLACIAN
    needed = {"viscous": laplacian, "heat": laplacian, "wave": laplacian | Derivative.SECOND_TIME_DERIVATIVE}
    default = laplacian if "fokker" in name else Derivative(0)
    assert asked == [JetRequest(needed.get(name, default))]


@pytest.mark.parametrize("name", ["viscous", "heat", "wave", "fokker-planck", "log fokker-planck"])
def test_a_jet_without_what_is_required(name):
    """Catches an error about None deep inside, where a field's own rule forgets the Laplacian."""
    jet = evaluate_jet(net(2, 0), normal(0, 4, 2), 0.3, JetRequest())
    with pytest.raises(ValueError, match=r"^(laplacian|second_time_derivative) was not requested"):
        learnable_residuals(2)[name].from_jet(jet, normal(0, 4, 2), times(0, 4))


@pytest.mark.parametrize("name", learnable_residuals(2))
def test_residuals_integrate_along_flows(name):
    """Catches a residual that the solver cannot carry: its integral is of r^2 plus the penalty."""
    residual, u = learnable_residuals(2)[name], net(2, 1)
    with torch.no_grad():
        nodes = torch.linspace(0, 0.2, 41, dtype=torch.float64)
        trajectory = PotentialFlow(u).integrate(normal(0, 3, 2), nodes, running_cost=residual)
        t = nodes[:, None].expand(-1, 3)
        rate = residual(u, trajectory.z, t).square() + residual.penalty(trajectory.z, t)
        expected = torch.trapezoid(rate, nodes, dim=0)
    torch.testing.assert_close(trajectory.cost[-1], expected, rtol=2e-3, atol=1e-4)


class Eikonal(PDEResidual):
    """What a user writes: |grad u| = n(z) with a medium that learns."""

    def __init__(self, dim):
        super().__init__()
        self.slowness = torch.nn.Parameter(torch.ones(dim))

    def from_jet(self, jet, z, t):
        return jet.gradient.square().sum(-1) - (1 + (z * self.slowness).square().sum(-1))


def test_residual_of_a_user():
    """Catches a base class that needs more than one method."""
    check_residual(Eikonal(3), dim=3)
    z = normal(0, 5, 2)
    still = Eikonal(2).double()
    with torch.no_grad():
        still.slowness.zero_()
    plane = torch.tensor([0.6, 0.8], dtype=torch.float64)
    torch.testing.assert_close(still(lambda z, t: z @ plane, z, 0.0), torch.zeros(5, dtype=torch.float64))
