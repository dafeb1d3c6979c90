r"""The variational autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor

from latentflow.experiments.baselines.autoencoder import Autoencoder

__all__ = ["VAE"]


class VAE(Autoencoder):
    r"""The variational autoencoder: every frame of every sequence is an image of its own.

    Training minimises, as the mean over the images,

    .. math:: -E_{q(z | x)}[\log p(x | z)] + KL(q(z | x) \| N(0, I)).

    It has no rule of how a transformation moves a latent: the latent stays where it is, and its equivariance error is
    that of a static picture.

    Args:
        encoder: Maps images to a normal distribution over latents.
        decoder: Maps latents to what the likelihood takes.
        likelihood: Maps the decoder's output to a distribution over images.

    References:
        D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes, ICLR 2014.
    """

    def forward(
        self,
        frames: Tensor,
        k: Tensor | None = None,  # noqa: ARG002 - sees no transformation
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Compute the terms of the loss.

        Args:
            frames: Sequences, of shape ``(batch, T+1, channels, height, width)``, in [0, 1].
            k: Not used.
            generator: The source of randomness, or None for torch's global one.

        Returns:
            The terms by their names, each of shape ``()``, in nats; ``total`` is what training minimises.
        """
        _, _, reconstruction, divergence = self.explain(frames.flatten(0, 1), generator)
        total = reconstruction + divergence
        return {"total": total.mean(), "reconstruction": reconstruction.mean(), "kl": divergence.mean()}
