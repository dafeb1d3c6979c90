"""Disentanglement, completeness and informativeness."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from sklearn.ensemble import GradientBoostingClassifier
from torch import Tensor

from latentflow_experiments.metrics.disentanglement import check_table, split

__all__ = ["DCI", "measure_dci"]


@dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness and informativeness.

    Attributes:
        disentanglement: How far each code is important for a single factor, in [0, 1].
        completeness: How far a single code is important for each factor, in [0, 1].
        informativeness: The accuracy at which all codes together predict a factor on the test part, as the mean over
            the factors, in [0, 1]. The authors report an error; this is one minus it.
        importance: The importance of each code for each factor, of shape ``(dim, F)``; each column sums to one, or to
            zero where a classifier makes no use of any code.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Tensor


def measure_dci(
    codes: Tensor,
    factors: Tensor,
    train_share: float = 2 / 3,
    stages: int = 100,
    generator: torch.Generator | None = None,
) -> DCI:
    r"""Measure which codes gradient boosted trees use to predict each factor.

    With :math:`R_{ij}` the importance of code ``i`` for factor ``j``,

    .. math::
        D = \sum_i \rho_i \Big(1 + \sum_j P_{ij} \log_F P_{ij}\Big), \qquad
        P_{ij} = \frac{R_{ij}}{\sum_j R_{ij}}, \qquad \rho_i = \frac{\sum_j R_{ij}}{\sum_{ij} R_{ij}},

    and the completeness is the same of the transposed matrix, with the logarithm to the base of the number of codes.
    If no classifier uses any code, both are 0.

    The time is proportional to rows, codes, stages and the number of values of the factors together.

    Args:
        codes: Codes, of shape ``(n, dim)`` with ``dim`` of at least 2, of floating point.
        factors: The value of each factor, of shape ``(n, F)`` with ``F`` of at least 2, int64.
        train_share: The share of the rows that the classifiers are trained on, between 0 and 1.
        stages: The number of boosting stages of a classifier.
        generator: The source of randomness of the split and the classifiers, on the CPU, or None for torch's global
            one.

    Returns:
        The scores, with the importance in float64 on the CPU.

    Raises:
        ValueError: If a shape or dtype does not fit, codes are not finite, a factor has a single value, or a number is
            out of range.

    References:
        | A Framework for the Quantitative Evaluation of Disentangled Representations (Eastwood and Williams, 2018)
        | https://openreview.net/forum?id=By-7dz-AZ

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> factors = torch.randint(3, (200, 2), generator=generator)
        >>> score = measure_dci(factors.float(), factors, stages=5, generator=generator)
        >>> assert min(score.disentanglement, score.completeness, score.informativeness) > 0.99
    """
    codes, factors = check_table(codes, factors)
    if codes.shape[1] < 2:
        raise ValueError(f"codes: expected at least two dimensions, got {codes.shape[1]}")
    if factors.shape[1] < 2:
        raise ValueError(f"factors: expected at least two factors, got {factors.shape[1]}")
    if stages < 1:
        raise ValueError(f"stages: expected at least 1, got {stages!r}")
    train, test = split(codes, factors, train_share, generator)
    columns, accuracies = [], []
    for j in range(factors.shape[1]):
        seed = int(torch.randint(2**31, (), generator=generator))
        classifier = GradientBoostingClassifier(n_estimators=stages, random_state=seed)
        classifier.fit(train[0].numpy(), train[1][:, j].numpy())
        columns.append(torch.from_numpy(classifier.feature_importances_).double().clamp(min=0))  # roundoff
        accuracies.append(float(classifier.score(test[0].numpy(), test[1][:, j].numpy())))
    importance = torch.stack(columns, dim=1)
    informativeness = sum(accuracies) / len(accuracies)
    return DCI(_concentration(importance), _concentration(importance.T), informativeness, importance)


def _concentration(importance: Tensor) -> float:
    """Average over the rows, by their weight, how far each is concentrated on one column."""
    weight = importance.sum(1)
    if weight.sum() == 0:
        return 0.0
    share = importance / torch.where(weight > 0, weight, 1.0)[:, None]
    concentration = 1 - torch.special.entr(share).sum(1) / math.log(importance.shape[1])
    return float((weight * concentration).sum() / weight.sum())
