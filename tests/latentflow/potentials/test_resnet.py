"""The residual potential against OT-Flow's own recursions and against automatic differentiation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import batches, close, dims, rand, randn, reference_jet, request_of, seeds
from torch.nn import functional as F

from latentflow import MLPPotential, ResNetPotential, jet
from latentflow.calculus import evaluate_jet
from latentflow.potentials import FourierEmbedding, LowRankQuadratic, SinusoidalEmbedding, log_cosh


def residual(dim, width, depth, rank, seed, **options):
    """A potential all of whose weights are of order one, the linear part of the quadratic included."""
    u = ResNetPotential(dim, width, depth, rank, **options).double()
    with torch.no_grad():
        for number, weight in enumerate(u.parameters()):
            weight.copy_(randn(*weight.shape, seed=seed + number) / weight.shape[-1] ** 0.5)
    return u


@settings(max_examples=15)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), seeds)
def test_gradient_and_laplacian_by_the_recursions_of_ot_flow(dim, width, depth, rank, seed):
    """Row 2 for OT-Flow; catches a step that is left out, one applied twice, a lost skip connection."""
    u, s = residual(dim, width, depth, rank, seed), randn(dim + 1, seed=seed)
    z, t = s[:dim], s[dim]
    K0, K = torch.cat([u.point.weight, u.time.weight], 1), [block.weight for block in u.blocks]
    w, A = u.output.weight[0], torch.cat([u.quadratic.point.weight, u.quadratic.time.weight], 1)
    b = torch.cat([u.quadratic.slope.weight[0], u.quadratic.drift.weight[0]])
    h, E = 1 / depth, torch.eye(dim + 1, dim, dtype=s.dtype)
    a = [K0 @ s + u.point.bias]
    state = log_cosh(a[0])
    for block in u.blocks:
        a.append(block.weight @ state + block.bias)
        state = state + h * log_cosh(a[-1])
    back = [w]  # z_{M+1}, ..., z_1
    for K_i, a_i in zip(K[::-1], a[:0:-1], strict=True):
        back.append(back[-1] + h * K_i.T @ (torch.tanh(a_i) * back[-1]))
    gradient = K0.T @ (torch.tanh(a[0]) * back[-1]) + A.T @ A @ s + b
    second = [1 - torch.tanh(a_i) ** 2 for a_i in a]
    laplacian = ((second[0] * back[-1]) * (K0 @ E).square().sum(1)).sum() + torch.trace(E.T @ A.T @ A @ E)
    J = torch.tanh(a[0]).diag() @ K0 @ E
    for i, K_i in enumerate(K):
        laplacian = laplacian + h * ((second[i + 1] * back[depth - 1 - i]) * (K_i @ J).square().sum(1)).sum()
        J = J + h * torch.tanh(a[i + 1]).diag() @ K_i @ J
    result = jet(u, z, t)
    close(result.value, w @ state + (A @ s).square().sum() / 2 + b @ s)
    close(torch.cat([result.gradient, result.time_derivative.reshape(1)]), gradient)
    close(result.laplacian, laplacian)


@pytest.mark.parametrize("activation", [log_cosh, torch.tanh, F.softplus])
@pytest.mark.parametrize("embedding", [None, SinusoidalEmbedding(4), FourierEmbedding(2)])
@settings(max_examples=6)
@given(data=st.data(), dim=dims, batch=batches, seed=seeds)
def test_every_derivative_agrees_with_reverse_over_reverse(activation, embedding, data, dim, batch, seed):
    """Catches a time derivative that misses the embedding, and a field of the quadratic that is not added."""
    width, depth = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 3))
    u = residual(dim, width, depth, 2, seed, time_embedding=embedding, activation=activation)
    z, t, probes = randn(*batch, dim, seed=seed), 3 * rand(*batch, seed=seed), randn(*batch, 2, dim, seed=seed + 1)
    whole = evaluate_jet(
        u,
        z,
        t,
        request_of(
            probes,
            laplacian=True,
            hessian=True,
            products=True,
            second_time_derivative=True,
            gradient_time_derivative=True,
            inner_hessian=True,
        ),
    )
    expected = reference_jet(u, z, t, probes)
    for name in ("value", "gradient", "time_derivative", "laplacian", "hessian", "quadratic"):
        close(getattr(whole, name), getattr(expected, name))
    close(whole.products, torch.einsum("...ij,...pj->...pi", expected.hessian, probes))
    close(evaluate_jet(u, z, t, request_of(laplacian=True)).laplacian, expected.laplacian)
    inner = whole.inner_hessian
    assert inner.factor.shape == (u.inner_width, dim)
    close(inner.factor.mT @ inner.core @ inner.factor, expected.hessian)
    along = torch.func.jacrev(lambda t: torch.func.jacrev(lambda t: u(z, t).sum())(t).sum())(t)
    close(whole.second_time_derivative, along)
    step = 1e-5
    moved = [jet(u, z, t + sign * step, laplacian=None).gradient for sign in (1, -1)]
    torch.testing.assert_close(whole.gradient_time_derivative, (moved[0] - moved[1]) / (2 * step), rtol=1e-7, atol=1e-7)


def test_log_cosh_is_smooth_at_zero_and_linear_far_away():
    """Catches the absolute value, whose second derivative by autodiff vanishes at zero, and an overflow."""
    a = torch.tensor([0.0, -800.0, 800.0], dtype=torch.float64)
    close(log_cosh(a), torch.tensor([2.0, 0, 0], dtype=torch.float64).log().nan_to_num(neginf=800.0))
    second = torch.func.grad(torch.func.grad(log_cosh))
    close(torch.func.vmap(second)(a), torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))


def test_a_small_output_scale_starts_near_the_identity():
    """Catches an output scale that leaves the quadratic as it is."""
    torch.manual_seed(0)
    z = torch.randn(50, 6)
    for make in (lambda: ResNetPotential(6, output_scale=1e-3), lambda: MLPPotential(6, output_scale=1e-3)):
        assert jet(make(), z, 0.5).gradient.norm(dim=-1).max() < 2e-2
    assert jet(ResNetPotential(6), z, 0.5).gradient.norm(dim=-1).max() > 0.1


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"width": 0}, {"depth": 0}, {"rank": 0}, {"depth": 1.5}])
def test_wrong_sizes(wrong):
    """Catches a size that fails only later, inside torch."""
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected a positive integer"):
        ResNetPotential(**{"dim": 2, **wrong})
    with pytest.raises(ValueError, match="rank: expected a positive integer, got 0"):
        LowRankQuadratic(2, 0)
