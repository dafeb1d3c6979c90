r"""A positive number to be learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentflow.calculus.checks import check_positive


def inverse_softplus(value: float) -> float:
    r"""Compute :math:`\log(e^{\text{value}} - 1)` without overflow; raise a ValueError unless the value is positive."""
    number = check_positive("value", value)
    return number + math.log(-math.expm1(-number))


class PositiveParameter(nn.Module):
    r"""A learnable positive number :math:`\operatorname{softplus}(\rho)`, such as a diffusion coefficient.

    Args:
        value: The initial number, positive.

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
