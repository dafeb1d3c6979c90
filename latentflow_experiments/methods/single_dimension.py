r"""Traversals of one latent coordinate, for models that do not say how a transformation moves a latent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from tqdm import tqdm

from latentflow_experiments.baselines import Autoencoder
from latentflow_experiments.data import SequenceDataset, subsample
from latentflow_experiments.methods.method import infer_means

__all__ = ["SingleDimension", "Static", "Traversal", "search_traversals"]

COARSE, FINE = 1.0, 0.1  # distances between bounds
LIMIT = 5.0  # the largest bound
KEPT = 5  # candidates of the coarse search that the fine search looks around
COARSE_IMAGES, FINE_IMAGES = 50, 200


@dataclass(frozen=True)
class Traversal:
    r"""What a transformation does to a latent: :math:`z_{t,i} = z_{0,i} + \tfrac{t}{T} (b - z_{0,i})`.

    Attributes:
        dimension: The coordinate :math:`i` that moves.
        bound: The value :math:`b` that it ends at, the same for all latents.
        error: The error on the sequences on which they were chosen.
    """

    dimension: int
    bound: float
    error: float


@dataclass(frozen=True)
class Static:
    """Latents that stay where they are.

    Attributes:
        model: The model, in evaluation mode.
    """

    model: Autoencoder

    def infer(self, frames: Tensor) -> Tensor:
        """Infer a latent for each frame, as the mean of its posterior."""
        return infer_means(self.model.encode, frames)

    def start(self, frames: Tensor) -> Tensor:
        """Infer the latent of the first frame."""
        return self.infer(frames[:, :1])[0]

    def path(self, z0: Tensor, k: int, steps: int) -> Tensor:  # noqa: ARG002 - the same for all transformations
        """Repeat the latents."""
        return z0.expand(steps + 1, *z0.shape)

    def decode(self, z: Tensor) -> Distribution:
        """Say how the images of latents are distributed."""
        return self.model.decode(z)


@dataclass(frozen=True)
class SingleDimension(Static):
    """Latents of which one coordinate moves to a bound.

    Attributes:
        model: The model, in evaluation mode.
        traversals: The coordinate and the bound of each transformation.
    """

    traversals: tuple[Traversal, ...]

    def path(self, z0: Tensor, k: int, steps: int) -> Tensor:
        """Move one coordinate in equal steps."""
        traversal = self.traversals[k]
        return traverse(z0, traversal.dimension, torch.tensor(traversal.bound), steps)


def traverse(z0: Tensor, dimension: int, bounds: Tensor, steps: int) -> Tensor:
    """Move one coordinate of latents to bounds in equal steps.

    Args:
        z0: The latents, of shape ``(batch, dim)``.
        dimension: The coordinate.
        bounds: The bounds, of shape ``(*candidates,)``.
        steps: The number of steps.

    Returns:
        The latents at all times, of shape ``(*candidates, T+1, batch, dim)``.

    Example:
        >>> z = traverse(torch.tensor([[1.0, 7.0]]), 0, torch.tensor([5.0]), steps=2)
        >>> assert z[0, :, 0].tolist() == [[1.0, 7.0], [3.0, 7.0], [5.0, 7.0]]
    """
    share = torch.linspace(0, 1, steps + 1, dtype=z0.dtype, device=z0.device)
    goal = bounds.to(z0)[..., None, None]
    z = z0.expand(*bounds.shape, steps + 1, *z0.shape).clone()
    z[..., dimension] = z0[:, dimension] + share[:, None] * (goal - z0[:, dimension])
    return z


def search_traversals(model: Autoencoder, data: SequenceDataset) -> tuple[Traversal, ...]:
    r"""Choose, for each transformation, the coordinate and the bound with the smallest error.

    The bounds are :math:`-5, -4.9, \dots, 5`. A coarse search tries every coordinate with bounds a whole number apart
    on 50 sequences, a fine one all bounds within 1 of the best 5 candidates on 200. Give it validation data: what is
    chosen on the test data would be measured too well.

    Args:
        model: The model, in evaluation mode.
        data: The sequences to choose on.

    Returns:
        The choice for each transformation.
    """
    choices = []
    with torch.inference_mode(), tqdm(total=len(data.names), unit="transformation", desc="traversals") as bar:
        for k in range(len(data.names)):
            choices.append(_search(model, data, k, bar))
    return tuple(choices)


def _search(model: Autoencoder, data: SequenceDataset, k: int, bar: tqdm[Any]) -> Traversal:
    coarse = torch.arange(-LIMIT, LIMIT + COARSE / 2, COARSE)
    frames = data.sequence(subsample(data.starts(k), COARSE_IMAGES), k)
    found = []
    for dimension in range(infer_means(model.encode, frames[:1, :1]).shape[-1]):
        errors = traversal_errors(model, frames, dimension, coarse)
        found += [Traversal(dimension, float(b), float(e)) for b, e in zip(coarse, errors, strict=True)]
    frames = data.sequence(subsample(data.starts(k), FINE_IMAGES), k)
    best: dict[tuple[int, float], Traversal] = {}
    for candidate in sorted(found, key=lambda traversal: traversal.error)[:KEPT]:
        around = torch.arange(candidate.bound - COARSE, candidate.bound + COARSE + FINE / 2, FINE)
        bounds = [round(b, 1) for b in around.clamp(-LIMIT, LIMIT).tolist()]
        todo = [b for b in dict.fromkeys(bounds) if (candidate.dimension, b) not in best]
        errors = traversal_errors(model, frames, candidate.dimension, torch.tensor(todo))
        for bound, error in zip(todo, errors.tolist(), strict=True):
            best[candidate.dimension, bound] = Traversal(candidate.dimension, bound, error)
    bar.update()
    return min(best.values(), key=lambda traversal: traversal.error)


def traversal_errors(
    model: Autoencoder, frames: Tensor, dimension: int, bounds: Tensor, batch_size: int = 50
) -> Tensor:
    r"""Compute the errors :math:`\sum_t |x_t - \mathrm{Dec}(z_t)|_1` of several bounds of one coordinate.

    Args:
        model: The model, in evaluation mode.
        frames: Sequences, of shape ``(batch, T+1, channels, height, width)``.
        dimension: The coordinate.
        bounds: The bounds, of shape ``(n,)``.
        batch_size: Sequences at once.

    Returns:
        The mean over the sequences, of shape ``(n,)``.
    """
    total = torch.zeros(len(bounds), dtype=torch.float64)
    for some in torch.split(frames, batch_size):
        z0 = infer_means(model.encode, some[:, :1])[0]
        truth = some[:, 1:].transpose(0, 1)
        for place, z in enumerate(traverse(z0, dimension, bounds, some.shape[1] - 1)):
            total[place] += (model.decode(z[1:]).mean - truth).abs().sum(dtype=torch.float64).cpu()
    return total / len(frames)
