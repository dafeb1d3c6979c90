"""Closed forms of activations against nested differentiation."""

import pytest
import torch
from strategies import close
from torch import nn
from torch.nn import functional as F

from latentflow import MLPPotential
from latentflow.potentials.features import activation_rule

CLOSED = [torch.tanh, F.tanh, F.softplus, F.silu, torch.sin]
GENERIC = [F.gelu, F.elu, F.selu, F.logsigmoid, torch.erf, torch.cos, nn.Tanh(), nn.Softplus(beta=2.0)]
POINTS = torch.cat([torch.linspace(-12, 12, 201), torch.tensor([1e-8, -1e-8, 0.0])]).double()


@pytest.mark.parametrize("activation", CLOSED + GENERIC)
def test_derivatives_agree_with_reverse_mode(activation):
    """Catches a wrong closed form: a sign, a factor two, sigma' in place of sigma''."""
    grad, vmap = torch.func.grad, torch.func.vmap
    value, first, second = activation_rule(activation)(POINTS)
    close(value, activation(POINTS))
    close(first, vmap(grad(activation))(POINTS))
    close(second, vmap(grad(grad(activation)))(POINTS))


@pytest.mark.parametrize("activation", CLOSED + GENERIC)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_arguments_stay_finite(activation, dtype):
    """Catches exp(a) or cosh(a) in a closed form, which overflows into inf or nan."""
    a = torch.tensor([-1e4, -750.0, -90.0, -30.0, 30.0, 90.0, 750.0, 1e4], dtype=dtype)
    for result in activation_rule(activation)(a):
        assert result.dtype == dtype
        assert result.isfinite().all()


@pytest.mark.parametrize("activation", [torch.tanh, F.softplus, F.silu])
def test_curvature_vanishes_far_away(activation):
    """Catches a closed form by cancellation, whose curvature is noise where the activation is straight."""
    a = torch.tensor([-60.0, 60.0], dtype=torch.float64)
    second = activation_rule(activation)(a)[2]
    assert (second.abs() < 1e-15).all()


def test_curvature_of_tanh_is_bounded():
    """Catches a missing factor two: max |tanh''| = 4 / (3 sqrt 3)."""
    a = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    assert abs(activation_rule(torch.tanh)(a)[2].abs().max().item() - 4 / (3 * 3**0.5)) < 1e-8


@pytest.mark.parametrize(
    "activation",
    [
        *(torch.relu, F.relu, F.relu6, F.leaky_relu, F.hardtanh, F.prelu, F.rrelu, torch.abs),
        *(nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.1), nn.Hardtanh(), nn.PReLU(), nn.RReLU()),
    ],
)
def test_piecewise_linear_activations_are_refused(activation):
    """Catches a network whose Laplacian is zero, so that its density never changes."""
    with pytest.raises(ValueError, match=r"activation: expected a smooth function .* piecewise linear"):
        MLPPotential(2, activation=activation)


def test_a_name_is_refused():
    """Catches a string that fails at the first evaluation only."""
    with pytest.raises(TypeError, match=r"activation: expected a callable such as torch.tanh, got 'tanh'"):
        MLPPotential(2, activation="tanh")
