"""Reparameterised samples from an explicit source of randomness."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal


def reparameterised_sample(distribution: Distribution, generator: torch.Generator | None = None) -> Tensor:
    """Draw one sample through which gradients flow.

    Args:
        distribution: The distribution; a (possibly independent) normal if a generator is given.
        generator: The source of randomness, or None for torch's global one.

    Returns:
        The sample, of the batch and event shape of the distribution.

    Raises:
        TypeError: If a generator is given and the distribution is not normal, since torch.distributions take none.

    Example:
        >>> normal = Normal(torch.zeros(3), torch.ones(3))
        >>> first = reparameterised_sample(normal, torch.Generator().manual_seed(0))
        >>> second = reparameterised_sample(normal, torch.Generator().manual_seed(0))
        >>> assert torch.equal(first, second)
    """
    if generator is None:
        return distribution.rsample()
    base = distribution
    while isinstance(base, Independent):
        base = base.base_dist
    if not isinstance(base, Normal):
        raise TypeError(f"generator: expected None for a {type(base).__name__}, whose rsample takes none, got one")
    noise = torch.randn(base.loc.shape, generator=generator, dtype=base.loc.dtype, device=base.loc.device)
    return base.loc + base.scale * noise
