"""What the metrics need of a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.distributions import Distribution

from latentflow import FlowVAE

__all__ = ["AlongFlow", "Method", "infer_means"]


class Method(Protocol):
    """A trained model together with its rule of how a transformation moves a latent."""

    def infer(self, frames: Tensor) -> Tensor:
        """Infer a latent for each frame.

        Args:
            frames: Sequences, of shape ``(batch, frames, channels, height, width)``, in [0, 1].

        Returns:
            The latents, of shape ``(frames, batch, dim)``: the means of posteriors.
        """

    def start(self, frames: Tensor) -> Tensor:
        """Infer the latent at which the path of each sequence starts, of shape ``(batch, dim)``.

        All methods look at the first frame only, except a topographic VAE, whose latents depend on neighbouring frames.
        """

    def path(self, z0: Tensor, k: int, steps: int) -> Tensor:
        """Move latents.

        Args:
            z0: Where to start, of shape ``(batch, dim)``.
            k: The transformation.
            steps: The number of steps ``T``.

        Returns:
            The latents at all times, of shape ``(T+1, batch, dim)``; the first are ``z0``.
        """

    def decode(self, z: Tensor) -> Distribution:
        """Say how the images of latents ``(*batch, dim)`` are distributed; the mean is the picture."""


@dataclass(frozen=True)
class AlongFlow:
    """Latents that follow the flows of a model.

    Attributes:
        model: The model, in evaluation mode.
        order: The potential of each transformation. A model that was trained without labels has them in an order of its
            own.
    """

    model: FlowVAE
    order: tuple[int, ...]

    def infer(self, frames: Tensor) -> Tensor:
        """Infer a latent for each frame, as the mean of its posterior."""
        return infer_means(self.model.encode, frames)

    def start(self, frames: Tensor) -> Tensor:
        """Infer the latent of the first frame."""
        return self.infer(frames[:, :1])[0]

    def path(self, z0: Tensor, k: int, steps: int) -> Tensor:
        """Follow the flow of a transformation."""
        return self.model.flow(z0, self.order[k], steps).z

    def decode(self, z: Tensor) -> Distribution:
        """Say how the images of latents are distributed."""
        return self.model.decode(z)


def infer_means(encode: Callable[[Tensor], Distribution], frames: Tensor) -> Tensor:
    """Infer a latent for each frame.

    Args:
        encode: Maps images ``(batch, channels, height, width)`` to distributions over latents ``(dim,)``.
        frames: Sequences, of shape ``(batch, frames, channels, height, width)``.

    Returns:
        The means, of shape ``(frames, batch, dim)``.
    """
    mean: Tensor = encode(frames.transpose(0, 1).flatten(0, 1)).mean
    return mean.reshape(frames.shape[1], frames.shape[0], -1)
