"""What a plan will cost, from a few steps of each kind of run on this machine."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import cache

import torch
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from latentflow_experiments.configuration import TrainConfig
from latentflow_experiments.data import DATASETS, ArraySequences
from latentflow_experiments.data.dataset import FactorSet
from latentflow_experiments.evaluation import SHARES
from latentflow_experiments.methods.method import Choice
from latentflow_experiments.metrics.likelihood import UnitGaussian
from latentflow_experiments.metrics.predictability import vp_score
from latentflow_experiments.reports.tables import table
from latentflow_experiments.reproduce.plan import Run
from latentflow_experiments.training.loop import initial_model, trial_step

BATCH = 8  # sequences in a trial step; a whole batch is taken to last in proportion
STATES = 9  # frames of a sequence of digits or MNIST
TESTED = {"mnist": 10_000}
"""The test images, where it is known without the files; elsewhere a tenth of those of the stand-in."""
OTHER_BYTES = 5_000_000  # pictures and records of a run
PAIRS, EPOCHS = 100, 5  # of a trial classifier: pairs of each transformation, and passes, after which it is tested
OTHER_PARTS = 0.5  # how long other parts and transfers take, in evaluations


@dataclass(frozen=True)
class Cost:
    """The cost of a run.

    Attributes:
        step: Seconds of a training step on one thread.
        training: Seconds of the training.
        evaluation: Seconds of the evaluation, roughly: a third of a step for each batch of test sequences.
        measuring: Seconds of all that is measured beside it, roughly: likelihoods from the time to decode a frame,
            predictability from a few passes of its classifier, and half an evaluation for every other part.
        bytes: The size of its folder.
    """

    step: float
    training: float
    evaluation: float
    measuring: float
    bytes: float


def placeholder(config: TrainConfig) -> ArraySequences:
    """Return noise in the shape of the sequences of a run, so that no data is needed."""
    dataset = DATASETS[config.dataset]
    names = config.sequences.transformations or dataset.transformations
    shape, states = (3, 28, 28), config.sequences.states or STATES
    if isinstance(dataset, FactorSet):
        shape = dataset.family.shape
        sizes = [factor.size for factor in dataset.family.factors if factor.name in names]
        states = config.sequences.states or min(sizes)
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(len(names) * BATCH, states, *shape, generator=generator)
    return ArraySequences(frames.numpy(), torch.arange(len(names)).repeat(BATCH).numpy(), names=names)


def estimate(run: Run, images: int) -> Cost:
    """Estimate the cost of a run by a trial step.

    Args:
        run: The run.
        images: The test images of its data set.

    Returns:
        The cost.
    """
    config = replace(run.config, batch_size=min(BATCH, run.config.batch_size))
    data = placeholder(config)
    model = initial_model(config, data)
    fabric = Fabric(accelerator="cpu", devices=1)
    of_sequence = _seconds(lambda: trial_step(config, model, data, fabric)) / config.batch_size
    step = of_sequence * run.config.batch_size
    training = step * run.budget.steps if run.budget.steps is not None else (run.budget.seconds or 0.0)
    evaluation = of_sequence * images * len(data.names) / 3
    parameters = sum(weight.numel() for weight in model.parameters())
    measuring = _measuring(run, model.eval(), data, evaluation)
    return Cost(step, training, evaluation, measuring, 12 * parameters + OTHER_BYTES)


def _seconds(work: Callable[[], object]) -> float:
    """Measure the seconds of the processor for something, the second time; the first one allocates."""
    work()
    begin = time.process_time()
    work()
    return time.process_time() - begin


@torch.no_grad()
def _measuring(run: Run, model: nn.Module, data: ArraySequences, evaluation: float) -> float:
    """Estimate the seconds of all that is measured of a run beside its evaluation."""
    others = len(run.transfers) + sum(part not in ("likelihood", "vp") for part in run.parts)
    seconds = OTHER_PARTS * others * evaluation
    kinds, extent = len(data.names), run.measured
    if "likelihood" in run.parts:
        motion = run.config.model.described.motion(model, Choice())
        frames = data.sequence(data.starts(0), 0)
        z = motion.follow(motion.start(frames), 0, data.steps)
        x = frames.transpose(0, 1)
        decoding = _seconds(lambda: UnitGaussian().log_prob(x, motion.decode(z))) / z[..., 0].numel()
        seconds += decoding * extent.images * kinds * data.steps * max(extent.samples)
    if "vp" in run.parts:
        seconds += _classifying(data.shape, kinds) * extent.pairs / PAIRS * extent.epochs / EPOCHS
    return seconds


@cache
def _classifying(shape: tuple[int, int, int], kinds: int) -> float:
    """Measure the seconds of the processor for trial classifiers of a predictability score, on images of a shape."""
    first, last = torch.rand(2, kinds * PAIRS, *shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(kinds).repeat_interleave(PAIRS)
    begin = time.process_time()
    with redirect_stderr(io.StringIO()):  # bars
        for share in (*SHARES, SHARES[-1]):  # the last one on shuffled labels
            vp_score(first, last, labels, share, torch.Generator().manual_seed(0), epochs=EPOCHS)
    return time.process_time() - begin


def cost_table(runs: Sequence[Run], images: dict[str, int], cores: int) -> str:
    """Lay out what the runs of a plan will cost, with the sum, in Markdown.

    Args:
        runs: The runs.
        images: The test images of each data set.
        cores: How many run at once.

    Returns:
        The table.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keys = [repr(replace(run.config, seed=0)) for run in runs]  # seeds cost the same
    known: dict[str, Cost] = {}
    try:
        for key, run in zip(keys, tqdm(runs, desc="calibrate", unit="run", leave=False), strict=True):
            if key not in known:
                known[key] = estimate(run, images[run.config.dataset])
    finally:
        torch.set_num_threads(threads)
    costs = [known[key] for key in keys]
    rows = [
        [
            run.name,
            f"{1000 * cost.step:.0f} ms",
            _minutes(cost.training),
            _minutes(cost.evaluation),
            _minutes(cost.measuring),
            f"{cost.bytes / 1e6:.0f} MB",
        ]
        for run, cost in zip(runs, costs, strict=True)
    ]
    seconds = sum(cost.training + cost.evaluation + cost.measuring for cost in costs)
    size = sum(cost.bytes for cost in costs) / 1e6
    times = f"{_minutes(seconds)} of one core, {_minutes(seconds / cores)} on {cores}"
    total = f"{len(runs)} runs: about {times}, {size:,.0f} MB"
    return f"{table(['run', 'step', 'training', 'evaluation', 'measuring', 'disk'], rows)}\n\n{total}"


def _minutes(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 600 else f"{minutes / 60:,.0f} h"
