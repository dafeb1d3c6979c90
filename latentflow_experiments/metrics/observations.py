r"""What is seen of a frame, and how likely a decoder finds it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import Bernoulli, ContinuousBernoulli, Distribution, Independent
from torch.nn.functional import logsigmoid

__all__ = ["AsTrained", "BinarisedBernoulli", "CeilingError", "Observation", "UnitGaussian"]


class CeilingError(RuntimeError):
    """A likelihood lies above the largest one that its observation model allows."""


class Observation(Protocol):
    """Says what is seen of a frame, and how likely a decoder finds it."""

    @property
    def name(self) -> str:
        """What it is, for tables."""

    def observe(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """Give what is seen of frames in [0, 1], of the same shape; the generator lives on the CPU."""

    def log_prob(self, x: Tensor, distribution: Distribution) -> Tensor:
        """Compute the log-probability of what is seen, in nats.

        Args:
            x: What is seen, of shape ``(T, channels, height, width)``.
            distribution: The decoder's, of batch shape ``(S, T)``.

        Returns:
            The log-probability, of shape ``(S, T)``.
        """

    def ceiling(self, pixels: int) -> float | None:
        """Give the largest log-likelihood that an image of so many pixel values can have; None if not known."""


@dataclass(frozen=True)
class BinarisedBernoulli:
    r"""Frames with every pixel value drawn as 0 or 1, :math:`x_b \sim \mathrm{Bernoulli}(x)`, by a Bernoulli decoder.

    Grey values under a Bernoulli distribution have no normalised density; binary ones have a probability, at most 1.

    Example:
        >>> from latentflow import BernoulliLikelihood
        >>> observation, frames = BinarisedBernoulli(), torch.rand(3, 1, 4, 4)
        >>> x = observation.observe(frames, torch.Generator().manual_seed(0))
        >>> decoded = BernoulliLikelihood()(torch.randn(7, 3, 1, 4, 4))
        >>> torch.testing.assert_close(observation.log_prob(x, decoded), decoded.log_prob(x))
    """

    name: str = "Bernoulli, binarised"

    def observe(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the pixels."""
        drawn: Tensor = torch.bernoulli(frames.cpu(), generator=generator)
        return drawn.to(frames.device)

    def log_prob(self, x: Tensor, distribution: Distribution) -> Tensor:
        r"""Compute :math:`\sum_i \log \sigma((2 x_i - 1)\,l_i)` with the logits :math:`l` of the decoder."""
        base = _base(distribution)
        if not isinstance(base, Bernoulli | ContinuousBernoulli):
            raise TypeError(f"distribution: expected a Bernoulli, got {type(base).__name__}")
        log_prob: Tensor = logsigmoid((2 * x - 1).flatten(-3) * base.logits.flatten(-3)).sum(-1)
        return log_prob

    def ceiling(self, pixels: int) -> float:  # noqa: ARG002 - the protocol's signature
        """Give 0: a probability is at most 1."""
        return 0.0


@dataclass(frozen=True)
class UnitGaussian:
    r"""Grey frames as normal variables of variance 1 around the mean picture, whatever the decoder was trained with.

    Example:
        >>> from latentflow import BernoulliLikelihood
        >>> decoded = BernoulliLikelihood()(torch.zeros(7, 3, 1, 4, 4))
        >>> log_prob = UnitGaussian().log_prob(torch.ones(3, 1, 4, 4), decoded)
        >>> expected = UnitGaussian().ceiling(16) - 16 * 0.5**2 / 2
        >>> torch.testing.assert_close(log_prob, torch.full((7, 3), expected, dtype=torch.float64))
    """

    name: str = "Gaussian, variance 1"

    def observe(self, frames: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002 - nothing is drawn
        """Give the frames themselves."""
        return frames

    def log_prob(self, x: Tensor, distribution: Distribution) -> Tensor:
        r"""Compute :math:`-\tfrac12 |x - m|^2 - \tfrac P2 \log 2\pi` with the mean picture :math:`m`."""
        distance: Tensor = torch.linalg.vector_norm((distribution.mean - x).flatten(-3), dim=-1)
        return self.ceiling(distribution.event_shape.numel()) - distance.double().square() / 2

    def ceiling(self, pixels: int) -> float:
        r"""Give :math:`-\tfrac P2 \log 2\pi`, the density at the mean."""
        return -pixels / 2 * math.log(2 * math.pi)


@dataclass(frozen=True)
class AsTrained:
    """Grey frames under the decoder's own distribution, which has to be a density of grey values.

    Attributes:
        name: What the distribution is.
        highest: The largest log-likelihood of one pixel value, in nats, or None if it is not bounded or not known.
    """

    name: str
    highest: float | None = None

    def observe(self, frames: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002 - nothing is drawn
        """Give the frames themselves."""
        return frames

    def log_prob(self, x: Tensor, distribution: Distribution) -> Tensor:
        """Ask the distribution."""
        if isinstance(_base(distribution), Bernoulli):
            raise TypeError("distribution: expected a density of grey values, got a Bernoulli; binarise the frames")
        log_prob: Tensor = distribution.log_prob(x)
        return log_prob

    def ceiling(self, pixels: int) -> float | None:
        """Multiply the largest log-likelihood of a pixel value by their number."""
        return None if self.highest is None else pixels * self.highest


def _base(distribution: Distribution) -> Distribution:
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution
