"""How much codes say of factors, and how easily it is read: InfoM, InfoE, InfoC, and the explicitness of DCI-ES."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeAlias

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import mutual_info_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor

from latentflow_experiments.metrics.disentanglement import check_table, split

NEIGHBORS = 10
PRUNED = 1 / 20
"""The share of the largest range of a code below which a code counts as inactive."""
FEATURES = (0, 32, 64, 128, 256, 512)
"""The numbers of random features that are added to the codes, for probes of rising capacity."""
GAIN = 0.01
"""The least share of the loss without codes that the best probe has to gain for the factor to count as read."""


@dataclass(frozen=True)
class InfoMEC:
    """Modularity, explicitness and compactness by information.

    Attributes:
        modularity: InfoM, how far each active code says something of one factor only, in [0, 1].
        explicitness: InfoE, the share of the entropy of a factor that a linear classifier of the codes explains, the
            mean over factors; 1 for factors that it predicts with certainty.
        compactness: InfoC, how far one active code says all that is said of each factor, in [0, 1].
        information: The mutual information of each code and factor divided by the entropy of the factor, of shape
            ``(dim, F)``.
        active: Whether each code takes part, of shape ``(dim,)``, bool.
    """

    modularity: float
    explicitness: float
    compactness: float
    information: Tensor
    active: Tensor


def measure_infomec(codes: Tensor, factors: Tensor) -> InfoMEC:
    r"""Measure modularity, explicitness and compactness.

    With :math:`N_{ij} = I(z_i; v_j) / H(v_j)`, estimated from the 10 nearest neighbors, over the active codes

    .. math::
        \mathrm{InfoM} = \frac{\frac1L \sum_i \frac{\max_j N_{ij}}{\sum_j N_{ij}} - \frac1F}{1 - \frac1F}, \qquad
        \mathrm{InfoC} = \frac{\frac1F \sum_j \frac{\max_i N_{ij}}{\sum_i N_{ij}} - \frac1L}{1 - \frac1L}, \qquad
        \mathrm{InfoE} = \frac1F \sum_j \frac{H_0(v_j) - H(v_j | z)}{H_0(v_j)} ,

    where :math:`H(v_j | z)` is the cross-entropy of a multinomial logistic regression with balanced classes on the
    codes that it was fitted to, and :math:`H_0` that of one that sees no code. A code is inactive if its range is below
    a twentieth of the largest one. A code that says nothing of any factor has no modularity and a factor of which
    nothing is said no compactness: they count 0, the least value, where the published code divides zero by zero. With
    one active code the compactness is 1.

    Args:
        codes: Codes, of shape ``(n, dim)``, of floating point.
        factors: The value of each factor, of shape ``(n, F)`` with ``F`` of at least 2, int64.

    Returns:
        The scores, with tensors on the CPU.

    Raises:
        ValueError: If a shape or dtype does not fit, codes are not finite, or a factor has a single value.

    References:
        | Disentanglement via Latent Quantization (Hsu et al., 2023), section 4
        | https://arxiv.org/abs/2305.18378

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> factors = torch.randint(3, (600, 2), generator=generator)
        >>> codes = factors + 0.01 * torch.randn(600, 2, generator=generator)
        >>> score = measure_infomec(codes, factors)
        >>> assert min(score.modularity, score.explicitness, score.compactness) > 0.9
    """
    codes, factors = check_table(codes, factors)
    if factors.shape[1] < 2:
        raise ValueError(f"factors: expected at least two factors, got {factors.shape[1]}")
    spread = codes.amax(0) - codes.amin(0)
    active = (spread > 0) & (spread >= PRUNED * spread.max())
    scaled = _standardized(codes)
    columns = []
    for values in factors.unbind(1):
        entropy = float(torch.special.entr(values.bincount().double() / len(values)).sum())
        found = mutual_info_classif(scaled.numpy(), values.numpy(), n_neighbors=NEIGHBORS, random_state=0)
        columns.append(torch.from_numpy(found) / entropy)
    information = torch.stack(columns, 1)
    kept = information[active]
    linear, blind = LogisticRegression(C=1e6, class_weight="balanced"), torch.zeros_like(scaled[:, :1])
    shares = []
    for values in factors.unbind(1):
        seeing, guessing = ((inputs, values) for inputs in (scaled, blind))
        shares.append(1 - _cross_entropy(linear, seeing, seeing) / _cross_entropy(linear, guessing, guessing))
    return InfoMEC(_unevenness(kept), sum(shares) / len(shares), _unevenness(kept.T), information, active)


def _standardized(codes: Tensor) -> Tensor:
    """Shift and scale each code to mean 0 and variance 1; a constant one to 0."""
    scale = codes.std(0, correction=0)
    return (codes - codes.mean(0)) / torch.where(scale > 0, scale, 1.0)


def _unevenness(information: Tensor) -> float:
    """Average over the rows how far the largest entry is the only one, from 0 (all equal) to 1."""
    rows, columns = information.shape
    if not rows or columns < 2:
        return float(rows > 0)
    total = information.sum(1)
    share = torch.where(total > 0, information.amax(1) / torch.where(total > 0, total, 1.0), 1 / columns)
    return float((share.mean() - 1 / columns) / (1 - 1 / columns))


Rows: TypeAlias = tuple[Tensor, Tensor]
"""Inputs ``(n, features)`` and the values ``(n,)`` of a factor."""


def _cross_entropy(model: LogisticRegression, train: Rows, test: Rows) -> float:
    """Fit a logistic regression to some rows; return its cross-entropy on others, in nats."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # separable classes have no finite optimum
        model.fit(train[0].numpy(), train[1].numpy())
    return float(log_loss(test[1].numpy(), model.predict_proba(test[0].numpy()), labels=model.classes_))


@dataclass(frozen=True)
class Explicitness:
    """The ease at which probes read factors from codes.

    Attributes:
        explicitness: E of DCI-ES, the mean over factors: 1 if the simplest probe is as good as any, 0 if the loss falls
            linearly with the capacity, and down to -1 if only the most complex probe is of use.
        size: S of DCI-ES, the number of factors divided by that of codes.
        losses: The loss of each probe for each factor, of shape ``(probes, F)``, in nats.
        capacities: The capacity of each probe.
    """

    explicitness: float
    size: float
    losses: Tensor
    capacities: tuple[float, ...]


def explicitness_of_curve(capacities: Sequence[float], losses: Sequence[float], baseline: float) -> float:
    r"""Compute the explicitness of a curve of losses over capacities.

    .. math:: E = 1 - \frac{\int (\ell(\kappa) - \ell^*) \, d\kappa}{\frac12 (\kappa_1 - \kappa_0)(\ell_b - \ell^*)}

    with the least loss up to each capacity, its minimum :math:`\ell^*` over all, the baseline :math:`\ell_b`, and
    straight lines between the capacities.

    Args:
        capacities: The capacities, rising, at least two.
        losses: The loss of each probe.
        baseline: The loss without any code; losses above it count as the baseline.

    Returns:
        The explicitness; 0 if no probe is better than the baseline.

    Raises:
        ValueError: If there are fewer than two capacities, they do not rise, or there are not as many losses.

    References:
        | DCI-ES: An Extended Disentanglement Framework with Connections to Identifiability (Eastwood et al., 2023)
        | https://arxiv.org/abs/2210.00364

    Example:
        >>> assert explicitness_of_curve([0, 1, 2], [0.0, 0.0, 0.0], 1.0) == 1
        >>> assert explicitness_of_curve([0, 1, 2], [1.0, 0.5, 0.0], 1.0) == 0
        >>> assert explicitness_of_curve([0, 1, 2, 4], [1.0, 1.0, 1.0, 0.0], 1.0) == -0.5
    """
    if len(capacities) < 2 or len(losses) != len(capacities) or any(b <= a for a, b in pairwise(capacities)):
        raise ValueError(
            f"capacities: expected at least two, rising, with a loss for each, got {list(capacities)} and {len(losses)}"
        )
    least = list(accumulate((min(loss, baseline) for loss in losses), min))
    if least[-1] >= baseline:
        return 0.0
    excess = [loss - least[-1] for loss in least]
    area = sum((b - a) * (x + y) / 2 for (a, b), (x, y) in zip(pairwise(capacities), pairwise(excess), strict=True))
    return 1 - area / (0.5 * (capacities[-1] - capacities[0]) * (baseline - least[-1]))


def measure_explicitness(
    codes: Tensor, factors: Tensor, train_share: float = 2 / 3, generator: torch.Generator | None = None
) -> Explicitness:
    r"""Measure how complex a probe has to be to read the factors.

    A probe is a multinomial logistic regression on the codes, scaled to variance 1, and on 0 to 512 random Fourier
    features of them, :math:`\sqrt{2/m} \cos(w \cdot z + b)` with :math:`w \sim N(0, 1/\mathrm{dim})` and :math:`b`
    uniform; its capacity is the base-2 logarithm of the number of its inputs, and its loss the cross-entropy on the
    test part. A factor of which the best probe gains less than 1 % has explicitness 0: the curve would be that of the
    noise of the test part.

    Args:
        codes: Codes, of shape ``(n, dim)``, of floating point.
        factors: The value of each factor, of shape ``(n, F)``, int64.
        train_share: The share of the rows that the probes are trained on, between 0 and 1.
        generator: The source of randomness of the split and the features, on the CPU, or None for torch's global one.

    Returns:
        The explicitness, the size, and what they were computed from.

    Raises:
        ValueError: If a shape or dtype does not fit, codes are not finite, or a factor has a single value.

    References:
        See :func:`explicitness_of_curve`; its probes are perceptrons, forests or random features.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> factors = torch.randint(2, (400, 2), generator=generator)
        >>> found = measure_explicitness(factors.float(), factors, generator=generator)
        >>> assert found.explicitness > 0.99 and found.size == 1
    """
    codes, factors = check_table(codes, factors)
    count, dim = codes.shape
    weights = torch.randn(dim, FEATURES[-1], generator=generator, dtype=torch.float64) / math.sqrt(dim)
    phases = 2 * math.pi * torch.rand(FEATURES[-1], generator=generator, dtype=torch.float64)
    scaled = _standardized(codes)
    waves = (scaled @ weights + phases).cos()
    (train, of_train), (test, of_test) = split(torch.arange(count)[:, None], factors, train_share, generator)
    rows, others, probe = train.flatten(), test.flatten(), LogisticRegression(max_iter=300)

    def losses_of(inputs: Tensor) -> list[float]:
        pairs = zip(of_train.unbind(1), of_test.unbind(1), strict=True)
        return [_cross_entropy(probe, (inputs[rows], v), (inputs[others], w)) for v, w in pairs]

    losses = [
        losses_of(torch.cat([scaled, waves[:, :features] * math.sqrt(2 / max(features, 1))], 1))
        for features in FEATURES
    ]
    capacities = tuple(math.log2(dim + features) for features in FEATURES)
    found = torch.tensor(losses, dtype=torch.float64)
    baselines = losses_of(torch.zeros(count, 1, dtype=torch.float64))
    each = [
        explicitness_of_curve(capacities, column, baseline) if min(column) < (1 - GAIN) * baseline else 0.0
        for column, baseline in zip(found.T.tolist(), baselines, strict=True)
    ]
    return Explicitness(sum(each) / len(each), factors.shape[1] / dim, found, capacities)
