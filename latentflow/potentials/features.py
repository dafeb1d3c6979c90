"""Elementwise activations and features of time, with their derivatives."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import jvp

from latentflow.calculus.checks import check_count, check_generator, check_positive, check_tensor, describe

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
    check_tensor("a", a)
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
    r"""Return the rule :math:`a \mapsto (\sigma(a), \sigma'(a), \sigma''(a))` of a smooth activation.

    Tanh, softplus, SiLU, sine, cosine and log-cosh have closed forms; every other activation is differentiated by
    nested forward mode. A piecewise linear activation raises a ValueError: its Laplacian is zero almost everywhere.
    """
    if not callable(activation) or isinstance(activation, type):
        raise TypeError(f"activation: expected a callable such as torch.tanh, got {describe(activation)}")
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
    r"""Return :math:`\sup |\sigma'|` and :math:`\sup |\sigma''|` of an activation; None if not known or infinite."""
    if isinstance(activation, nn.Softplus):
        return 1.0, abs(activation.beta) / 4
    if isinstance(activation, nn.Tanh):
        return SLOPE_BOUNDS[torch.tanh]
    return SLOPE_BOUNDS.get(activation)


def is_convex_nondecreasing(activation: Activation) -> bool:
    """Return whether an activation is known to be convex, nondecreasing and twice continuously differentiable."""
    if isinstance(activation, nn.Softplus):
        return activation.beta > 0
    return activation in CONVEX_NONDECREASING


class TimeEmbedding(nn.Module, ABC):
    """Features of time, with their derivative.

    Args:
        features: The number of features.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        check_count("features", features)
        self.features = features

    @abstractmethod
    def forward(self, t: Tensor) -> Tensor:
        """Map times of shape ``(*batch,)`` to features of shape ``(*batch, features)``."""

    def with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the features and their time derivative.

        Args:
            t: The times, of shape ``(*batch,)``.

        Returns:
            Both, each of shape ``(*batch, features)``.
        """
        own = t.contiguous()  # forward mode refuses times that share their memory
        result = jvp(self, (own,), (torch.ones_like(own),))
        return result[0], result[1]

    def second_derivative(self, t: Tensor) -> Tensor:
        """Compute the second time derivative of the features.

        Args:
            t: The times, of shape ``(*batch,)``.

        Returns:
            The derivative, of shape ``(*batch, features)``.
        """
        own = t.contiguous()
        second: Tensor = jvp(lambda t: self.with_derivative(t)[1], (own,), (torch.ones_like(own),))[1]
        return second


class IdentityEmbedding(TimeEmbedding):
    """The time itself, as the one feature.

    Example:
        >>> t = torch.tensor([1.0, 2.0])
        >>> assert torch.equal(IdentityEmbedding()(t), t.unsqueeze(-1))
    """

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, t: Tensor) -> Tensor:
        """Map times of shape ``(*batch,)`` to ``(*batch, 1)``."""
        check_tensor("t", t)
        return t.unsqueeze(-1)

    def with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the time and ones."""
        return t.unsqueeze(-1), torch.ones_like(t).unsqueeze(-1)

    def second_derivative(self, t: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(t).unsqueeze(-1)


class _Waves(TimeEmbedding):
    r"""Sines and cosines :math:`(\sin \omega_i t, \cos \omega_i t)` of fixed frequencies."""

    frequencies: Tensor

    def __init__(self, frequencies: Tensor) -> None:
        super().__init__(2 * frequencies.shape[-1])
        self.register_buffer("frequencies", frequencies)

    def forward(self, t: Tensor) -> Tensor:
        """Map times of shape ``(*batch,)`` to features of shape ``(*batch, features)``."""
        check_tensor("t", t)
        phase = t.unsqueeze(-1) * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=-1)

    def with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the features and their time derivative in closed form."""
        phase = t.unsqueeze(-1) * self.frequencies
        sin, cos = phase.sin(), phase.cos()
        derivative = torch.cat([self.frequencies * cos, -self.frequencies * sin], dim=-1)
        return torch.cat([sin, cos], dim=-1), derivative

    def second_derivative(self, t: Tensor) -> Tensor:
        """Compute the second time derivative in closed form."""
        features: Tensor = self(t)
        return -torch.cat([self.frequencies, self.frequencies], dim=-1).square() * features


def _check_even(features: int) -> None:
    check_count("features", features)
    if features % 2:
        raise ValueError(f"features: expected a positive even integer, got {describe(features)}")


class SinusoidalEmbedding(_Waves):
    r"""Sines and cosines of geometrically spaced frequencies :math:`\omega_i = P^{-i/(m-1)}, i = 0..m-1`.

    Args:
        features: The number of features :math:`2m`, even.
        max_period: The ratio :math:`P` of the longest to the shortest period; the shortest is :math:`2\pi`.

    Raises:
        ValueError: If ``features`` is not positive and even, or ``max_period`` is below 1.

    References:
        | Attention Is All You Need (Vaswani et al., 2017), section 3.5
        | https://arxiv.org/abs/1706.03762

    Example:
        >>> embedding = SinusoidalEmbedding(4, max_period=100.0)
        >>> t = torch.tensor(2.0)
        >>> expected = torch.stack([t.sin(), (t / 100).sin(), t.cos(), (t / 100).cos()])
        >>> torch.testing.assert_close(embedding(t), expected)
    """

    def __init__(self, features: int = 16, max_period: float = 100.0) -> None:
        _check_even(features)
        if check_positive("max_period", max_period) < 1:
            raise ValueError(f"max_period: expected a finite number of at least 1, got {max_period!r}")
        half = features // 2
        super().__init__(torch.exp(-math.log(max_period) * torch.arange(half) / max(half - 1, 1)))


class FourierEmbedding(_Waves):
    r"""Random Fourier features: sines and cosines of frequencies :math:`\omega_i \sim N(0, s^2)`.

    Args:
        features: The number of features, even.
        scale: The standard deviation :math:`s` of the frequencies, in radians per unit of time.
        generator: The source of randomness, or None for torch's global one.

    Raises:
        ValueError: If ``features`` is not positive and even, or ``scale`` is not positive.

    References:
        | Fourier Features Let Networks Learn High Frequency Functions (Tancik et al., 2020)
        | https://arxiv.org/abs/2006.10739

    Example:
        >>> embedding = FourierEmbedding(6, scale=0.5, generator=torch.Generator().manual_seed(0))
        >>> assert embedding(torch.zeros(3)).sum().item() == 9.0  # the cosines at t = 0
    """

    def __init__(self, features: int = 16, scale: float = 1.0, generator: torch.Generator | None = None) -> None:
        _check_even(features)
        check_positive("scale", scale)
        check_generator(generator)
        super().__init__(scale * torch.randn(features // 2, generator=generator))


class _SideBySide(TimeEmbedding):
    """Embeddings of as many features each, every one for the times of its own row."""

    def __init__(self, embeddings: Sequence[TimeEmbedding]) -> None:
        super().__init__(embeddings[0].features)
        self.embeddings = nn.ModuleList(embeddings)

    def forward(self, t: Tensor) -> Tensor:
        """Map times of shape ``(rows, *batch)`` to features of shape ``(rows, *batch, features)``."""
        return torch.stack([own(row) for own, row in zip(self.embeddings, t.unbind(0), strict=True)])


def side_by_side(embeddings: Sequence[TimeEmbedding]) -> TimeEmbedding:
    """Build one embedding of several, for times ``(rows, samples)`` with a row for each."""
    waves = [own.frequencies for own in embeddings if isinstance(own, _Waves)]
    if len(waves) == len(embeddings):
        return _Waves(torch.stack(waves).unsqueeze(-2))
    return _SideBySide(embeddings)
