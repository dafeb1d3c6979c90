r"""What a decoder's output says about an image."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from torch.distributions import Bernoulli, ContinuousBernoulli, Distribution, Independent, Normal


class Likelihood(Protocol):
    """Maps the output of a decoder, of shape ``(*batch, channels, height, width)``, to a distribution over images."""

    def __call__(self, decoded: Tensor) -> Distribution:
        """Build the distribution, with events of shape ``(channels, height, width)``; its mean is the picture."""


class BernoulliLikelihood:
    r"""Pixels as independent Bernoulli variables, with the decoder's output as logits.

    For pixels strictly between 0 and 1 the log-probability is the negative cross-entropy, which training uses but
    which is not a normalised density of such pixels.

    Example:
        >>> import torch
        >>> decoded = torch.zeros(2, 1, 4, 4)
        >>> torch.testing.assert_close(BernoulliLikelihood()(decoded).mean, torch.full((2, 1, 4, 4), 0.5))
    """

    def __call__(self, decoded: Tensor) -> Distribution:
        """Build the distribution from logits of shape ``(*batch, channels, height, width)``."""
        return Independent(Bernoulli(logits=decoded, validate_args=False), 3, validate_args=False)


class ContinuousBernoulliLikelihood:
    r"""Pixels as independent continuous Bernoulli variables, with the decoder's output as logits.

    Its density on [0, 1] is :math:`C(\lambda) \lambda^x (1 - \lambda)^{1 - x}`, the Bernoulli formula with the constant
    that makes it a density of grey pixels. Its mean, the picture, is not :math:`\lambda`.

    References:
        G. Loaiza-Ganem and J. P. Cunningham, The continuous Bernoulli: fixing a pervasive error in variational
        autoencoders, NeurIPS 2019.

    Example:
        >>> import torch
        >>> uniform = ContinuousBernoulliLikelihood()(torch.zeros(2, 1, 4, 4))
        >>> torch.testing.assert_close(uniform.log_prob(torch.rand(2, 1, 4, 4)), torch.zeros(2))
    """

    def __call__(self, decoded: Tensor) -> Distribution:
        """Build the distribution from logits of shape ``(*batch, channels, height, width)``."""
        return Independent(ContinuousBernoulli(logits=decoded, validate_args=False), 3, validate_args=False)


class GaussianLikelihood:
    r"""Pixels as independent normal variables around the decoder's output.

    Args:
        scale: The standard deviation of a pixel.

    Raises:
        ValueError: If ``scale`` is not positive.

    Example:
        >>> import torch
        >>> decoded = torch.rand(2, 1, 4, 4)
        >>> log_prob = GaussianLikelihood(scale=1.0)(decoded).log_prob(decoded)
        >>> torch.testing.assert_close(log_prob, torch.full((2,), 16.0) * -0.5 * torch.tensor(2 * torch.pi).log())
    """

    def __init__(self, scale: float = 1.0) -> None:
        if not scale > 0:
            raise ValueError(f"scale: expected a positive number, got {scale!r}")
        self.scale = scale

    def __call__(self, decoded: Tensor) -> Distribution:
        """Build the distribution around a decoder's output of shape ``(*batch, channels, height, width)``."""
        return Independent(Normal(decoded, self.scale), 3)
