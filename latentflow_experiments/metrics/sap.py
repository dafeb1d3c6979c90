"""The separated attribute predictability."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.svm import LinearSVC
from torch import Tensor

from latentflow_experiments.metrics.disentanglement import check_table, gap, split

__all__ = ["SAP", "measure_sap"]


@dataclass(frozen=True)
class SAP:
    """The separated attribute predictability.

    Attributes:
        score: The mean of the gaps over the factors.
        gaps: The accuracy from the best code minus that from the second best, of shape ``(F,)``.
        accuracies: The accuracy at which each code alone predicts each factor, of shape ``(dim, F)``, in [0, 1].
    """

    score: float
    gaps: Tensor
    accuracies: Tensor


def measure_sap(
    codes: Tensor,
    factors: Tensor,
    train_share: float = 2 / 3,
    regularisation: float = 0.01,
    generator: torch.Generator | None = None,
) -> SAP:
    r"""Measure by how much each factor is predicted best from one code rather than from any other.

    A linear support vector classifier predicts a factor :math:`v_j` from a single code :math:`z_i`, one against the
    rest and with balanced classes. With :math:`S_{ij}` its accuracy on the test part,

    .. math:: \frac{1}{F} \sum_j \Big(S_{i_j j} - \max_{i \ne i_j} S_{ij}\Big), \qquad i_j = \arg\max_i S_{ij} .

    The score cannot reach 1: a code that knows nothing still guesses, so it is at most 1 minus the accuracy of a guess,
    which is 0.5 for binary factors. For a factor of more than two values it stays below that even with a perfect code,
    because a value in the middle of a line is not separated from the rest by one threshold. Codes are divided by their
    standard deviation first, so that their scale does not change the regularisation.

    Args:
        codes: Codes, of shape ``(n, dim)``, of floating point.
        factors: The value of each factor, of shape ``(n, F)``, int64.
        train_share: The share of the rows that the classifiers are trained on, between 0 and 1.
        regularisation: The parameter ``C`` of the classifiers, positive; the smaller, the stronger.
        generator: The source of randomness of the split, on the CPU, or None for torch's global one.

    Returns:
        The gap, with its tensors in float64 on the CPU.

    Raises:
        ValueError: If a shape or dtype does not fit, codes are not finite, a factor has a single value, or a number is
            out of range.

    References:
        | Variational Inference of Disentangled Latent Concepts from Unlabeled Observations (Kumar et al., 2018)
        | https://arxiv.org/abs/1711.00848

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> factors = torch.randint(2, (300, 2), generator=generator)
        >>> assert measure_sap(factors.float(), factors, generator=generator).score > 0.35
        >>> assert measure_sap(factors.float()[:, [0, 0, 1, 1]], factors, generator=generator).score < 0.01
    """
    codes, factors = check_table(codes, factors)
    if not regularisation > 0:
        raise ValueError(f"regularisation: expected a positive number, got {regularisation!r}")
    train, test = split(codes, factors, train_share, generator)
    mean, scale = train[0].mean(0), train[0].std(0)
    scale = torch.where(scale > 0, scale, 1.0)
    train, test = ((train[0] - mean) / scale, train[1]), ((test[0] - mean) / scale, test[1])
    accuracies = torch.tensor(
        [
            [_accuracy(train, test, i, j, regularisation) for j in range(factors.shape[1])]
            for i in range(codes.shape[1])
        ],
        dtype=torch.float64,
    )
    gaps = gap(accuracies)
    return SAP(float(gaps.mean()), gaps, accuracies)


def _accuracy(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], i: int, j: int, regularisation: float
) -> float:
    """Predict factor ``j`` from code ``i`` alone; return the accuracy on the test part."""
    classifier = LinearSVC(C=regularisation, class_weight="balanced", dual=False)  # primal: no random order
    classifier.fit(train[0][:, [i]].numpy(), train[1][:, j].numpy())
    return float(classifier.score(test[0][:, [i]].numpy(), test[1][:, j].numpy()))
