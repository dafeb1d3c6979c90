r"""A force that never pushes a potential up."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from latentflow.calculus import Time, expand_time
from latentflow.potentials import MLPPotential


class NonPositiveForce(nn.Module):
    r"""The force :math:`f(z, t) = -g(z, t)^2 \le 0` with a network ``g`` of its own.

    Args:
        dim: The number of coordinates.
        hidden: The widths of the hidden layers of ``g``.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), section 3.3
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> import torch
        >>> force = NonPositiveForce(3)
        >>> assert force(1e3 * torch.randn(100, 3), 2.0).max() <= 0
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.root = MLPPotential(dim, hidden)

    def forward(self, z: Tensor, t: Time) -> Tensor:
        """Evaluate the force at ``z`` of shape ``(*batch, dim)`` and ``t``; the result is ``(*batch,)``."""
        root: Tensor = self.root(z, expand_time(t, z))
        return -root.square()
