"""The three forms of the Fokker-Planck equation, and the continuity equation."""

import math

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import net, normal, spd
from hypothesis import given, settings
from solutions import OrnsteinUhlenbeck, assert_zero, times
from torch.distributions import MultivariateNormal

from latentflow import (
    ODE,
    FokkerPlanckResidual,
    HeatResidual,
    PotentialFlow,
    QuadraticPotential,
    ViscousHJResidual,
    gradient,
)
from latentflow.pde import ContinuityResidual, LinearFokkerPlanckResidual, LogFokkerPlanckResidual

dims, seeds, rates = st.integers(1, 5), st.integers(0, 2**31 - 100), st.floats(0.2, 2)
few = settings(max_examples=10)
FORMS = [FokkerPlanckResidual, LogFokkerPlanckResidual, LinearFokkerPlanckResidual]
near = {"rtol": 1e-11, "atol": 1e-11}


def in_form(form, log_density, drift, diffusion):
    """What each form acts on, for the same density."""
    return {
        FokkerPlanckResidual: lambda z, t: drift(z, t) - diffusion * log_density(z, t),
        LogFokkerPlanckResidual: log_density,
        LinearFokkerPlanckResidual: lambda z, t: log_density(z, t).exp(),
    }[form]


@pytest.mark.parametrize("form", FORMS)
@few
@given(dims, seeds, rates, rates)
def test_ornstein_uhlenbeck(form, dim, seed, theta, diffusion):
    """Catches D for 2D, a missing |grad l|^2 or div b, and a drift of the wrong sign."""
    process = OrnsteinUhlenbeck(dim, seed, theta, diffusion)
    z, t = normal(seed + 3, 2, 3, dim), times(seed, 2, 3)
    field = in_form(form, process.log_density, process.drift, diffusion)
    assert_zero(form(diffusion, process.drift)(field, z, t), scale=100)


def moving_drift(z, t):
    """The potential of a drift that changes with time, -theta (z - a sin t)."""
    return -0.8 * (z - t.sin().unsqueeze(-1)).square().sum(-1) / 2 + (2 * t).cos()


def log_density_behind(z, t):
    """log N(m_t, s I) that follows the moving drift with D = 0.4: s = D / theta stays, m' = -0.8 (m - sin t)."""
    a = 0.8  # m = (a^2 sin t - a cos t + a e^{-at}) / (1 + a^2) starts at 0
    mean = (a * a * t.sin() - a * t.cos() + a * torch.exp(-a * t)) / (1 + a * a)
    return -(z - mean.unsqueeze(-1)).square().sum(-1) - z.shape[-1] / 2 * math.log(math.pi)


@pytest.mark.parametrize("form", FORMS)
@few
@given(dims, seeds)
def test_drift_that_changes_with_time(form, dim, seed):
    """Catches a missing time derivative of the drift's potential."""
    z, t = normal(seed, 6, dim), 2 * times(seed, 6)
    field = in_form(form, log_density_behind, moving_drift, 0.4)
    assert_zero(form(0.4, moving_drift)(field, z, t), scale=100)


@pytest.mark.parametrize("form", FORMS)
@few
@given(dims, seeds, rates)
def test_gibbs_density_stays(form, dim, seed, diffusion):
    """Catches a drift of the wrong sign: e^{phi/D} is stationary, and its potential constant."""
    phi, z, t = net(dim, seed), normal(seed + 1, 5, dim), times(seed, 5)
    frozen = 0.3 * torch.ones((), dtype=torch.float64)

    def drift(z, t):
        return phi(z, frozen)

    field = in_form(form, lambda z, t: drift(z, t) / diffusion, drift, diffusion)
    residual = form(diffusion, drift)(field, z, t)
    assert_zero(residual, scale=10 * float(field(z, t).detach().abs().max()) / diffusion**2)
    if form is FokkerPlanckResidual:
        assert_zero(form(diffusion, drift)(lambda z, t: torch.full_like(t, 1.7), z, t))


@few
@given(dims, seeds, rates)
def test_the_forms_agree_on_any_field(dim, seed, diffusion):
    """Catches any term that is wrong in one form only: the residuals of one density are multiples of one another."""
    log_p, phi = net(dim, seed), net(dim, seed + 50)
    z, t = normal(seed + 1, 5, dim), times(seed, 5)
    linear = LinearFokkerPlanckResidual(diffusion, phi)(lambda z, t: log_p(z, t).exp(), z, t)
    log = LogFokkerPlanckResidual(diffusion, phi)(log_p, z, t)
    potential = FokkerPlanckResidual(diffusion, phi)(lambda z, t: phi(z, t) - diffusion * log_p(z, t), z, t)
    torch.testing.assert_close(linear, log_p(z, t).exp() * log, **near)
    torch.testing.assert_close(potential, -diffusion * log, **near)


@few
@given(dims, seeds, rates)
def test_probability_flow_of_any_field_is_continuity(dim, seed, diffusion):
    """Catches a potential form whose flow does not carry the density: continuity along u is the log form."""
    log_p, phi = net(dim, seed), net(dim, seed + 50)
    z, t = normal(seed + 1, 5, dim), times(seed, 5)
    u = phi - diffusion * log_p
    carried = ContinuityResidual(u)(log_p, z, t)
    torch.testing.assert_close(carried, LogFokkerPlanckResidual(diffusion, phi)(log_p, z, t), **near)
    torch.testing.assert_close(ContinuityResidual(phi)(log_p, z, t), LogFokkerPlanckResidual(0, phi)(log_p, z, t))


def test_probability_flow_carries_the_process():
    """Catches a velocity of the wrong sign or twice the diffusion: N(m0, S0) has to become N(m1, S1)."""
    process, end = OrnsteinUhlenbeck(3, 0), torch.tensor(1.0, dtype=torch.float64)
    z0 = normal(9, 6, 3)
    ode = ODE(rtol=1e-8, atol=1e-9)
    trajectory = PotentialFlow(process.potential).integrate(z0, [0.0, 1.0], ode)
    start = MultivariateNormal(process.mean0, process.covariance0)
    target = MultivariateNormal(process.mean(end), process.covariance(end))
    torch.testing.assert_close(
        start.log_prob(z0) - trajectory.log_det[-1], target.log_prob(trajectory.z[-1]), rtol=0, atol=1e-6
    )


@few
@given(dims, seeds)
def test_continuity_of_a_linear_flow(dim, seed):
    """Catches a Laplacian of the wrong sign: along z' = Az the log-density is l0(e^{-At} z) - t tr A."""
    matrix, z, t = spd(dim, seed, -1, 1), normal(seed + 1, 4, dim), times(seed, 4)
    start = net(dim, seed + 2)

    def log_q(z, t):
        back = torch.linalg.matrix_exp(-t[..., None, None] * matrix)
        origin = (back @ z.unsqueeze(-1)).squeeze(-1)
        return start(origin, torch.zeros_like(t)) - t * matrix.trace()

    assert_zero(ContinuityResidual(QuadraticPotential(dim, matrix))(log_q, z, t), scale=10)


@few
@given(dims, seeds, rates)
def test_without_drift(dim, seed, diffusion):
    """Catches a factor of |grad u|^2 that is not 1: without drift, 2u is viscous, and the linear form is heat."""
    u, z, t = net(dim, seed), normal(seed + 1, 5, dim), times(seed, 5)
    viscous = ViscousHJResidual(diffusion)(2 * u, z, t)
    torch.testing.assert_close(2 * FokkerPlanckResidual(diffusion)(u, z, t), viscous, **near)
    linear = LinearFokkerPlanckResidual(diffusion)(u, z, t)
    torch.testing.assert_close(linear, HeatResidual(diffusion)(u, z, t), **near)
    for form in FORMS:
        still = form(diffusion, lambda z, t: torch.zeros_like(t))
        torch.testing.assert_close(still(u, z, t), form(diffusion)(u, z, t), **near)


@few
@given(dims, seeds)
def test_initial_condition_starts_in_equilibrium(dim, seed):
    """Catches the claim that the initial condition only sets a start: what is carried is e^{phi/D}, and it stays."""
    process = OrnsteinUhlenbeck(dim, seed)
    process.mean0 = process.centre
    process.covariance0 = process.diffusion / process.theta * torch.eye(dim, dtype=torch.float64)
    z = normal(seed, 4, dim)
    assert_zero(FokkerPlanckResidual(process.diffusion, process.drift)(process.potential, z, times(seed, 4)), scale=100)
    assert_zero(gradient(process.potential, z, 0.0).square().sum(-1))
    assert_zero(gradient(process.potential, z, 0.7), scale=10)


@pytest.mark.parametrize("form", FORMS)
def test_drift_that_is_no_field(form):
    """Catches a constant in place of the drift's potential."""
    with pytest.raises(TypeError, match=r"^drift: expected a callable u\(z, t\), got -?1.0"):
        form(0.5, -1.0)


def test_potential_that_is_no_field():
    """Catches a tensor of velocities in place of the potential."""
    with pytest.raises(TypeError, match=r"^potential: expected a callable u\(z, t\), got a tensor"):
        ContinuityResidual(torch.ones(3))
