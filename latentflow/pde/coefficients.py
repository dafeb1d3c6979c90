r"""The coefficients and the fields that a residual owns."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import TypeAlias

from torch import Tensor, nn

from latentflow.calculus import Field, PositiveParameter
from latentflow.potentials.algebra import as_module

Coefficient: TypeAlias = Callable[[], float | Tensor]
"""A number that may learn; calling it gives the number."""


class Constant(nn.Module):
    """A number that does not learn, called like one that does.

    Args:
        value: The number.
    """

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self) -> float:
        """Return the number."""
        return self.value

    def extra_repr(self) -> str:
        """Show the number."""
        return str(self.value)


def as_coefficient(name: str, value: float | PositiveParameter) -> Coefficient:
    """Give a number and a learnable number the same form, a module without arguments.

    Args:
        name: The name of the argument.
        value: A number of at least 0, or a learnable positive one.

    Returns:
        The module; calling it gives the number.

    Raises:
        TypeError: If ``value`` is neither.
        ValueError: If it is a number that is negative or not finite.
    """
    if isinstance(value, PositiveParameter):
        return value
    if not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number or a PositiveParameter, got {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: expected a number of at least 0, got {value!r}")
    return Constant(float(value))


def as_field(name: str, field: Field) -> nn.Module:
    """Turn a field into a module, so that a residual owns its parameters.

    Args:
        name: The name of the argument.
        field: A potential, or any callable ``u(z, t)``.

    Returns:
        The module.

    Raises:
        TypeError: If ``field`` cannot be called.
    """
    if not callable(field):
        raise TypeError(f"{name}: expected a callable u(z, t), got {type(field).__name__}")
    return as_module(field)
