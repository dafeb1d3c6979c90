"""The score of FactorVAE: does the code that varies least tell which factor is fixed?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from latentflow_experiments.metrics.disentanglement import check_codes, check_table

__all__ = ["FactorVAEScore", "FixedFactorSampler", "FixedFactorTable", "factor_vae_score"]


class FixedFactorSampler(Protocol):
    """Draws codes of images that agree in one factor."""

    def __call__(self, factor: int, count: int, generator: torch.Generator | None) -> Tensor:
        """Choose a value of a factor at random, and draw images with this value and all else at random.

        Args:
            factor: The factor.
            count: The number of images.
            generator: The source of randomness, on the CPU, or None for torch's global one.

        Returns:
            The codes of the images, of shape ``(count, dim)``, of floating point.
        """


class FixedFactorTable:
    """Draws from codes whose factors are known.

    The value is drawn from those that occur, all equally likely; the codes with this value are drawn with replacement.

    Args:
        codes: Codes, of shape ``(n, dim)``, of floating point.
        factors: The value of each factor, of shape ``(n, F)``, int64.

    Raises:
        ValueError: If a shape or dtype does not fit, codes are not finite, or a factor has a single value.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4))
        >>> drawn = FixedFactorTable(factors.double(), factors)(1, 8, torch.Generator().manual_seed(0))
        >>> assert drawn.shape == (8, 2)
        >>> assert len(drawn[:, 1].unique()) == 1
    """

    def __init__(self, codes: Tensor, factors: Tensor) -> None:
        self.codes, numbered = check_table(codes, factors)
        self._rows = [torch.split(column.argsort(), column.bincount().tolist()) for column in numbered.unbind(1)]

    def __call__(self, factor: int, count: int, generator: torch.Generator | None) -> Tensor:
        """Draw codes, of shape ``(count, dim)``, in float64, on the CPU."""
        groups = self._rows[factor]
        rows = groups[int(torch.randint(len(groups), (), generator=generator))]
        return self.codes[rows[torch.randint(len(rows), (count,), generator=generator)]]


@dataclass(frozen=True)
class FactorVAEScore:
    """The score of FactorVAE.

    Attributes:
        score: The share of the test votes that the majority vote names rightly, in [0, 1].
        chance: The score of a guess, one over the number of factors.
        active: Whether each dimension takes part, of shape ``(dim,)``, bool.
        votes: The number of training votes of each dimension for each factor, of shape ``(dim, F)``, int64.
    """

    score: float
    chance: float
    active: Tensor
    votes: Tensor


def factor_vae_score(
    sample: FixedFactorSampler,
    codes: Tensor,
    factors: int,
    train_votes: int = 800,
    test_votes: int = 800,
    batch_size: int = 64,
    threshold: float = 0.05,
    generator: torch.Generator | None = None,
) -> FactorVAEScore:
    r"""Measure how well the code that varies least tells which factor is fixed.

    A vote chooses a factor ``j`` at random and draws a batch of codes that agree in it. Its dimension is

    .. math:: d = \arg\min_i \frac{\mathrm{Var}_{\mathrm{batch}}(z_i)}{\mathrm{Var}_{\mathrm{data}}(z_i)} .

    The classifier is the majority vote: each dimension stands for the factor that has most of its training votes. The
    score is its accuracy on other votes. If all dimensions are collapsed, it is that of a guess.

    Args:
        sample: Draws codes with one factor fixed.
        codes: Codes of images drawn from the whole data, of shape ``(n, dim)``; they give the variances of the data.
        factors: The number of factors ``F``, at least 2; each has to have at least two values in the data.
        train_votes: The number of votes that make the classifier.
        test_votes: The number of votes that it is tested on.
        batch_size: The number of codes of a vote, at least 2.
        threshold: The standard deviation over the data, in the units of the codes, below which a dimension counts as
            collapsed and takes no part; meant for codes whose prior has variance 1.
        generator: The source of randomness, on the CPU, or None for torch's global one.

    Returns:
        The score, with its tensors on the CPU.

    Raises:
        ValueError: If a shape or dtype does not fit, codes are not finite, or a number is out of range.

    References:
        | Disentangling by Factorising (Kim and Mnih, 2018)
        | https://arxiv.org/abs/1802.05983

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4))
        >>> codes, generator = factors.double(), torch.Generator().manual_seed(0)
        >>> score = factor_vae_score(FixedFactorTable(codes, factors), codes, 2, 50, 50, generator=generator)
        >>> assert score.score == 1
    """
    codes = check_codes(codes)
    for name, number, least in (
        ("factors", factors, 2),
        ("train_votes", train_votes, 1),
        ("test_votes", test_votes, 1),
        ("batch_size", batch_size, 2),
        ("threshold", threshold, 0),
    ):
        if not number >= least:
            raise ValueError(f"{name}: expected at least {least}, got {number!r}")
    variance = codes.var(0)
    active = (variance > 0) & (variance.sqrt() >= threshold)
    votes = torch.zeros(codes.shape[1], factors, dtype=torch.int64)
    if not active.any():
        return FactorVAEScore(1 / factors, 1 / factors, active, votes)
    variance = torch.where(active, variance, torch.nan)
    for _ in range(train_votes):
        dimension, factor = _vote(sample, variance, factors, batch_size, generator)
        votes[dimension, factor] += 1
    majority = votes.argmax(1).tolist()
    right = 0
    for _ in range(test_votes):
        dimension, factor = _vote(sample, variance, factors, batch_size, generator)
        right += majority[dimension] == factor
    return FactorVAEScore(right / test_votes, 1 / factors, active, votes)


def _vote(
    sample: FixedFactorSampler, variance: Tensor, factors: int, batch_size: int, generator: torch.Generator | None
) -> tuple[int, int]:
    """Fix a factor at random; return the dimension that varies least, where the variance is not NaN, and the factor."""
    factor = int(torch.randint(factors, (), generator=generator))
    batch = sample(factor, batch_size, generator)
    if batch.shape != (batch_size, len(variance)):
        raise ValueError(f"sample: expected codes of shape ({batch_size}, {len(variance)}), got {tuple(batch.shape)}")
    ratio = check_codes(batch).var(0) / variance
    return int(ratio.nan_to_num(nan=torch.inf).argmin()), factor
