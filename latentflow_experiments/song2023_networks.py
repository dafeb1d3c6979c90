"""The networks of the paper: strided convolutions whose channels grow with the number of latent coordinates.

They have the layers of the authors' networks and compute the same functions, in channels-last order. A convolution
that covers its whole input, and a transposed one whose input is one pixel, are linear layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentflow.calculus.checks import check_conv_shape, check_count, check_images, check_points
from latentflow.vae.convolutional import Convolution
from latentflow.vae.networks import GaussianHead
from latentflow_experiments.convolutions import DoublingConvolution, HalvingConvolution

LARGE = 128
"""The side in pixels from which on both sides of an image make it a large one."""


class ChannelsLast(nn.Module):
    """A layer that takes images ``(batch, channels, height, width)``, for grids in channels-last order.

    Args:
        layer: The layer.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, height, width, channels)`` to grids in the same order."""
        images: Tensor = self.layer(x.permute(0, 3, 1, 2))
        return images.permute(0, 2, 3, 1)


def is_large(shape: Sequence[int]) -> bool:
    """Return whether both sides of an image have at least 128 pixels, as those for the deeper networks."""
    return min(shape[1:]) >= LARGE


def check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of an image; raise a ValueError unless the networks of the paper can halve its sides."""
    sizes = check_conv_shape("shape", shape)
    if is_large(sizes) and (sizes[1] % 16 or sizes[2] % 16):
        raise ValueError(f"shape: expected sides divisible by 16 from {LARGE} pixels on, got {sizes}")
    return sizes


class PixelsFromOne(nn.Module):
    """A transposed convolution from one pixel to a grid, which is a product of matrices, and a ReLU.

    Args:
        inputs: The number of channels of the pixel.
        outputs: The number of channels of the grid.
        sides: The height and width of the grid.

    Example:
        >>> assert PixelsFromOne(5, 3, (7, 4))(torch.rand(2, 5)).shape == (2, 7, 4, 3)
    """

    def __init__(self, inputs: int, outputs: int, sides: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        bound = 1 / math.sqrt(outputs * math.prod(sides))  # torch counts the outputs of a transposed convolution
        self.weight = nn.Parameter(torch.empty(math.prod(sides) * outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.sides = sides

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, inputs)`` to ``(batch, height, width, outputs)``."""
        bias = self.bias.repeat(math.prod(self.sides))
        channels = nn.functional.linear(x, self.weight, bias).relu_()
        return channels.reshape(-1, *self.sides, len(self.bias))


def convolve_back(inputs: int, outputs: int) -> ChannelsLast:
    """Build a transposed convolution of 3 x 3 pixels and stride 1: a convolution, but for the initial weights."""
    layer = Convolution(inputs, outputs)
    bound = 1 / math.sqrt(9 * outputs)  # torch counts the outputs of a transposed convolution
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound)
    return ChannelsLast(layer)


def build_trunk(shape: Sequence[int], dim: int, outputs: int) -> nn.Sequential:
    """Build the convolutions of the encoders.

    Args:
        shape: The shape of an image, ``(channels, height, width)``.
        dim: The number of latent coordinates, ``s`` in the layers.
        outputs: The number of features.

    Returns:
        The layers, from grids ``(batch, height, width, channels)`` to features ``(batch, outputs)``. With ``conv4/2``
        for a convolution of 4 x 4 pixels and stride 2, and a ReLU between each two: ``conv4/2 s, conv4/2 2s, conv(h/4)
        3s, 1x1 2s, 1x1``; for large images four times ``conv4/2 s, conv3 s``, then ``conv(h/16) s, 1x1 s, 1x1``.
    """
    channels, height, width = shape
    layers: list[nn.Module] = []
    if is_large(shape):
        for _ in range(4):
            layers += [HalvingConvolution(channels, dim), nn.ReLU(), ChannelsLast(Convolution(dim, dim)), nn.ReLU()]
            channels = dim
        features, widths = dim * (height // 16) * (width // 16), (dim, dim, outputs)
    else:
        layers += [HalvingConvolution(channels, dim), nn.ReLU(), HalvingConvolution(dim, 2 * dim), nn.ReLU()]
        features, widths = 2 * dim * (height // 4) * (width // 4), (3 * dim, 2 * dim, outputs)
    layers.append(nn.Flatten())
    for width in widths:
        layers += [nn.Linear(features, width), nn.ReLU()]
        features = width
    return nn.Sequential(*layers[:-1])


class PaperEncoder(nn.Module):
    """The encoder of the paper, from an image to a normal distribution over latents.

    The convolutions of :func:`build_trunk` end in ``2s`` features, ``s`` for large images; a linear layer for the mean
    and one for the log-variance, which are one layer here, follow.

    Args:
        shape: The shape of an image, ``(channels, height, width)``, with sides divisible by 4; by 16 if both have 128
            pixels or more.
        dim: The number of latent coordinates.

    Raises:
        ValueError: If a side is not divisible, or ``dim`` is not positive.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023)
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> posterior = PaperEncoder((3, 28, 28), dim=4)(torch.rand(2, 3, 28, 28))
        >>> assert posterior.batch_shape == (2,) and posterior.event_shape == (4,)
    """

    def __init__(self, shape: Sequence[int], dim: int) -> None:
        super().__init__()
        self.shape = check_shape(shape)
        check_count("dim", dim)
        features = dim if is_large(self.shape) else 2 * dim
        self.layers = build_trunk(self.shape, dim, features)
        self.head = GaussianHead(features, dim)

    def forward(self, x: Tensor) -> Distribution:
        """Map images ``(batch, channels, height, width)`` to a distribution with events of shape ``(dim,)``."""
        check_images("x", x, ("batch", *self.shape), self.head.linear.weight)
        posterior: Distribution = self.head(self.layers(x.permute(0, 2, 3, 1)))
        return posterior


class PaperDecoder(nn.Module):
    """The decoder of the paper, from a latent to logits of pixels.

    With ``tconv4/2`` for a transposed convolution of 4 x 4 pixels and stride 2, and a ReLU between each two, the layers
    are ``linear s, 1x1 2s, 1x1 3s, tconv(h/4) 2s, tconv4/2 s, tconv4/2``; for large images ``linear s, 1x1 s, 1x1 s,
    tconv(h/16) s``, then four times ``tconv4/2 s, tconv3``. The sigmoid of the authors' last layer is left to the
    likelihood.

    Args:
        dim: The number of latent coordinates.
        shape: The shape of an image, ``(channels, height, width)``, with sides divisible by 4; by 16 if both have 128
            pixels or more.

    Raises:
        ValueError: If a side is not divisible, or ``dim`` is not positive.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023)
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> assert PaperDecoder(4, (3, 28, 28))(torch.randn(2, 4)).shape == (2, 3, 28, 28)
    """

    def __init__(self, dim: int, shape: Sequence[int]) -> None:
        super().__init__()
        check_count("dim", dim)
        self.dim = dim
        self.shape = check_shape(shape)
        channels, height, width = self.shape
        large = is_large(self.shape)
        factor, widths = (16, (dim, dim, dim, dim)) if large else (4, (dim, 2 * dim, 3 * dim, 2 * dim))
        sides = (height // factor, width // factor)
        layers: list[nn.Module] = [nn.Linear(dim, dim), nn.ReLU()]
        for inputs, outputs in pairwise(widths[:-1]):
            layers += [PixelsFromOne(inputs, outputs), nn.Flatten()]
        layers.append(PixelsFromOne(*widths[-2:], sides))
        if large:
            for outputs in (dim, dim, dim, channels):
                layers += [DoublingConvolution(dim, dim, rectify=True), convolve_back(dim, outputs), nn.ReLU()]
            layers.pop()
        else:
            layers += [DoublingConvolution(2 * dim, dim, rectify=True), DoublingConvolution(dim, channels)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents ``(batch, dim)`` to ``(batch, channels, height, width)``."""
        check_points(z, self.dim, next(self.parameters()))
        decoded: Tensor = self.layers(z.reshape(-1, self.dim))
        return decoded.permute(0, 3, 1, 2)


class PaperClassifier(nn.Module):
    """The posterior of the transformation of the paper, from all frames of a sequence to logits.

    The frames are stacked on the channels of one image. The convolutions of :func:`build_trunk` end in ``s`` features,
    and a linear layer follows.

    Args:
        shape: The shape of a frame, ``(channels, height, width)``, with sides divisible by 4; by 16 if both have 128
            pixels or more.
        frames: The number of frames, ``T + 1``.
        classes: The number of classes ``K``.
        dim: The number of latent coordinates.

    Raises:
        ValueError: If a side is not divisible, or a number is not positive.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023)
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> classify = PaperClassifier((1, 8, 8), frames=3, classes=2, dim=4)
        >>> assert classify(torch.rand(5, 3, 1, 8, 8)).shape == (5, 2)
    """

    def __init__(self, shape: Sequence[int], frames: int, classes: int, dim: int) -> None:
        super().__init__()
        self.shape = check_shape(shape)
        check_count("frames", frames)
        check_count("classes", classes)
        check_count("dim", dim)
        self.frames = frames
        channels, *sides = self.shape
        self.layers = build_trunk((frames * channels, *sides), dim, dim)
        self.output = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences ``(batch, T+1, channels, height, width)`` to logits ``(batch, K)``."""
        check_images("x", x, ("batch", self.frames, *self.shape), self.output.weight)
        logits: Tensor = self.output(self.layers(x.flatten(1, 2).permute(0, 2, 3, 1)))
        return logits
