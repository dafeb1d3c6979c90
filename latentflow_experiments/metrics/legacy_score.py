"""The number that the paper's code reports as a log-likelihood."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentflow_experiments.data import SequenceDataset
from latentflow_experiments.metrics.log_likelihood import DRAWN, choose_sequences, source_of
from latentflow_experiments.metrics.observations import UnitGaussian
from latentflow_experiments.metrics.proposals import Proposal

__all__ = ["legacy_score"]


def legacy_score(
    decode: Callable[[Tensor], Distribution],
    proposal_of_k: Callable[[int], Proposal],
    data: SequenceDataset,
    images: int = 50,
    seed: int = 0,
) -> float:
    r"""Compute the number that the paper's code reports as a log-likelihood, which it is not.

    .. math:: \frac1{KT} \sum_{k, t} E\big[\log N(x_t; m(z_t), I) + \log r(z_t) - \log p_t(z_t)\big]

    One sample and the wrong sign: the divergence of the proposal from the prior is added where a lower bound subtracts
    it. The score exceeds the evidence lower bound by twice that divergence, it grows without limit as the posterior
    moves away from the prior, and it can exceed :math:`-\tfrac P2 \log 2\pi`, the largest log-likelihood that a decoder
    of variance 1 can have. Two models cannot be compared by it.

    Args:
        decode: Maps latents ``(S, T, dim)`` to a distribution over images, in evaluation mode.
        proposal_of_k: Gives the proposal of a transformation.
        data: The sequences, on the device of the model.
        images: How many sequences of each transformation, at most; they are chosen from a fixed seed.
        seed: The seed.

    Returns:
        The score, in nats.

    Raises:
        ProposalFoldError: If a flow folds.
        ValueError: If ``images`` is not positive, or a split is empty.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), the columns of log-likelihoods
        | https://arxiv.org/abs/2309.13167
    """
    scores = []
    with torch.no_grad():
        for k, starts in enumerate(choose_sequences(data, images)):
            proposal = proposal_of_k(k)
            for start in starts:
                frames = data.sequence(torch.tensor([start]), k)
                z, log_ratio = proposal.draw(frames, 1, source_of(frames.device, seed, DRAWN, k, start))
                log_prob = UnitGaussian().log_prob(frames[0, 1:], decode(z[:, 1:, 0]))
                scores.append(float((log_prob.double() - log_ratio[:, 1:, 0].double()).mean()))
    return sum(scores) / len(scores)
