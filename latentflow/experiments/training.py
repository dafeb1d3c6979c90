"""The training loop."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from tqdm import tqdm

from latentflow import FlowVAE, FoldWarning
from latentflow.experiments.checkpoint import Progress, load_checkpoint, save_checkpoint
from latentflow.experiments.configuration import Budget, TrainConfig
from latentflow.experiments.data import LabelledImages, TransformationSequences
from latentflow.experiments.errors import ExperimentError
from latentflow.experiments.interrupt import Interrupt
from latentflow.experiments.metrics_log import MetricsLog
from latentflow.experiments.model import build_model
from latentflow.experiments.run_folder import RunFolder

CHECKPOINT_SECONDS = 60.0
LOG_STEPS = 50


@dataclass(frozen=True)
class Hardware:
    """Where and how to compute.

    Attributes:
        device: What to train on; ``auto`` takes an accelerator where there is one.
        devices: How many of them.
        strategy: How several devices work together.
        precision: Precision of encoder and decoder; the dynamics are always computed in 32 bits.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["32", "bf16-mixed"] = "bf16-mixed"


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
    data: LabelledImages,
    folder: RunFolder,
    *,
    resume: bool = False,
    hardware: Hardware | None = None,
) -> FlowVAE:
    """Train a flow-factorised VAE on transformed images until the budget is spent or Ctrl-C is pressed.

    On a CPU and with a budget of steps, a run that was stopped and resumed ends in the same weights, bit for bit, as
    one that was not.

    Args:
        config: The configuration.
        budget: How long to train.
        data: The training images.
        folder: The run's folder, which exists.
        resume: Whether to go on from the folder's checkpoint.
        hardware: Where and how to compute.

    Returns:
        The model.

    Raises:
        ExperimentError: If the checkpoint does not fit, or the loss is not finite; the last checkpoint stays.
        KeyboardInterrupt: If Ctrl-C was pressed, after a checkpoint was written.
    """
    hardware = hardware or Hardware()
    fabric = Fabric(
        accelerator=hardware.device,
        strategy=hardware.strategy,
        devices=hardware.devices,
        precision=hardware.precision,
    )
    fabric.launch()
    sequences = TransformationSequences()
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = build_model(config.model, len(sequences.names))
    optimiser = torch.optim.Adam(model.parameters(), fused=True)
    done = load_checkpoint(folder.checkpoint, model, optimiser) if resume else Progress()
    objective_of, stepper = fabric.setup(model, optimiser)
    images = data.images.to(fabric.device)

    def batch(step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the sequences of one step, all of one transformation; the transformations take turns."""
        chosen = torch.randint(len(images), (config.batch_size,), generator=generator, device=fabric.device)
        k = torch.full((config.batch_size,), step % len(sequences.names), device=fabric.device)
        return sequences(images[chosen], k), k

    def save(progress: Progress) -> None:
        if fabric.is_global_zero:
            save_checkpoint(folder.checkpoint, model, optimiser, progress)

    step, before = done.steps, done.seconds
    start = saved = time.perf_counter()
    with (
        warnings.catch_warnings(),
        Interrupt() as interrupt,
        MetricsLog(folder, step) as log,
        _bar(budget, fabric.is_global_zero) as bar,
    ):
        warnings.simplefilter("ignore", FoldWarning)  # the metrics hold the share of folded samples
        while (spent := budget.progress(step, before + time.perf_counter() - start)) < 1 and not interrupt.requested:
            for group in stepper.param_groups:
                group["lr"] = learning_rate(config, step, spent)
            generator = step_generator(config.seed, fabric.global_rank, step, fabric.device)
            frames, k = batch(step, generator)
            try:
                terms: dict[str, Tensor] = objective_of(frames, k, generator)
            except FloatingPointError as error:
                raise _diverged(step, str(error), folder) from error
            values = {name: float(value.detach()) for name, value in terms.items() if value.ndim == 0}
            if not math.isfinite(values["total"]):
                raise _diverged(step, ", ".join(f"{name} {value:g}" for name, value in values.items()), folder)
            stepper.zero_grad()
            fabric.backward(terms["total"])
            stepper.step()
            step += 1
            now = time.perf_counter()
            if step % LOG_STEPS == 0:
                name = sequences.names[(step - 1) % len(sequences.names)]
                log.write(step, seconds=before + now - start, learning_rate=group["lr"], **values)
                bar.set_postfix_str(_describe(values, name))
            if now - saved > CHECKPOINT_SECONDS:
                save(Progress(step, before + now - start))
                saved = now
            bar.update(_position(budget, step, before + now - start) - bar.n)
        save(Progress(step, before + time.perf_counter() - start))
    if interrupt.requested:
        raise KeyboardInterrupt
    return model


def _diverged(step: int, found: str, folder: RunFolder) -> ExperimentError:
    return ExperimentError(
        f"the loss is not finite at step {step} ({found}); try a lower --learning-rate. "
        f"The last good checkpoint, if there is one, is {folder.checkpoint}"
    )


def _bar(budget: Budget, shown: bool) -> tqdm[Any]:
    if budget.steps is not None:
        return tqdm(total=budget.steps, unit="step", disable=not shown, dynamic_ncols=True, mininterval=0.5)
    total = round(60 * (budget.minutes or 0))
    return tqdm(total=total, unit="s", disable=not shown, dynamic_ncols=True, mininterval=0.5)


def _position(budget: Budget, steps: int, seconds: float) -> int:
    return steps if budget.steps is not None else min(int(seconds), round(60 * (budget.minutes or 0)))


def _describe(values: dict[str, float], transformation: str) -> str:
    return (
        f"{transformation}: reconstruction {values['reconstruction']:.0f} kl {values['kl']:.0f} "
        f"residual {values['residual']:.3f} folded {values['folded']:.0%}"
    )
