"""The autoencoder that the baselines share, and how its latents are moved: one coordinate at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from tqdm import tqdm

from latentflow.calculus.checks import check_count
from latentflow.vae import Likelihood
from latentflow.vae.bounds import estimate_divergence, reparameterized_sample
from latentflow_experiments.data import SequenceDataset, subsample
from latentflow_experiments.methods.method import Choice, Method, Motion, Traversal, infer_means
from latentflow_experiments.methods.proposals import FromEncoderStandard, Proposal


class Autoencoder(nn.Module):
    r"""An encoder :math:`q(z | x)`, a decoder :math:`p(x | z)` and the prior :math:`N(0, I)`.

    Args:
        encoder: Maps images ``(batch, channels, height, width)`` to a normal distribution over latents ``(dim,)``.
        decoder: Maps latents ``(batch, dim)`` to what the likelihood takes.
        likelihood: Maps the decoder's output to a distribution over images.
        drawn_frames: The number of frames of a sequence that a training step sees, drawn by lot; None for all.

    Raises:
        ValueError: If ``drawn_frames`` is not a positive integer.
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Distribution],
        decoder: Callable[[Tensor], Tensor],
        likelihood: Likelihood,
        drawn_frames: int | None = None,
    ) -> None:
        super().__init__()
        if drawn_frames is not None:
            check_count("drawn_frames", drawn_frames)
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.drawn_frames = drawn_frames

    def draw(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw the frames that a training step sees, the same places of all sequences, without replacement.

        The loss is a mean over images, so that its expectation, and that of its gradient, is the loss of all frames.

        Args:
            frames: Sequences, of shape ``(batch, T+1, channels, height, width)``.
            generator: The source of randomness, or None for torch's global one.

        Returns:
            The sequences with fewer frames; all of them in evaluation mode.
        """
        count = frames.shape[1]
        if not self.training or self.drawn_frames is None or self.drawn_frames >= count:
            return frames
        places = torch.randperm(count, generator=generator, device=frames.device)[: self.drawn_frames]
        return frames[:, places]

    def encode(self, x: Tensor) -> Distribution:
        """Infer the latents of images ``(batch, channels, height, width)``, as events of shape ``(dim,)``."""
        posterior: Distribution = self.encoder(x)
        return posterior

    def decode(self, z: Tensor) -> Distribution:
        """Compute the distribution of the images of latents ``(*batch, dim)``."""
        decoded = self.decoder(z.reshape(-1, z.shape[-1])).to(z.dtype)  # autocast may have lowered it
        return self.likelihood(decoded.reshape(*z.shape[:-1], *decoded.shape[1:]))

    def explain(
        self, x: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Distribution, Tensor, Tensor, Tensor]:
        r"""Compute the two terms of the evidence lower bound of each image.

        Args:
            x: Images, of shape ``(batch, channels, height, width)``, in [0, 1].
            generator: The source of randomness, or None for torch's global one.

        Returns:
            The posterior; a sample of it, of shape ``(batch, dim)``; the reconstruction :math:`-\log p(x | z)` and the
            divergence :math:`KL(q(z | x) \| N(0, I))`, both of shape ``(batch,)``, in nats.
        """
        posterior = self.encode(x)
        z = reparameterized_sample(posterior, generator)
        standard = Independent(Normal(torch.zeros_like(z), 1.0, validate_args=False), 1, validate_args=False)
        return posterior, z, -self.decode(z).log_prob(x), estimate_divergence(posterior, standard, z)


COARSE, FINE = 1.0, 0.1  # distances between bounds


LIMIT = 5.0  # the largest bound


KEPT = 5  # candidates of the coarse search that the fine search looks around


COARSE_IMAGES, FINE_IMAGES = 50, 200


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

    def follow(self, z0: Tensor, k: int, steps: int) -> Tensor:
        """Repeat the latents."""
        return z0.expand(steps + 1, *z0.shape)

    def decode(self, z: Tensor) -> Distribution:
        """Compute the distribution of the images of latents."""
        return self.model.decode(z)


@dataclass(frozen=True)
class SingleDimension(Static):
    """Latents of which one coordinate moves to a bound.

    Attributes:
        model: The model, in evaluation mode.
        traversals: The coordinate and the bound of each transformation.
    """

    traversals: tuple[Traversal, ...]

    def follow(self, z0: Tensor, k: int, steps: int) -> Tensor:
        """Move one coordinate in equal steps, also beyond its bound."""
        traversal = self.traversals[k]
        return traverse(z0, traversal.dimension, torch.tensor(traversal.bound), steps, traversal.steps)


Coder = TypeVar("Coder", bound=Autoencoder)


class AutoencoderMethod(Method[Coder], Generic[Coder]):
    """A method whose model does not say how a transformation moves a latent: a search chooses one coordinate."""

    validates = False  # the search takes a minute

    def choose(self, model: Coder, validation: SequenceDataset) -> Choice:
        """Choose the coordinate and the bound of each transformation."""
        return Choice(traversals=search_traversals(model, validation))

    def motion(self, model: Coder, choice: Choice) -> Motion:
        """Return the traversals; without a choice latents stay where they are."""
        return Static(model) if choice.traversals is None else SingleDimension(model, choice.traversals)

    def proposals(self, model: Coder, choice: Choice) -> dict[str, Callable[[int], Proposal]]:
        """Return the posterior of each frame, the same for all transformations."""
        return {"encoder": lambda _k: FromEncoderStandard(model.encode)}

    def encoder(self, model: Coder) -> Callable[[Tensor], Distribution]:
        """Return the encoder, whose coordinates are scored."""
        return model.encode


def traverse(z0: Tensor, dimension: int, bounds: Tensor, steps: int, until: int | None = None) -> Tensor:
    """Move one coordinate of latents to bounds in equal steps.

    Args:
        z0: The latents, of shape ``(batch, dim)``.
        dimension: The coordinate.
        bounds: The bounds, of shape ``(*candidates,)``.
        steps: The number of steps ``T``.
        until: The number of steps to the bound, where there are fewer of them or more; by default all.

    Returns:
        The latents at all times, of shape ``(*candidates, T+1, batch, dim)``.

    Example:
        >>> z = traverse(torch.tensor([[1.0, 7.0]]), 0, torch.tensor([5.0]), steps=2)
        >>> assert z[0, :, 0].tolist() == [[1.0, 7.0], [3.0, 7.0], [5.0, 7.0]]
    """
    share = torch.linspace(0, steps / (until or steps), steps + 1, dtype=z0.dtype, device=z0.device)
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
            best[candidate.dimension, bound] = Traversal(candidate.dimension, bound, error, data.steps)
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
