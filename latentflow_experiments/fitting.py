"""Training from Python: a model and sequences in, the folder of a run out."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from numbers import Integral
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from latentflow import FlowVAE
from latentflow.calculus.checks import check_instance, check_methods
from latentflow_experiments.checkpoints import Progress, load_checkpoint
from latentflow_experiments.configuration import Budget, ModelConfig, TrainConfig
from latentflow_experiments.data import DATASETS, ArraySequences, SequenceDataset
from latentflow_experiments.data.arrays import is_unlabelled
from latentflow_experiments.errors import ExperimentError, UsageError
from latentflow_experiments.evaluation import Evaluation, evaluate_run
from latentflow_experiments.records import provenance
from latentflow_experiments.runs import RunFolder, TrainedRun, check_data
from latentflow_experiments.training.loop import initial_model, train, trial_step
from latentflow_experiments.training.session import Hardware

__all__ = ["begin_run", "evaluate", "fit", "settle_parts"]

Data = ArraySequences | SequenceDataset


def fit(
    model: ModelConfig | nn.Module,
    data: Data,
    *,
    steps: int,
    out: str | Path,
    seed: int = 0,
    batch_size: int = 128,
    parts: int | None = None,
    learning_rate: float = 2e-3,
    warmup_steps: int = 200,
    clip_norm: float = 3000.0,
    resume: bool = False,
    validation: SequenceDataset | None = None,
    test: SequenceDataset | None = None,
    hardware: Hardware | None = None,
) -> RunFolder:
    """Train a model, evaluate it and draw its flows, as ``latentflow train`` does.

    Args:
        model: The settings of a model, or a :class:`latentflow.FlowVAE` of your own, which is trained in place.
        data: The sequences. :class:`ArraySequences` are split into three parts; others are those for training.
        steps: The number of training steps.
        out: The folder of the run.
        seed: Seed of the initial weights, except of a model of your own, and of every batch.
        batch_size: Sequences in a step, over all processes.
        parts: Parts of a batch, which processes share and each computes one after the other; see :class:`TrainConfig`.
        learning_rate: Peak learning rate of Adam.
        warmup_steps: Steps over which the learning rate rises.
        clip_norm: Largest norm of the gradient; 0 for no limit.
        resume: Whether to go on from the checkpoint in ``out``; so does a process that ``torchrun`` has started again.
        validation: The sequences for validation, of data that is not split here; by default those for training.
        test: The sequences to evaluate on, likewise; the evaluation names their split.
        hardware: Where and how to compute; by default in 32 bits on an accelerator where there is one. The threads of
            the process stay as they are unless it names a number.

    Returns:
        The folder of the run: its configuration, environment, checkpoint, metrics, evaluation and strips.

    Raises:
        TypeError: If ``model`` or ``data`` is neither, or a count is no integer.
        UsageError: If an argument is out of range, or the data does not fit to the model.
        ExperimentError: If ``out`` holds a run already, or one of another configuration or of other data when resuming,
            is owned by another process, or the loss is not finite.
        KeyboardInterrupt: If Ctrl-C was pressed, after a checkpoint was written; go on with ``resume=True``.

    Example:
        >>> import tempfile, torch
        >>> frames = torch.rand(20, 4, 1, 8, 8)
        >>> settings = ModelConfig(dim=2, hidden=(4,), width=8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = fit(settings, ArraySequences(frames), steps=2, out=f"{folder}/run", batch_size=4)
        ...     assert run.evaluation.exists() and run.strips.exists()
    """
    counts = {"steps": steps, "seed": seed, "batch_size": batch_size, "warmup_steps": warmup_steps}
    for name, value in counts.items():
        check_instance(name, value, Integral, "an integer")
    budget = Budget(steps=steps)
    splits = _parts(data, validation, test)
    config = TrainConfig(
        _dataset_of(data),
        seed=seed,
        batch_size=batch_size,
        parts=parts,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        clip_norm=clip_norm,
        model=_settings_of(model, splits[0]),
        objects=("data",) if isinstance(model, ModelConfig) else ("data", f"a model {type(model).__qualname__}"),
    )
    built = initial_model(config, splits[0]) if isinstance(model, ModelConfig) else model
    hardware = Hardware(precision="32") if hardware is None else hardware
    if hardware.threads is None and hardware.placed().devices == 1:  # a call from Python leaves them as they are
        hardware = replace(hardware, threads=torch.get_num_threads())
    fabric = hardware.launch()
    folder = RunFolder(Path(out))
    resume = resume or (hardware.restarted() and folder.config.exists())
    config = settle_parts(config, folder, fabric, resume=resume)
    if resume and not folder.config.exists():
        raise ExperimentError(f"{folder.path}: expected a run to go on with, got none; train it with resume=False")
    first = fabric.is_global_zero
    with folder.owned("training") if first else nullcontext():
        if first:
            begin_run(folder, config, splits[0], built, hardware, fabric, resume=resume)
        fabric.barrier()
        hardware.compile_networks(built)
        trained = train(config, budget, splits[0], folder, fabric, built, resume=resume, validation=splits[1])
        if first:
            done = load_checkpoint(folder.checkpoint, trained)
            _evaluate(config, trained, splits, folder, done)
    return folder


def settle_parts(config: TrainConfig, folder: RunFolder, fabric: Fabric, *, resume: bool) -> TrainConfig:
    """Return the configuration with the parts of a batch: those of the run to go on with, or one for each process.

    Raises:
        UsageError: If they cannot be shared out over the processes.
    """
    if resume and config.parts is None and folder.config.exists():
        config = replace(config, parts=TrainConfig.from_json(folder.config).parts)
    return config.shared_over(fabric.world_size)


def begin_run(
    folder: RunFolder,
    config: TrainConfig,
    data: SequenceDataset,
    model: nn.Module,
    hardware: Hardware,
    fabric: Fabric,
    *,
    resume: bool,
) -> None:
    """Write the configuration of a new run, or check that it is that of the run to go on with, and note the session.

    The number of threads is set too. Of several processes only the first calls it, which owns the folder.

    Args:
        folder: The folder of the run.
        config: The configuration.
        data: The training sequences.
        model: The model with its initial weights.
        hardware: Where and how to compute.
        fabric: The devices, launched.
        resume: Whether to go on with the run in the folder.

    Raises:
        ExperimentError: If the folder holds a run already, or one of another configuration, code or data when resuming.
    """
    if resume:
        folder.open(config)
        check_data(folder, data)
    else:
        folder.create(config)
    before = [session.get("threads") for session in folder.sessions()]
    hardware.set_threads(before[0] if before else None, lambda: trial_step(config, model, data, fabric))
    precision = hardware.chosen_precision()
    folder.add_environment(
        provenance(seed=config.seed, precision=precision, processes=fabric.world_size, data=data.identity())
    )


def evaluate(run: str | Path | RunFolder, data: Data, model: nn.Module | None = None) -> Evaluation:
    """Evaluate a run that was made in Python, whose data or model no file holds.

    Args:
        run: The folder of the run.
        data: The sequences that :func:`fit` was given; of others than :class:`ArraySequences`, those to test on.
        model: The model that :func:`fit` was given, with any weights: those of the checkpoint are read into it. None
            for a run of a :class:`ModelConfig`.

    Returns:
        The errors and the certificates, which are also written into the folder.

    Raises:
        UsageError: If ``model`` is missing, or is given for a run that has none of its own.
        ExperimentError: If the run cannot be read, or the data or the architecture is another one.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(Path(run))
    config = TrainConfig.from_json(folder.config)
    if (len(config.objects) > 1) != (model is not None):
        wanted = "the module that the run was made with" if model is None else "None for a run of a ModelConfig"
        raise UsageError(f"model: expected {wanted}, got {type(model).__name__}")
    parts = _parts(data, None, None)
    built = initial_model(config, parts[0]) if model is None else model
    with folder.owned("measuring"):
        check_data(folder, parts[0])
        return _evaluate(config, built, parts, folder, load_checkpoint(folder.checkpoint, built))


def _evaluate(
    config: TrainConfig,
    model: nn.Module,
    parts: tuple[SequenceDataset, SequenceDataset, SequenceDataset],
    folder: RunFolder,
    done: Progress,
) -> Evaluation:
    device = next(model.parameters()).device
    run = TrainedRun(config, model.eval(), parts[2].to(device), parts[1].to(device), done)
    return evaluate_run(run, folder)


def _parts(
    data: Data, validation: SequenceDataset | None, test: SequenceDataset | None
) -> tuple[SequenceDataset, SequenceDataset, SequenceDataset]:
    """Return the sequences for training, validation and test."""
    check_methods("data", data, ("sequence", "starts"), "ArraySequences(frames) or another SequenceDataset")
    if isinstance(data, ArraySequences) and data.split == "all":
        if validation is not None or test is not None:
            raise UsageError("validation, test: expected None for ArraySequences, which are split here, got sequences")
        return data.split_into_parts()
    return data, data if validation is None else validation, data if test is None else test


def _dataset_of(data: SequenceDataset) -> str:
    """Name the data, by no name that the command line would open instead."""
    return f"{data.name} (in Python)" if data.name in DATASETS else data.name


def _settings_of(model: ModelConfig | nn.Module, data: SequenceDataset) -> ModelConfig:
    """Return the settings of a model; of one of the user's own what can be told from it."""
    if isinstance(model, ModelConfig):
        return model
    if not isinstance(model, FlowVAE):
        raise TypeError(f"model: expected a ModelConfig or a FlowVAE, got {type(model).__name__}")
    if len(model.bank) != len(data.names):
        raise UsageError(
            f"model: expected {len(data.names)} potentials, one for each of {', '.join(data.names)}, "
            f"got {len(model.bank)}"
        )
    unknown = is_unlabelled(data)
    if unknown and model.label_posterior is None:
        raise UsageError("model: expected one with a label_posterior for sequences without labels, got one without")
    if model.label_posterior is None:
        return ModelConfig()
    return ModelConfig(supervision="weak" if unknown else "taught")
