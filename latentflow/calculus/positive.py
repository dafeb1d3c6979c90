r"""A positive number that learns."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def inverse_softplus(value: float) -> float:
    r"""Compute :math:`\rho` with :math:`\operatorname{softplus}(\rho) = \log(1 + e^\rho)` equal to a positive number.

    Args:
        value: The number.

    Returns:
        :math:`\log(e^{\text{value}} - 1)`, without overflow.

    Raises:
        ValueError: If the number is not positive and finite.

    Example:
        >>> assert abs(math.log1p(math.exp(inverse_softplus(0.3))) - 0.3) < 1e-15
        >>> assert inverse_softplus(1e4) == 1e4
    """
    if not 0 < value < math.inf:
        raise ValueError(f"value: expected a positive number, got {value!r}")
    return value + math.log(-math.expm1(-value))


class PositiveParameter(nn.Module):
    r"""A learnable positive number :math:`\operatorname{softplus}(\rho)`, such as a diffusion coefficient.

    The parameter :math:`\rho` is unconstrained, and its gradient vanishes nowhere.

    Args:
        value: The number to start from, positive.

    Raises:
        ValueError: If ``value`` is not positive and finite.

    Example:
        >>> speed = PositiveParameter(2.0)
        >>> torch.testing.assert_close(speed(), torch.tensor(2.0))
        >>> speed().backward()
        >>> assert speed.raw.grad > 0
    """

    def __init__(self, value: float) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(inverse_softplus(value)))

    def forward(self) -> Tensor:
        """Return the number, of shape ``()``."""
        return nn.functional.softplus(self.raw)
