"""The training loop."""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from latentflow import FlowVAE, FoldWarning
from latentflow.experiments.checkpoint import Progress, load_checkpoint, save_checkpoint
from latentflow.experiments.configuration import Budget, TrainConfig
from latentflow.experiments.data import SequenceDataset
from latentflow.experiments.errors import ExperimentError
from latentflow.experiments.interrupt import Interrupt
from latentflow.experiments.metrics_log import MetricsLog
from latentflow.experiments.model import build_model
from latentflow.experiments.progress import Clock, ProgressBar
from latentflow.experiments.run_folder import RunFolder

CHECKPOINT_SECONDS = 60.0
LOG_STEPS = 50


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    """Give the learning rate of a step: a linear warm-up times a cosine that ends at zero.

    Args:
        config: The configuration.
        step: The number of steps made before.
        progress: The share of the budget that is spent.

    Returns:
        The learning rate.
    """
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return config.learning_rate * warmup * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def step_generator(seed: int, rank: int, step: int, device: torch.device) -> torch.Generator:
    """Give the source of randomness of one step; it depends on nothing but the arguments, so a run can resume."""
    state = np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))


def train(
    config: TrainConfig,
    budget: Budget,
    data: SequenceDataset,
    folder: RunFolder,
    fabric: Fabric,
    *,
    resume: bool = False,
) -> FlowVAE:
    """Train a flow-factorised VAE on sequences of images until the budget is spent or Ctrl-C is pressed.

    On a CPU and with a budget of steps, a run that was stopped and resumed ends in the same weights, bit for bit, as
    one that was not.

    Args:
        config: The configuration.
        budget: How long to train.
        data: The training sequences.
        folder: The run's folder, which exists.
        fabric: The devices, launched.
        resume: Whether to go on from the folder's checkpoint.

    Returns:
        The model.

    Raises:
        ExperimentError: If the checkpoint does not fit, or the loss is not finite; the last checkpoint stays.
        KeyboardInterrupt: If Ctrl-C was pressed, after a checkpoint was written.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = build_model(config.model, data)
    optimiser = torch.optim.Adam(model.parameters(), fused=True)
    done = load_checkpoint(folder.checkpoint, model, optimiser) if resume else Progress()
    terms_of, stepper = fabric.setup(model, optimiser)
    data = data.to(fabric.device)
    starts = [data.starts(k).to(fabric.device) for k in range(len(data.names))]
    step, clock = done.steps, Clock(done.seconds)
    saved = clock.seconds

    def save() -> None:
        if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
            raise _diverged(step, "in the weights", folder)
        if fabric.is_global_zero:
            save_checkpoint(folder.checkpoint, model, optimiser, Progress(step, clock.seconds))

    with (
        warnings.catch_warnings(),
        Interrupt() as interrupt,
        MetricsLog(folder, step) if fabric.is_global_zero else nullcontext() as log,
        ProgressBar(budget, shown=fabric.is_global_zero) as bar,
    ):
        warnings.simplefilter("ignore", FoldWarning)  # the metrics hold the share of folded samples
        while True:
            spent, stop = fabric.broadcast((budget.progress(step, clock.seconds), interrupt.requested))
            if stop or spent >= 1:
                break
            for group in stepper.param_groups:
                group["lr"] = learning_rate(config, step, spent)
            generator = step_generator(config.seed, fabric.global_rank, step, fabric.device)
            kind = step % len(data.names)  # one transformation in a batch; they take turns
            places = torch.randint(len(starts[kind]), (config.batch_size,), generator=generator, device=fabric.device)
            k = torch.full((config.batch_size,), kind, device=fabric.device)
            try:
                terms: dict[str, Tensor] = terms_of(data.sequence(starts[kind][places], k), k, generator)
            except FloatingPointError as error:
                raise _diverged(step, str(error), folder) from error
            if not terms["total"].isfinite():
                found = ", ".join(f"{name} {value:g}" for name, value in _scalars(terms).items())
                raise _diverged(step, found, folder)
            stepper.zero_grad()
            fabric.backward(terms["total"])
            stepper.step()
            step += 1
            if step % LOG_STEPS == 0:
                values = _scalars(terms)
                if log is not None:
                    log.write(step, seconds=clock.seconds, learning_rate=group["lr"], **values)
                bar.describe(data.names[kind], values)
            if clock.seconds - saved > CHECKPOINT_SECONDS:
                save()
                saved = clock.seconds
            bar.move(step, clock.seconds)
        save()
    if stop:
        raise KeyboardInterrupt
    return model


def _scalars(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in terms.items() if value.ndim == 0}


def _diverged(step: int, found: str, folder: RunFolder) -> ExperimentError:
    return ExperimentError(
        f"the loss is not finite at step {step} ({found}); try a lower --learning-rate. "
        f"The last good checkpoint, if there is one, is {folder.checkpoint}"
    )
