r"""The standard normal prior."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from latentflow.calculus import Time


class GaussianPrior(nn.Module):
    r"""The standard normal distribution :math:`N(0, I)` at all times.

    Args:
        dim: The number of coordinates.

    Example:
        >>> prior = GaussianPrior(3)
        >>> expected = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))
        >>> z = torch.randn(4, 3)
        >>> torch.testing.assert_close(prior(t=2.0).log_prob(z), expected.log_prob(z))
    """

    mean: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim), persistent=False)

    def forward(self, t: Time = 0.0, k: int | Tensor | None = None) -> Distribution:  # noqa: ARG002 - a prior's signature
        """Build the distribution.

        Args:
            t: The time; it makes no difference.
            k: The index of the field; it makes no difference.

        Returns:
            The distribution, with events of shape ``(dim,)``.
        """
        return Independent(Normal(self.mean, torch.ones_like(self.mean)), 1)
