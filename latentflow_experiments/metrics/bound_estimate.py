r"""Bounds of a log-likelihood from importance weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from latentflow import effective_sample_size, importance_weighted_bound
from latentflow.vae.importance import largest_weight_share

__all__ = ["BoundEstimate", "estimate_bounds"]


@dataclass(frozen=True)
class BoundEstimate:
    r"""The bound with :math:`S` samples for one transformation, in nats.

    Attributes:
        bound: :math:`E \log \tfrac1S \sum_s p(x_t | z^s) p_t(z^s) / r(z^s)`, the mean over images and :math:`t \ge 1`.
        standard_error: Its standard error over the images, NaN for a single one.
        per_time: The mean over the images at each time :math:`t = 1, \dots, T`.
        effective_samples: The effective sample size, averaged over images and times.
        largest_share: The largest share of a single sample in the weight of all, averaged over images and times.
        sequence: The bound of :math:`\log p(x_1, \dots, x_T)`, the mean over images; None where the model says nothing
            of frames together.
    """

    bound: float
    standard_error: float
    per_time: tuple[float, ...]
    effective_samples: float
    largest_share: float
    sequence: float | None


def estimate_bounds(
    log_weights: Tensor, log_ratios: Tensor, samples: Sequence[int], shared: bool | None
) -> dict[int, BoundEstimate]:
    """Estimate the bounds of the frames of some sequences and of the sequences.

    Args:
        log_weights: The log-weights, of shape ``(S, images, T)``, in nats.
        log_ratios: The part of them that is not the likelihood of the frame, of the same shape.
        samples: The numbers of samples of the bounds, each at most ``S``.
        shared: What the proposal says of it; see :class:`Proposal`.

    Returns:
        The bounds, by the number of samples.
    """
    estimates = {}
    together = (log_weights - log_ratios).sum(-1) + log_ratios[..., 0]
    for n in samples:
        bounds = importance_weighted_bound(log_weights, n)
        sequences = importance_weighted_bound(together, n) if shared else bounds.sum(1)
        estimates[n] = BoundEstimate(
            bound=float(bounds.mean()),
            standard_error=float(bounds.mean(1).std() / len(bounds) ** 0.5) if len(bounds) > 1 else math.nan,
            per_time=tuple(bounds.mean(0).tolist()),
            effective_samples=float(effective_sample_size(log_weights, n).mean()),
            largest_share=float(largest_weight_share(log_weights, n).mean()),
            sequence=None if shared is None else float(sequences.mean()),
        )
    return estimates
