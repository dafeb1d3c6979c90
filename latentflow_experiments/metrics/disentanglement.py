"""Scores of disentanglement: MIG, SAP, DCI and the FactorVAE score."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.distributions import Distribution

from latentflow_experiments.data import SequenceDataset

IMAGES, STATES = 5, 10  # images in a batch, and random states that all of them go through


def draw_codes(
    encode: Callable[[Tensor], Distribution], data: SequenceDataset, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Encode random images, each of them in a random state of every transformation.

    The states are independent of each other and uniform. A model that was trained on sequences of one transformation
    each has not seen most combinations.

    Args:
        encode: Maps images ``(batch, channels, height, width)`` to distributions over codes ``(dim,)``.
        data: The images and transformations, on the device of the model.
        count: The number of codes, rounded up to a multiple of 50.
        generator: The source of randomness, on the CPU.

    Returns:
        The means, of shape ``(count, dim)``, and the state of each transformation, int64 of shape ``(count, K)``, both
        on the CPU.
    """
    kinds = len(data.names)
    starts = data.composed_starts(range(kinds))
    codes, factors = [], []
    with torch.no_grad():
        for _ in range(-(-count // (IMAGES * STATES))):
            indices = starts[torch.randint(len(starts), (IMAGES,), generator=generator)]
            states = torch.randint(data.steps + 1, (STATES, kinds), generator=generator)
            codes.append(encode(data.composed(indices, states).flatten(0, 1)).mean.cpu())
            factors.append(states.repeat(IMAGES, 1))
    return torch.cat(codes), torch.cat(factors)


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


@dataclass(frozen=True)
class MIG:
    """The mutual information gap.

    Attributes:
        score: The mean of the gaps over the factors, in [0, 1].
        gaps: The gap of each factor divided by its entropy, of shape ``(F,)``, in [0, 1].
        information: The mutual information of each code and factor, of shape ``(dim, F)``, in nats.
    """

    score: float
    gaps: Tensor
    information: Tensor


def measure_mig(codes: Tensor, factors: Tensor, bins: int = 20) -> MIG:
    r"""Measure by how much each factor is told best by one code rather than by any other.

    .. math:: \frac{1}{F} \sum_j \frac{1}{H(v_j)} \Big(I(z_{i_j}; v_j) - \max_{i \ne i_j} I(z_i; v_j)\Big), \qquad
        i_j = \arg\max_i I(z_i; v_j) .

    The mutual information and the entropy are those of the sample, after the range of each code is cut into bins of
    equal width. Independent codes therefore have a positive information of about
    ``(bins - 1) (values - 1) / (2 n)`` nats, which hardly enters the gap.

    Args:
        codes: Codes, of shape ``(n, dim)``, of floating point.
        factors: The value of each factor, of shape ``(n, F)``, int64.
        bins: The number of bins of each code.

    Returns:
        The gap, with its tensors in float64 on the CPU.

    Raises:
        ValueError: If a shape or dtype does not fit, codes are not finite, a factor has a single value, or there are
            fewer than two bins.

    References:
        | Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018)
        | https://arxiv.org/abs/1802.04942

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4))
        >>> assert measure_mig(factors.float(), factors).score > 0.999
        >>> assert measure_mig(factors.float()[:, [0, 1, 1]], factors).score < 0.501
    """
    codes, factors = check_table(codes, factors)
    if bins < 2:
        raise ValueError(f"bins: expected at least 2, got {bins!r}")
    binned = _discretize(codes, bins)
    information = torch.stack(
        [torch.stack([_mutual_information(z, v) for v in factors.unbind(1)]) for z in binned.unbind(1)]
    )
    entropy = torch.stack([_entropy(v.bincount()) for v in factors.unbind(1)])
    gaps = gap(information) / entropy
    return MIG(float(gaps.mean()), gaps, information)


def _discretize(codes: Tensor, bins: int) -> Tensor:
    """Number the bin of each code, from 0; a constant code has all in one."""
    low, high = codes.aminmax(dim=0)
    width = (high - low) / bins
    return ((codes - low) / torch.where(width > 0, width, 1.0)).long().clamp(max=bins - 1)


def _mutual_information(z: Tensor, v: Tensor) -> Tensor:
    r"""Compute :math:`I(z; v) = H(z) + H(v) - H(z, v)` of a sample of two variables with values from 0, in nats."""
    joint = (z * (v.max() + 1) + v).bincount()
    return (_entropy(z.bincount()) + _entropy(v.bincount()) - _entropy(joint)).clamp(min=0)


def _entropy(counts: Tensor) -> Tensor:
    """Compute the entropy of the distribution that counts are proportional to, in nats."""
    p = counts.double() / counts.sum()
    entropy: Tensor = torch.special.entr(p).sum()
    return entropy


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
