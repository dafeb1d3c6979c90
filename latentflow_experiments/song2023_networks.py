"""The networks of the paper: strided convolutions whose channels grow with the number of latent coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.distributions import Distribution

from latentflow.calculus.checks import check_conv_shape, check_count, check_images
from latentflow.calculus.jets import check_points
from latentflow.vae.networks import GaussianHead

LARGE = 128
"""The side in pixels from which on both sides of an image make it a large one."""


def is_large(shape: Sequence[int]) -> bool:
    """Return whether images of a shape have the networks of 128 pixels."""
    return min(shape[1:]) >= LARGE


def check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of an image; raise a ValueError unless the networks of the paper can halve its sides."""
    sizes = check_conv_shape("shape", shape)
    if is_large(sizes) and (sizes[1] % 16 or sizes[2] % 16):
        raise ValueError(f"shape: expected sides divisible by 16 from {LARGE} pixels on, got {sizes}")
    return sizes


def build_trunk(shape: Sequence[int], dim: int, outputs: int) -> nn.Sequential:
    """Build the convolutions of the encoder, from an image to a grid of one pixel with ``outputs`` channels."""
    channels, height, width = shape
    layers: list[nn.Module] = []
    if is_large(shape):
        widths = [channels, *[dim] * 4]
        for n, m in pairwise(widths):
            layers += [nn.Conv2d(n, m, 4, 2, 1), nn.ReLU(), nn.Conv2d(m, m, 3, 1, 1), nn.ReLU()]
        layers += [nn.Conv2d(dim, dim, (height // 16, width // 16)), nn.ReLU(), nn.Conv2d(dim, dim, 1), nn.ReLU()]
        return nn.Sequential(*layers, nn.Conv2d(dim, outputs, 1))
    for n, m in pairwise([channels, dim, 2 * dim]):
        layers += [nn.Conv2d(n, m, 4, 2, 1), nn.ReLU()]
    layers += [nn.Conv2d(2 * dim, 3 * dim, (height // 4, width // 4)), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(3 * dim, 2 * dim, 1), nn.ReLU(), nn.Conv2d(2 * dim, outputs, 1))


class PaperEncoder(nn.Module):
    """The encoder of the paper, from an image to a normal distribution over latents."""

    def __init__(self, shape: Sequence[int], dim: int) -> None:
        super().__init__()
        self.shape = check_shape(shape)
        check_count("dim", dim)
        features = dim if is_large(shape) else 2 * dim
        self.layers = build_trunk(shape, dim, features)
        self.head = GaussianHead(features, dim)

    def forward(self, x: Tensor) -> Distribution:
        """Map images ``(batch, channels, height, width)`` to a distribution with events of shape ``(dim,)``."""
        check_images("x", x, ("batch", *self.shape), self.head.linear.weight)
        posterior: Distribution = self.head(self.layers(x).flatten(1))
        return posterior


class PaperDecoder(nn.Module):
    """The decoder of the paper, from a latent to logits."""

    def __init__(self, dim: int, shape: Sequence[int]) -> None:
        super().__init__()
        check_count("dim", dim)
        self.dim = dim
        self.shape = check_shape(shape)
        channels, height, width = self.shape
        layers: list[nn.Module] = [nn.Linear(dim, dim), nn.Unflatten(1, (dim, 1, 1)), nn.ReLU()]
        if is_large(shape):
            layers += [nn.ConvTranspose2d(dim, dim, 1), nn.ReLU(), nn.ConvTranspose2d(dim, dim, 1), nn.ReLU()]
            layers += [nn.ConvTranspose2d(dim, dim, (height // 16, width // 16)), nn.ReLU()]
            for m in (dim, dim, dim, channels):
                layers += [nn.ConvTranspose2d(dim, dim, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(dim, m, 3, 1, 1)]
                layers += [nn.ReLU()]
            layers.pop()
        else:
            layers += [nn.ConvTranspose2d(dim, 2 * dim, 1), nn.ReLU(), nn.ConvTranspose2d(2 * dim, 3 * dim, 1)]
            layers += [nn.ReLU(), nn.ConvTranspose2d(3 * dim, 2 * dim, (height // 4, width // 4)), nn.ReLU()]
            layers += [nn.ConvTranspose2d(2 * dim, dim, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(dim, channels, 4, 2, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents ``(batch, dim)`` to ``(batch, channels, height, width)``."""
        check_points(z, self.dim, next(self.parameters()))
        decoded: Tensor = self.layers(z.reshape(-1, self.dim))
        return decoded


class PaperClassifier(nn.Module):
    """The posterior of the transformation of the paper, from all frames of a sequence to logits."""

    def __init__(self, shape: Sequence[int], frames: int, classes: int, dim: int) -> None:
        super().__init__()
        self.shape = check_shape(shape)
        self.frames = frames
        channels, *sides = self.shape
        self.layers = build_trunk((frames * channels, *sides), dim, dim)
        self.output = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences ``(batch, T+1, channels, height, width)`` to logits ``(batch, K)``."""
        check_images("x", x, ("batch", self.frames, *self.shape), self.output.weight)
        logits: Tensor = self.output(self.layers(x.flatten(1, 2)).flatten(1))
        return logits
