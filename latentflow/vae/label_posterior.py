r"""The posterior of the transformation, for sequences without a label."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from latentflow.calculus.checks import (
    check_callable,
    check_count,
    check_generator,
    check_hidden,
    check_image_shape,
    check_images,
    check_instance,
    check_methods,
    check_nonnegative,
    check_positive,
)
from latentflow.vae.bounds import Assignment, Enumerated, Mixed
from latentflow.vae.networks import perceptron


class LabelEstimator(Protocol):
    """An estimator of the expectation over an unknown label."""

    def assign(self, posterior: Categorical, generator: torch.Generator | None = None) -> Assignment:
        """Assign potentials to the sequences of a posterior of batch shape ``(batch,)``."""


@dataclass(frozen=True)
class ExactSum:
    r"""Sum over all labels, :math:`\sum_k q(k | x_0, \dots, x_T) \mathcal{L}_k`.

    It is exact, at the cost of K trajectories and K times the frames to decode.

    Example:
        >>> assignment = ExactSum().assign(Categorical(probs=torch.tensor([[0.25, 0.75]])))
        >>> bounds = torch.tensor([[4.0], [8.0]])  # (K, batch)
        >>> torch.testing.assert_close(assignment.average(bounds), torch.tensor(7.0))
    """

    def assign(self, posterior: Categorical, generator: torch.Generator | None = None) -> Enumerated:  # noqa: ARG002 - not random
        """Assign every potential to every sequence."""
        check_instance("posterior", posterior, Categorical, "a Categorical")
        return Enumerated(posterior.probs)


@dataclass(frozen=True)
class StraightThrough:
    r"""Draw one label from the straight-through Gumbel-softmax distribution.

    With Gumbel noise :math:`g_k`, the sample is the one-hot vector of :math:`\arg\max_k(\log q_k + g_k)`, a draw from
    :math:`q` at any temperature, with the gradient of :math:`\mathrm{softmax}((\log q + g) / \tau)`. It costs one
    trajectory; the gradient is noisy, and biased unless :math:`\tau \to 0`.

    Attributes:
        temperature: The temperature :math:`\tau`, positive.

    Raises:
        ValueError: If the temperature is not positive.

    References:
        | E. Jang, S. Gu and B. Poole, Categorical Reparameterization with Gumbel-Softmax, ICLR 2017
        | C. J. Maddison, A. Mnih and Y. W. Teh, The Concrete Distribution, ICLR 2017

    Example:
        >>> posterior = Categorical(probs=torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        >>> sample = StraightThrough(temperature=0.5).assign(posterior).responsibilities
        >>> torch.testing.assert_close(sample, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def assign(self, posterior: Categorical, generator: torch.Generator | None = None) -> Mixed:
        """Draw the label of every sequence."""
        check_instance("posterior", posterior, Categorical, "a Categorical")
        check_generator(generator)
        uniform = torch.empty_like(posterior.logits).exponential_(generator=generator)
        noisy = posterior.logits - uniform.log()  # minus the logarithm of an exponential variable is a Gumbel variable
        soft = (noisy / self.temperature).softmax(-1)
        hard = nn.functional.one_hot(noisy.argmax(-1), noisy.shape[-1]).to(soft)
        return Mixed(hard + (soft - soft.detach()))


def annealed_temperature(step: float, rate: float = 3e-5, floor: float = 0.05) -> float:
    r"""Compute the temperature :math:`\max(e^{-\text{rate} \cdot \text{step}}, \text{floor})` of the paper's schedule.

    Args:
        step: The number of training steps made.
        rate: The decay in a step.
        floor: The lowest temperature.

    Returns:
        The temperature.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If ``step`` or ``rate`` is negative, or ``floor`` is not positive.

    Example:
        >>> assert annealed_temperature(0) == 1.0
        >>> assert round(annealed_temperature(90_000), 4) == 0.0672  # the end of the paper's training
    """
    exponent = check_nonnegative("rate", rate) * check_nonnegative("step", step)
    return max(math.exp(-exponent), check_positive("floor", floor))


class LabelPosterior(nn.Module):
    r"""The distribution :math:`q(k | x_0, \dots, x_T)` of the transformation of a sequence.

    The objective of a sequence without a label is :math:`\sum_k q_k (\mathcal{L}_k + \log p_k - \log q_k)`, with
    :math:`p_k = 1/K`. It has optima at which one potential takes all sequences. A penalty :math:`KL(\bar q \| p)` on
    the average posterior of a batch, :math:`\bar q_k = \frac1B \sum_b q(k | x^{(b)})`, prevents this collapse; a batch
    then has to mix the transformations in about equal numbers.

    Args:
        network: Maps sequences ``(batch, T+1, channels, height, width)`` to logits ``(batch, K)``.
        estimator: The expectation over the label: :class:`ExactSum` or :class:`StraightThrough`.
        balance: The weight of the penalty, at least 0, in units of the objective (nats of a sequence). It has to grow
            with the sequences: with 100, nine frames of 3 x 28 x 28 are told apart, eight frames of 3 x 64 x 64 end on
            one potential, and need 1,000.

    Raises:
        ValueError: If ``balance`` is negative.

    References:
        Flow Factorized Representation Learning (Song et al., 2023), equation 8; the penalty is not in it.

    Example:
        >>> posterior = LabelPosterior(MLPSequenceClassifier((1, 8, 8), frames=3, classes=2))
        >>> q = posterior(torch.rand(5, 3, 1, 8, 8))
        >>> assert q.batch_shape == (5,) and posterior.divergence(q).shape == (5,)
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        estimator: LabelEstimator = ExactSum(),
        balance: float = 100.0,
    ) -> None:
        super().__init__()
        check_callable("network", network, "a callable from sequences to logits")
        check_methods("estimator", estimator, ("assign",), "ExactSum(), StraightThrough() or another estimator")
        check_nonnegative("balance", balance)
        self.network = network
        self.estimator = estimator
        self.balance = balance

    def forward(self, frames: Tensor) -> Categorical:
        """Infer the transformation of sequences ``(batch, T+1, channels, height, width)``, as ``(batch,)``.

        The probabilities have at least 32 bits, whatever the precision of frames and network.
        """
        check_images("frames", frames, ("batch", "T+1", "channels", "height", "width"))
        precise = torch.promote_types(frames.dtype, torch.float32)  # the penalty is a small difference of its terms
        return Categorical(logits=self.network(frames).to(precise), validate_args=False)

    @staticmethod
    def divergence(posterior: Categorical) -> Tensor:
        r"""Compute :math:`KL(q \| p) = \log K - H(q)` of every sequence, of shape ``(batch,)``, between 0 and log K."""
        check_instance("posterior", posterior, Categorical, "a Categorical")
        return _divergence_from_uniform(posterior.logits)

    def collapse_penalty(self, posterior: Categorical) -> Tensor:
        r"""Compute the weight times :math:`KL(\bar q \| p)` of the average posterior of the batch, of shape ``()``."""
        check_instance("posterior", posterior, Categorical, "a Categorical")
        logits: Tensor = posterior.logits
        return self.balance * _divergence_from_uniform(logits.logsumexp(0) - math.log(len(logits)))


def _divergence_from_uniform(log_q: Tensor) -> Tensor:
    """Compute the divergence from logarithms, whose gradient stays finite where a probability underflows."""
    return (log_q.exp() * log_q).sum(-1) + math.log(log_q.shape[-1])


class MLPSequenceClassifier(nn.Module):
    """A multilayer perceptron from all frames of a sequence to logits.

    Args:
        shape: The shape of a frame, ``(channels, height, width)``.
        frames: The number of frames, ``T + 1``.
        classes: The number of classes ``K``.
        hidden: The widths of the hidden layers, at least one.

    Raises:
        ValueError: If there is no hidden layer; later, if a sequence has another number of frames.

    Example:
        >>> classify = MLPSequenceClassifier((1, 8, 8), frames=3, classes=2)
        >>> assert classify(torch.rand(5, 3, 1, 8, 8)).shape == (5, 2)
    """

    def __init__(self, shape: Sequence[int], frames: int, classes: int, hidden: Sequence[int] = (128,)) -> None:
        super().__init__()
        check_count("frames", frames)
        check_count("classes", classes)
        check_hidden(hidden)
        self.shape = check_image_shape("shape", shape)
        self.frames = frames
        self.layers = perceptron((frames * math.prod(shape), *hidden, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences ``(batch, T+1, channels, height, width)`` to logits ``(batch, K)``."""
        check_images("x", x, ("batch", self.frames, *self.shape), next(self.parameters()))
        logits: Tensor = self.layers(x.flatten(1))
        return logits
