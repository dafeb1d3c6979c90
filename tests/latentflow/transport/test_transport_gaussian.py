"""The Hamilton-Jacobi potential between Gaussians, the action and the defect of a flow."""

import math

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


def low_rank(dim, rank, seed):
    factor = normal(seed, dim, rank)
    return factor @ factor.mT


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("dim", "rank0", "rank1"), [(4, 2, 2), (4, 2, 3), (4, 3, 1), (4, 4, 2), (3, 0, 2), (3, 0, 0)])
def test_distances_of_degenerate_gaussians(dtype, dim, rank0, rank1):
    """Catches a Cholesky factor that a covariance with zero eigenvalues does not have: the distance is finite."""
    m0, m1, A, B = normal(0, dim), normal(1, dim), normal(2, dim, rank0), normal(3, dim, rank1)
    shared = torch.linalg.svdvals(B.mT @ A).sum()  # tr (S0^1/2 S1 S0^1/2)^1/2 of S0 = AA', S1 = BB'
    expected = (m1 - m0).square().sum() + A.square().sum() + B.square().sum() - 2 * shared
    arguments = [x.to(dtype) for x in (m0, A @ A.mT, m1, B @ B.mT)]
    found = gaussian_wasserstein2(*arguments, squared=True)
    near = 1e-10 if dtype == torch.float64 else 1e-2
    torch.testing.assert_close(found.double(), expected, rtol=near, atol=near)
    torch.testing.assert_close(gaussian_wasserstein2(*arguments), found.sqrt())
    batch = gaussian_wasserstein2(m0, torch.stack([spd(dim, 0), A @ A.mT]), m1, B @ B.mT, squared=True)
    torch.testing.assert_close(batch[1], expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(batch[0], gaussian_wasserstein2(m0, spd(dim, 0), m1, B @ B.mT, squared=True))


def test_gradients_of_degenerate_gaussians():
    """Catches NaN where the gradient exists: along the range, and to the means; the factors give it independently."""
    m, A, B = normal(0, 4), normal(1, 4, 2).requires_grad_(), normal(2, 4, 2)

    def by_factors(A):
        return A.square().sum() + B.square().sum() - 2 * torch.linalg.svdvals(B.mT @ A).sum()

    def by_covariances(A):
        return gaussian_wasserstein2(m, A @ A.mT, m, B @ B.mT, squared=True)

    (expected,), (found,) = (torch.autograd.grad(value(A), A) for value in (by_factors, by_covariances))
    within = A @ torch.linalg.pinv(A.detach())  # beyond the range of A the distance has no gradient in the covariance
    torch.testing.assert_close(within.detach() @ found, within.detach() @ expected, rtol=1e-9, atol=1e-9)
    C = torch.cat([A.detach(), 0.5 * A.detach()], -1)[:, 1:3]  # a target within the range of the source
    source, target = (A @ A.mT).detach().requires_grad_(), C @ C.mT
    (slope,) = torch.autograd.grad(gaussian_wasserstein2(m, source, m, target, squared=True), source)
    axes = torch.linalg.qr(A.detach()).Q
    small = (axes.mT @ source @ axes).detach().requires_grad_()
    inside = gaussian_wasserstein2(m[:2], small, m[:2], axes.mT @ target @ axes, squared=True)
    (expected,) = torch.autograd.grad(inside, small)
    torch.testing.assert_close(axes.mT @ slope @ axes, expected, rtol=1e-8, atol=1e-8)
    mean = m.clone().requires_grad_()
    (slope,) = torch.autograd.grad(gaussian_wasserstein2(mean, source.detach(), m + 1, target, squared=True), mean)
    torch.testing.assert_close(slope, torch.full_like(m, -2))


@pytest.mark.parametrize(("rank0", "rank1"), [(2, 2), (3, 1), (4, 2), (2, 0), (0, 0), (1, 1)])
def test_maps_of_degenerate_gaussians(rank0, rank1):
    """Catches a source with zero eigenvalues that is refused where its map exists, and a map that is not optimal."""
    m0, m1, S0, S1 = normal(0, 4), normal(1, 4), low_rank(4, rank0, 2), low_rank(4, rank1, 3)
    u = gaussian_transport_potential(m0, S0, m1, S1)
    move = u.matrix - torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(u.matrix @ S0 @ u.matrix, S1, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(u.transport(m0), m1)
    assert torch.linalg.eigvalsh(u.matrix)[0] > -1e-12  # the gradient of a convex function
    cost = (m1 - m0).square().sum() + (move @ S0 @ move).trace()
    torch.testing.assert_close(cost, gaussian_wasserstein2(m0, S0, m1, S1, squared=True), rtol=1e-9, atol=1e-9)
    z = m0 + normal(4, 6, rank0) @ normal(2, 4, rank0).mT  # points of the source
    halfway = PotentialFlow(u).integrate(z, [0.0, 0.5]).z[-1]
    torch.testing.assert_close(halfway, (z + u.transport(z)) / 2, rtol=1e-5, atol=1e-5)


def test_equal_degenerate_gaussians_stay():
    """Catches a map that moves points off the range of the covariances for no reason."""
    m, S = normal(0, 3), low_rank(3, 1, 1)
    u = gaussian_transport_potential(m, S, m, S)
    torch.testing.assert_close(u.matrix, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("call", [gaussian_wasserstein2, gaussian_transport_potential])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused(call, bad):
    """Catches a NaN mean that becomes a NaN distance."""
    good = {"m0": normal(0, 2), "S0": spd(2, 0), "m1": normal(1, 2), "S1": spd(2, 1)}
    for name, tensor in good.items():
        with pytest.raises(ValueError, match=f"{name}: expected finite numbers"):
            call(**{**good, name: tensor * bad})
    with pytest.raises(TypeError, match=r"S1: expected a floating-point tensor, got torch\.complex128"):
        call(**{**good, "S1": good["S1"] + 0j})
    with pytest.raises(ValueError, match="S1: expected a positive semidefinite matrix, got one with the eigenvalue -1"):
        call(**{**good, "S1": -torch.eye(2, dtype=torch.float64)})


@pytest.mark.parametrize(("rank0", "rank1"), [(2, 3), (0, 1)])
def test_a_target_out_of_reach_has_no_map(rank0, rank1):
    """Catches a map from a line to a plane."""
    with pytest.raises(
        ValueError, match=f"reaches all {rank1} directions of the target S1, got one that reaches {rank0}"
    ):
        gaussian_transport_potential(normal(0, 4), low_rank(4, rank0, 2), normal(1, 4), low_rank(4, rank1, 3))
