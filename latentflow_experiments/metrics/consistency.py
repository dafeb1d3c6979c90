"""Whether motions of latents extend: to more steps than were trained, back to the start, and in either order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal
from tqdm import tqdm

from latentflow.flow import InversionError
from latentflow_experiments.data import SequenceDataset, subsample
from latentflow_experiments.data.sequences import switched_states
from latentflow_experiments.methods.method import Motion, infer_means
from latentflow_experiments.metrics.equivariance import sum_per_frame, sum_per_image
from latentflow_experiments.reports.tables import table

LIMIT, BATCH = 1_000, 250  # first images of a transformation, and of a batch


@runtime_checkable
class Reversible(Protocol):
    """A motion that can be followed back."""

    def back(self, z: Tensor, k: int, steps: int) -> Tensor:
        """Move latents back.

        Args:
            z: The last latents, of shape ``(batch, dim)``.
            k: The transformation.
            steps: The number of steps ``T`` that led to them.

        Returns:
            The latents at all times, of shape ``(T+1, batch, dim)``; the last are ``z``.

        Raises:
            InversionError: If a step cannot be inverted.
        """


@dataclass(frozen=True)
class Adapter:
    """A motion made of functions, so that the metrics measure any encoder and decoder.

    Attributes:
        encode: Maps images ``(batch, channels, height, width)`` in [0, 1] to latents ``(batch, dim)``, or to
            distributions over them, of which the mean is taken.
        decode_images: Maps latents ``(*batch, dim)`` to images ``(*batch, channels, height, width)``, or to
            distributions over them.
        move: Moves latents ``z0`` by transformation ``k`` over a number of steps, see :meth:`Motion.follow`.

    Example:
        >>> from latentflow_experiments.data import open_sequences
        >>> from latentflow_experiments.metrics.equivariance import measure_equivariance
        >>> still = Adapter(
        ...     encode=lambda x: x.flatten(1),
        ...     decode_images=lambda z: z.unflatten(-1, (3, 28, 28)),
        ...     move=lambda z0, k, steps: z0.expand(steps + 1, *z0.shape),
        ... )
        >>> error = measure_equivariance(still, open_sequences("digits", "test")).errors["rotation"]
        >>> assert abs(error.output - error.static) < 1e-3  # the latent is the image, and does not move
    """

    encode: Callable[[Tensor], Tensor | Distribution]
    decode_images: Callable[[Tensor], Tensor | Distribution]
    move: Callable[[Tensor, int, int], Tensor]

    def infer(self, frames: Tensor) -> Tensor:
        """Infer a latent for each frame, of shape ``(frames, batch, dim)``."""
        return infer_means(lambda x: _as_distribution(self.encode(x)), frames)

    def start(self, frames: Tensor) -> Tensor:
        """Infer the latent of the first frame."""
        return self.infer(frames[:, :1])[0]

    def follow(self, z0: Tensor, k: int, steps: int) -> Tensor:
        """Move latents."""
        return self.move(z0, k, steps)

    def decode(self, z: Tensor) -> Distribution:
        """Compute the distribution of the images of latents; that of plain images has them as its mean."""
        return _as_distribution(self.decode_images(z))


def _as_distribution(value: Tensor | Distribution) -> Distribution:
    return Normal(value, 1.0, validate_args=False) if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class Beyond:
    r"""The errors of one transformation over more steps than were trained, the means over sequences.

    Attributes:
        output: :math:`|x_t - \mathrm{Dec}(z_t)|_1` for each step :math:`t = 1, 2, \dots`, the trained ones first.
        static: That of the first picture held still.
        trained: The number of steps that were trained.
    """

    output: tuple[float, ...]
    static: tuple[float, ...]
    trained: int

    @property
    def relative(self) -> float:
        """The error of the steps beyond the trained ones, divided by that of a still picture."""
        return sum(self.output[self.trained :]) / sum(self.static[self.trained :])


@dataclass(frozen=True)
class WayBack:
    r"""The inverse of a motion, over the sequences of one transformation.

    Attributes:
        round_trip: :math:`E|z_0' - z_0| / E|z_T - z_0|` where :math:`z_0'` is the way back from :math:`z_T`, which is
            the way forth from :math:`z_0`. It is 0 for an exact inverse; None if no latent moves.
        output: :math:`\sum_{t<T} |x_t - \mathrm{Dec}(z_t)|_1` where :math:`z_T` is inferred from the last frame alone,
            and the others are the way back from it; the mean over sequences. An encoder that has seen first frames only
            does not know a last one.
        static: That of the last picture held still.
    """

    round_trip: float | None
    output: float
    static: float


@dataclass(frozen=True)
class Commutator:
    r"""Two orders of two motions, each over half the steps, in pictures.

    The images themselves commute: a state of all transformations is one image, in whatever order they came to it.

    Attributes:
        apart: :math:`E|\mathrm{Dec}(z_{jk}) - \mathrm{Dec}(z_{kj})|_1` of the last pictures of both orders, divided by
            their mean distance from the first one. It is 0 for motions that commute as the images do.
        error: The mean error :math:`|x - \mathrm{Dec}(z)|_1` of both last pictures, divided by that of the first
            picture held still.
    """

    apart: float
    error: float


@dataclass(frozen=True)
class Consistency:
    """What was measured of a motion beyond its equivariance error.

    Attributes:
        beyond: The errors over more steps than were trained, by the name of the transformation; empty where there are
            no such images.
        back: The inverse, by the name of the transformation; None where a step cannot be inverted, empty for a motion
            that has none.
        commutators: Two orders, by the names of both transformations; None where a flow cannot be continued.
    """

    beyond: dict[str, Beyond]
    back: dict[str, WayBack | None]
    commutators: dict[str, Commutator | None]


def measure_beyond(motion: Motion, longer: SequenceDataset, trained: int, limit: int = LIMIT) -> dict[str, Beyond]:
    """Measure the errors of each step, also of those after the trained ones.

    Args:
        motion: The motion of a model in evaluation mode. It starts from as many frames as were trained.
        longer: Sequences with more steps, the first of which are those that were trained.
        trained: The number of steps that were trained.
        limit: The number of sequences of a transformation, at most; of more, so many are drawn from a fixed seed.

    Returns:
        The errors by the name of the transformation.
    """
    found = {}
    with torch.inference_mode():
        for k, name in enumerate(tqdm(longer.names, unit="transformation", desc="more steps")):
            output, static = [], []
            for indices in torch.split(subsample(longer.starts(k), limit), BATCH):
                frames = longer.sequence(indices, k)
                z = motion.follow(motion.start(frames[:, : trained + 1]), k, longer.steps)
                decoded = motion.decode(z).mean.transpose(0, 1)
                output.append(sum_per_frame(decoded[:, 1:] - frames[:, 1:]))
                static.append(sum_per_frame(decoded[:, :1] - frames[:, 1:]))
            means, still = (tuple(torch.cat(errors).mean(0).tolist()) for errors in (output, static))
            found[name] = Beyond(means, still, trained)
    return found


def measure_way_back(motion: Motion, data: SequenceDataset, limit: int = LIMIT) -> dict[str, WayBack | None]:
    """Measure the inverse of a motion for each transformation.

    Args:
        motion: The motion of a model in evaluation mode.
        data: The sequences, as long as those that were trained.
        limit: The number of sequences of a transformation, at most; of more, so many are drawn from a fixed seed.

    Returns:
        The inverse by the name of the transformation, None where a step cannot be inverted; empty if the motion is not
        :class:`Reversible`.
    """
    if not isinstance(motion, Reversible):
        return {}
    found: dict[str, WayBack | None] = {}
    with torch.inference_mode():
        for k, name in enumerate(tqdm(data.names, unit="transformation", desc="way back")):
            try:
                found[name] = _measure_way_back(motion, data, k, limit)
            except InversionError:
                found[name] = None
    return found


def _measure_way_back(motion: Motion, data: SequenceDataset, k: int, limit: int) -> WayBack:
    assert isinstance(motion, Reversible)
    steps, sums = data.steps, torch.zeros(4, dtype=torch.float64)
    starts = subsample(data.starts(k), limit)
    for indices in torch.split(starts, BATCH):
        frames = data.sequence(indices, k)
        z0 = motion.start(frames)
        end = motion.follow(z0, k, steps)[-1]
        again = motion.back(end, k, steps)[0]
        truth = frames[:, :-1]
        decoded = motion.decode(motion.back(motion.infer(frames)[-1], k, steps)).mean.transpose(0, 1)
        each = (
            (again - z0).norm(dim=-1),
            (end - z0).norm(dim=-1),
            sum_per_image(decoded[:, :-1] - truth),
            sum_per_image(decoded[:, -1:] - truth),
        )
        sums += torch.stack([values.double().sum().cpu() for values in each])
    lost, way, output, static = (sums / len(starts)).tolist()
    return WayBack(lost / way if way > 0 else None, output, static)


def measure_commutators(motion: Motion, data: SequenceDataset, limit: int = LIMIT) -> dict[str, Commutator | None]:
    """Measure how much the pictures depend on the order of each two transformations; clocks restart at the switch.

    Args:
        motion: The motion of a model in evaluation mode.
        data: The sequences, with at least 2 steps.
        limit: The number of first images of a pair, at most; of more, so many are drawn from a fixed seed.

    Returns:
        The commutators by the names of both; None where a flow cannot be continued.
    """
    found: dict[str, Commutator | None] = {}
    with torch.inference_mode():
        for j, k in tqdm(list(combinations(range(len(data.names)), 2)), unit="pair", desc="commutators"):
            try:
                found[f"{data.names[j]}, {data.names[k]}"] = _measure_commutator(motion, data, (j, k), limit)
            except InversionError:
                found[f"{data.names[j]}, {data.names[k]}"] = None
    return found


def _measure_commutator(motion: Motion, data: SequenceDataset, pair: tuple[int, int], limit: int) -> Commutator:
    steps = data.steps // 2 * 2
    half, sums = steps // 2, torch.zeros(4, dtype=torch.float64)
    for indices in torch.split(subsample(data.composed_starts(pair), limit), BATCH):
        ends = []
        for order in (pair, pair[::-1]):
            states = switched_states(*order, len(data.names), steps)
            states = torch.cat([states, states[steps:].expand(data.steps - steps, -1)])  # as many as were trained
            frames = data.composed(indices, states)
            z0 = motion.start(frames)
            middle = motion.follow(z0, order[0], half)[-1]
            ends.append((z0, motion.follow(middle, order[1], half)[-1]))
        still, one, other = (motion.decode(z).mean for z in (ends[0][0], ends[0][1], ends[1][1]))
        last = frames[:, -1]  # the same one of both orders
        each = (one - other, (one - still).abs() + (other - still).abs(), (one - last).abs() + (other - last).abs())
        sums += torch.stack([sum_per_image(values).sum() for values in (*each, still - last)])
    apart, ways, errors, static = sums.tolist()
    return Commutator(2 * apart / ways if ways > 0 else 0.0, errors / (2 * static) if static > 0 else 0.0)


def measure_consistency(
    motion: Motion, data: SequenceDataset, longer: SequenceDataset | None, limit: int = LIMIT
) -> Consistency:
    """Measure a motion over more steps, back, and in both orders of each two transformations.

    Args:
        motion: The motion of a model in evaluation mode.
        data: The sequences, as long as those that were trained.
        longer: Those with more steps, the first of which are the same; None where there are none.
        limit: The number of first images, at most.

    Returns:
        What was measured.
    """
    return Consistency(
        beyond={} if longer is None else measure_beyond(motion, longer, data.steps, limit),
        back=measure_way_back(motion, data, limit),
        commutators=measure_commutators(motion, data, limit) if data.steps > 1 else {},
    )


def consistency_table(found: Consistency) -> str:
    """Lay out what was measured as tables for the terminal, in Markdown."""
    parts = []
    if found.beyond:
        trained = next(iter(found.beyond.values())).trained
        rows = [
            (name, *(f"{ours / still:.3f}" for ours, still in zip(errors.output, errors.static, strict=True)))
            for name, errors in found.beyond.items()
        ]
        header = ("transformation", *map(str, range(1, len(rows[0]))))
        parts.append(f"error / still picture, by step; trained: {trained}\n\n{table(header, rows, left=0)}")
    if found.back:
        lines = [
            (name, "cannot be inverted", "", "")
            if way is None
            else (
                name,
                "" if way.round_trip is None else f"{way.round_trip:.2e}",
                f"{way.output:.2f}",
                f"{way.static:.2f}",
            )
            for name, way in found.back.items()
        ]
        parts.append(table(("way back", "round trip", "E from the last frame", "static"), lines, left=0))
    if found.commutators:
        pairs = [
            (name, "paths meet", "") if c is None else (name, f"{c.apart:.3f}", f"{c.error:.3f}")
            for name, c in found.commutators.items()
        ]
        parts.append(table(("both orders of", "apart / change", "error / still picture"), pairs, left=0))
    return "\n\n".join(parts)
