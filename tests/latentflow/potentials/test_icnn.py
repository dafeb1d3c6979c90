"""The input-convex network: convexity and what follows from it, its rule, its start."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import batches, close, dims, orthogonal, rand, randn, reference_jet, request_of, seeds
from torch import nn
from torch.nn import functional as F

from latentflow import Derivative, PotentialFlow, gradient, hessian, jet
from latentflow.calculus import evaluate_jet
from latentflow.flow import Euler
from latentflow.potentials import FourierEmbedding
from latentflow.potentials.icnn import ICNNPotential
from latentflow.testing import check_potential

DEPTHS = [(6,), (4, 7), (5, 3, 4)]


def convex(dim, hidden=(7, 5), seed=0, size=1.0, **options):
    """A network whose parameters are all random, of the given size, signs included."""
    u = ICNNPotential(dim, hidden, **options).double()
    with torch.no_grad():
        for i, parameter in enumerate(u.parameters()):
            parameter.copy_(size * randn(*parameter.shape, seed=seed + i))
    return u


@settings(max_examples=40)
@given(dims, st.sampled_from(DEPTHS), seeds, st.sampled_from([0.1, 1.0, 5.0]), st.sampled_from([0.1, 1.0, 100.0]))
def test_the_hessian_is_positive_semidefinite(dim, hidden, seed, size, far):
    """Catches a link or an output weight left without its softplus, and a clock that enters nonlinearly in z."""
    u = convex(dim, hidden, seed, size)
    H = hessian(u, far * randn(20, dim, seed=seed), 5 * rand(20, seed=seed))
    eigenvalues = torch.linalg.eigvalsh(H)
    assert eigenvalues.min() > -1e-12 * (1 + eigenvalues.max())


@pytest.mark.parametrize("hidden", DEPTHS)
def test_values_are_midpoint_convex(hidden):
    """Catches a forward that is not the network of the rule: no derivative is used here, and the segments are long."""
    u = convex(3, hidden)
    x, y, t = 10 * randn(200, 3, seed=1), 10 * randn(200, 3, seed=2), 3 * rand(200)
    ends, middle = (u(x, t) + u(y, t)) / 2, u((x + y) / 2, t)
    assert (middle <= ends + 1e-8 * (1 + ends.abs())).all()  # torch's softplus jumps by 2e-9 at 20
    assert (middle < ends - 1e-3).any()


def test_the_gradient_is_monotone():
    """Catches a gradient that is not that of a convex function: (v(x) - v(y)) . (x - y) >= kappa |x - y|^2."""
    u = convex(3, curvature=0.4)
    x, y = 4 * randn(300, 3, seed=1), 4 * randn(300, 3, seed=2)
    slope = ((gradient(u, x, 0.7) - gradient(u, y, 0.7)) * (x - y)).sum(-1)
    assert (slope >= 0.4 * (1 - 1e-6) * (x - y).square().sum(-1)).all()


def test_time_enters_freely():
    """Catches nonnegative weights on the clock: this potential is concave in time at some points, convex at others."""
    u = convex(2, time_embedding=FourierEmbedding(4, generator=torch.Generator().manual_seed(0)))
    second = jet(u, randn(50, 2), 4 * rand(50), requires=Derivative.SECOND_TIME_DERIVATIVE).second_time_derivative
    assert second.min() < -0.1
    assert second.max() > 0.1


@pytest.mark.parametrize("hidden", DEPTHS)
@pytest.mark.parametrize("options", [{}, {"curvature": 0.7}, {"activation": nn.Softplus(beta=3.0)}])
def test_rule_agrees_with_automatic_differentiation(hidden, options):
    """Catches an injection left out of a product, the bowl left out of a field, a factored Hessian without the bowl."""
    check_potential(convex(3, hidden, **options), dim=3)


@given(dims, batches, seeds)
def test_jet_agrees_with_one_sample_at_a_time(dim, batch, seed):
    """Catches a bowl or an injection that mixes up batch and coordinates."""
    u = convex(dim, (4, 3), seed, 0.5, curvature=0.3)
    z, t, v = randn(*batch, dim, seed=seed), rand(*batch, seed=seed), randn(*batch, 2, dim, seed=seed + 1)
    expected = reference_jet(u, z, t, v)
    actual = evaluate_jet(u, z, t, request_of(laplacian=True, hessian=True, probes=v))
    for name in ("value", "gradient", "time_derivative", "laplacian", "hessian", "quadratic"):
        close(getattr(actual, name), getattr(expected, name), 1e-10)


def test_the_bowl_in_closed_form():
    """Catches kappa |z|^2 without the half, and a bowl that a checkpoint forgets."""
    plain, bowl = convex(4), convex(4, curvature=0.6)
    z, t = randn(5, 4), rand(5)
    one, two = jet(plain, z, t, requires=Derivative.HESSIAN), jet(bowl, z, t, requires=Derivative.HESSIAN)
    close(two.value - one.value, 0.3 * z.square().sum(-1), 1e-7)
    close(two.gradient - one.gradient, 0.6 * z, 1e-7)
    close(two.laplacian - one.laplacian, torch.full((5,), 2.4).double(), 1e-7)
    close(two.time_derivative, one.time_derivative)
    other = convex(4, curvature=0.1)
    other.load_state_dict(bowl.state_dict())
    close(other(z, t), bowl(z, t))


@pytest.mark.parametrize("size", [0.5, 2.0])
def test_a_rollout_never_folds(size):
    """Catches an invertibility that holds at mild weights only: all folds raise, and volumes only grow."""
    u = convex(3, seed=4, size=size)
    trajectory = PotentialFlow(u).rollout(randn(100, 3), steps=5, dt=0.5, on_fold="raise")
    assert not trajectory.folded.any()
    assert (trajectory.sign == 1).all()
    assert (trajectory.log_det.diff(dim=0) >= -1e-12).all()


def test_the_map_is_inverted_by_convex_optimization():
    """Catches a map that is not onto, and a library whose inverse differs from Newton's method by hand."""
    u = convex(3, size=1.5)
    y = 3 * randn(40, 3, seed=3)  # any point has a preimage
    z = torch.zeros_like(y)
    for _ in range(60):
        residual = z + gradient(u, z, 0.2) - y
        direction = torch.linalg.solve(torch.eye(3, dtype=torch.float64) + hessian(u, z, 0.2), residual)

        def objective(z):
            return z.square().sum(-1) / 2 + u(z, torch.tensor(0.2, dtype=torch.float64)) - (y * z).sum(-1)

        length, here = torch.ones(40, dtype=torch.float64), objective(z)
        for _ in range(20):
            worse = objective(z - length[:, None] * direction) > here - 1e-4 * length * (residual * direction).sum(-1)
            length = torch.where(worse & (residual.norm(dim=-1) > 1e-3), length / 2, length)
        z = z - length[:, None] * direction
    close(z + gradient(u, z, 0.2), y, 1e-9)
    close(PotentialFlow(u).inverse(y, [0.2, 1.2], Euler()).z[-1], z, 1e-7)


def test_one_step_is_the_optimal_transport_of_samples():
    """Theorem T6; catches a map that is no gradient of a convex function: no other pairing of the points is cheaper."""
    u = convex(2, size=1.5)
    x = randn(7, 2, seed=5)
    y = x + gradient(u, x, 0.0)
    cost = (x[:, None] - y[None]).square().sum(-1)
    own = cost.diagonal().sum()
    shuffles = torch.stack([torch.randperm(7, generator=torch.Generator().manual_seed(i)) for i in range(500)])
    others = cost[torch.arange(7), shuffles].sum(-1)
    assert (own <= others + 1e-10).all()


@pytest.mark.parametrize("width", [8, 64, 512])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_start_has_a_sane_scale(width, depth):
    """Catches weights whose sum grows with the width, so that values explode with the depth."""
    torch.manual_seed(0)
    dim = 8
    u = ICNNPotential(dim, (width,) * depth).double()
    result = jet(u, randn(100, dim), rand(100), requires=Derivative.HESSIAN)
    assert 0.4 < result.value.mean() < 3.5
    assert 0.02 < result.laplacian.mean() < 0.5
    assert result.gradient.norm(dim=-1).max() < 1.0
    weights = F.softplus(u.raw_output)
    assert 0.5 / width <= weights.min() <= weights.max() <= 1.5 / width


def test_output_scale_starts_near_the_identity():
    """Catches a scale applied to the raw weight, whose softplus is then log 2, and an inverse that loses digits."""
    torch.manual_seed(0)
    full = ICNNPotential(3).double()
    torch.manual_seed(0)
    small = ICNNPotential(3, output_scale=1e-4).double()
    z = randn(6, 3)
    close(gradient(small, z, 0.1), 1e-4 * gradient(full, z, 0.1), 1e-8)
    assert all(p.isfinite().all() for p in small.parameters())


def test_every_parameter_is_trained():
    """Catches a parameter that the network does not read, and a raw weight whose softplus keeps no graph."""
    u = convex(3, DEPTHS[2])
    jet(u, randn(5, 3), rand(5)).laplacian.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in u.parameters())


def test_convexity_survives_a_rotation():
    """Catches a Hessian that is positive by its diagonal only: rotated directions see no negative curvature either."""
    u, z = convex(4), randn(30, 4)
    probes = orthogonal(4).expand(30, 4, 4)
    quadratic = evaluate_jet(u, z, 0.0, request_of(probes=probes)).quadratic
    assert (quadratic >= 0).all()


@pytest.mark.parametrize(
    "activation", [torch.tanh, F.silu, F.gelu, torch.sin, F.elu, F.logsigmoid, nn.Softplus(beta=-1.0), torch.sigmoid]
)
def test_activations_that_are_not_convex_and_nondecreasing_are_refused(activation):
    """Catches a network that is called convex and is not."""
    with pytest.raises(ValueError, match="activation: expected one that is known to be convex, nondecreasing"):
        ICNNPotential(2, activation=activation)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"curvature": -0.1}, "curvature: expected a number of at least 0, got -0.1"),
        ({"curvature": float("nan")}, "curvature: expected a number of at least 0, got nan"),
        ({"output_scale": 0.0}, r"output_scale: expected a positive number, got 0\.0"),
        ({"hidden": ()}, r"hidden: expected at least one positive integer, and no others, got \(\)"),
    ],
)
def test_arguments_are_checked(arguments, message):
    """Catches a bowl upside down, and an output of minus infinity before the softplus."""
    with pytest.raises(ValueError, match=message):
        ICNNPotential(2, **arguments)


def test_the_exponential_qualifies_but_has_no_bound():
    """Catches a bound for an activation whose derivatives have none."""
    u = convex(2, (3,), size=0.3, activation=torch.exp)
    assert u.lipschitz_gradient() is None
    assert torch.linalg.eigvalsh(hessian(u, randn(20, 2), 0.0)).min() > -1e-12
