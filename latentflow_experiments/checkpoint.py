"""Checkpoints: one safetensors file with weights, optimiser state and counters; nothing is unpickled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from latentflow_experiments.errors import ExperimentError
from latentflow_experiments.files import replacing

MODEL = "model."
OPTIMISER = "optimiser."


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        steps: Number of steps made.
        seconds: Seconds of training, over all sessions of the run.
    """

    steps: int = 0
    seconds: float = 0.0


def save_checkpoint(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
    """Write a checkpoint; an earlier one stays in place until the new one is complete.

    Args:
        path: The file.
        model: The model, whose state is written under ``model.``.
        optimiser: The optimiser, whose state is written under ``optimiser.<parameter>.<name>``.
        progress: How far the run has come.
    """
    tensors = {MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"{OPTIMISER}{index}.{name}": tensor for name, tensor in state.items()}
    metadata = {"progress": json.dumps({"steps": progress.steps, "seconds": progress.seconds})}
    with replacing(path) as temporary:
        save_file({name: _separate(tensor) for name, tensor in tensors.items()}, temporary, metadata)


def load_checkpoint(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer | None = None) -> Progress:
    """Read a checkpoint into a model and, to go on with training, an optimiser.

    Args:
        path: The file.
        model: A model of the same architecture.
        optimiser: An optimiser of the model's parameters, or None to read the weights only.

    Returns:
        How far the run had come.

    Raises:
        ExperimentError: If the file is missing or damaged, or its tensors are those of another architecture. Neither
            model nor optimiser is changed then.
    """
    tensors, progress = _read(path)
    weights = {name.removeprefix(MODEL): tensor for name, tensor in tensors.items() if name.startswith(MODEL)}
    _check_architecture(path, weights, model.state_dict())
    model.load_state_dict(weights)
    if optimiser is not None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(OPTIMISER):
                index, key = name.removeprefix(OPTIMISER).split(".")
                state.setdefault(int(index), {})[key] = tensor
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return progress


def _separate(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU, into memory of its own: the format refuses tensors that two modules share."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _read(path: Path) -> tuple[dict[str, Tensor], Progress]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            progress = Progress(**json.loads((file.metadata() or {})["progress"]))
            return {name: file.get_tensor(name) for name in file.keys()}, progress  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise ExperimentError(f"{path}: expected a checkpoint, got no such file") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ExperimentError(f"{path}: expected a complete checkpoint of latentflow, got {error}") from error


def _check_architecture(path: Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in sorted(expected.keys() | found.keys()):
        ours, theirs = (tuple(t[name].shape) if name in t else "none" for t in (expected, found))
        if ours != theirs:
            raise ExperimentError(f"{path}: expected {name} of shape {ours}, got {theirs}: another architecture")
