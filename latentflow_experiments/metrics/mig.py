"""The mutual information gap."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentflow_experiments.metrics.disentanglement import check_table, gap

__all__ = ["MIG", "measure_mig"]


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
    binned = _discretise(codes, bins)
    information = torch.stack(
        [torch.stack([_mutual_information(z, v) for v in factors.unbind(1)]) for z in binned.unbind(1)]
    )
    entropy = torch.stack([_entropy(v.bincount()) for v in factors.unbind(1)])
    gaps = gap(information) / entropy
    return MIG(float(gaps.mean()), gaps, information)


def _discretise(codes: Tensor, bins: int) -> Tensor:
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
