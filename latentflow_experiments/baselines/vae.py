r"""The variational autoencoder."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.distributions import Distribution

from latentflow.vae import Likelihood
from latentflow_experiments.baselines.beta_vae import BetaVAE

__all__ = ["VAE"]


class VAE(BetaVAE):
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

    def __init__(
        self,
        encoder: Callable[[Tensor], Distribution],
        decoder: Callable[[Tensor], Tensor],
        likelihood: Likelihood,
    ) -> None:
        super().__init__(encoder, decoder, likelihood, beta=1.0)
