"""Encoders, decoders and likelihoods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Protocol

from torch import Tensor, nn
from torch.distributions import Bernoulli, ContinuousBernoulli, Distribution, Laplace, Normal, constraints

from latentflow.calculus.checks import (
    Events,
    check_count,
    check_hidden,
    check_image_shape,
    check_images,
    check_points,
    check_positive,
    check_tensor,
)


class GaussianHead(nn.Module):
    """The last layer of an encoder: from features to a normal distribution with a diagonal covariance."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 2 * dim)

    def forward(self, h: Tensor) -> Distribution:
        """Map features of shape ``(*batch, features)`` to a distribution with events of shape ``(dim,)``."""
        parameters: Tensor = self.linear(h)
        mean, log_variance = parameters.to(self.linear.weight.dtype).chunk(2, dim=-1)  # autocast lowers it
        scale = (log_variance / 2).exp()
        return Events(Normal(mean, scale, validate_args=False), 1, validate_args=False)


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Build linear layers with a GELU between each two."""
    layers: list[nn.Module] = []
    for n, m in pairwise(widths):
        layers += [nn.Linear(n, m), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class MLPEncoder(nn.Module):
    """A multilayer perceptron from an image to a normal distribution over latents.

    Args:
        shape: The shape of an image, ``(channels, height, width)``.
        dim: The number of latent coordinates.
        hidden: The widths of the hidden layers, at least one.

    Raises:
        ValueError: If there is no hidden layer.

    Example:
        >>> import torch
        >>> posterior = MLPEncoder((1, 28, 28), dim=4)(torch.rand(2, 1, 28, 28))
        >>> assert posterior.batch_shape == (2,) and posterior.event_shape == (4,)
    """

    def __init__(self, shape: Sequence[int], dim: int, hidden: Sequence[int] = (512, 512)) -> None:
        super().__init__()
        self.shape = check_image_shape("shape", shape)
        check_count("dim", dim)
        check_hidden(hidden)
        self.layers = nn.Sequential(nn.Flatten(), perceptron((math.prod(shape), *hidden)), nn.GELU())
        self.head = GaussianHead(hidden[-1], dim)

    def forward(self, x: Tensor) -> Distribution:
        """Map images ``(batch, channels, height, width)`` to a distribution with events of shape ``(dim,)``."""
        check_images("x", x, ("batch", *self.shape), self.head.linear.weight)
        posterior: Distribution = self.head(self.layers(x))
        return posterior


class MLPDecoder(nn.Module):
    """A multilayer perceptron from a latent to the argument of a likelihood.

    Args:
        dim: The number of latent coordinates.
        shape: The shape of an image, ``(channels, height, width)``.
        hidden: The widths of the hidden layers, at least one.

    Raises:
        ValueError: If there is no hidden layer.

    Example:
        >>> import torch
        >>> assert MLPDecoder(4, (1, 28, 28))(torch.randn(2, 4)).shape == (2, 1, 28, 28)
    """

    def __init__(self, dim: int, shape: Sequence[int], hidden: Sequence[int] = (512, 512)) -> None:
        super().__init__()
        check_count("dim", dim)
        check_hidden(hidden)
        self.dim = dim
        self.shape = check_image_shape("shape", shape)
        self.layers = perceptron((dim, *hidden, math.prod(shape)))

    def forward(self, z: Tensor) -> Tensor:
        """Map latents ``(batch, dim)`` to ``(batch, channels, height, width)``."""
        check_points(z, self.dim, next(self.layers.parameters()))
        decoded: Tensor = self.layers(z)
        return decoded.reshape(-1, *self.shape)


EPSILON = 2**-7
"""What is added to the mean square of a layer that is normalized."""


class GatedDecoder(nn.Module):
    r"""A perceptron from a latent to the argument of a likelihood, whose last hidden layer is a normalized product.

    With the hidden layer :math:`h` before it, of :math:`z` where there is one hidden layer only, the last one is

    .. math:: \frac{p}{\sqrt{\frac1m \sum_i p_i^2 + \varepsilon}}, \qquad
        p = \mathrm{GELU}(W_1 h + b_1) \odot (W_2 h + b_2) \in \mathbb{R}^m,

    and a linear layer follows; :math:`\varepsilon = 2^{-7}`, the machine epsilon of bfloat16, in every precision. The
    layers before are those of :class:`MLPDecoder`. A product of two maps grows with the square of the weights; divided
    by its root mean square it stays of order one, which keeps training stable at high learning rates.

    Args:
        dim: The number of latent coordinates.
        shape: The shape of an image, ``(channels, height, width)``.
        hidden: The widths of the hidden layers, at least one.

    Raises:
        TypeError: If ``shape`` or ``hidden`` is no sequence.
        ValueError: If there is no hidden layer, or a number is not positive.

    References:
        | N. Shazeer, GLU Variants Improve Transformer, 2020, https://arxiv.org/abs/2002.05202
        | B. Zhang and R. Sennrich, Root Mean Square Layer Normalization, NeurIPS 2019

    Example:
        >>> import torch
        >>> assert GatedDecoder(4, (1, 28, 28))(torch.randn(2, 4)).shape == (2, 1, 28, 28)
    """

    def __init__(self, dim: int, shape: Sequence[int], hidden: Sequence[int] = (512, 512)) -> None:
        super().__init__()
        check_count("dim", dim)
        check_hidden(hidden)
        self.dim = dim
        self.shape = check_image_shape("shape", shape)
        *before, width = hidden
        widths = (dim, *before)
        self.layers = nn.Sequential(*(layer for n, m in pairwise(widths) for layer in (nn.Linear(n, m), nn.GELU())))
        self.gate = nn.Linear(widths[-1], 2 * width)  # both factors in one product
        self.output = nn.Linear(width, math.prod(shape))

    def forward(self, z: Tensor) -> Tensor:
        """Map latents ``(batch, dim)`` to ``(batch, channels, height, width)``."""
        check_points(z, self.dim, self.output.weight)
        gate, value = self.gate(self.layers(z)).chunk(2, dim=-1)
        product = nn.functional.gelu(gate) * value
        decoded: Tensor = self.output(nn.functional.rms_norm(product, product.shape[-1:], eps=EPSILON))
        return decoded.reshape(-1, *self.shape)


class Likelihood(Protocol):
    """Maps the output of a decoder, of shape ``(*batch, channels, height, width)``, to a distribution over images.

    An attribute ``support``, a constraint of ``torch.distributions``, says which pixels there can be.
    """

    def __call__(self, decoded: Tensor) -> Distribution:
        """Build the distribution, with events of shape ``(channels, height, width)``; its mean is the picture."""


class BernoulliLikelihood:
    r"""Pixels as independent Bernoulli variables, with the decoder's output as logits.

    For pixels strictly between 0 and 1 the log-probability is the negative cross-entropy, no normalized density.

    Example:
        >>> import torch
        >>> decoded = torch.zeros(2, 1, 4, 4)
        >>> torch.testing.assert_close(BernoulliLikelihood()(decoded).mean, torch.full((2, 1, 4, 4), 0.5))
    """

    support: ClassVar[constraints.Constraint] = constraints.unit_interval

    def __call__(self, decoded: Tensor) -> Distribution:
        """Build the distribution from logits of shape ``(*batch, channels, height, width)``."""
        check_tensor("decoded", decoded, ("*batch", "channels", "height", "width"))
        return Events(Bernoulli(logits=decoded, validate_args=False), 3, validate_args=False)


class ContinuousBernoulliLikelihood:
    r"""Pixels as independent continuous Bernoulli variables, with the decoder's output as logits.

    The density on [0, 1] is :math:`C(\lambda) \lambda^x (1 - \lambda)^{1 - x}`, with a normalizing constant; the mean
    is not :math:`\lambda`.

    References:
        G. Loaiza-Ganem and J. P. Cunningham, The continuous Bernoulli: fixing a pervasive error in variational
        autoencoders, NeurIPS 2019.

    Example:
        >>> import torch
        >>> uniform = ContinuousBernoulliLikelihood()(torch.zeros(2, 1, 4, 4))
        >>> torch.testing.assert_close(uniform.log_prob(torch.rand(2, 1, 4, 4)), torch.zeros(2))
    """

    support: ClassVar[constraints.Constraint] = constraints.unit_interval

    def __call__(self, decoded: Tensor) -> Distribution:
        """Build the distribution from logits of shape ``(*batch, channels, height, width)``."""
        check_tensor("decoded", decoded, ("*batch", "channels", "height", "width"))
        return Events(ContinuousBernoulli(logits=decoded, validate_args=False), 3, validate_args=False)


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

    support: ClassVar[constraints.Constraint] = constraints.real

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = check_positive("scale", scale)

    def __call__(self, decoded: Tensor) -> Distribution:
        """Build the distribution around a decoder's output of shape ``(*batch, channels, height, width)``."""
        check_tensor("decoded", decoded, ("*batch", "channels", "height", "width"))
        return Events(Normal(decoded, self.scale, validate_args=False), 3, validate_args=False)


class LaplaceLikelihood:
    r"""Pixels as independent Laplace variables around a picture in [0, 1], with the decoder's output as its logits.

    With :math:`m = \sigma(\text{decoded})` the log-density of a pixel is

    .. math:: \log p(x | m) = -\frac{|x - m|}{b} - \log 2b ,

    so the best picture is the median of the pixels given the latent, and training minimizes their distance in
    :math:`L^1`; a Bernoulli or a normal likelihood asks for the mean, which is blurred where an edge is uncertain. A
    pixel that is dark in most images has the median 0: from random weights, colors are learned slowly.

    Args:
        scale: The scale :math:`b` of a pixel; the smaller, the less the divergence of the latents weighs beside it.

    Raises:
        ValueError: If ``scale`` is not positive.

    Example:
        >>> import torch
        >>> distribution = LaplaceLikelihood(scale=0.25)(torch.zeros(2, 1, 4, 4))
        >>> torch.testing.assert_close(distribution.mean, torch.full((2, 1, 4, 4), 0.5))
        >>> expected = 16 * (-0.5 / 0.25 - torch.tensor(2 * 0.25).log())
        >>> torch.testing.assert_close(distribution.log_prob(torch.ones(2, 1, 4, 4)), expected.expand(2))
    """

    support: ClassVar[constraints.Constraint] = constraints.real

    def __init__(self, scale: float = 0.1) -> None:
        self.scale = check_positive("scale", scale)

    def __call__(self, decoded: Tensor) -> Distribution:
        """Build the distribution from logits of shape ``(*batch, channels, height, width)``."""
        check_tensor("decoded", decoded, ("*batch", "channels", "height", "width"))
        return Events(Laplace(decoded.sigmoid(), self.scale, validate_args=False), 3, validate_args=False)
