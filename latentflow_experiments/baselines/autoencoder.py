r"""What the baselines share: an encoder, a decoder and a likelihood, those of the flow-factorised VAE."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from latentflow.vae import Likelihood, reparameterised_sample
from latentflow.vae.bounds import estimate_divergence

__all__ = ["Autoencoder"]


class Autoencoder(nn.Module):
    r"""An encoder :math:`q(z | x)`, a decoder :math:`p(x | z)` and the prior :math:`N(0, I)`.

    Args:
        encoder: Maps images ``(batch, channels, height, width)`` to a normal distribution over latents ``(dim,)``.
        decoder: Maps latents ``(batch, dim)`` to what the likelihood takes.
        likelihood: Maps the decoder's output to a distribution over images.
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Distribution],
        decoder: Callable[[Tensor], Tensor],
        likelihood: Likelihood,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood

    def encode(self, x: Tensor) -> Distribution:
        """Infer the latents of images ``(batch, channels, height, width)``, as events of shape ``(dim,)``."""
        posterior: Distribution = self.encoder(x)
        return posterior

    def decode(self, z: Tensor) -> Distribution:
        """Say how the images of latents ``(*batch, dim)`` are distributed."""
        decoded = self.decoder(z.reshape(-1, z.shape[-1])).to(z.dtype)  # autocast may have lowered it
        return self.likelihood(decoded.reshape(*z.shape[:-1], *decoded.shape[1:]))

    def explain(
        self, x: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Distribution, Tensor, Tensor, Tensor]:
        r"""Compute the two terms of the evidence lower bound of each image.

        Args:
            x: Images, of shape ``(batch, channels, height, width)``, in [0, 1].
            generator: The source of randomness, or None for torch's global one.

        Returns:
            The posterior; a sample of it, of shape ``(batch, dim)``; the reconstruction :math:`-\log p(x | z)` and the
            divergence :math:`KL(q(z | x) \| N(0, I))`, both of shape ``(batch,)``, in nats.
        """
        posterior = self.encode(x)
        z = reparameterised_sample(posterior, generator)
        standard = Independent(Normal(torch.zeros_like(z), 1.0, validate_args=False), 1, validate_args=False)
        return posterior, z, -self.decode(z).log_prob(x), estimate_divergence(posterior, standard, z)
