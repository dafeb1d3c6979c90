r"""A mixture of normals."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from latentflow.calculus import Time, check_count


class MixturePrior(nn.Module):
    r"""The mixture :math:`\sum_i w_i N(\mu_i, \operatorname{diag} \sigma_i^2)`, the same at all times.

    The logits of the weights, the means and the logarithms of the scales are learnable. The weights start equal, the
    scales at :math:`\sqrt{1/2}` and the means from draws of :math:`N(0, \tfrac12 I)`: on average over the draws, the
    mixture has the moments of the standard normal.

    Args:
        dim: The number of coordinates.
        components: The number of components.
        generator: The source of randomness of the means, or None for torch's global one.

    Raises:
        ValueError: If ``dim`` or ``components`` is not positive.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), the ablation of priors
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> prior = MixturePrior(2, components=3)
        >>> z = prior(t=1.0).sample((5,))
        >>> scales = prior.log_scale.exp()
        >>> terms = [Normal(m, s).log_prob(z).sum(-1) for m, s in zip(prior.mean, scales)]
        >>> expected = torch.stack(terms).logsumexp(0) - math.log(3)
        >>> torch.testing.assert_close(prior(t=1.0).log_prob(z), expected)
    """

    def __init__(self, dim: int, components: int = 10, generator: torch.Generator | None = None) -> None:
        super().__init__()
        check_count("dim", dim)
        check_count("components", components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(torch.randn(components, dim, generator=generator) / math.sqrt(2))
        self.log_scale = nn.Parameter(torch.full((components, dim), -math.log(2) / 2))

    def forward(self, t: Time = 0.0, k: int | Tensor | None = None) -> Distribution:  # noqa: ARG002 - a prior's signature
        """Build the distribution.

        Args:
            t: The time; it makes no difference.
            k: The index of the field; it makes no difference.

        Returns:
            The distribution, with events of shape ``(dim,)``. It has no ``rsample``.
        """
        components = Independent(Normal(self.mean, self.log_scale.exp()), 1)
        return MixtureSameFamily(Categorical(logits=self.logits), components)
