"""What decoding some frames of each sequence, drawn by lot, costs in noise of the gradient and saves in time."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from benchmarks.record import Aim, Comparison, Part
from benchmarks.text import duration, significant, times
from benchmarks.timing import Plan, measure
from latentflow import FlowVAE
from latentflow_experiments.configuration import ModelConfig
from latentflow_experiments.data import SequenceDataset, open_sequences
from latentflow_experiments.reports.tables import table
from latentflow_experiments.training.loop import draw_starts

BATCH, STEPS, RATE = 64, 200, 1e-3
COUNTS = (1, 3, 9)
ALL = COUNTS[-1]
SEQUENCES = 4  # of each transformation in a round, whose frames are taken apart
TASK = "training step"
OVER, BETWEEN = "variance over batches", "variance between the frames of a sequence"


@dataclass(frozen=True)
class Estimate:
    """The mean of independent samples, or what was computed from such means.

    Attributes:
        mean: The mean.
        error: Its standard error.
    """

    mean: float
    error: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Estimate:
        """Average two or more independent samples.

        Example:
            >>> assert Estimate.of([1.0, 3.0]) == Estimate(mean=2.0, error=1.0)
        """
        return cls(statistics.fmean(samples), statistics.stdev(samples) / len(samples) ** 0.5)

    @classmethod
    def average(cls, estimates: Sequence[Estimate]) -> Estimate:
        """Average independent estimates, all with the same weight.

        Example:
            >>> assert Estimate.average([Estimate(2.0, 3.0), Estimate(4.0, 4.0)]) == Estimate(mean=3.0, error=2.5)
        """
        return cls(
            statistics.fmean(e.mean for e in estimates), math.hypot(*(e.error for e in estimates)) / len(estimates)
        )

    def over(self, other: Estimate) -> Estimate:
        """Divide by an independent estimate; the error is that of the linearised ratio.

        Example:
            >>> assert Estimate(8.0, 0.0).over(Estimate(2.0, 0.5)) == Estimate(mean=4.0, error=1.0)
        """
        ratio = self.mean / other.mean
        return Estimate(ratio, math.hypot(self.error, ratio * other.error) / other.mean)


def draw_factor(count: int, frames: int, sequences: int) -> float:
    r"""Compute by what the variance between frames is multiplied in the gradient of a batch.

    The gradients :math:`g_{i1}, \dots, g_{iN}` of the frames of sequence ``i`` have the variance :math:`S_i^2`. The sum
    of ``m`` of them, drawn without replacement and scaled by ``N / m``, has the variance
    :math:`N^2 (1/m - 1/N) S_i^2`. As every one of ``B`` sequences draws its own, their mean has the variance

    .. math:: N^2 \Big(\frac{1}{m} - \frac{1}{N}\Big) \frac{1}{B} \cdot \frac{1}{B} \sum_{i=1}^{B} S_i^2 .

    Args:
        count: The number ``m`` of frames that a sequence draws.
        frames: The number ``N`` of frames that it has.
        sequences: The number ``B`` of sequences.

    Returns:
        What is multiplied with the mean of :math:`S_i^2`.

    Example:
        >>> assert draw_factor(1, frames=9, sequences=8) == 9.0
        >>> assert draw_factor(9, frames=9, sequences=8) == 0.0
    """
    return frames * (frames / count - 1) / sequences


@dataclass(frozen=True)
class Noise:
    """Variances of gradients, summed over all parameters.

    Attributes:
        batches: The variance of the gradient of the objective over batches, the noise of the latents and the points of
            the residual, with all frames decoded.
        frames: The variance between the gradients of the reconstructions of the frames of one sequence, on average over
            sequences and the noise of the latents.
    """

    batches: Estimate
    frames: Estimate

    def share(self, count: int) -> Estimate:
        """Divide the variance over draws of so many frames by that over batches and noise; the whole is their sum.

        Example:
            >>> noise = Noise(batches=Estimate(9.0, 0.0), frames=Estimate(8.0, 1.0))
            >>> assert noise.share(1) == Estimate(1.0, 0.125)
            >>> assert noise.share(9).mean == 0.0
        """
        factor = draw_factor(count, ALL, BATCH)
        return Estimate(factor * self.frames.mean, factor * self.frames.error).over(self.batches)


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
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE, fused=True)
        self.batch = batch
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self) -> None:
        """Make a step, in single precision."""
        self.optimizer.zero_grad()
        self.model(*self.batch, self.generator)["total"].backward()
        self.optimizer.step()


def build(data: SequenceDataset) -> FlowVAE:
    """Build the default model with the joint bound; the same one each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ModelConfig(bound="joint").build(data)
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


def batch_variance(model: FlowVAE, batches: Batches, kind: int) -> float:
    """Estimate the variance of the gradient with all frames decoded, from two batches, each with its own noise."""
    return variance(gradient(model(*batches(kind), batches.generator)["total"], model) for _ in range(2))


def frame_variances(model: FlowVAE, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Iterator[float]:
    """Compute for every sequence alone the variance between the gradients of the reconstructions of its frames.

    Args:
        model: The model, which decodes all frames.
        batch: The sequences, and the transformation of each.
        generator: The source of the noise of the latents.

    Yields:
        :math:`S_i^2`, summed over all parameters.
    """
    sequences, k = batch
    for i in range(len(k)):
        each = model.objective(sequences[i : i + 1], k[i : i + 1], generator).reconstruction_per_time
        yield variance(gradient(value, model) for value in each)


def measure_noise(model: FlowVAE, batches: Batches, kind: int, rounds: int) -> Noise:
    """Measure the variances for one transformation, from ``rounds`` pairs of batches and as many times some sequences.

    Args:
        model: The model, which decodes all frames.
        batches: Draws the batches.
        kind: The transformation.
        rounds: Two or more.

    Returns:
        The variances, with the standard errors over the pairs and over the sequences.
    """
    over: list[float] = []
    between: list[float] = []
    for _ in range(rounds):
        over.append(batch_variance(model, batches, kind))
        sequences, k = batches(kind)
        between += frame_variances(model, (sequences[:SEQUENCES], k[:SEQUENCES]), batches.generator)
    return Noise(Estimate.of(over), Estimate.of(between))


def run(plan: Plan) -> Iterator[Comparison]:
    """Train for a while, measure the noise in as many rounds as the plan has, and time the steps."""
    data = open_sequences("digits", "train")
    batches = Batches(data)
    model = train(build(data), batches, STEPS)
    noises = {name: measure_noise(model, batches, kind, plan.rounds) for kind, name in enumerate(data.names)}
    timings = measure({label(count): Step(model, count, batches(0)) for count in COUNTS}, plan)
    facts = {
        "batch": BATCH,
        "training steps": STEPS,
        "batches": 2 * plan.rounds,
        "sequences": SEQUENCES * plan.rounds,
        OVER: {name: asdict(noise.batches) for name, noise in noises.items()},
        BETWEEN: {name: asdict(noise.frames) for name, noise in noises.items()},
    }
    yield Comparison(f"{data.name}, {BATCH} x {data.steps + 1} frames", TASK, timings, facts)


def label(count: int) -> str:
    """Name the timing of so many frames."""
    return f"{count} of {ALL} frames"


def noises_of(comparison: Comparison) -> list[Noise]:
    """Read the noise of a step, whose transformations take turns, as the mean of the variances; then that of each."""
    over, between = ([Estimate(**each) for each in comparison.facts[kind].values()] for kind in (OVER, BETWEEN))
    each = [Noise(*pair) for pair in zip(over, between, strict=True)]
    return [Noise(Estimate.average(over), Estimate.average(between)), *each]


def tables(comparisons: list[Comparison]) -> str:
    """Write the table, and under it from how much the variances were estimated."""
    rows, notes = [], []
    for comparison in comparisons:
        mean, *each = noises_of(comparison)
        for count in COUNTS:
            shares = [noise.share(count).mean for noise in each]
            scatter = f"{significant(min(shares), 2)} to {significant(max(shares), 2)}" if count < ALL else ""
            ratio = comparison.ratio(label(count), label(ALL))
            time = duration(comparison.timings[label(count)].median)
            share = mean.share(count)
            rows.append([label(count), plus_minus(share), scatter, time, times(ratio), times(ratio * (1 + share.mean))])
        facts = comparison.facts
        notes.append(
            f"{comparison.case}; variances from {facts['batches']} batches and the frames of {facts['sequences']} "
            "sequences of each transformation, ± the standard error."
        )
    header = ["decoded", "variance of the draw", "by transformation", "training step", "time", "time * variance"]
    return "\n\n".join([table(header, rows), *notes])


def plus_minus(estimate: Estimate) -> str:
    """Write an estimate and its standard error; an exact one without.

    Example:
        >>> assert plus_minus(Estimate(0.1234, 0.0056)) == "0.12 ± 0.006"
        >>> assert plus_minus(Estimate(0.0, 0.0)) == "0.0"
    """
    return significant(estimate.mean, 2) + (f" ± {significant(estimate.error, 1)}" if estimate.error else "")


def aims(comparisons: list[Comparison]) -> list[Aim]:  # noqa: ARG001 - of every part
    """None were set: the numbers say what the option trades."""
    return []


PART = Part("frames", run, tables, aims)
