"""The Hamilton-Jacobi potential between Gaussians, the action and the defect of a flow."""

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import bures_map, net, normal, ohj_quadratic, sigma_points, spd
from hypothesis import given, settings
from torch.distributions import MultivariateNormal

from latentflow import (
    ODE,
    HJResidual,
    PotentialFlow,
    QuadraticPotential,
    gaussian_transport_potential,
    gaussian_wasserstein2,
)
from latentflow.testing import check_potential
from latentflow.transport import GaussianTransportPotential, benamou_brenier_action, transport_defect

dims, seeds = st.integers(1, 5), st.integers(0, 2**31 - 100)


def gaussians(dim, seed):
    return normal(seed, dim), spd(dim, seed + 1), normal(seed + 2, dim), spd(dim, seed + 3)


@pytest.mark.parametrize("dim", [1, 3])
def test_derivatives_keep_the_contract(dim):
    """Catches any wrong term of the closed form."""
    check_potential(gaussian_transport_potential(*gaussians(dim, 0)), dim)


@given(dims, seeds)
def test_the_potential_between_gaussians(dim, seed):
    """Catches a map that is not the symmetric one, a time off by one, and an action that is not the distance."""
    m0, s0, m1, s1 = gaussians(dim, seed)
    u = gaussian_transport_potential(m0, s0, m1, s1)
    torch.testing.assert_close(u.matrix, bures_map(s0, s1))
    matrix, vector = u.matrix - torch.eye(dim, dtype=torch.float64), m1 - u.matrix @ m0
    points, times = normal(seed + 4, 6, dim), torch.linspace(0, 1, 6, dtype=torch.float64)
    torch.testing.assert_close(u(points, times), ohj_quadratic(matrix, vector)(points, times), rtol=1e-11, atol=1e-11)
    residual = HJResidual()(u, points, times)
    torch.testing.assert_close(residual, torch.zeros_like(residual), atol=1e-11, rtol=0)
    z = sigma_points(m0, s0)
    for steps in (1, 3):
        trajectory = PotentialFlow(u).rollout(z, steps=steps, dt=1 / steps)
        torch.testing.assert_close(trajectory.z[-1], u.transport(z))
        torch.testing.assert_close(trajectory.log_det[-1], torch.logdet(u.matrix).expand(len(z)))
        size = gaussian_wasserstein2(m0, s0, m1, s1, squared=True)
        torch.testing.assert_close(trajectory.action[-1].mean(), size)
        torch.testing.assert_close(benamou_brenier_action(trajectory), size / 2)
    dual = u(trajectory.z[-1], torch.tensor(1.0)).mean() - u(z, torch.tensor(0.0)).mean()
    torch.testing.assert_close(dual, size / 2)


@given(dims, seeds, st.floats(0, 1))
def test_the_interpolation_of_gaussians(dim, seed, t):
    """Catches a covariance that is interpolated itself, which is not the geodesic."""
    m0, s0, m1, s1 = gaussians(dim, seed)
    u, start = gaussian_transport_potential(m0, s0, m1, s1), MultivariateNormal(m0, s0)
    between = u.interpolate(start, t)
    whole = gaussian_wasserstein2(m0, s0, m1, s1)
    part = gaussian_wasserstein2(m0, s0, between.loc, between.covariance_matrix, squared=True)
    rest = gaussian_wasserstein2(between.loc, between.covariance_matrix, m1, s1, squared=True)
    torch.testing.assert_close(part, (t * whole) ** 2, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(rest, ((1 - t) * whole) ** 2, rtol=1e-11, atol=1e-11)


def test_the_density_arrives():
    """Catches a determinant of the wrong sign."""
    m0, s0, m1, s1 = gaussians(2, 5)
    flow = PotentialFlow(gaussian_transport_potential(m0, s0, m1, s1)).eval()
    pushed = flow.push_forward(MultivariateNormal(m0, s0), [0.0, 1.0], ODE(rtol=1e-10, atol=1e-12))
    z = normal(6, 4, 2)
    torch.testing.assert_close(pushed.log_prob(z), MultivariateNormal(m1, s1).log_prob(z), rtol=1e-8, atol=1e-8)


@given(dims, seeds)
@settings(max_examples=4)
def test_the_defect_is_the_slope_of_the_residual(dim, seed):
    """Catches a missing term of the acceleration; a function of time added to the potential changes nothing."""
    u = net(dim, seed)
    z, t = normal(seed + 1, 2, 3, dim), normal(seed + 2, 2, 3).abs()

    def value(z, t):
        return HJResidual()(u, z, t)

    slope = torch.func.vmap(torch.func.grad(value))(z.reshape(6, dim), t.reshape(6))
    defect = transport_defect(u, z, t)
    torch.testing.assert_close(defect.reshape(6), slope.square().sum(-1), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(transport_defect(lambda z, t: u(z, t) + 3 * t.sin(), z, t), defect)


def test_the_defect_of_a_linear_flow():
    """Catches an acceleration without its factor: z = exp(At) z0 has the acceleration A^2 z."""
    matrix = spd(3, 0, -1.0, 1.0)
    z = normal(1, 4, 3)
    expected = (z @ matrix @ matrix).square().sum(-1)
    torch.testing.assert_close(transport_defect(QuadraticPotential(3, matrix), z, 0.4), expected)
    trajectory = PotentialFlow(QuadraticPotential(3, matrix)).rollout(z, steps=2, dt=0.1)
    defects = transport_defect(QuadraticPotential(3, matrix), trajectory.z, trajectory.times[:, None])
    torch.testing.assert_close(defects[0], expected)
    assert transport_defect(QuadraticPotential(3, matrix), z[:0], 0.0).shape == (0,)
    assert transport_defect(QuadraticPotential(3, matrix).float(), z[0].float(), 0.0).dtype == torch.float32
    u = net(2, 3)
    loss = transport_defect(u, normal(4, 5, 2), 0.5).mean()
    assert all(
        torch.isfinite(slope).all() for slope in torch.autograd.grad(loss, list(u.parameters()), allow_unused=False)
    )


@pytest.mark.parametrize("times", [[0.0, 2.0], [2.0, 0.0]])
def test_the_action_has_no_direction(times):
    """Catches a negative action backwards in time, and one without its half."""
    trajectory = PotentialFlow(lambda z, t: z @ torch.tensor([3.0, 4.0], dtype=torch.float64)).integrate(
        normal(0, 3, 2), times
    )
    torch.testing.assert_close(benamou_brenier_action(trajectory), torch.tensor(25.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: gaussian_transport_potential(*(normal(0, 3, 2), torch.eye(2).double()) * 2),
            "m0, m1: expected one shape",
        ),
        (
            lambda: gaussian_transport_potential(
                normal(0, 2), -torch.eye(2).double(), normal(0, 2), torch.eye(2).double()
            ),
            "S0: expected",
        ),
        (
            lambda: GaussianTransportPotential(torch.eye(3).double(), normal(0, 2), normal(0, 2)),
            "matrix: expected shape",
        ),
        (lambda: gaussian_transport_potential(*gaussians(2, 0))(normal(0, 4, 3), torch.tensor(0.0)), "z: expected"),
        (lambda: gaussian_transport_potential(*gaussians(2, 0)).transport(normal(0, 4, 3)), "z: expected"),
        (lambda: transport_defect(net(2, 0), normal(0, 4, 2), torch.zeros(3)), "t: expected"),
    ],
)
def test_wrong_input_is_named(call, message):
    """Catches shapes that broadcast to something."""
    with pytest.raises(ValueError, match=message):
        call()
