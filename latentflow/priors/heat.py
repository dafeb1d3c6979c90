r"""The heat flow of normal distributions and their mixtures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal


def heat_flow(distribution: Distribution, variance: Tensor) -> Distribution:
    r"""Convolve a distribution with :math:`N(0, \sigma^2 I)`, which is what the heat equation does.

    .. math:: \sum_i w_i N(\mu_i, \Sigma_i) \mapsto \sum_i w_i N(\mu_i, \Sigma_i + \sigma^2 I)

    Args:
        distribution: A normal distribution with events of shape ``(dim,)``, with a diagonal or a full covariance, or a
            mixture of such.
        variance: The variance :math:`\sigma^2`, at least 0, of a shape that broadcasts with the batch shape.

    Returns:
        The distribution, of the batch shape to which both broadcast.

    Raises:
        TypeError: If the distribution is neither normal nor a mixture of normals.

    Example:
        >>> start = Independent(Normal(torch.ones(2), torch.full((2,), 3.0)), 1)
        >>> torch.testing.assert_close(heat_flow(start, torch.tensor(16.0)).stddev, torch.full((2,), 5.0))
    """
    if isinstance(distribution, MixtureSameFamily):
        components = heat_flow(distribution.component_distribution, variance.unsqueeze(-1))
        logits: Tensor = distribution.mixture_distribution.logits
        return MixtureSameFamily(Categorical(logits=logits.expand(components.batch_shape)), components)
    if isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal):
        normal = distribution.base_dist
        scale = (normal.variance + variance.unsqueeze(-1)).sqrt()
        return Independent(Normal(normal.loc, scale), 1)
    if isinstance(distribution, MultivariateNormal):
        covariance: Tensor = distribution.covariance_matrix
        eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        return MultivariateNormal(distribution.loc, covariance + variance[..., None, None] * eye)
    raise TypeError(
        f"prior: expected a normal distribution over (dim,) events or a mixture of them, "
        f"got {type(distribution).__name__}"
    )
