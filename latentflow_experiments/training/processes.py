"""Several processes: how they are started, how they share a model, and what is whole of it again."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from latentflow import FlowVAE
from latentflow_experiments.checkpoints import Progress, load_checkpoint, save_checkpoint, whole
from latentflow_experiments.errors import UsageError
from latentflow_experiments.methods.method import Method, TrainableModel


@dataclass(frozen=True)
class Launcher:
    """The processes that another program, such as ``torchrun``, has started.

    Attributes:
        devices: The number of processes on each machine.
        nodes: The number of machines.
        restarts: How often they were started again after one of them died.
        most_restarts: How often they may be.
    """

    devices: int
    nodes: int
    restarts: int
    most_restarts: int

    @staticmethod
    def found() -> Launcher | None:
        """Read what ``torchrun`` says in the environment; None if this process was started alone."""
        if not torch.distributed.is_torchelastic_launched():
            return None
        local, world = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        restarts, most = (
            int(os.environ.get(f"TORCHELASTIC_{name}", "0")) for name in ("RESTART_COUNT", "MAX_RESTARTS")
        )
        return Launcher(local, world // local, restarts, most)


def build_strategy(name: str, processes: int) -> Strategy | str:
    """Build the strategy by which processes share a model.

    Args:
        name: ``ddp``, where each has all weights; ``fsdp``, where each has a part of weights, gradients and the state
            of the optimizer; or ``auto``, which is ddp for several processes.
        processes: The number of processes.

    Returns:
        The strategy, as Fabric takes it.

    Raises:
        UsageError: If one process is to share a model.
    """
    if name == "fsdp":
        if processes == 1:
            raise UsageError("strategy: expected fsdp with several devices or nodes, got one process")
        return ModelParallelStrategy(shard, data_parallel_size=processes, tensor_parallel_size=1)
    if name == "ddp" or processes > 1:
        return DDPStrategy(find_unused_parameters=True)  # a batch uses one of the potentials only
    return "auto"


def shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Share out weights, gradients and the state of the optimizer over processes; encoder and decoder on their own.

    From the forward to the backward pass every process has all weights: an encoder returns a distribution, from which
    the backward pass cannot tell when to collect them again.

    Args:
        model: The model, with all weights in each process.
        mesh: The processes.

    Returns:
        The model, changed in place.
    """
    processes = mesh["data_parallel"]
    for name in ("encoder", "energy_encoder", "decoder"):
        part = getattr(model, name, None)
        if isinstance(part, nn.Module):
            fully_shard(part, mesh=processes, reshard_after_forward=False)
    fully_shard(model, mesh=processes, reshard_after_forward=False)
    return model


class MixedNetworks(MixedPrecision):
    """Computes the layers of a model in bfloat16 and keeps its inputs as they are.

    Lightning's own class rounds the images too, to eight binary digits: the targets of the likelihood, and what takes
    its precision from them.
    """

    def convert_input(self, data: Any) -> Any:  # noqa: ANN401 - whatever a model takes
        """Return the inputs."""
        return data


def end_process(code: int) -> int:
    """End this process at once if it is one of several; else return the exit code.

    The threads by which gloo talks to the others may abort or block an interpreter that takes itself down.

    Args:
        code: The exit code.

    Returns:
        The exit code.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def own_parts(fabric: Fabric, parts: int) -> range:
    """List the parts of a batch that this process computes: every so many of them, from its own number on."""
    return range(fabric.global_rank, parts, fabric.world_size)


def average(fabric: Fabric, values: dict[str, Tensor]) -> dict[str, float]:
    """Average numbers over all processes, which have to call it with the same names.

    Args:
        fabric: The devices.
        values: The numbers of this process.

    Returns:
        The averages.
    """
    numbers = torch.stack([value.detach().float() for value in values.values()])
    if fabric.world_size > 1:
        numbers = cast("Tensor", fabric.all_reduce(numbers, reduce_op="mean"))
    return dict(zip(values, numbers.tolist(), strict=True))


@dataclass(frozen=True)
class Decision:
    """The next thing that all processes do.

    Attributes:
        spent: The share of the budget that is spent.
        stop: Whether to stop, since one of them was asked to.
        save: Whether to write a checkpoint.
        validate: Whether to measure the errors on validation sequences.
    """

    spent: float
    stop: bool
    save: bool
    validate: bool


def agree(fabric: Fabric, wish: Decision) -> Decision:
    """Let all processes do the same: what the first one wishes, and stop if any was asked to.

    Args:
        fabric: The devices.
        wish: What this process would do.

    Returns:
        What all do.
    """
    if fabric.world_size == 1:
        return wish
    first = fabric.is_global_zero  # the others add nothing but their wish to stop
    numbers = [wish.spent, wish.stop, wish.save, wish.validate] if first else [0.0, wish.stop, 0.0, 0.0]
    largest = fabric.all_reduce(torch.tensor(numbers, dtype=torch.float64, device=fabric.device), reduce_op="max")
    spent, stop, save, validate = cast("Tensor", largest).tolist()
    return Decision(spent, bool(stop), bool(save), bool(validate))


class SharedModel:
    """A model that one process trains, or several together.

    Args:
        fabric: The devices.
        method: The method of the model.
        model: The model with its initial weights, the same in all processes. It is trained in place, or shared out.
        checkpoint: The checkpoint to go on from; None to begin.

    Attributes:
        done: How far the training had come.

    Raises:
        ExperimentError: If the checkpoint does not fit.
    """

    def __init__(self, fabric: Fabric, method: Method[nn.Module], model: nn.Module, checkpoint: Path | None) -> None:
        sharded = isinstance(fabric.strategy, ModelParallelStrategy)
        self._fabric = fabric
        self._plain = copy.deepcopy(model) if sharded else None
        self._model = model
        for module in model.modules():
            if isinstance(module, FlowVAE):
                module.absent_take_part = False  # the gradients are those of one process
        self._wrapped = fabric.setup_module(model)
        self._optimizer = torch.optim.Adam(method.parameter_groups(model), fused=True)
        self.done = Progress() if checkpoint is None else load_checkpoint(checkpoint, model, self._optimizer)
        self._stepper = cast("_FabricOptimizer", fabric.setup_optimizers(self._optimizer))

    def descend(
        self, parts: Sequence[int], terms_of: Callable[[TrainableModel, int], dict[str, Tensor]], clip_norm: float
    ) -> dict[str, Tensor]:
        """Make a step of the optimizer down the gradient of the loss, averaged over the parts of all processes.

        Args:
            parts: The parts of the batch that this process computes, equally many in each.
            terms_of: Computes the terms of the loss of a part by the model; their ``total`` is descended.
            clip_norm: The largest norm of the gradient, to which a longer one is shortened; 0 for no limit.

        Returns:
            The terms that are numbers, averaged over the parts of this process.
        """
        self._stepper.zero_grad()
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts, 1):
            with self._fabric.no_backward_sync(self._wrapped, enabled=number < len(parts)):
                terms = terms_of(self._wrapped, part)
                self._fabric.backward(terms["total"] / len(parts))
            for name, value in terms.items():
                if value.ndim == 0:
                    sums[name] = sums.get(name, 0) + value.detach() / len(parts)
        if clip_norm > 0:
            self._fabric.clip_gradients(self._wrapped, self._stepper, max_norm=clip_norm)
        self._stepper.step()
        return sums

    def set_learning_rate(self, rate: float) -> float:
        """Set the learning rate, times the ``scale`` of each group of parameters, and return it."""
        for group in self._optimizer.param_groups:
            group["lr"] = group.get("scale", 1.0) * rate
        return rate

    def save(self, path: Path, progress: Progress) -> None:
        """Write a checkpoint; see :func:`save_checkpoint`. All processes call it."""
        save_checkpoint(path, self._model, self._optimizer, progress, write=self._fabric.is_global_zero)

    def collected(self) -> nn.Module:
        """Return the model with all weights, in this process; all processes call it."""
        if self._plain is None:
            return self._model
        self._plain.load_state_dict({name: whole(tensor) for name, tensor in self._model.state_dict().items()})
        return self._plain.to(self._fabric.device)
