"""The variational autoencoder with sparse changes of the latents from frame to frame."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from latentflow.vae import Likelihood
from latentflow_experiments.data import SequenceDataset
from latentflow_experiments.methods.autoencoder import Autoencoder, AutoencoderMethod
from latentflow_experiments.methods.method import ModelSettings, build_decoder, build_encoder, require
from latentflow_experiments.methods.pixels import LIKELIHOODS


class SlowVAE(Autoencoder):
    r"""The SlowVAE: consecutive frames have latents that differ by a Laplace variable.

    Each pair :math:`(x_{t-1}, x_t)` of consecutive frames of a sequence is explained by the prior

    .. math:: p(z_{t-1}) \, p(z_t | z_{t-1}), \quad p(z_{t-1}) = N(0, I), \quad
        p(z_t | z_{t-1}) = \prod_i \frac{\lambda}{2} \exp(-\lambda |z_{t,i} - z_{t-1,i}|) .

    With :math:`q_t = q(z_t | x_t) = N(\mu_t, \mathrm{diag}(\sigma_t^2))` training minimizes

    .. math::
        \frac{1}{T+1} \sum_{t=0}^{T} \big(-E_{q_t}[\log p(x_t | z_t)] + \beta \, KL(q_t \| N(0, I))\big)
        + \frac{\gamma}{T} \sum_{t=1}^{T} \big(KL(q_t \| p(\cdot | \mu_{t-1})) + KL(q_{t-1} \| p(\cdot | \mu_t))\big)

    as the mean over the sequences. Both directions count, because the Laplace distribution is symmetric and the order
    of a pair could be the other; each conditions on the mean of the other frame. A divergence is
    :math:`KL(N(\mu, \sigma^2) \| \mathrm{Laplace}(\mu', 1/\lambda))`, summed over the coordinates, with
    :math:`m = \mu - \mu'`, the cross-entropy

    .. math:: -\log\frac{\lambda}{2} + \lambda \Big(\sigma \sqrt{\tfrac{2}{\pi}} \, e^{-m^2 / 2 \sigma^2}
        + m \, \mathrm{erf}\frac{m}{\sqrt{2} \sigma}\Big)

    and the entropy :math:`\frac12 \log(2 \pi e \sigma^2)` subtracted. The code released by the authors subtracts only
    one entropy for the two cross-entropies of a pair; its transition term exceeds this one by the mean entropy of a
    frame, in value and in gradient.

    The terms of frames are means over all frames, each of which is encoded and decoded once, and the term of
    transitions is the mean over all pairs of the sum of the two directions. With one pair to a sequence this is the
    scale of the authors' code, for which the default weights were chosen. Pairs never cross from one sequence to
    another.

    Args:
        encoder: Maps images to a normal distribution over latents.
        decoder: Maps latents to what the likelihood takes.
        likelihood: Maps the decoder's output to a distribution over images.
        beta: The weight of the divergence from the standard normal distribution.
        gamma: The weight of the divergence from the transition.
        rate: The rate :math:`\lambda` of the Laplace distribution, per unit of a latent coordinate.
        drawn_frames: The number of consecutive frames that a training step sees, at least two, from a place drawn by
            lot; None for all. Two of them are a pair, as the authors train; the first and the last frame then come half
            as often as the others.

    Raises:
        ValueError: If a weight is negative or the rate is not positive.

    References:
        D. Klindt et al., Towards Nonlinear Disentanglement in Natural Data with Temporal Sparse Coding, ICLR 2021.

    Example:
        >>> from latentflow import MLPDecoder, MLPEncoder
        >>> from latentflow.vae import BernoulliLikelihood
        >>> model = SlowVAE(MLPEncoder((1, 8, 8), 4), MLPDecoder(4, (1, 8, 8)), BernoulliLikelihood(), gamma=10.0)
        >>> terms = model(torch.rand(2, 5, 1, 8, 8), torch.tensor([0, 1]))
        >>> total = terms["reconstruction"] + terms["kl"] + 10 * terms["transition"]
        >>> torch.testing.assert_close(terms["total"], total)
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Distribution],
        decoder: Callable[[Tensor], Tensor],
        likelihood: Likelihood,
        beta: float = 1.0,
        gamma: float = 10.0,
        rate: float = 6.0,
        drawn_frames: int | None = None,
    ) -> None:
        super().__init__(encoder, decoder, likelihood, drawn_frames)
        for name, weight in {"beta": beta, "gamma": gamma}.items():
            if not weight >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {weight!r}")
        _check_rate(rate)
        self.beta = beta
        self.gamma = gamma
        self.rate = rate

    def forward(
        self,
        frames: Tensor,
        k: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Compute the terms of the loss.

        Args:
            frames: Sequences, of shape ``(batch, T+1, channels, height, width)``, in [0, 1], with ``T`` at least 1.
            k: Not used.
            generator: The source of randomness, or None for torch's global one.

        Returns:
            The terms by their names, each of shape ``()``, in nats: ``reconstruction``, and without their weights
            ``kl`` and ``transition``, and ``total``, which training minimizes.

        Raises:
            TypeError: If the encoder's distribution is not normal.
            ValueError: If ``frames`` has another number of dimensions or fewer than two frames.
        """
        if frames.ndim != 5 or frames.shape[1] < 2:
            raise ValueError(
                f"frames: expected shape (batch, T+1, channels, height, width) with at least two frames, "
                f"got {tuple(frames.shape)}"
            )
        frames = self.draw(frames, generator)
        posterior, _, reconstruction, divergence = self.explain(frames.flatten(0, 1), generator)
        mean, scale = (part.reshape(*frames.shape[:2], -1) for part in _parameters(posterior))
        transition = self.transition(mean, scale).mean()
        total = (reconstruction + self.beta * divergence).mean() + self.gamma * transition
        return {
            "total": total,
            "reconstruction": reconstruction.mean(),
            "kl": divergence.mean(),
            "transition": transition,
        }

    def draw(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw consecutive frames, the same places of all sequences; return all in evaluation mode."""
        count = frames.shape[1]
        size = count if self.drawn_frames is None or not self.training else min(max(self.drawn_frames, 2), count)
        begin = (
            0 if size == count else int(torch.randint(count - size + 1, (), generator=generator, device=frames.device))
        )
        return frames[:, begin : begin + size]

    def transition(self, mean: Tensor, scale: Tensor) -> Tensor:
        r"""Compute the divergence from the transition, in both directions, of all pairs of consecutive frames.

        Args:
            mean: The means :math:`\mu_t`, of shape ``(batch, T+1, dim)``.
            scale: The standard deviations :math:`\sigma_t`, of shape ``(batch, T+1, dim)``.

        Returns:
            The sum of the two divergences, of shape ``(batch, T)``, in nats.
        """
        change = mean[:, 1:] - mean[:, :-1]
        forwards = laplace_divergence(change, scale[:, 1:], self.rate)
        backwards = laplace_divergence(-change, scale[:, :-1], self.rate)
        return (forwards + backwards).sum(-1)


def expected_absolute(mean: Tensor, scale: Tensor) -> Tensor:
    r"""Compute :math:`E|x|` of a normal variable :math:`x \sim N(m, \sigma^2)`.

    .. math:: \sigma \sqrt{2 / \pi} \, e^{-m^2 / 2 \sigma^2} + m \, \mathrm{erf}(m / \sqrt{2} \sigma)

    Args:
        mean: The mean :math:`m`.
        scale: The standard deviation :math:`\sigma`, of a shape that broadcasts with that of ``mean``.

    Returns:
        The expectation, of the common shape.

    Example:
        >>> far, half_normal = expected_absolute(torch.tensor([-3.0, 0.0]), torch.tensor([1e-3, 1.0]))
        >>> torch.testing.assert_close(far, torch.tensor(3.0))
        >>> torch.testing.assert_close(half_normal, torch.tensor(2 / torch.pi).sqrt())
    """
    ratio = mean / scale
    density = math.sqrt(2 / math.pi) * (-ratio.square() / 2).exp()
    return scale * density + mean * torch.erf(ratio / math.sqrt(2))


def laplace_divergence(mean: Tensor, scale: Tensor, rate: float) -> Tensor:
    r"""Compute :math:`KL(N(m, \sigma^2) \| \mathrm{Laplace}(0, 1 / \lambda))`.

    .. math:: \lambda E|x| - \log\tfrac{\lambda}{2} - \tfrac12 \log(2 \pi e \sigma^2)

    Args:
        mean: The mean :math:`m`.
        scale: The standard deviation :math:`\sigma`, of a shape that broadcasts with that of ``mean``.
        rate: The rate :math:`\lambda`.

    Returns:
        The divergence, of the common shape, in nats; at least 0.

    Raises:
        ValueError: If the rate is not positive.

    Example:
        >>> assert laplace_divergence(torch.zeros(()), torch.tensor(0.2), rate=6.0) > 0
    """
    _check_rate(rate)
    entropy = scale.log() + math.log(2 * math.pi * math.e) / 2
    return rate * expected_absolute(mean, scale) - math.log(rate / 2) - entropy


def _parameters(posterior: Distribution) -> tuple[Tensor, Tensor]:
    """Read the mean and the standard deviation off a normal distribution with a diagonal covariance."""
    base = posterior.base_dist if isinstance(posterior, Independent) else posterior
    if not isinstance(base, Normal):
        raise TypeError(f"encoder: expected a normal distribution, got {type(base).__name__}")
    return base.loc, base.scale


def _check_rate(rate: float) -> None:
    if not rate > 0:
        raise ValueError(f"rate: expected a positive number, got {rate!r}")


@dataclass(frozen=True)
class SlowVAEOptions:
    """Options of the SlowVAE.

    Attributes:
        slow_weight: Weight of the divergence from the Laplace transition, for slow-vae.
        slow_rate: Rate of the Laplace transition, for slow-vae.
    """

    slow_weight: float = 10.0
    slow_rate: float = 6.0

    def __post_init__(self) -> None:
        require(0 <= self.slow_weight < float("inf"), "slow-weight", "a number of at least 0", self.slow_weight)
        require(0 <= self.slow_rate < float("inf"), "slow-rate", "a number of at least 0", self.slow_rate)


class SlowVAEMethod(AutoencoderMethod[SlowVAE]):
    """The SlowVAE, with traversals of one coordinate."""

    name = "slow-vae"
    options = SlowVAEOptions

    def build(self, settings: ModelSettings, data: SequenceDataset) -> SlowVAE:
        """Build the model."""
        encoder, decoder = build_encoder(settings, data, settings.dim), build_decoder(settings, data, settings.dim)
        options, likelihood = settings.options(SlowVAEOptions), LIKELIHOODS[settings.likelihood]()
        weight, rate, frames = options.slow_weight, options.slow_rate, settings.decoded_frames
        return SlowVAE(encoder, decoder, likelihood, gamma=weight, rate=rate, drawn_frames=frames)


METHODS = (SlowVAEMethod(),)
