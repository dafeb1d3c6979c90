"""What a plan will cost, from a few steps of each kind of run on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from lightning_fabric import Fabric
from tqdm import tqdm

from latentflow_experiments.configuration import TrainConfig
from latentflow_experiments.data import DATASETS, ArraySequences
from latentflow_experiments.data.dataset import FactorSet
from latentflow_experiments.reports.tables import table
from latentflow_experiments.reproduce.plan import Run
from latentflow_experiments.training.loop import initial_model, trial_step

BATCH = 8  # sequences in a trial step; a whole batch is taken to last in proportion
STATES = 9  # frames of a sequence of digits or MNIST
TESTED = {"mnist": 10_000}
"""The test images, where it is known without the files; elsewhere a tenth of those of the stand-in."""
OTHER_BYTES = 5_000_000  # pictures and records of a run


@dataclass(frozen=True)
class Cost:
    """The cost of a run.

    Attributes:
        step: Seconds of a training step on one thread.
        training: Seconds of the training.
        evaluation: Seconds of the evaluation, roughly: a third of a step for each batch of test sequences.
        bytes: The size of its folder.
    """

    step: float
    training: float
    evaluation: float
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
    trial_step(config, model, data, fabric)  # the first one allocates
    begin = time.perf_counter()
    trial_step(config, model, data, fabric)
    of_sequence = (time.perf_counter() - begin) / config.batch_size
    step = of_sequence * run.config.batch_size
    training = step * run.budget.steps if run.budget.steps is not None else (run.budget.seconds or 0.0)
    parameters = sum(weight.numel() for weight in model.parameters())
    return Cost(step, training, of_sequence * images * len(data.names) / 3, 12 * parameters + OTHER_BYTES)


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
            f"{cost.bytes / 1e6:.0f} MB",
        ]
        for run, cost in zip(runs, costs, strict=True)
    ]
    seconds = sum(cost.training + cost.evaluation for cost in costs)
    size = sum(cost.bytes for cost in costs) / 1e6
    times = f"{_minutes(seconds)} of one core, {_minutes(seconds / cores)} on {cores}"
    total = f"{len(runs)} runs: about {times}, {size:,.0f} MB"
    return f"{table(['run', 'step', 'training', 'evaluation', 'disk'], rows)}\n\n{total}"


def _minutes(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 600 else f"{minutes / 60:,.0f} h"
