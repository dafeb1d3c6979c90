r"""The variational autoencoder with a weight on its divergence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentflow.vae import Likelihood
from latentflow_experiments.baselines.autoencoder import Autoencoder

__all__ = ["BetaVAE"]


class BetaVAE(Autoencoder):
    r"""The beta-VAE: every frame of every sequence is an image of its own.

    Training minimises, as the mean over the images,

    .. math:: -E_{q(z | x)}[\log p(x | z)] + \beta \, KL(q(z | x) \| N(0, I)).

    The likelihood is a sum over the pixels and the divergence a sum over the latent coordinates. Code that takes means
    over both has another :math:`\beta`: multiply it by the pixel values of an image and divide it by the latent
    dimension to get this one.

    Args:
        encoder: Maps images to a normal distribution over latents.
        decoder: Maps latents to what the likelihood takes.
        likelihood: Maps the decoder's output to a distribution over images.
        beta: The weight of the divergence; 1 makes a variational autoencoder.

    Raises:
        ValueError: If ``beta`` is negative.

    References:
        I. Higgins et al., beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework, ICLR 2017.

    Example:
        >>> from latentflow import BernoulliLikelihood, MLPDecoder, MLPEncoder
        >>> model = BetaVAE(MLPEncoder((1, 8, 8), 4), MLPDecoder(4, (1, 8, 8)), BernoulliLikelihood(), beta=4.0)
        >>> terms = model(torch.rand(2, 5, 1, 8, 8), torch.tensor([0, 1]))
        >>> torch.testing.assert_close(terms["total"], terms["reconstruction"] + 4 * terms["kl"])
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Distribution],
        decoder: Callable[[Tensor], Tensor],
        likelihood: Likelihood,
        beta: float = 4.0,
    ) -> None:
        super().__init__(encoder, decoder, likelihood)
        if not beta >= 0:
            raise ValueError(f"beta: expected a number of at least 0, got {beta!r}")
        self.beta = beta

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
            The terms by their names, each of shape ``()``, in nats: ``reconstruction``, ``kl`` without its weight, and
            ``total``, which training minimises.

        Raises:
            ValueError: If ``frames`` has another number of dimensions.
        """
        if frames.ndim != 5:
            raise ValueError(f"frames: expected shape (batch, T+1, channels, height, width), got {tuple(frames.shape)}")
        _, _, reconstruction, divergence = self.explain(frames.flatten(0, 1), generator)
        total = reconstruction + self.beta * divergence
        return {"total": total.mean(), "reconstruction": reconstruction.mean(), "kl": divergence.mean()}
