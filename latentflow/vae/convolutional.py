"""Convolutional encoders and decoders of images whose sides are divisible by four."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentflow.calculus.checks import check_conv_shape, check_count, check_hidden, check_images, check_points
from latentflow.vae.networks import GaussianHead, perceptron

COARSE = 8
"""The side of a grid that is not halved any further."""
FEWEST = 8
"""The fewest channels of a grid, where the coarsest one has as many."""


class Convolution(nn.Module):
    r"""A convolution of :math:`3 \times 3` pixels with images and weights in channels-last order.

    The weights are contiguous in the shape ``(outputs, 3, 3, inputs)``, so that an optimizer, a checkpoint and a copy
    of the module keep their order without being asked to.

    Args:
        inputs: The number of channels of the images.
        outputs: The number of channels of the result.
        stride: 1, or 2 to halve even sides.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        bound = 1 / math.sqrt(9 * inputs)  # the initial weights of torch's own convolution
        self.weight = nn.Parameter(torch.empty(outputs, 3, 3, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, inputs, height, width)`` to ``(batch, outputs, height / stride, width / stride)``."""
        x = x.contiguous(memory_format=torch.channels_last)
        return nn.functional.conv2d(x, self.weight.permute(0, 3, 1, 2), self.bias, self.stride, padding=1)


class Shuffle(nn.Module):
    r"""Turn groups of channels into squares of pixels.

    Channel :math:`(i f + j) C + c` of a pixel becomes channel :math:`c` of pixel :math:`(i, j)` of a square with side
    :math:`f`.

    Args:
        factor: The side :math:`f` of a square.
        contiguous: Whether the result is in the order of images, ``(batch, channels, height, width)``; else it is in
            channels-last order.
    """

    def __init__(self, factor: int, *, contiguous: bool = False) -> None:
        super().__init__()
        self.factor = factor
        self.contiguous = contiguous

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, f * f * channels, height, width)`` to ``(batch, channels, f * height, f * width)``."""
        f, (batch, channels, height, width) = self.factor, x.shape
        channels //= f**2
        squares = x.permute(0, 2, 3, 1).reshape(batch, height, width, f, f, channels)
        if self.contiguous:
            return squares.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, f * height, f * width)
        return squares.transpose(2, 3).reshape(batch, f * height, f * width, channels).permute(0, 3, 1, 2)


def grids(height: int, width: int) -> list[tuple[int, int]]:
    """List the sizes of the grids of an image: a half, a quarter, and further while both sides are even and above 8.

    Args:
        height: The height, divisible by 4.
        width: The width, divisible by 4.

    Returns:
        The sizes, from fine to coarse, at least two.

    Example:
        >>> assert grids(28, 28) == [(14, 14), (7, 7)]
        >>> assert grids(128, 64) == [(64, 32), (32, 16), (16, 8)]
    """
    sizes = [(height // 2, width // 2), (height // 4, width // 4)]
    while all(side % 2 == 0 and side > COARSE for side in sizes[-1]):
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


def widths(channels: int, count: int) -> list[int]:
    """List the channels of grids, from fine to coarse: half as many on each finer one, but at least eight.

    Example:
        >>> assert widths(64, 3) == [16, 32, 64] and widths(4, 2) == [4, 4]
    """
    return [max(min(FEWEST, channels), channels >> (count - 1 - i)) for i in range(count)]


class Features(nn.Module):
    """Convolutions of stride two with a GELU after each, down to a coarse grid, and its features as one vector.

    Args:
        shape: The shape of an image, ``(channels, height, width)``, with sides divisible by four.
        channels: The channels of the coarsest grid.

    Attributes:
        features: The length of the vector.
    """

    def __init__(self, shape: Sequence[int], channels: int) -> None:
        super().__init__()
        inputs, *sides = shape
        sizes = grids(*sides)
        layers: list[nn.Module] = []
        for outputs in widths(channels, len(sizes)):
            layers += [Convolution(inputs, outputs, stride=2), nn.GELU()]
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.features = channels * math.prod(sizes[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(batch, channels, height, width)`` to ``(batch, features)``."""
        grid: Tensor = self.layers(x)
        return grid.permute(0, 2, 3, 1).flatten(1)


class ConvEncoder(nn.Module):
    r"""A convolutional network from an image to a normal distribution over latents.

    Convolutions of :math:`3 \times 3` pixels and stride 2 halve the image at least twice, and further while both sides
    are even and larger than 8; the channels double each time. A perceptron follows. Images in any memory format are
    taken, and computed with in channels-last order.

    Args:
        shape: The shape of an image, ``(channels, height, width)``, with height and width divisible by 4.
        dim: The number of latent coordinates.
        hidden: The widths of the hidden layers of the perceptron, at least one.
        channels: The number of channels of the coarsest grid.

    Raises:
        TypeError: If ``shape`` or ``hidden`` is no sequence.
        ValueError: If a side is not divisible by 4, there is no hidden layer, or a number is not positive.

    Example:
        >>> posterior = ConvEncoder((3, 64, 64), dim=4)(torch.rand(2, 3, 64, 64))
        >>> assert posterior.batch_shape == (2,) and posterior.event_shape == (4,)
    """

    def __init__(self, shape: Sequence[int], dim: int, hidden: Sequence[int] = (256,), channels: int = 64) -> None:
        super().__init__()
        self.shape = check_conv_shape("shape", shape)
        check_count("dim", dim)
        check_hidden(hidden)
        check_count("channels", channels)
        features = Features(self.shape, channels)
        self.layers = nn.Sequential(features, perceptron((features.features, *hidden)), nn.GELU())
        self.head = GaussianHead(hidden[-1], dim)

    def forward(self, x: Tensor) -> Distribution:
        """Map images ``(batch, channels, height, width)`` to a distribution with events of shape ``(dim,)``."""
        check_images("x", x, ("batch", *self.shape), self.head.linear.weight)
        posterior: Distribution = self.head(self.layers(x))
        return posterior


class ConvDecoder(nn.Module):
    r"""A convolutional network from a latent to the argument of a likelihood.

    A perceptron computes the coarsest grid of :class:`ConvEncoder`. Convolutions of :math:`3 \times 3` pixels with four
    times as many channels double its sides, as each group of four becomes a square of pixels; the last one, with
    sixteen times as many, multiplies them by four. So nothing is computed at the resolution of the image but its
    pixels.

    Args:
        dim: The number of latent coordinates.
        shape: The shape of an image, ``(channels, height, width)``, with height and width divisible by 4.
        hidden: The widths of the hidden layers of the perceptron, at least one.
        channels: The number of channels of the coarsest grid.

    Raises:
        TypeError: If ``shape`` or ``hidden`` is no sequence.
        ValueError: If a side is not divisible by 4, there is no hidden layer, or a number is not positive.

    References:
        W. Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
        Neural Network, CVPR 2016, for the convolutions whose channels become pixels.

    Example:
        >>> assert ConvDecoder(4, (3, 64, 64))(torch.randn(2, 4)).shape == (2, 3, 64, 64)
    """

    def __init__(self, dim: int, shape: Sequence[int], hidden: Sequence[int] = (256,), channels: int = 64) -> None:
        super().__init__()
        check_count("dim", dim)
        self.dim = dim
        self.shape = check_conv_shape("shape", shape)
        check_hidden(hidden)
        check_count("channels", channels)
        colors, *sides = self.shape
        sizes = grids(*sides)
        self.coarsest = (*sizes[-1], channels)
        self.dense = nn.Sequential(perceptron((dim, *hidden, math.prod(self.coarsest))), nn.GELU())
        layers: list[nn.Module] = []
        inputs = channels
        for outputs in widths(channels, len(sizes))[-2:0:-1]:
            layers += [Convolution(inputs, 4 * outputs), Shuffle(2), nn.GELU()]
            inputs = outputs
        self.layers = nn.Sequential(*layers, Convolution(inputs, 16 * colors), Shuffle(4, contiguous=True))

    def forward(self, z: Tensor) -> Tensor:
        """Map latents ``(batch, dim)`` to ``(batch, channels, height, width)``."""
        check_points(z, self.dim, next(self.dense.parameters()))
        grid: Tensor = self.dense(z.reshape(-1, self.dim)).unflatten(-1, self.coarsest)
        decoded: Tensor = self.layers(grid.permute(0, 3, 1, 2))
        return decoded


class ConvSequenceClassifier(nn.Module):
    """A convolutional network from all frames of a sequence to logits.

    The frames are stacked on the channels of one image. Convolutions halve it as :class:`ConvEncoder` does, and a
    perceptron follows.

    Args:
        shape: The shape of a frame, ``(channels, height, width)``, with height and width divisible by 4.
        frames: The number of frames, ``T + 1``.
        classes: The number of classes ``K``.
        hidden: The widths of the hidden layers of the perceptron, at least one.
        channels: The number of channels of the coarsest grid.

    Raises:
        TypeError: If ``shape`` or ``hidden`` is no sequence.
        ValueError: If a side is not divisible by 4, there is no hidden layer, or a number is not positive; later, if a
            sequence has another number of frames.

    Example:
        >>> classify = ConvSequenceClassifier((1, 8, 8), frames=3, classes=2)
        >>> assert classify(torch.rand(5, 3, 1, 8, 8)).shape == (5, 2)
    """

    def __init__(
        self, shape: Sequence[int], frames: int, classes: int, hidden: Sequence[int] = (128,), channels: int = 32
    ) -> None:
        super().__init__()
        self.shape = check_conv_shape("shape", shape)
        check_count("frames", frames)
        check_count("classes", classes)
        check_hidden(hidden)
        check_count("channels", channels)
        self.frames = frames
        colors, *sides = self.shape
        features = Features((frames * colors, *sides), channels)
        self.layers = nn.Sequential(features, perceptron((features.features, *hidden, classes)))

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences ``(batch, T+1, channels, height, width)`` to logits ``(batch, K)``."""
        check_images("x", x, ("batch", self.frames, *self.shape), next(self.parameters()))
        logits: Tensor = self.layers(x.flatten(1, 2))
        return logits
