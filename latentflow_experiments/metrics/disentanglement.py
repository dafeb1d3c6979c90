"""What the metrics of disentanglement share: the check of codes and factors, their split, and the gap to the second."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_codes", "check_table", "gap", "split"]


def check_codes(codes: Tensor) -> Tensor:
    """Check codes.

    Args:
        codes: Codes, of shape ``(n, dim)``, of floating point.

    Returns:
        The codes in float64 on the CPU, detached.

    Raises:
        ValueError: If the shape or the dtype is another, there are fewer than two rows, or a value is not finite.
    """
    if codes.ndim != 2 or len(codes) < 2 or codes.shape[1] < 1:
        raise ValueError(f"codes: expected shape (n, dim) with n of at least 2, got {tuple(codes.shape)}")
    if not codes.is_floating_point():
        raise ValueError(f"codes: expected floating point numbers, got {codes.dtype}")
    if not codes.isfinite().all():
        raise ValueError("codes: expected finite values, got NaN or infinity")
    return codes.detach().double().cpu()


def check_table(codes: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Check codes together with the factors of variation of the same images.

    Args:
        codes: Codes, of shape ``(n, dim)``, of floating point.
        factors: The value of each factor, of shape ``(n, F)``, int64. The values are names: their order and their
            distances do not matter.

    Returns:
        The codes in float64; and the factors, each numbered from 0 without gaps. Both are on the CPU.

    Raises:
        ValueError: If a shape or dtype does not fit, codes are not finite, or a factor has a single value.

    Example:
        >>> _, numbered = check_table(torch.zeros(3, 2), torch.tensor([[7], [-1], [7]]))
        >>> assert numbered.tolist() == [[1], [0], [1]]
    """
    codes = check_codes(codes)
    if factors.ndim != 2 or len(factors) != len(codes) or factors.shape[1] < 1:
        raise ValueError(f"factors: expected shape ({len(codes)}, F), got {tuple(factors.shape)}")
    if factors.dtype != torch.int64:
        raise ValueError(f"factors: expected dtype torch.int64, got {factors.dtype}")
    numbered = torch.stack([torch.unique(column, return_inverse=True)[1] for column in factors.cpu().unbind(1)], dim=1)
    _check_values(numbered, "")
    return codes, numbered


def split(
    codes: Tensor, factors: Tensor, share: float, generator: torch.Generator | None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Split rows at random into a training and a test part.

    Args:
        codes: Codes, of shape ``(n, dim)``, on the CPU.
        factors: The value of each factor, of shape ``(n, F)``, on the CPU.
        share: The share of the rows in the training part, between 0 and 1.
        generator: The source of randomness, on the CPU, or None for torch's global one.

    Returns:
        Codes and factors of the training part, and those of the test part.

    Raises:
        ValueError: If a part is empty, or a factor has a single value in the training part.
    """
    count = round(share * len(codes)) if 0 < share < 1 else 0
    if not 0 < count < len(codes):
        raise ValueError(f"train_share: expected a share that leaves rows in both parts, got {share!r}")
    order = torch.randperm(len(codes), generator=generator)
    train, test = order[:count], order[count:]
    _check_values(factors[train], " in the training part")
    return (codes[train], factors[train]), (codes[test], factors[test])


def _check_values(factors: Tensor, where: str) -> None:
    single = (factors == factors[0]).all(0).nonzero().flatten().tolist()
    if single:
        raise ValueError(f"factors: expected at least two values of each factor{where}, got one of factor {single[0]}")


def gap(scores: Tensor) -> Tensor:
    """Subtract the second largest score from the largest.

    Args:
        scores: Scores of each dimension for each factor, of shape ``(dim, F)``.

    Returns:
        The gap of each factor, of shape ``(F,)``; the largest score itself where there is one dimension.

    Example:
        >>> assert gap(torch.tensor([[1.0, 5.0], [4.0, 5.0], [2.0, 0.0]])).tolist() == [2.0, 0.0]
    """
    ranked = torch.cat((scores, torch.zeros_like(scores[:1]))).sort(0, descending=True).values
    return ranked[0] - ranked[1]
