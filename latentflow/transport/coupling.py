"""Couplings of two batches of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from latentflow.calculus.checks import check_count


class Coupling(Protocol):
    """Pairs the points of two batches."""

    def pair(self, x: Tensor, y: Tensor) -> Tensor:
        """Choose a partner for each point.

        Args:
            x: The points of the source, of shape ``(n, dim)``.
            y: The points of the target, of shape ``(n, dim)``.

        Returns:
            The points of the target in the order of their partners.
        """


@dataclass(frozen=True)
class Independent:
    """Pairs points as they come.

    Example:
        >>> y = torch.randn(4, 2)
        >>> assert torch.equal(Independent().pair(torch.randn(4, 2), y), y)
    """

    def pair(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002 - the protocol's
        """Return the points of the target as they are."""
        return y


@dataclass(frozen=True)
class MinibatchAssignment:
    r"""Pairs the points of small batches so that the sum of :math:`|x_i - y_i|^2` is least, by exact assignment.

    The time grows with the third power of the batch. The coupling of batches is biased towards their mean: it becomes
    optimal transport for large batches only, the larger the more coordinates there are.

    Args:
        batch_size: The number of points that are assigned at a time.

    Raises:
        ValueError: If it is not positive.

    References:
        | Improving and generalizing flow-based generative models with minibatch optimal transport (Tong et al., 2024)
        | https://arxiv.org/abs/2302.00482

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> y = torch.tensor([[3.0], [1.0], [2.0]])
        >>> assert torch.equal(MinibatchAssignment().pair(x, y), torch.tensor([[1.0], [2.0], [3.0]]))
    """

    batch_size: int = 256

    def __post_init__(self) -> None:
        check_count("batch_size", self.batch_size)

    @torch.no_grad()
    def pair(self, x: Tensor, y: Tensor) -> Tensor:
        """Choose a partner for each point; see :class:`Coupling`."""
        return torch.cat([_assign(*part) for part in zip(_split(x, self), _split(y, self), strict=True)])


def _split(points: Tensor, coupling: MinibatchAssignment) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = torch.split(points, coupling.batch_size)
    return parts


def _assign(x: Tensor, y: Tensor) -> Tensor:
    cost = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    _, columns = linear_sum_assignment(cost.cpu().numpy())
    return y[torch.from_numpy(columns).to(y.device)]
