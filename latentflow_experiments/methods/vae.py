"""The variational autoencoder, with and without a weight on its divergence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentflow.vae import Likelihood
from latentflow_experiments.data import SequenceDataset
from latentflow_experiments.methods.autoencoder import Autoencoder, AutoencoderMethod
from latentflow_experiments.methods.method import (
    Choice,
    ModelSettings,
    build_decoder,
    build_encoder,
    require,
)
from latentflow_experiments.methods.pixels import LIKELIHOODS


class BetaVAE(Autoencoder):
    r"""The beta-VAE: every frame of every sequence is an image of its own.

    Training minimizes, as the mean over the images,

    .. math:: -E_{q(z | x)}[\log p(x | z)] + \beta \, KL(q(z | x) \| N(0, I)).

    The likelihood is a sum over the pixels and the divergence a sum over the latent coordinates. Code that takes means
    over both has another :math:`\beta`: multiply it by the pixel values of an image and divide it by the latent
    dimension to get this one.

    Args:
        encoder: Maps images to a normal distribution over latents.
        decoder: Maps latents to what the likelihood takes.
        likelihood: Maps the decoder's output to a distribution over images.
        beta: The weight of the divergence; 1 makes a variational autoencoder.
        drawn_frames: See :class:`Autoencoder`.

    Raises:
        ValueError: If ``beta`` is negative.

    References:
        I. Higgins et al., beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework, ICLR 2017.

    Example:
        >>> from latentflow import MLPDecoder, MLPEncoder
        >>> from latentflow.vae import BernoulliLikelihood
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
        drawn_frames: int | None = None,
    ) -> None:
        super().__init__(encoder, decoder, likelihood, drawn_frames)
        if not beta >= 0:
            raise ValueError(f"beta: expected a number of at least 0, got {beta!r}")
        self.beta = beta

    def forward(
        self,
        frames: Tensor,
        k: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Compute the terms of the loss.

        Args:
            frames: Sequences, of shape ``(batch, T+1, channels, height, width)``, in [0, 1].
            k: Not used.
            generator: The source of randomness, or None for torch's global one.

        Returns:
            The terms by their names, each of shape ``()``, in nats: ``reconstruction``, ``kl`` without its weight, and
            ``total``, which training minimizes.

        Raises:
            ValueError: If ``frames`` has another number of dimensions.
        """
        if frames.ndim != 5:
            raise ValueError(f"frames: expected shape (batch, T+1, channels, height, width), got {tuple(frames.shape)}")
        _, _, reconstruction, divergence = self.explain(self.draw(frames, generator).flatten(0, 1), generator)
        total = reconstruction + self.beta * divergence
        return {"total": total.mean(), "reconstruction": reconstruction.mean(), "kl": divergence.mean()}


class VAE(BetaVAE):
    r"""The variational autoencoder: every frame of every sequence is an image of its own.

    Training minimizes, as the mean over the images,

    .. math:: -E_{q(z | x)}[\log p(x | z)] + KL(q(z | x) \| N(0, I)).

    It has no rule of how a transformation moves a latent: the latent stays where it is, and its equivariance error is
    that of a static picture.

    Args:
        encoder: Maps images to a normal distribution over latents.
        decoder: Maps latents to what the likelihood takes.
        likelihood: Maps the decoder's output to a distribution over images.
        drawn_frames: See :class:`Autoencoder`.

    References:
        D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes, ICLR 2014.
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Distribution],
        decoder: Callable[[Tensor], Tensor],
        likelihood: Likelihood,
        drawn_frames: int | None = None,
    ) -> None:
        super().__init__(encoder, decoder, likelihood, beta=1.0, drawn_frames=drawn_frames)


class VAEMethod(AutoencoderMethod[VAE]):
    """The variational autoencoder, with latents that stay where they are."""

    name = "vae"
    validates = True

    def build(self, settings: ModelSettings, data: SequenceDataset) -> VAE:
        """Build the model."""
        encoder, decoder = build_encoder(settings, data, settings.dim), build_decoder(settings, data, settings.dim)
        return VAE(encoder, decoder, LIKELIHOODS[settings.likelihood](), settings.decoded_frames)

    def choose(self, model: VAE, validation: SequenceDataset) -> Choice:
        """Choose nothing: the paper compares with the static latent."""
        return Choice()


@dataclass(frozen=True)
class BetaVAEOptions:
    """Options of the beta-VAE.

    Attributes:
        beta: Weight of the divergence, for beta-vae.
    """

    beta: float = 4.0

    def __post_init__(self) -> None:
        require(0 <= self.beta < float("inf"), "beta", "a number of at least 0", self.beta)


class BetaVAEMethod(AutoencoderMethod[BetaVAE]):
    """The beta-VAE, with traversals of one coordinate."""

    name = "beta-vae"
    options = BetaVAEOptions

    def build(self, settings: ModelSettings, data: SequenceDataset) -> BetaVAE:
        """Build the model."""
        encoder, decoder = build_encoder(settings, data, settings.dim), build_decoder(settings, data, settings.dim)
        likelihood, beta = LIKELIHOODS[settings.likelihood](), settings.options(BetaVAEOptions).beta
        return BetaVAE(encoder, decoder, likelihood, beta, settings.decoded_frames)


METHODS = (VAEMethod(), BetaVAEMethod())
