r"""How much each point counts in the loss of a residual."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from latentflow.calculus import check_count


class Weighting(Protocol):
    """A choice of weights, made from the squared residuals and the times."""

    def __call__(self, squared_residual: Tensor, t: Tensor) -> Tensor:
        """Choose the weights.

        Args:
            squared_residual: The squared residuals, of shape ``(*batch,)``, without a gradient.
            t: The times, of shape ``(*batch,)``.

        Returns:
            The weights, of shape ``(*batch,)``.
        """


@dataclass(frozen=True)
class CausalWeighting:
    r"""Train early times first: a point counts little while the residual before it is large.

    The time range of the points is cut into bins of equal length. With :math:`L_j` the mean squared residual in bin
    ``j``, zero where there are no points, every point of bin ``b`` has the weight

    .. math::
        w_b = \exp\Big(-\varepsilon \sum_{j < b} L_j\Big) ,

    without a gradient. The first bin has weight 1, and all weights tend to 1 as the residual vanishes.

    Attributes:
        tolerance: The number :math:`\varepsilon \ge 0`, in units of one over the squared residual. With 0 all weights
            are 1.
        bins: The number of bins.

    Raises:
        ValueError: If ``tolerance`` is negative or not finite, or ``bins`` is not a positive integer.

    References:
        | Respecting causality is all you need for training physics-informed neural networks (Wang et al., 2022)
        | https://arxiv.org/abs/2203.07404

    Example:
        >>> t = torch.tensor([0.0, 0.4, 0.6, 1.0])
        >>> weights = CausalWeighting(tolerance=2.0, bins=2)(torch.tensor([1.0, 3.0, 5.0, 7.0]), t)
        >>> torch.testing.assert_close(weights, torch.tensor([0.0, 0.0, -4.0, -4.0]).exp())
    """

    tolerance: float = 1.0
    bins: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance: expected a number of at least 0, got {self.tolerance!r}")
        check_count("bins", self.bins)

    def __call__(self, squared_residual: Tensor, t: Tensor) -> Tensor:
        """Compute the weights, of shape ``(*batch,)``, from squared residuals and times of that shape."""
        if squared_residual.numel() == 0:
            return torch.ones_like(squared_residual)
        square, time = squared_residual.detach().flatten(), t.detach().flatten()
        start, end = time.aminmax()
        share = torch.where(end > start, (time - start) / (end - start), 0.0)
        index = (share * self.bins).long().clamp(max=self.bins - 1)  # the last time belongs to the last bin
        sums = square.new_zeros(self.bins).index_add(0, index, square)
        counts = square.new_zeros(self.bins).index_add(0, index, torch.ones_like(square))
        means = sums / counts.clamp(min=1)
        weights = torch.exp(-self.tolerance * (means.cumsum(0) - means))
        return weights[index].reshape(squared_residual.shape)
