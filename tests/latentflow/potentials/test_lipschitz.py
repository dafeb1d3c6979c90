"""Bounds of the Hessian: never violated, attained where they are said to be, and what they certify."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Well, close, dims, network, orthogonal, rand, randn, seeds, symmetric, wave
from torch import nn
from torch.nn import functional as F

from latentflow import FunctionPotential, MLPPotential, Potential, PotentialFlow, QuadraticPotential, SwitchedPotential
from latentflow import hessian as hessian_of
from latentflow.flow import Euler, FixedPoint
from latentflow.potentials.features import IdentityEmbedding, activation_rule, log_cosh, slope_bounds
from latentflow.potentials.fourier import FourierPotential
from latentflow.potentials.icnn import ICNNPotential
from latentflow.potentials.layered import LayeredPotential, Layers

BOUNDED = [torch.tanh, F.softplus, F.silu, F.gelu, torch.sigmoid, torch.sin, torch.cos, log_cosh, nn.Softplus(beta=2.5)]


class Network(LayeredPotential):
    """A layered network with any of its parts: injections, residual links, signs."""

    def __init__(self, dim, hidden, seed, activation, residual=None, injections=False):
        super().__init__(dim, IdentityEmbedding(), activation)
        self.weights = Layers(
            input_weights=[
                randn(n, dim, seed=seed + i) / dim**0.5 if injections or i == 0 else None for i, n in enumerate(hidden)
            ],
            time_weights=[randn(n, 1, seed=seed + 10 + i) for i, n in enumerate(hidden)],
            hidden_weights=[randn(m, n, seed=seed + 20 + i) / n**0.5 for i, (n, m) in enumerate(pairwise(hidden))],
            biases=[randn(n, seed=seed + 30 + i) for i, n in enumerate(hidden)],
            output=randn(hidden[-1], seed=seed + 40),
            residual=residual,
        )

    def layers(self):
        return self.weights


def spectral(u, z, t):
    return torch.linalg.eigvalsh(hessian_of(u, z, t)).abs().amax(-1)


def worst(u, dim, seed, samples=48, steps=40):
    """The largest |eigenvalue| over random points and times, improved by gradient ascent from each of them."""
    z = (3 * randn(samples, dim, seed=seed)).requires_grad_()
    t = (3 * rand(samples, seed=seed)).requires_grad_()
    optimizer = torch.optim.Adam([z, t], lr=0.1)
    largest = 0.0
    for _ in range(steps):
        norms = spectral(u, z, t)
        largest = max(largest, norms.max().item())
        optimizer.zero_grad()
        (-norms.sum()).backward()
        optimizer.step()
    return largest


@pytest.mark.parametrize("activation", BOUNDED)
def test_slope_bounds_are_the_suprema(activation):
    """Catches a wrong constant in the table: too small breaks the bound, too large wastes it."""
    a = torch.cat([torch.linspace(-12, 12, 480_001), torch.tensor([-40.0, 40.0])]).double()
    _, first, second = activation_rule(activation)(a)
    for bound, derivative in zip(slope_bounds(activation), (first, second), strict=True):
        assert derivative.abs().max().item() <= bound * (1 + 1e-14)
        assert derivative.abs().max().item() >= bound * (1 - 1e-9)


def test_the_largest_slope_of_silu_to_high_precision():
    """Catches a constant off by a digit that a grid does not see: its curvature vanishes at the maximum."""
    a = torch.tensor(2.4, dtype=torch.float64)
    for _ in range(60):
        a = 2 / torch.tanh(a / 2)  # a contraction to the root of a tanh(a / 2) = 2
    assert abs(activation_rule(F.silu)(a)[2].item()) < 1e-15
    assert abs(activation_rule(F.silu)(a)[1].item() - slope_bounds(F.silu)[0]) < 1e-15


def test_unknown_activations_have_no_bounds():
    """Catches a default of one for an activation that nobody has looked at."""
    assert slope_bounds(F.mish) is None
    assert slope_bounds(torch.exp) is None
    assert MLPPotential(2, activation=F.mish).lipschitz_gradient() is None


@pytest.mark.parametrize("activation", [torch.tanh, F.softplus, F.silu, torch.sin, log_cosh])
@pytest.mark.parametrize("residual", [None, 0.5, -1.0])
@pytest.mark.parametrize("injections", [False, True])
def test_no_point_violates_the_bound(activation, residual, injections):
    """Catches a layer, an injection or a residual link left out, and a step eta counted once too few."""
    for hidden in ((5,), (4, 4), (4, 4, 4)):
        u = Network(2, hidden, 7 * len(hidden), activation, residual, injections)
        bound = u.lipschitz_gradient().item()
        largest = worst(u, 2, 0, samples=24, steps=12)
        assert largest <= bound * (1 + 1e-12)
        assert largest >= bound * {1: 0.35, 2: 0.02, 3: 0.001}[len(hidden)]  # not vacuous either


@settings(max_examples=15)
@given(dims, st.lists(st.integers(1, 6), min_size=1, max_size=3), seeds, st.sampled_from([0.3, 3.0]))
def test_no_convex_network_violates_the_bound(dim, hidden, seed, size):
    """Catches a raw weight in place of its softplus, and a bowl left out."""
    u = ICNNPotential(dim, hidden, curvature=0.3).double()
    with torch.no_grad():
        for i, parameter in enumerate(u.parameters()):
            parameter.copy_(size * randn(*parameter.shape, seed=seed + i))
    assert spectral(u, 3 * randn(200, dim, seed=seed), 3 * rand(200)).max() <= u.lipschitz_gradient() * (1 + 1e-9)


def test_one_unit_in_closed_form():
    """Catches |E| in place of |E|^2, the sign of w, and a bound that forgets s2: |w| 4 / (3 sqrt 3) |e|^2, attained."""
    u = network(3, (1,))
    e, w = u.point.weight[0], u.output.weight[0, 0]
    expected = w.abs() * 4 / (3 * math.sqrt(3)) * e.square().sum()
    close(u.lipschitz_gradient(), expected, 1e-14)
    shift = (u.point.bias + u.time(u.embedding(torch.tensor(0.0).double())))[0]
    a = math.atanh(1 / math.sqrt(3))  # where |tanh''| is largest
    z = (a - shift) * e / e.square().sum()
    close(spectral(u, z, 0.0), expected, 1e-12)


@pytest.mark.parametrize("activation", [torch.tanh, torch.sin])
def test_one_layer_of_independent_rows_is_attained(activation):
    """Catches |diag w|_2 |E|_2^2 in place of |E' diag|w| E|_2: with odd curvature the bound is attained."""
    u = network(4, (3,), seed=3, activation=activation)
    E, w = u.point.weight, u.output.weight[0]
    top = math.atanh(1 / math.sqrt(3)) if activation is torch.tanh else math.pi / 2
    shift = u.point.bias + u.time(u.embedding(torch.tensor(0.5).double()))
    z = torch.linalg.lstsq(E, (w.sign() * top - shift).unsqueeze(-1)).solution.squeeze(-1)
    close(spectral(u, z, 0.5), u.lipschitz_gradient(), 1e-11)
    scale = {torch.tanh: 4 / (3 * math.sqrt(3)), torch.sin: 1.0}[activation]
    close(u.lipschitz_gradient(), scale * torch.linalg.matrix_norm(E.mT @ torch.diag(w.abs()) @ E, ord=2), 1e-12)


def test_two_layers_in_closed_form():
    """Catches an adjoint without |W|, a second layer without its weights, a slope left out: all numbers by hand."""
    u = Network(1, (1, 1), 0, F.silu)
    (e, _), (k,), w = u.weights.input_weights, u.weights.hidden_weights, u.weights.output
    s1, s2 = slope_bounds(F.silu)
    expected = s2 * (w * k * e**2).abs() * s1 + s2 * w.abs() * (k * s1 * e).square()
    close(u.lipschitz_gradient(), expected.squeeze(), 1e-13)


def test_opposite_links_do_not_cancel():
    """Catches |W' w| in place of |W|' |w|: one of two opposite units can be switched off by its own slope."""
    u = Network(1, (1, 2), 0, torch.tanh)
    u.weights.hidden_weights[0].copy_(torch.tensor([[1.0], [-1.0]]))
    u.weights.output.fill_(1.0)
    square = u.weights.input_weights[0].square().squeeze()
    close(u.lipschitz_gradient(), slope_bounds(torch.tanh)[1] * (2 * square + 2 * square), 1e-13)


def test_two_residual_layers_with_an_injection_in_closed_form():
    """Catches a step eta on the first layer, a skip left out of one of the two sweeps, a cross term left out."""
    eta = 0.7
    u = Network(1, (1, 1, 1), 3, torch.sin, eta, injections=True)
    (e1, e2, e3), (k2, k3), w = ([abs(x.item()) for x in part] for part in (*_parts(u), u.weights.output))
    w = w[0]
    b3, b2 = w, w + eta * k3 * w
    b1 = b2 + eta * k2 * b2
    p1 = e1
    p2 = p1 + eta * (k2 * p1 + e2)
    expected = b1 * e1**2 + eta * b2 * (k2 * p1 + e2) ** 2 + eta * b3 * (k3 * p2 + e3) ** 2
    assert abs(u.lipschitz_gradient().item() - expected) < 1e-12 * expected


def _parts(u):
    return u.weights.input_weights, u.weights.hidden_weights


def test_a_dead_injection_counts_for_nothing():
    """Catches a root of zero, whose gradient is not finite, and a cross term that stays: E_2 = 0 is no injection."""
    with_entry, without = (Network(2, (3, 4), 5, torch.tanh, injections=flag) for flag in (True, False))
    with_entry.weights.input_weights[1].zero_().requires_grad_()
    bound = with_entry.lipschitz_gradient()
    close(bound, without.lipschitz_gradient(), 1e-12)
    bound.backward()
    assert with_entry.weights.input_weights[1].grad.isfinite().all()


@given(dims, seeds)
def test_quadratic_is_exact(dim, seed):
    """Catches the largest eigenvalue without its absolute value, and the norm of a matrix that is not symmetric."""
    matrix = randn(dim, dim, seed=seed)
    u = QuadraticPotential(dim, matrix)
    close(u.lipschitz_gradient(), torch.linalg.matrix_norm((matrix + matrix.mT) / 2, ord=2), 1e-12)
    close(QuadraticPotential(2, torch.diag(torch.tensor([1.0, -3.0]))).lipschitz_gradient(), torch.tensor(3.0))


def test_waves_attain_their_bound():
    """Catches |w|_1 max |omega|^2: with independent frequencies the norm of the weighted sum is attained."""
    u = FourierPotential(4, 3, amplitude=1.0, generator=torch.Generator().manual_seed(0)).double()
    omega, w = u.frequencies, u.amplitudes
    turns = torch.where(w < 0, math.pi, 0.0) - u.phases - 0.3 * u.time_frequencies
    z = torch.linalg.lstsq(omega, turns.unsqueeze(-1)).solution.squeeze(-1)
    expected = torch.linalg.matrix_norm(omega.mT @ torch.diag(w.abs()) @ omega, ord=2)
    close(u.lipschitz_gradient(), expected, 1e-12)
    close(spectral(u, z, 0.3), expected, 1e-11)


def test_more_waves_than_coordinates_come_close_to_their_bound():
    """Catches a bound that no point comes near: three waves on a line nearly align somewhere (Kronecker)."""
    u = FourierPotential(1, 3, amplitude=1.0, generator=torch.Generator().manual_seed(1)).double()
    z = torch.linspace(-400, 400, 80_001, dtype=torch.float64).unsqueeze(-1)
    ratio = spectral(u, z, 0.0).max() / u.lipschitz_gradient()
    assert 0.98 < ratio <= 1 + 1e-12


def test_sums_multiples_and_switches():
    """Catches a factor without its absolute value, the mean in place of the sum, the last in place of the largest."""
    one, two = QuadraticPotential(3, symmetric(3, 1)), QuadraticPotential(3, symmetric(3, 2))
    a, b = one.lipschitz_gradient(), two.lipschitz_gradient()
    close((one + two).lipschitz_gradient(), a + b)
    close((one - two).lipschitz_gradient(), a + b)
    close((-2.5 * one).lipschitz_gradient(), 2.5 * a)
    close((torch.tensor([1.0, -4.0, 2.0]).double() * one).lipschitz_gradient(), 4 * a)
    close((torch.zeros(0).double() * one).lipschitz_gradient(), 0 * a)
    for order in ([one, two], [two, one]):
        close(SwitchedPotential(order, [1.0]).lipschitz_gradient(), torch.maximum(a, b))


def test_one_unknown_makes_the_whole_unknown():
    """Catches a field without a bound that counts as zero."""
    known = QuadraticPotential(2, symmetric(2))

    class Plain(Potential):
        def forward(self, z, t):
            return z.square().sum(-1)

    for unknown in (wave, Well(), Plain(), FunctionPotential(wave), MLPPotential(2, activation=F.mish)):
        assert (known + unknown).lipschitz_gradient() is None
        assert SwitchedPotential([known, unknown], [1.0]).lipschitz_gradient() is None
    assert (2.0 * Plain()).lipschitz_gradient() is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: network(3, (4, 5)),
        lambda: ICNNPotential(3, (4, 5)).double(),
        lambda: FourierPotential(3, 5, amplitude=1.0, generator=torch.Generator().manual_seed(0)).double(),
        lambda: QuadraticPotential(3, symmetric(3)),
    ],
)
def test_differentiable_in_the_parameters(make):
    """Catches a detached norm, and a wrong gradient of one: the slope along the gradient is its square."""
    u = make()
    u.lipschitz_gradient().backward()
    square, size = 0.0, 1e-6
    with torch.no_grad():
        for parameter in u.parameters():
            if parameter.grad is not None:
                square += parameter.grad.square().sum().item()
                parameter.add_(size * parameter.grad)
        after = u.lipschitz_gradient().item()
        for parameter in u.parameters():
            if parameter.grad is not None:
                parameter.sub_(2 * size * parameter.grad)
        before = u.lipschitz_gradient().item()
    assert square > 1e-3
    assert abs((after - before) / (2 * size) - square) < 1e-6 * square


def test_zero_amplitudes_have_a_finite_gradient():
    """Catches a root or a singular value at zero, whose gradient is nan at the start of training."""
    for u in (FourierPotential(3, 4), MLPPotential(3, (4, 5), output_scale=0.0)):
        bound = u.lipschitz_gradient()
        bound.backward()
        assert bound == 0
        assert all(p.grad is None or p.grad.isfinite().all() for p in u.parameters())


def test_a_turn_of_the_points_changes_nothing():
    """Catches a norm that depends on the axes: the bound of u(Qz) is that of u."""
    u, v = network(4, (5, 3)), network(4, (5, 3))
    with torch.no_grad():
        v.point.weight.copy_(u.point.weight @ orthogonal(4))
    close(v.lipschitz_gradient(), u.lipschitz_gradient(), 1e-12)


def test_what_it_certifies():
    """Catches a certificate that proves nothing: at 0.95 / L no step folds and fixed points converge at that rate."""
    u = network(3, (6, 5), seed=2)
    dt = 0.95 / u.lipschitz_gradient().item()
    flow, z = PotentialFlow(u), 3 * randn(200, 3)
    trajectory = flow.rollout(z, steps=3, dt=dt, on_fold="raise")
    back = flow.inverse(
        trajectory.z[-1], trajectory.times, Euler(solver=FixedPoint(max_iterations=700)), on_fold="raise"
    )
    close(back.z[-1], z, 1e-9)
    assert torch.linalg.eigvalsh(torch.eye(3) + dt * hessian_of(u, z, 0.0)).min() >= 0.05 - 1e-12


def test_single_precision():
    """Catches a constant in double precision."""
    assert MLPPotential(3).lipschitz_gradient().dtype == torch.float32
    assert (2.0 * ICNNPotential(3, curvature=0.1)).lipschitz_gradient().dtype == torch.float32
