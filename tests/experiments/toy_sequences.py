"""Sequences whose frames are latents themselves, so that every error has a closed form."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from latentflow.vae import GaussianLikelihood
from latentflow_experiments.methods.autoencoder import Autoencoder


@dataclass(frozen=True)
class Toy:
    """Frame t of sequence i is z_t of shape (1, 1, dim), where ``move(z0, k, steps)`` gives z, (steps + 1, n, dim)."""

    z0: Tensor
    move: Callable[[Tensor, int, int], Tensor]
    steps: int = 4
    names: tuple[str, ...] = ("first", "second", "third")
    first: Tensor | None = None
    name: str = "toy"
    split: str = "validation"

    @property
    def shape(self):
        return 1, 1, self.z0.shape[-1]

    def starts(self, k):
        return torch.arange(len(self.z0)) if self.first is None else self.first

    def sequence(self, indices, k):
        return self.move(self.z0[indices], k, self.steps).transpose(0, 1)[:, :, None, None]


def identity(dim, autoencoder=Autoencoder, scale=1.0):
    """A model whose latents are the images."""
    return autoencoder(
        lambda x: Independent(Normal(x.flatten(1), scale), 1), lambda z: z.reshape(-1, 1, 1, dim), GaussianLikelihood()
    ).eval()


def to_bound(dimension, bound):
    """Move one coordinate to a bound in equal steps, without the library's own code."""

    def move(z0, k, steps):
        frames = []
        for t in range(steps + 1):
            z = z0.clone()
            z[:, dimension] = z0[:, dimension] * (1 - t / steps) + bound * t / steps
            frames.append(z)
        return torch.stack(frames)

    return move
