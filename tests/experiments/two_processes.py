"""Trains in two processes, several times over: ``torchrun --nproc-per-node 2 two_processes.py FOLDER``."""

import signal
import sys
from dataclasses import replace
from pathlib import Path

from latentflow_experiments.configuration import Budget, ModelConfig, TrainConfig
from latentflow_experiments.data import open_sequences
from latentflow_experiments.runs import RunFolder
from latentflow_experiments.training import loop
from latentflow_experiments.training.session import Hardware

STEPS = 7
SMALL = ModelConfig(dim=3, hidden=(5,), width=8)
LABELS = TrainConfig("digits", batch_size=12, parts=2, learning_rate=1e-2, warmup_steps=2, validations=2, model=SMALL)
RUNS = {
    "labels": LABELS,
    "accumulated": replace(LABELS, parts=4),
    "clipped": replace(LABELS, clip_norm=50.0),
    "weak": replace(LABELS, model=replace(SMALL, supervision="weak", label_estimator="exact")),
    "bfloat16": LABELS,
    "sharded": LABELS,
}


def hardware(name, devices):
    """The hardware of a run."""
    precision = "bf16-mixed" if name == "bfloat16" else "32"
    strategy = "fsdp" if name == "sharded" and devices > 1 else "auto"
    return Hardware(device="cpu", devices=devices, strategy=strategy, threads=1, precision=precision)


def train(folder, name, devices, *, stop_at=None):
    """Train, or go on; with ``stop_at`` the first process is interrupted in a step."""
    config, run = RUNS[name], RunFolder(folder / name)
    fabric = hardware(name, devices).launch()
    resume = run.config.exists()
    fabric.barrier()
    if fabric.is_global_zero and not resume:
        run.create(config)
    fabric.barrier()
    loop.LOG_STEPS = 1
    original = loop.draw_kinds

    def kinds(config, step, *others):
        if step == stop_at and fabric.is_global_zero:
            signal.raise_signal(signal.SIGINT)
        return original(config, step, *others)

    loop.draw_kinds = kinds
    data, validation = (open_sequences("digits", split) for split in ("train", "validation"))
    small = replace(
        validation,
        images=replace(validation.images, images=validation.images.images[:10], labels=validation.images.labels[:10]),
    )
    try:
        loop.train(config, Budget(steps=STEPS), data, run, fabric, resume=resume, validation=small)
    except KeyboardInterrupt:
        assert stop_at is not None
    finally:
        loop.draw_kinds = original


def main():
    """Train all runs, and one that is stopped in its fourth step and goes on; leave another one stopped."""
    folder = Path(sys.argv[1])
    for name in RUNS:
        train(folder, name, 2)
    for name in ("labels", "sharded"):
        train(folder / "stopped", name, 2, stop_at=3)
        train(folder / "stopped", name, 2)
        train(folder / "left", name, 2, stop_at=3)


if __name__ == "__main__":
    main()
