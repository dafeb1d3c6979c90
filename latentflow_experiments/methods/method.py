"""The description of a method, and what the metrics read of a trained model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentflow import FlowVAE, MLPDecoder, MLPEncoder
from latentflow.flow import Euler, Flow
from latentflow.vae import ConvDecoder, ConvEncoder, ConvSequenceClassifier, GatedDecoder, MLPSequenceClassifier
from latentflow_experiments.data import SequenceDataset
from latentflow_experiments.errors import UsageError
from latentflow_experiments.methods.matching import Matching, Recovery
from latentflow_experiments.methods.pixels import LateLaplaceLikelihood
from latentflow_experiments.methods.proposals import Proposal
from latentflow_experiments.song2023_networks import PaperClassifier, PaperDecoder, PaperEncoder

__all__ = [
    "Choice",
    "FlowMotion",
    "Method",
    "ModelSettings",
    "Motion",
    "TrainableModel",
    "Traversal",
    "build_classifier",
    "build_decoder",
    "build_encoder",
    "choose_network",
    "infer_means",
    "require",
]

Model = TypeVar("Model", bound=nn.Module)
Options = TypeVar("Options")


@dataclass(frozen=True)
class ModelSettings:
    """The settings that all methods read, with the meaning that the command line shows.

    Attributes:
        method: The flows of latentflow, or one of the methods that the paper compares with, with the same encoder,
            decoder and likelihood.
        supervision: Whether training reads which transformation a sequence has (labels), also teaches a posterior to
            tell it (taught), or infers it without labels (weak).
        label_estimator: Expectation over an inferred transformation: one straight-through sample, or the exact sum.
        balance: Weight of the penalty that keeps an inferred transformation from collapsing onto one flow, in nats of a
            sequence; None for 0.01 for each number of a sequence of images with sides of at least 64 pixels, which is
            983 for 8 frames of 3 x 64 x 64, and 100 for smaller images.
        dim: Number of latent coordinates.
        hidden: Widths of the hidden layers of each potential.
        network: Kind of the encoder, the decoder and the posterior of the transformation: perceptrons (mlp), with a
            decoder whose last hidden layer is a product (gated), that decoder behind an encoder of convolutions
            (mixed), convolutions (conv), or the convolutions of the paper, whose channels grow with the number of
            latent coordinates (song2023); auto is conv for images with sides of at least 64 pixels, mixed for those of
            at least 16 pixels and gated for smaller ones.
        width: Width of the hidden layers of the encoder and of the decoder: two in perceptrons, one beside the
            convolutions of conv; in mixed, the last one of the decoder, half of it elsewhere.
        likelihood: Distribution of a pixel; laplace is bernoulli in the first part of the training, and then draws the
            median of a pixel in place of its mean.
        decoded_frames: Frames of a sequence to decode in a training step, drawn by lot; None for all. The topographic
            VAE decodes all, PoFlow two.
        bound: Lower bound to train: of the whole sequence, with latents that flow (joint), that flow and diffuse
            (stochastic), or that also depend on the later frames (smoothing); of the marginals at every time; or the
            densities of the paper, which bound nothing.
        pde: Equation of the potentials: that of a residual of latentflow.pde, exact-hj (by construction, without a
            residual), convex-hj (so, and optimal transport by construction), forced-hj (with a learned non-positive
            force), none, or your own residual as MODULE:CLASS or FILE.py:CLASS.
        residual_weight: Weight of the squared residual.
        prior: Distribution of the latents at each time.
        baseline: The options of single methods.
    """

    method: str
    supervision: str
    label_estimator: str
    balance: float | None
    dim: int
    hidden: tuple[int, ...]
    network: str
    width: int
    likelihood: str
    decoded_frames: int | None
    bound: str
    pde: str
    residual_weight: float
    prior: str
    baseline: Any

    def options(self, kind: type[Options]) -> Options:
        """Return the options of one method, as the dataclass in which it declares them."""
        return kind(**{field.name: getattr(self.baseline, field.name) for field in fields(kind)})  # type: ignore[arg-type]  # the fields of the options


class TrainableModel(Protocol):
    """A module that training can train."""

    def __call__(self, frames: Tensor, k: Tensor | None, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Compute the terms of the loss on sequences of transformations k; training minimizes ``total``."""


class Motion(Protocol):
    """A trained model together with its rule for the latents under a transformation."""

    def infer(self, frames: Tensor) -> Tensor:
        """Infer a latent for each frame.

        Args:
            frames: Sequences, of shape ``(batch, frames, channels, height, width)``, in [0, 1].

        Returns:
            The latents, of shape ``(frames, batch, dim)``: the means of posteriors.
        """

    def start(self, frames: Tensor) -> Tensor:
        """Infer the latent at which the trajectory of each sequence starts, of shape ``(batch, dim)``.

        All methods read the first frame only, except a topographic VAE, whose latents depend on neighboring frames.
        """

    def follow(self, z0: Tensor, k: int, steps: int) -> Tensor:
        """Move latents.

        Args:
            z0: The first latents, of shape ``(batch, dim)``.
            k: The transformation.
            steps: The number of steps ``T``.

        Returns:
            The latents at all times, of shape ``(T+1, batch, dim)``; the first are ``z0``.
        """

    def decode(self, z: Tensor) -> Distribution:
        """Compute the distribution of the images of latents ``(*batch, dim)``; its mean is the picture."""


@dataclass(frozen=True)
class Traversal:
    r"""The effect of a transformation on a latent: :math:`z_{t,i} = z_{0,i} + \tfrac{t}{T} (b - z_{0,i})`.

    Attributes:
        dimension: The coordinate :math:`i` that moves.
        bound: The value :math:`b` after ``steps``, the same for all latents.
        error: The error on the sequences on which they were chosen.
        steps: The number of steps :math:`T` to the bound; None in records from before it was noted: all that are made.
    """

    dimension: int
    bound: float
    error: float
    steps: int | None = None


@dataclass(frozen=True)
class Choice:
    """The choices that were made on validation sequences.

    Attributes:
        matching: The potential of each transformation, for a model that was trained without labels; else None.
        traversals: The coordinate and bound of each transformation, for a model without a rule; else None.
        potentials: The potentials that sequences were given to by the model itself, where nobody knows their
            transformation; else None.
    """

    matching: Matching | None = None
    traversals: tuple[Traversal, ...] | None = None
    potentials: tuple[int, ...] | None = None

    @staticmethod
    def from_values(values: dict[str, Any]) -> Choice:
        """Make the choice from its values in JSON."""
        matching, traversals, potentials = values["matching"], values["traversals"], values.get("potentials")
        return Choice(
            None if matching is None else Matching(tuple(matching["order"]), tuple(map(tuple, matching["counts"]))),
            None if traversals is None else tuple(Traversal(**traversal) for traversal in traversals),
            None if potentials is None else tuple(potentials),
        )


@dataclass(frozen=True)
class FlowMotion:
    """Latents that follow the flows of a model.

    Attributes:
        model: The model, in evaluation mode.
        order: The potential of each transformation; training without labels leaves them in an arbitrary order.
    """

    model: FlowVAE
    order: tuple[int, ...]

    def infer(self, frames: Tensor) -> Tensor:
        """Infer a latent for each frame, as the mean of its posterior."""
        return infer_means(self.model.encode, frames)

    def start(self, frames: Tensor) -> Tensor:
        """Infer the latent of the first frame."""
        return self.infer(frames[:, :1])[0]

    def follow(self, z0: Tensor, k: int, steps: int) -> Tensor:
        """Follow the flow of a transformation."""
        return self._flow(k).rollout(z0, steps, log_det=None).z

    def back(self, z: Tensor, k: int, steps: int) -> Tensor:
        """Invert the steps of the flow of a transformation, one by one.

        Raises:
            InversionError: If a step cannot be inverted.
        """
        return self._flow(k).inverse(z, range(steps + 1), Euler(log_det=None)).z.flip(0)

    def _flow(self, k: int) -> Flow:
        return self.model.flow_of(self.order[k])

    def decode(self, z: Tensor) -> Distribution:
        """Compute the distribution of the images of latents."""
        return self.model.decode(z)


class Method(ABC, Generic[Model]):
    """A method of the comparison, described beside its model.

    A module of :mod:`latentflow_experiments.methods` lists its methods as ``METHODS``; the command line, training and
    the metrics find them there. The defaults are those of a method without labels, without flows and without options.

    Attributes:
        name: The name on the command line.
        options: A frozen dataclass of the options that only this method has, with defaults, or None.
        infers_labels: Whether it can be trained with ``--supervision taught`` and ``weak``.
        composes: Whether its flows are superposed and switched.
        validates: Whether its errors are measured in the course of a training: :meth:`choose` takes little time.
    """

    name: ClassVar[str]
    options: ClassVar[type | None] = None
    infers_labels: ClassVar[bool] = False
    composes: ClassVar[bool] = False
    validates: ClassVar[bool] = True

    @abstractmethod
    def build(self, settings: ModelSettings, data: SequenceDataset) -> Model:
        """Build the model.

        Args:
            settings: The settings.
            data: The sequences; the shape of their frames, their names and their steps are read.

        Returns:
            The model, with freshly initialized weights from torch's global source of randomness.
        """

    @abstractmethod
    def motion(self, model: Model, choice: Choice) -> Motion:
        """Return the rule by which latents move."""

    @abstractmethod
    def proposals(self, model: Model, choice: Choice) -> dict[str, Callable[[int], Proposal]]:
        """Return the proposals of importance sampling for a transformation, by their names."""

    def reads_labels(self, settings: ModelSettings) -> bool:
        """Return whether training reads which transformation a sequence has."""
        return False

    def parameter_groups(self, model: Model) -> list[dict[str, Any]]:
        """Group the parameters as torch's optimizers take them; ``scale`` in a group multiplies the learning rate."""
        return [{"params": list(model.parameters())}]

    def anneal(self, model: Model, spent: float) -> None:
        """Adapt the model to the share of the training that is spent, before each step.

        A method that overrides it calls it too: pixels are Bernoulli variables in the first part of a training that
        makes them Laplace variables, see :class:`LateLaplaceLikelihood`.
        """
        for part in model.modules():
            likelihood = getattr(part, "likelihood", None)
            if isinstance(likelihood, LateLaplaceLikelihood):
                likelihood.anneal(spent)

    def choose(self, model: Model, validation: SequenceDataset) -> Choice:
        """Choose on validation sequences what the training did not say."""
        return Choice()

    def labelled(self, model: Model, data: SequenceDataset) -> SequenceDataset:
        """Return sequences with a transformation each: by the model itself, where nobody knows it."""
        return data

    def recovery(self, model: Model, choice: Choice, data: SequenceDataset) -> Recovery | None:
        """Measure how well transformations were recovered without labels; None for a method that reads them."""
        return None

    def flows(self, model: Model, choice: Choice) -> FlowMotion | None:
        """Return the flows whose transport is certified; None for a method without flows."""
        return None

    def encoder(self, model: Model) -> Callable[[Tensor], Distribution] | None:
        """Return the encoder whose coordinates are scored for disentanglement; None if latents are no coordinates."""
        return None


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """Check an option of the command line.

    Raises:
        UsageError: If the condition does not hold.
    """
    if not condition:
        raise UsageError(f"{name}: expected {expected}, got {got!r}")


MIXED_SIDE, CONV_SIDE = 16, 64
"""The sides in pixels from which on convolutions encode images, and also decode them, if the settings leave it open."""


def choose_network(settings: ModelSettings, shape: Sequence[int]) -> str:
    """Return the kind of the networks: that of the settings, or the one for images of a shape where it is left open.

    Args:
        settings: The settings.
        shape: The shape of an image, ``(channels, height, width)``.

    Returns:
        ``mlp``, ``gated``, ``mixed``, ``conv`` or ``song2023``.

    Raises:
        UsageError: If the settings ask for convolutions that such images cannot have.
    """
    *_, height, width = shape
    divisible = height % 4 == width % 4 == 0
    if settings.network == "auto":
        if not divisible or min(height, width) < MIXED_SIDE:
            return "gated"
        return "conv" if min(height, width) >= CONV_SIDE else "mixed"
    if settings.network in ("mixed", "conv", "song2023"):
        sides = f"mlp or gated for {height} x {width} pixels, which are not divisible by 4"
        require(divisible, "network", sides, settings.network)
    return settings.network


def build_encoder(settings: ModelSettings, data: SequenceDataset, dim: int) -> nn.Module:
    """Build the encoder of all methods: a callable from images to a distribution over ``dim`` latent coordinates."""
    match choose_network(settings, data.shape):
        case "conv":
            return ConvEncoder(data.shape, dim, (settings.width,))
        case "mixed":
            return ConvEncoder(data.shape, dim, (max(1, settings.width // 2),))
        case "song2023":
            return PaperEncoder(data.shape, dim)
        case _:
            return MLPEncoder(data.shape, dim, (settings.width, settings.width))


def build_decoder(settings: ModelSettings, data: SequenceDataset, dim: int) -> nn.Module:
    """Build the decoder of all methods: a callable from latents to the argument of a likelihood."""
    match choose_network(settings, data.shape):
        case "conv":
            return ConvDecoder(dim, data.shape, (settings.width,))
        case "song2023":
            return PaperDecoder(dim, data.shape)
        case "gated":
            return GatedDecoder(dim, data.shape, (settings.width, settings.width))
        case "mixed":
            return GatedDecoder(dim, data.shape, (max(1, settings.width // 2), settings.width))
        case _:
            return MLPDecoder(dim, data.shape, (settings.width, settings.width))


def build_classifier(settings: ModelSettings, data: SequenceDataset) -> nn.Module:
    """Build the network of the posterior of the transformation: a callable from sequences to logits."""
    frames, classes = data.steps + 1, len(data.names)
    match choose_network(settings, data.shape):
        case "conv":
            return ConvSequenceClassifier(data.shape, frames, classes)
        case "song2023":
            return PaperClassifier(data.shape, frames, classes, settings.dim)
        case _:
            return MLPSequenceClassifier(data.shape, frames, classes)


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
