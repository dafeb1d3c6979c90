"""The training loop."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from latentflow.flow import FoldWarning
from latentflow_experiments.checkpoints import Progress, load_checkpoint, save_checkpoint
from latentflow_experiments.configuration import Budget, TrainConfig
from latentflow_experiments.data import SequenceDataset
from latentflow_experiments.errors import ExperimentError
from latentflow_experiments.methods.method import TrainableModel
from latentflow_experiments.runs import RunFolder
from latentflow_experiments.training.session import Clock, Interrupt, MetricsLog, ProgressBar
from latentflow_experiments.training.validation import Validation

CHECKPOINT_SECONDS = 60.0


LOG_STEPS = 50


def initial_model(config: TrainConfig, data: SequenceDataset) -> nn.Module:
    """Build the model of a run with its initial weights; torch's global source of randomness stays as it was.

    Args:
        config: The configuration.
        data: The training sequences.

    Returns:
        The model.

    Raises:
        UsageError: See :meth:`ModelConfig.build`.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return config.model.build(data)


def trial_step(config: TrainConfig, model: nn.Module, data: SequenceDataset, fabric: Fabric) -> None:
    """Make a step of training without a change of the weights, to see how long it takes.

    Args:
        config: The configuration.
        model: A model with its initial weights; it is left without gradients.
        data: The training sequences.
        fabric: The devices.
    """
    generator = step_generator(config.seed, 0, 0, torch.device("cpu"))
    k = draw_kinds(config, 0, len(data.names), generator)
    frames = data.sequence(draw_starts([data.starts(kind) for kind in range(len(data.names))], k, generator), k)
    with warnings.catch_warnings(), fabric.autocast():
        warnings.simplefilter("ignore", FoldWarning)
        terms: dict[str, Tensor] = model(frames, k if config.model.reads_labels else None, generator)
    torch.autograd.backward(terms["total"])
    model.zero_grad()


def agree(fabric: Fabric, spent: float, *, stop: bool) -> tuple[float, bool]:
    """Let all processes of a job go on or stop together: with the progress of the first, if none was asked to stop.

    Args:
        fabric: The devices.
        spent: The share of the budget that this process has spent.
        stop: Whether this process was asked to stop.

    Returns:
        The share, and whether any process was asked to stop.
    """
    if fabric.world_size == 1:
        return spent, stop
    every = cast("Tensor", fabric.all_gather(torch.tensor([spent, float(stop)], device=fabric.device)))
    return float(every[0, 0]), bool(every[:, 1].any())


def learning_rate(config: TrainConfig, step: int, progress: float, warmup_steps: int | None = None) -> float:
    """Return the learning rate of a step: a linear warm-up times a cosine that ends at zero.

    Args:
        config: The configuration.
        step: The number of steps made before.
        progress: The share of the budget that is spent.
        warmup_steps: The steps of the warm-up; those of the configuration if None.

    Returns:
        The learning rate.
    """
    steps = config.warmup_steps if warmup_steps is None else warmup_steps
    warmup = min(1.0, (step + 1) / (steps + 1))
    return config.learning_rate * warmup * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def step_generator(seed: int, rank: int, step: int, device: torch.device) -> torch.Generator:
    """Return the source of randomness of one step; it depends on nothing but the arguments, so a run can resume."""
    state = np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))


def train(
    config: TrainConfig,
    budget: Budget,
    data: SequenceDataset,
    folder: RunFolder,
    fabric: Fabric,
    model: nn.Module | None = None,
    *,
    resume: bool = False,
    validation: SequenceDataset | None = None,
) -> nn.Module:
    """Train a model on sequences of images until the budget is spent or Ctrl-C is pressed.

    On a CPU and with a budget of steps, a run that was stopped and resumed ends in the same weights, bit for bit, as
    one that was not.

    Args:
        config: The configuration.
        budget: How long to train.
        data: The training sequences.
        folder: The run's folder, which exists.
        fabric: The devices, launched.
        model: The model with its initial weights, which training changes; None to build that of the configuration.
        resume: Whether to go on from the folder's checkpoint.
        validation: Sequences on which the errors are measured and logged now and then; None for no such measurement.

    Returns:
        The model.

    Raises:
        ExperimentError: If the checkpoint does not fit, or the loss is not finite; the last checkpoint stays.
        KeyboardInterrupt: If Ctrl-C was pressed, after a checkpoint was written.
    """
    method = config.model.described
    model = initial_model(config, data) if model is None else model
    optimizer = torch.optim.Adam(method.parameter_groups(model), fused=True)
    resume = resume and folder.has_begun()  # else it was stopped before its first checkpoint, and starts at step 0
    done = load_checkpoint(folder.checkpoint, model, optimizer) if resume else Progress()
    terms_of, stepper = fabric.setup(model, optimizer)
    data = data.to(fabric.device)
    starts = [data.starts(k).to(fabric.device) for k in range(len(data.names))]
    step = done.steps
    clock = Clock(done.seconds, time.perf_counter if budget.cpu_minutes is None else time.process_time)
    saved = clock.seconds
    labels = config.model.reads_labels
    times = 0 if validation is None or not fabric.is_global_zero else config.validations
    validator = Validation(method, (validation or data).to(fabric.device), times, budget.progress(step, clock.seconds))

    def save() -> None:
        if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
            raise _diverged(step, "in the weights", folder)
        if fabric.is_global_zero:
            save_checkpoint(folder.checkpoint, model, optimizer, Progress(step, clock.seconds))

    if not resume:
        save()
    with (
        warnings.catch_warnings(),
        Interrupt() as interrupt,
        MetricsLog(folder, step) if fabric.is_global_zero else nullcontext() as log,
        ProgressBar(budget, step, shown=fabric.is_global_zero) as bar,
    ):
        warnings.simplefilter("ignore", FoldWarning)  # the metrics hold the share of folded samples
        while True:
            spent, stop = agree(fabric, budget.progress(step, clock.seconds), stop=interrupt.requested)
            if stop or spent >= 1:
                break
            for group in stepper.param_groups:
                group["lr"] = group.get("scale", 1.0) * learning_rate(
                    config, step, spent, budget.warmup(config.warmup_steps)
                )
            method.anneal(model, spent)
            generator = step_generator(config.seed, fabric.global_rank, step, fabric.device)
            k = draw_kinds(config, step, len(data.names), generator)
            frames = data.sequence(draw_starts(starts, k, generator), k)
            terms = _finite_terms(terms_of, frames, k if labels else None, generator, step, folder)
            _descend(fabric, terms_of, stepper, terms["total"], config.clip_norm)
            step += 1
            if step % LOG_STEPS == 0 and log is not None:
                log.write(step, seconds=clock.seconds, learning_rate=group["lr"], **_scalars(terms))
            if log is not None and validator.due(budget.progress(step, clock.seconds)):
                with clock.paused():
                    log.write(step, seconds=clock.seconds, **validator.measure(model))
            if bar.due():
                bar.describe(data.names[int(k[0])] if labels else "mixed", _scalars(terms))
            if clock.seconds - saved > CHECKPOINT_SECONDS:
                save()
                saved = clock.seconds
            bar.move(step, clock.seconds)
        save()
    if stop:
        raise KeyboardInterrupt
    return model


def _descend(
    fabric: Fabric, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, clip_norm: float
) -> None:
    """Make a step of the optimizer down the gradient of a loss, shortened to a norm if it is longer; 0 for no limit."""
    optimizer.zero_grad()
    fabric.backward(loss)
    if clip_norm > 0:
        fabric.clip_gradients(model, optimizer, max_norm=clip_norm)
    optimizer.step()


def draw_kinds(config: TrainConfig, step: int, kinds: int, generator: torch.Generator) -> Tensor:
    """Choose the transformation of each sequence of a batch.

    With labels, a batch has one, and they take turns. Without, it mixes them: it should look like the data.

    Args:
        config: The configuration.
        step: The number of steps made before.
        kinds: The number of transformations.
        generator: The source of randomness.

    Returns:
        The transformations, shape ``(batch_size,)``, int64, on the device of the generator.
    """
    shape, device = (config.batch_size,), generator.device
    if config.model.reads_labels:
        return torch.full(shape, step % kinds, device=device)
    return torch.randint(kinds, shape, generator=generator, device=device)


def draw_starts(starts: Sequence[Tensor], k: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a first image for each sequence of a batch.

    Args:
        starts: The first images of every transformation, each of shape ``(n_k,)``.
        k: The transformation of each sequence, shape ``(batch,)``.
        generator: The source of randomness.

    Returns:
        Indices, shape ``(batch,)``, int64.
    """
    counts = torch.tensor([len(first) for first in starts], device=k.device)[k]
    places = (torch.rand(k.shape, generator=generator, device=k.device, dtype=torch.float64) * counts).long()
    drawn = torch.empty_like(k)
    for kind, first in enumerate(starts):
        drawn[k == kind] = first[places[k == kind]]
    return drawn


def _finite_terms(
    terms_of: TrainableModel,
    frames: Tensor,
    k: Tensor | None,
    generator: torch.Generator,
    step: int,
    folder: RunFolder,
) -> dict[str, Tensor]:
    """Compute the terms of the loss; complain if they are not finite."""
    try:
        terms = terms_of(frames, k, generator)
    except FloatingPointError as error:
        raise _diverged(step, str(error), folder) from error
    if not terms["total"].isfinite():
        found = ", ".join(f"{name} {value:g}" for name, value in _scalars(terms).items())
        raise _diverged(step, found, folder)
    return terms


def _scalars(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in terms.items() if value.ndim == 0}


def _diverged(step: int, found: str, folder: RunFolder) -> ExperimentError:
    return ExperimentError(
        f"the loss is not finite at step {step} ({found}); try a lower --learning-rate. "
        f"The last good checkpoint, if there is one, is {folder.checkpoint}"
    )
