"""Makes training steps in the processes that started it, and says how long they took.

``python -m benchmarks.scaling_worker CASE BATCH STRATEGY PARTS``, alone or under torchrun; each process computes so
many parts of a batch before gradients are added up, and the first prints one line of JSON. With the strategy ``apart``
it is alone, prints ``ready`` and waits for a line before it measures.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from latentflow_experiments.configuration import ModelConfig, TrainConfig
from latentflow_experiments.data import ArraySequences, SequenceDataset, open_sequences
from latentflow_experiments.training.loop import Batches, initial_model
from latentflow_experiments.training.processes import SharedModel, average, own_parts
from latentflow_experiments.training.session import Hardware

STEPS, WARM_UP = 10, 2
CASES: dict[str, tuple[str, ModelConfig]] = {
    "mnist": ("digits", ModelConfig()),
    "rooms": ("rooms", ModelConfig(network="conv")),
    "song2023": ("digits", ModelConfig(network="song2023", dim=324)),
}
"""The sequences and the model of each case: the defaults for MNIST, for images of 64 pixels, and those of the paper."""


def rooms() -> SequenceDataset:
    """Make sequences of 8 random frames of 64 x 64 pixels; how long a step takes does not depend on what is in them."""
    frames = torch.rand(256, 8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return ArraySequences(frames, torch.arange(256) % 4).split_into_parts()[0]


def peak() -> float:
    """Return the largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def steps_of(shared: SharedModel, batches: Batches, parts: range) -> Callable[[int], Tensor]:
    """Return what makes a step of training by its number, and returns the loss of the parts of this process."""

    def step(number: int) -> Tensor:
        return shared.descend(parts, lambda model, part: model(*batches.draw(number, part)), 0.0)["total"]

    return step


def timed(fabric: Fabric, step: Callable[[int], Tensor]) -> tuple[list[float], list[float]]:
    """Measure steps, each from a moment at which all processes are ready; return their times and all their losses."""
    seconds, losses = [], []
    for number in range(WARM_UP + STEPS):
        fabric.barrier()
        begun = time.perf_counter()
        loss = step(number)
        seconds.append(time.perf_counter() - begun)
        losses.append(average(fabric, {"total": loss})["total"])
    return seconds[WARM_UP:], losses


def all_reduce(fabric: Fabric, count: int) -> list[float]:
    """Measure the sum of so many numbers over all processes."""
    if fabric.world_size == 1:
        return [0.0]
    numbers, seconds = torch.zeros(count), []
    for _ in range(WARM_UP + STEPS):
        fabric.barrier()
        begun = time.perf_counter()
        torch.distributed.all_reduce(numbers)
        seconds.append(time.perf_counter() - begun)
    return seconds[WARM_UP:]


def main() -> None:
    """Measure a case."""
    case, batch, strategy, each = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    dataset, model = CASES[case]
    apart = strategy == "apart"
    hardware = Hardware(device="cpu", threads=1, strategy=cast("Any", "auto" if apart else strategy))
    torch.set_num_threads(1)
    fabric = hardware.launch()
    data = rooms() if dataset == "rooms" else open_sequences(dataset, "train")
    config = TrainConfig(dataset, batch_size=batch, parts=each * fabric.world_size, model=model)
    built = initial_model(config, data)
    before = peak()
    count = sum(parameter.numel() for parameter in built.parameters())
    shared = SharedModel(fabric, config.model.described, built, None)
    shared.set_learning_rate(1e-4)
    parts = own_parts(fabric, each * fabric.world_size)
    if apart:
        print("ready", flush=True)
        sys.stdin.readline()
    seconds, losses = timed(fabric, steps_of(shared, Batches(config, data, fabric.device), parts))
    sums = all_reduce(fabric, count)
    largest = cast("Tensor", fabric.all_reduce(torch.tensor(peak()), reduce_op="max"))
    measured = {
        "seconds": seconds,
        "losses": losses,
        "all_reduce": sums,
        "parameters": count,
        "memory": float(largest),
        "before": before,
    }
    if fabric.is_global_zero:
        print(json.dumps(measured | {"processes": fabric.world_size, "batch": batch, "strategy": strategy}))


if __name__ == "__main__":
    main()
