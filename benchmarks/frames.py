"""What decoding some frames of each sequence, drawn by lot, costs in noise of the gradient and saves in time."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.record import Aim, Comparison, Part
from benchmarks.text import duration, significant, table, times
from benchmarks.timing import Plan, measure
from latentflow import FlowVAE
from latentflow.experiments.configuration import ModelConfig
from latentflow.experiments.data import SequenceDataset, open_sequences
from latentflow.experiments.model import build_model
from latentflow.experiments.training import draw_starts

BATCH, STEPS, RATE = 64, 200, 1e-3
COUNTS = (1, 3, 9)
ALL = COUNTS[-1]
TASK = "training step"


@dataclass(frozen=True)
class Noise:
    """Variances of the gradient of the objective, summed over all parameters.

    Attributes:
        batches: The variance over batches and the noise of the latents, with all frames decoded.
        frames: The variance between the gradients of the reconstructions of the frames of a batch, on average.
    """

    batches: float
    frames: float

    def share(self, count: int) -> float:
        r"""Divide the variance over draws of the frames by that over batches and noise.

        The gradients :math:`g_t` of ``N`` frames have the variance :math:`S^2`. The sum of ``m`` of them, drawn without
        replacement and scaled by ``N / m``, has the variance :math:`N^2 (1/m - 1/N) S^2`.

        Args:
            count: The number ``m`` of frames that are drawn.

        Returns:
            The share.

        Example:
            >>> noise = Noise(batches=36.0, frames=1.0)
            >>> assert [noise.share(count) for count in (1, 9)] == [2.0, 0.0]
        """
        return ALL**2 * (1 / count - 1 / ALL) * self.frames / self.batches


class Batches:
    """Draws batches of sequences, each of one transformation.

    Args:
        data: The sequences.
    """

    def __init__(self, data: SequenceDataset) -> None:
        self.data = data
        self.starts = [data.starts(k) for k in range(len(data.names))]
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, kind: int) -> tuple[Tensor, Tensor]:
        """Draw sequences, ``(batch, T+1, channels, height, width)``, and give the transformation of each, ``(batch,)``.

        Args:
            kind: The transformation, the same one for all.
        """
        k = torch.full((BATCH,), kind)
        return self.data.sequence(draw_starts(self.starts, k, self.generator), k), k


class Step:
    """Makes training steps on one batch that is there already.

    Args:
        model: The model, of which a copy is trained.
        count: How many frames it decodes.
        batch: The sequences, and the transformation of each.
    """

    def __init__(self, model: FlowVAE, count: int, batch: tuple[Tensor, Tensor]) -> None:
        self.model = copy.deepcopy(model)
        self.model.decoded_frames = count
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=RATE, fused=True)
        self.batch = batch
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self) -> None:
        """Make a step, in single precision."""
        self.optimiser.zero_grad()
        self.model(*self.batch, self.generator)["total"].backward()
        self.optimiser.step()


def build(data: SequenceDataset) -> FlowVAE:
    """Build the default model with the joint bound; the same one each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(ModelConfig(bound="joint"), data)
    assert isinstance(model, FlowVAE)
    return model.train()


def train(model: FlowVAE, batches: Batches, steps: int) -> FlowVAE:
    """Train a copy of a model with all frames decoded, the transformations in turn."""
    kinds = len(batches.starts)
    step = Step(model, ALL, batches(0))
    for i in range(steps):
        step.batch = batches(i % kinds)
        step()
    return step.model


def variance(vectors: Iterable[Tensor]) -> float:
    """Sum the unbiased variances of all coordinates.

    Args:
        vectors: Two or more vectors, each of shape ``(n,)``; one at a time is in memory, beside the first and a sum.

    Returns:
        The sum.

    Example:
        >>> assert variance(torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 3.0]])) == 4 + 3
    """
    centred = iter(vectors)
    first = next(centred)
    total, squares, count = torch.zeros_like(first, dtype=torch.float64), 0.0, 1
    for vector in centred:
        difference = (vector - first).double()
        total += difference
        squares += float(difference.square().sum())
        count += 1
    return (squares - float(total.square().sum()) / count) / (count - 1)


def gradient(value: Tensor, model: FlowVAE) -> Tensor:
    """Compute the gradient with respect to all parameters as one vector, and keep the graph."""
    slopes = torch.autograd.grad(
        value, list(model.parameters()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([slope.flatten() for slope in slopes])


def frame_gradients(model: FlowVAE, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Iterator[Tensor]:
    """Compute the gradient of the objective with all frames, and then that of the reconstruction of each frame."""
    objective = model.objective(*batch, generator)
    yield gradient(objective.total, model)
    for each in objective.reconstruction_per_time:
        yield gradient(each, model)


def measure_noise(model: FlowVAE, batches: Batches, kind: int, count: int) -> Noise:
    """Measure the variances of the gradient for one transformation, from ``count`` batches, each with its own noise."""
    frames = []

    def whole() -> Iterator[Tensor]:
        for _ in range(count):
            gradients = frame_gradients(model, batches(kind), batches.generator)
            yield next(gradients)
            frames.append(variance(gradients))

    return Noise(batches=variance(whole()), frames=sum(frames) / count)


def run(plan: Plan) -> Iterator[Comparison]:
    """Train for a while, measure the noise with as many batches as there are rounds, and time the steps."""
    data = open_sequences("digits", "train")
    batches = Batches(data)
    model = train(build(data), batches, STEPS)
    noises = {name: measure_noise(model, batches, kind, plan.rounds) for kind, name in enumerate(data.names)}
    timings = measure({label(count): Step(model, count, batches(0)) for count in COUNTS}, plan)
    facts = {
        "batch": BATCH,
        "training steps": STEPS,
        "batches": plan.rounds,
        "variance over batches": {name: noise.batches for name, noise in noises.items()},
        "variance between frames": {name: noise.frames for name, noise in noises.items()},
    }
    yield Comparison(f"{data.name}, {BATCH} x {data.steps + 1} frames", TASK, timings, facts)


def label(count: int) -> str:
    """Name the timing of so many frames."""
    return f"{count} of {ALL} frames"


def noises_of(comparison: Comparison) -> list[Noise]:
    """Read the noise of a step, whose transformations take turns, as the mean of the variances; then that of each."""
    over, between = (list(comparison.facts[f"variance {kind}"].values()) for kind in ("over batches", "between frames"))
    each = [Noise(*pair) for pair in zip(over, between, strict=True)]
    return [Noise(sum(over) / len(over), sum(between) / len(between)), *each]


def tables(comparisons: list[Comparison]) -> str:
    """Write the table."""
    rows = []
    for comparison in comparisons:
        mean, *each = noises_of(comparison)
        for count in COUNTS:
            shares = [noise.share(count) for noise in each]
            scatter = f"{significant(min(shares), 2)} to {significant(max(shares), 2)}" if count < ALL else ""
            ratio = comparison.ratio(label(count), label(ALL))
            time = duration(comparison.timings[label(count)].median)
            share = significant(mean.share(count), 2)
            rows.append([label(count), share, scatter, time, times(ratio), times(ratio * (1 + mean.share(count)))])
    header = ["decoded", "variance of the draw", "by transformation", "training step", "time", "time * variance"]
    return table(header, rows)


def aims(comparisons: list[Comparison]) -> list[Aim]:  # noqa: ARG001 - of every part
    """None were set: the numbers say what the option trades."""
    return []


PART = Part("frames", run, tables, aims)
