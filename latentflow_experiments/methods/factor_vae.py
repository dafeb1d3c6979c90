"""The variational autoencoder with a penalty on the total correlation of its latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from latentflow.vae import Likelihood
from latentflow_experiments.data import SequenceDataset
from latentflow_experiments.methods.autoencoder import Autoencoder, AutoencoderMethod
from latentflow_experiments.methods.method import ModelSettings, build_decoder, build_encoder, require
from latentflow_experiments.methods.pixels import LIKELIHOODS

JOINT, PERMUTED = 0, 1  # the classes


LEAST_IMAGES = 4  # two in each half: one image cannot be permuted


class FactorVAE(Autoencoder):
    r"""The FactorVAE: every frame of every sequence is an image of its own.

    Training minimizes, as the mean over the images,

    .. math::
        -E_{q(z | x)}[\log p(x | z)] + KL(q(z | x) \| N(0, I)) + \gamma \, TC, \qquad
        TC = KL\Big(q(z) \Big\| \prod_i q(z_i)\Big) \approx E_{q(z)}[\ell_0(z) - \ell_1(z)],

    with the logits :math:`\ell` of a discriminator that tells latents (class 0) from latents whose coordinates come
    from different images (class 1). It is trained together with the autoencoder, on its cross-entropy

    .. math:: -\tfrac12 \log D_0(z) - \tfrac12 \log D_1(z'), \qquad D = \mathrm{softmax}(\ell).

    ``total`` is the sum of both losses, for one backward pass and one optimizer: the total correlation sees the weights
    of the discriminator as constants, and the cross-entropy sees the latents as constants, so that neither player
    receives the gradient of the other. Both move in the same step. The value of ``total`` is therefore not an
    objective; ``total - discriminator`` is that of the autoencoder.

    All images of a batch are encoded once and all enter the evidence lower bound. A random permutation splits them into
    halves: the first estimates the total correlation and is class 0, the second, whose coordinates are permuted over
    the images independently of each other, is class 1. A batch should mix all transformations: where they take turns,
    coordinates that vary together because both depend on the transformation count as independent.

    Args:
        encoder: Maps images to a normal distribution over latents.
        decoder: Maps latents to what the likelihood takes.
        likelihood: Maps the decoder's output to a distribution over images.
        dim: The number of latent coordinates.
        gamma: The weight of the total correlation.
        hidden: The widths of the hidden layers of the discriminator, which have leaky ReLUs of slope 0.2.
        discriminator_scale: The learning rate of the discriminator relative to that of the autoencoder. Known settings
            lie between a tenth and one; the default is one, as for dSprites, whose moved sprites are most like the
            sequences here, and because a discriminator that lags behind underestimates the total correlation.
        drawn_frames: See :class:`Autoencoder`.

    Raises:
        ValueError: If ``gamma`` is negative, ``dim`` or a width is less than 1, or the scale is not positive.

    References:
        H. Kim and A. Mnih, Disentangling by Factorising, ICML 2018.

    Example:
        >>> from latentflow import MLPDecoder, MLPEncoder
        >>> from latentflow.vae import BernoulliLikelihood
        >>> encoder, decoder = MLPEncoder((1, 8, 8), 4), MLPDecoder(4, (1, 8, 8))
        >>> model = FactorVAE(encoder, decoder, BernoulliLikelihood(), dim=4, gamma=6.4, hidden=(16, 16))
        >>> terms = model(torch.rand(2, 5, 1, 8, 8), torch.tensor([0, 1]))
        >>> bound = terms["reconstruction"] + terms["kl"]
        >>> total = bound + 6.4 * terms["total_correlation"] + terms["discriminator"]
        >>> torch.testing.assert_close(terms["total"], total)
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Distribution],
        decoder: Callable[[Tensor], Tensor],
        likelihood: Likelihood,
        dim: int,
        gamma: float = 6.4,
        hidden: Sequence[int] = (1000,) * 5,
        discriminator_scale: float = 1.0,
        drawn_frames: int | None = None,
    ) -> None:
        super().__init__(encoder, decoder, likelihood, drawn_frames)
        if dim < 1:
            raise ValueError(f"dim: expected a number of at least 1, got {dim}")
        if not gamma >= 0:
            raise ValueError(f"gamma: expected a number of at least 0, got {gamma!r}")
        if not all(width >= 1 for width in hidden):
            raise ValueError(f"hidden: expected widths of at least 1, got {tuple(hidden)}")
        if not discriminator_scale > 0:
            raise ValueError(f"discriminator_scale: expected a positive number, got {discriminator_scale!r}")
        self.gamma = gamma
        self.discriminator_scale = discriminator_scale
        self.discriminator = _discriminator((dim, *hidden))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters in the form that torch's Adam optimizers take.

        Returns:
            The group of the autoencoder, then that of the discriminator, with its ``betas`` and, as ``scale``, the
            factor that the training loop has to put on its learning rate.
        """
        theirs = list(self.discriminator.parameters())
        known = {id(parameter) for parameter in theirs}
        ours = [parameter for parameter in self.parameters() if id(parameter) not in known]
        return [{"params": ours}, {"params": theirs, "betas": (0.5, 0.9), "scale": self.discriminator_scale}]

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
            The terms by their names, each of shape ``()``, in nats: ``reconstruction``, ``kl``, ``total_correlation``
            without its weight, ``discriminator`` and ``total``, which training minimizes.

        Raises:
            ValueError: If ``frames`` has another number of dimensions or holds fewer than 4 images.
        """
        if frames.ndim != 5 or frames.shape[:2].numel() < LEAST_IMAGES:
            raise ValueError(
                f"frames: expected shape (batch, T+1, channels, height, width) with at least {LEAST_IMAGES} images, "
                f"got {tuple(frames.shape)}"
            )
        _, z, reconstruction, divergence = self.explain(self.draw(frames, generator).flatten(0, 1), generator)
        first, second = _halves(z, generator)
        weights = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        correlation = total_correlation(functional_call(self.discriminator, weights, (first,)).to(z.dtype))
        joint: Tensor = self.discriminator(first.detach())
        permuted: Tensor = self.discriminator(permute_coordinates(second.detach(), generator))
        discriminator = discriminator_loss(joint.to(z.dtype), permuted.to(z.dtype))
        total = (reconstruction + divergence).mean() + self.gamma * correlation + discriminator
        return {
            "total": total,
            "reconstruction": reconstruction.mean(),
            "kl": divergence.mean(),
            "total_correlation": correlation,
            "discriminator": discriminator,
        }


def total_correlation(logits: Tensor) -> Tensor:
    r"""Estimate the total correlation from the logits of latents.

    Args:
        logits: The discriminator's logits of latents that were not permuted, of shape ``(count, 2)``.

    Returns:
        The mean of :math:`\ell_0 - \ell_1`, of shape ``()``, in nats; exact for the optimal discriminator up to the
        error of the sample, which can make it negative.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0], [3.0, 1.0]])
        >>> torch.testing.assert_close(total_correlation(logits), torch.tensor(1.5))
    """
    return (logits[:, JOINT] - logits[:, PERMUTED]).mean()


def discriminator_loss(joint: Tensor, permuted: Tensor) -> Tensor:
    """Compute the cross-entropy of the discriminator, both classes weighted equally.

    Args:
        joint: Its logits of latents, of shape ``(count, 2)``.
        permuted: Its logits of latents with permuted coordinates, of shape ``(count, 2)``.

    Returns:
        The cross-entropy, of shape ``()``, in nats.

    Example:
        >>> blind = torch.zeros(5, 2)
        >>> torch.testing.assert_close(discriminator_loss(blind, blind), torch.tensor(2.0).log())
    """
    zeros = torch.full((len(joint),), JOINT, device=joint.device)
    ones = torch.full((len(permuted),), PERMUTED, device=permuted.device)
    return (cross_entropy(joint, zeros) + cross_entropy(permuted, ones)) / 2


def permute_coordinates(z: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Permute every coordinate over the samples, independently of the others.

    Args:
        z: Latents, of shape ``(count, dim)``.
        generator: The source of randomness, or None for torch's global one.

    Returns:
        Latents of the same shape: approximately samples of the product of the marginals, for each of which exactly the
        values of ``z`` occur.

    Example:
        >>> z = torch.arange(12.0).reshape(4, 3)
        >>> permuted = permute_coordinates(z, torch.Generator().manual_seed(0))
        >>> torch.testing.assert_close(permuted.sort(0).values, z)
    """
    order = torch.rand(z.shape, generator=generator, device=z.device).argsort(0)
    return z.gather(0, order)


def _discriminator(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with a leaky ReLU after each, then one with a logit for each class."""
    layers: list[nn.Module] = []
    for n, m in pairwise(widths):
        layers += [nn.Linear(n, m), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 2))


def _halves(z: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Split latents ``(count, dim)`` at random into two halves of equal size; of an odd count, one is left out."""
    half = len(z) // 2
    order = torch.randperm(len(z), generator=generator, device=z.device)
    return z[order[:half]], z[order[half : 2 * half]]


@dataclass(frozen=True)
class FactorVAEOptions:
    """Options of the FactorVAE.

    Attributes:
        tc_weight: Weight of the total correlation, for factor-vae.
    """

    tc_weight: float = 6.4

    def __post_init__(self) -> None:
        require(0 <= self.tc_weight < float("inf"), "tc-weight", "a number of at least 0", self.tc_weight)


class FactorVAEMethod(AutoencoderMethod[FactorVAE]):
    """The FactorVAE, with traversals of one coordinate."""

    name = "factor-vae"
    options = FactorVAEOptions

    def build(self, settings: ModelSettings, data: SequenceDataset) -> FactorVAE:
        """Build the model."""
        encoder, decoder = build_encoder(settings, data, settings.dim), build_decoder(settings, data, settings.dim)
        weight = settings.options(FactorVAEOptions).tc_weight
        likelihood, frames = LIKELIHOODS[settings.likelihood](), settings.decoded_frames
        return FactorVAE(encoder, decoder, likelihood, settings.dim, weight, drawn_frames=frames)

    def parameter_groups(self, model: FactorVAE) -> list[dict[str, Any]]:
        """Group the parameters of the autoencoder and of the discriminator."""
        return model.parameter_groups()


METHODS = (FactorVAEMethod(),)
