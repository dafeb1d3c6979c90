r"""Smooth activations with their first and second derivatives, and the bounds of these."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import jvp

Activation: TypeAlias = Callable[[Tensor], Tensor]
"""An elementwise function."""

ActivationRule: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Maps ``a`` to the value and the first two derivatives of an activation at ``a``."""

PIECEWISE_LINEAR = (
    torch.relu,
    nn.functional.relu,
    nn.functional.relu6,
    nn.functional.leaky_relu,
    nn.functional.hardtanh,
    nn.functional.prelu,
    nn.functional.rrelu,
    nn.functional.hardsigmoid,
    nn.functional.hardshrink,
    nn.functional.softshrink,
    nn.functional.threshold,
    torch.abs,
)
PIECEWISE_LINEAR_MODULES = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.Hardtanh,
    nn.PReLU,
    nn.RReLU,
    nn.Hardsigmoid,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Threshold,
)


def _tanh(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    value = torch.tanh(a)
    first = 1 - value * value
    return value, first, -2 * value * first


def _softplus(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    first = torch.sigmoid(a)
    return nn.functional.softplus(a), first, first * (1 - first)


def _silu(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gate = torch.sigmoid(a)
    slope = gate * (1 - gate)
    return a * gate, gate + a * slope, slope * (2 + a * (1 - 2 * gate))


def _sin(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    value = torch.sin(a)
    return value, torch.cos(a), -value


def log_cosh(a: Tensor) -> Tensor:
    r"""Compute :math:`\log(2 \cosh a)`, a smooth absolute value whose derivative is tanh.

    Args:
        a: Numbers, of any shape.

    Returns:
        The values, of the same shape.

    Example:
        >>> a = torch.tensor([-100.0, 0.0, 2.0])
        >>> torch.testing.assert_close(log_cosh(a), torch.tensor([100.0, math.log(2), math.log(2 * math.cosh(2))]))
    """
    return a + nn.functional.softplus(-2 * a)


def _log_cosh(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    first = torch.tanh(a)
    return log_cosh(a), first, 1 - first * first


def _cos(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    value = torch.cos(a)
    return value, -torch.sin(a), -value


CLOSED_FORMS: dict[Activation, ActivationRule] = {
    torch.tanh: _tanh,
    nn.functional.tanh: _tanh,
    nn.functional.softplus: _softplus,
    nn.functional.silu: _silu,
    torch.sin: _sin,
    torch.cos: _cos,
    log_cosh: _log_cosh,
}

SLOPE_BOUNDS: dict[Activation, tuple[float, float]] = {
    torch.tanh: (1.0, 4 / (3 * math.sqrt(3))),
    nn.functional.tanh: (1.0, 4 / (3 * math.sqrt(3))),
    torch.sigmoid: (1 / 4, 1 / (6 * math.sqrt(3))),
    nn.functional.softplus: (1.0, 1 / 4),
    nn.functional.silu: (1.0998393201288669, 1 / 2),  # sigma' is largest where a tanh(a / 2) = 2
    nn.functional.gelu: (1.1289041451851548, math.sqrt(2 / math.pi)),  # sigma' is largest at sqrt 2
    torch.sin: (1.0, 1.0),
    torch.cos: (1.0, 1.0),
    log_cosh: (1.0, 1.0),
}
CONVEX_NONDECREASING = (nn.functional.softplus, torch.exp)


def activation_rule(activation: Activation) -> ActivationRule:
    r"""Give the rule :math:`a \mapsto (\sigma(a), \sigma'(a), \sigma''(a))` of a smooth activation.

    Tanh, softplus, SiLU, sine, cosine and log-cosh have closed forms; every other activation is differentiated by
    nested forward mode.

    Args:
        activation: An elementwise function, twice continuously differentiable.

    Returns:
        The rule.

    Raises:
        TypeError: If ``activation`` cannot be called.
        ValueError: If it is piecewise linear: its Laplacian is zero almost everywhere, so a density transported
            by it would never change.

    Example:
        >>> value, first, second = activation_rule(torch.tanh)(torch.zeros(()))
        >>> assert (value.item(), first.item(), abs(second.item())) == (0.0, 1.0, 0.0)
    """
    if not callable(activation):
        raise TypeError(f"activation: expected a callable, got {type(activation).__name__}")
    if activation in PIECEWISE_LINEAR or isinstance(activation, PIECEWISE_LINEAR_MODULES):
        raise ValueError(
            f"activation: expected a smooth function such as torch.tanh, got {activation}, which is piecewise linear: "
            "the Laplacian of its network is zero almost everywhere"
        )
    if activation in CLOSED_FORMS:
        return CLOSED_FORMS[activation]

    def slope(a: Tensor) -> tuple[Tensor, Tensor]:
        result = jvp(activation, (a,), (torch.ones_like(a),))
        return result[0], result[1]

    def rule(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        result = jvp(slope, (a,), (torch.ones_like(a),))
        (value, first), (_, second) = result[0], result[1]
        return value, first, second

    return rule


def slope_bounds(activation: Activation) -> tuple[float, float] | None:
    r"""Give :math:`\sup |\sigma'|` and :math:`\sup |\sigma''|` of an activation.

    Args:
        activation: An elementwise function.

    Returns:
        Both suprema; None where they are not known, or not finite.

    Example:
        >>> assert slope_bounds(nn.Softplus(beta=2.0)) == (1.0, 0.5)
        >>> assert slope_bounds(torch.exp) is None
    """
    if isinstance(activation, nn.Softplus):
        return 1.0, abs(activation.beta) / 4
    if isinstance(activation, nn.Tanh):
        return SLOPE_BOUNDS[torch.tanh]
    return SLOPE_BOUNDS.get(activation)


def is_convex_nondecreasing(activation: Activation) -> bool:
    r"""Whether an activation is known to be convex, nondecreasing and twice continuously differentiable.

    Softplus and the exponential are. SiLU and GELU decrease on the left, tanh and sigmoid bend down on the right,
    log-cosh decreases on the left, and the second derivative of ELU jumps.

    Args:
        activation: An elementwise function.

    Returns:
        Whether it is known to be.

    Example:
        >>> assert is_convex_nondecreasing(nn.functional.softplus)
        >>> assert not is_convex_nondecreasing(nn.functional.silu)
    """
    if isinstance(activation, nn.Softplus):
        return activation.beta > 0
    return activation in CONVEX_NONDECREASING
