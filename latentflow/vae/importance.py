r"""The importance-weighted lower bound of a log-likelihood, and measures of its weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["effective_sample_size", "importance_weighted_bound", "largest_weight_share"]


def importance_weighted_bound(log_weights: Tensor, samples: int | None = None) -> Tensor:
    r"""Compute the importance-weighted lower bound of a log-likelihood.

    .. math::
        L_n = \log \frac1n \sum_{s=1}^n w_s, \qquad w_s = \frac{p(x | z^s)\,p(z^s)}{r(z^s)}, \quad z^s \sim r

    By Jensen's inequality :math:`E[L_n] \le \log p(x)`; :math:`E[L_1]` is the evidence lower bound, and :math:`E[L_n]`
    does not decrease in :math:`n`. Noisy weights, or weights of a map that folds, give no lower bound.

    Args:
        log_weights: The logarithms of the weights of independent samples, of shape ``(S, *batch)``, in nats.
        samples: The number :math:`n`, at most ``S``, with an average over ``S // n`` disjoint groups; None for ``S``.

    Returns:
        The bound, of shape ``(*batch,)``, in nats and float64.

    Raises:
        TypeError: If the logarithms are not a floating-point tensor.
        ValueError: If there is no sample, one is NaN or infinitely likely, or ``samples`` is not in ``1..S``.

    References:
        | Importance Weighted Autoencoders (Burda et al., 2015)
        | https://arxiv.org/abs/1509.00519

    Example:
        >>> log_weights = torch.tensor([1.0, 3.0, 2.0, 2.0]).log()
        >>> torch.testing.assert_close(importance_weighted_bound(log_weights).exp(), torch.tensor(2.0).double())
        >>> torch.testing.assert_close(importance_weighted_bound(log_weights, 1), log_weights.double().mean())
    """
    groups = _groups(log_weights, samples)
    return (groups.logsumexp(1) - math.log(groups.shape[1])).mean(0)


def effective_sample_size(log_weights: Tensor, samples: int | None = None) -> Tensor:
    r"""Compute the effective sample size :math:`(\sum_s w_s)^2 / \sum_s w_s^2`.

    Args:
        log_weights: The logarithms of the weights, of shape ``(S, *batch)``, in nats.
        samples: The number of samples in a group; see :func:`importance_weighted_bound`.

    Returns:
        The number, between 1 and ``samples``, of shape ``(*batch,)``, in float64; 0 for a group without weight.

    Raises:
        TypeError: See :func:`importance_weighted_bound`.
        ValueError: See :func:`importance_weighted_bound`.

    Example:
        >>> size = effective_sample_size(torch.tensor([0.0, 0.0, -torch.inf]))
        >>> torch.testing.assert_close(size, torch.tensor(2.0).double())
    """
    groups = _groups(log_weights, samples)
    sizes = (2 * groups.logsumexp(1) - (2 * groups).logsumexp(1)).exp()
    return sizes.nan_to_num(nan=0.0).mean(0)


def largest_weight_share(log_weights: Tensor, samples: int | None = None) -> Tensor:
    r"""Compute the share of the heaviest sample, :math:`\max_s w_s / \sum_s w_s`.

    Args:
        log_weights: The logarithms of the weights, of shape ``(S, *batch)``, in nats.
        samples: The number of samples in a group; see :func:`importance_weighted_bound`.

    Returns:
        The share, at least one over ``samples`` and at most 1, of shape ``(*batch,)``, in float64; 1 for a group
        without weight.

    Raises:
        TypeError: See :func:`importance_weighted_bound`.
        ValueError: See :func:`importance_weighted_bound`.

    Example:
        >>> share = largest_weight_share(torch.tensor([1.0, 3.0]).log())
        >>> torch.testing.assert_close(share, torch.tensor(0.75).double())
    """
    groups = _groups(log_weights, samples)
    return (groups.amax(1) - groups.logsumexp(1)).exp().nan_to_num(nan=1.0).mean(0)


def _groups(log_weights: Tensor, samples: int | None) -> Tensor:
    """Check the weights and split them into disjoint groups, of shape ``(groups, samples, *batch)``, in float64."""
    if not isinstance(log_weights, Tensor) or not log_weights.is_floating_point():
        kind = log_weights.dtype if isinstance(log_weights, Tensor) else type(log_weights).__name__
        raise TypeError(f"log_weights: expected a floating-point tensor, got {kind}")
    if log_weights.ndim == 0 or len(log_weights) == 0:
        raise ValueError(f"log_weights: expected shape (S, *batch) with S > 0, got {tuple(log_weights.shape)}")
    if not (log_weights < torch.inf).all():
        raise ValueError("log_weights: expected numbers below infinity, got NaN or infinity")
    count = len(log_weights)
    size = count if samples is None else samples
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= count:
        raise ValueError(f"samples: expected an integer in 1..{count}, got {samples!r}")
    groups = count // size
    return log_weights[: groups * size].reshape(groups, size, *log_weights.shape[1:]).double()
