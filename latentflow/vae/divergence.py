r"""The divergence of a posterior from a prior."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from latentflow.priors import DiffusedPrior, Prior


def estimate_divergence(posterior: Distribution, prior: Distribution, z: Tensor) -> Tensor:
    r"""Compute :math:`KL(q \| p)` in closed form where torch knows it, by the sample otherwise.

    Args:
        posterior: The distribution :math:`q`, of batch shape ``(*batch,)``.
        prior: The distribution :math:`p`, of a batch shape that broadcasts to ``(*batch,)``.
        z: A sample of the posterior, of shape ``(*batch, dim)``.

    Returns:
        The divergence or :math:`\log q(z) - \log p(z)`, of shape ``(*batch,)``, in nats.

    Example:
        >>> import torch
        >>> from torch.distributions import Independent, Normal
        >>> q = Independent(Normal(torch.ones(4, 2), 1.0), 1)
        >>> p = Independent(Normal(torch.zeros(2), 1.0), 1)
        >>> torch.testing.assert_close(estimate_divergence(q, p, q.sample()), torch.ones(4))
    """
    try:
        return kl_divergence(posterior, prior)
    except NotImplementedError:  # what torch raises for a pair without a closed form, and its only way to say so
        log_q: Tensor = posterior.log_prob(z)
        return log_q - prior.log_prob(z)


def diffusivity_of(prior: Prior, k: Tensor) -> Tensor:
    """Give the coefficient of each sample's field.

    Args:
        prior: The prior.
        k: The index of the field of each sample, int64 of shape ``(*batch,)``.

    Returns:
        The coefficients :math:`D_k`, of shape ``(*batch,)``, in length squared per time.

    Raises:
        TypeError: If the prior does not diffuse.
    """
    if not isinstance(prior, DiffusedPrior):
        raise TypeError(f"prior: expected one that diffuses, such as DiffusionPrior, got {type(prior).__name__}")
    return prior.diffusivity[k if len(prior.diffusivity) > 1 else torch.zeros_like(k)]
