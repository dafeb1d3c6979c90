"""The training loop."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from latentflow.flow import FoldWarning
from latentflow.vae import FlowVAE
from latentflow_experiments.checkpoints import Progress
from latentflow_experiments.configuration import Budget, TrainConfig
from latentflow_experiments.data import SequenceDataset
from latentflow_experiments.errors import ExperimentError
from latentflow_experiments.methods.flow import NATS
from latentflow_experiments.methods.method import TrainableModel
from latentflow_experiments.runs import RunFolder
from latentflow_experiments.training.processes import Decision, SharedModel, agree, average, own_parts
from latentflow_experiments.training.session import Clock, Interrupt, MetricsLog, ProgressBar
from latentflow_experiments.training.validation import Validation

CHECKPOINT_SECONDS = 60.0


LOG_STEPS = 50
COLLAPSED, RECORDS = 0.95, 3
"""The share of the largest penalty, and the records in a row, from which on a label posterior counts as collapsed."""


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
    frames, k, generator = Batches(config, data, torch.device("cpu")).draw(0, 0)
    with warnings.catch_warnings(), fabric.autocast():
        warnings.simplefilter("ignore", FoldWarning)
        terms: dict[str, Tensor] = model(frames, k, generator)
    torch.autograd.backward(terms["total"])
    model.zero_grad()


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


def step_generator(seed: int, part: int, step: int, device: torch.device) -> torch.Generator:
    """Return the source of randomness of a part of a step; it depends on the arguments only, so a run can resume."""
    state = np.random.SeedSequence([seed, part, step]).generate_state(1, np.uint64)
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
    one that was not. In another number of processes the same parts of a batch are computed, and their gradients are
    added up in another order.

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
        The model, with all weights.

    Raises:
        UsageError: If the parts of a batch cannot be shared out over the processes.
        ExperimentError: If the checkpoint does not fit, or the loss is not finite; the last checkpoint stays.
        KeyboardInterrupt: If Ctrl-C was pressed, after a checkpoint was written.
    """
    config = config.shared_over(fabric.world_size)
    method, parts = config.model.described, own_parts(fabric, config.parts or 1)
    resume = resume and folder.has_begun()  # else it was stopped before its first checkpoint, and starts at step 0
    built = initial_model(config, data) if model is None else model
    shared = SharedModel(fabric, method, built, folder.checkpoint if resume else None)
    batches = Batches(config, data, fabric.device)
    collapse = Collapse(built, (data.steps + 1) * math.prod(data.shape))
    step = shared.done.steps
    clock = Clock(shared.done.seconds, time.perf_counter if budget.cpu_minutes is None else time.process_time)
    saved = clock.seconds
    validator = Validation(
        method,
        (validation or data).to(fabric.device),
        0 if validation is None else config.validations,
        budget.progress(step, clock.seconds),
    )

    def save() -> None:
        try:
            shared.save(folder.checkpoint, Progress(step, clock.seconds))
        except FloatingPointError as error:
            raise _diverged(step, str(error), folder) from error

    def terms_of_part(model: TrainableModel, part: int) -> dict[str, Tensor]:
        return _finite_terms(model, *batches.draw(step, part), step, folder)

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
            spent = budget.progress(step, clock.seconds)
            now = agree(
                fabric,
                Decision(spent, interrupt.requested, clock.seconds - saved > CHECKPOINT_SECONDS, validator.due(spent)),
            )
            if now.validate:
                collected = shared.collected()
                if log is not None:
                    with clock.paused():
                        log.write(step, seconds=clock.seconds, **validator.measure(collected))
            if now.stop or now.spent >= 1:
                break
            if now.save:
                save()
                saved = clock.seconds
            rate = shared.set_learning_rate(learning_rate(config, step, now.spent, budget.warmup(config.warmup_steps)))
            method.anneal(built, now.spent)
            terms = shared.descend(parts, terms_of_part, config.clip_norm)
            step += 1
            if step % LOG_STEPS == 0:
                values = average(fabric, terms)
                if log is not None:
                    log.write(step, seconds=clock.seconds, learning_rate=rate, **values)
                    bar.say(collapse.notice(step, values))
            if bar.due():
                bar.describe(batches.name(step - 1), _scalars(terms))
            bar.move(step, clock.seconds)
        save()
    if now.stop:
        raise KeyboardInterrupt
    return shared.collected()


class Collapse:
    """Notices that a label posterior gives all sequences to one flow, which it does not leave again.

    Args:
        model: The model, with or without a label posterior.
        numbers: The numbers of a sequence: of its frames, channels and pixels.
    """

    def __init__(self, model: nn.Module, numbers: int) -> None:
        self._balance = self._largest = 0.0
        if isinstance(model, FlowVAE) and model.label_posterior is not None:
            self._balance = model.label_posterior.balance
            self._largest = self._balance * math.log(len(model.bank))
        self._numbers = numbers
        self._records = 0

    def notice(self, step: int, terms: Mapping[str, float]) -> str | None:
        """Return a line, once, at the third record in a row at which it has collapsed; None before and after."""
        self._records = self._records + 1 if terms.get("collapse", 0.0) > COLLAPSED * self._largest > 0 else 0
        if self._records != RECORDS:
            return None
        more = max(NATS * self._numbers, 10 * self._balance)
        return (
            f"latentflow: from step {step} on all sequences are given to one flow; begin anew with a larger balance, "
            f"such as {more:,.0f} in place of {self._balance:,.0f}"
        )


class Batches:
    """Draws the parts of the batches of a training.

    Args:
        config: The configuration.
        data: The training sequences.
        device: The device of the randomness, and to move the sequences to.
    """

    def __init__(self, config: TrainConfig, data: SequenceDataset, device: torch.device) -> None:
        self._config, self._data, self._device = config, data.to(device), device
        self._starts = [data.starts(k).to(device) for k in range(len(data.names))]

    def draw(self, step: int, part: int) -> tuple[Tensor, Tensor | None, torch.Generator]:
        """Draw a part of the batch of a step.

        Args:
            step: The number of steps made before.
            part: The number of the part.

        Returns:
            The frames, the transformation of each sequence or None where training does not read it, and the source of
            randomness for the loss.
        """
        generator = step_generator(self._config.seed, part, step, self._device)
        k = draw_kinds(self._config, step, len(self._data.names), generator)
        frames = self._data.sequence(draw_starts(self._starts, k, generator), k)
        return frames, k if self._config.model.reads_labels else None, generator

    def name(self, step: int) -> str:
        """Name the transformation of the batch of a step, or say that it is mixed."""
        return self._data.names[step % len(self._data.names)] if self._config.model.reads_labels else "mixed"


def draw_kinds(config: TrainConfig, step: int, kinds: int, generator: torch.Generator) -> Tensor:
    """Choose the transformation of each sequence of a part of a batch.

    With labels, a batch has one, and they take turns. Without, it mixes them: it should look like the data.

    Args:
        config: The configuration.
        step: The number of steps made before.
        kinds: The number of transformations.
        generator: The source of randomness.

    Returns:
        The transformations, shape ``(batch_size / parts,)``, int64, on the device of the generator.
    """
    shape, device = (config.part_size,), generator.device
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
