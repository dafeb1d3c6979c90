"""Checkpoints: the weights, the state of the optimizer and the progress of a training."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from latentflow.calculus.files import replacing
from latentflow_experiments.errors import DataError, ExperimentError
from latentflow_experiments.reading import BROKEN, brief, open_regular, parse_object, reading
from latentflow_experiments.records import SUM

MODEL, OPTIMIZER = "model.", "optimizer."
"""What the names of the weights and of the state of the optimizer begin with."""


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        steps: Number of steps made.
        seconds: Seconds of training, over all sessions of the run.
    """

    steps: int = 0
    seconds: float = 0.0


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, *, write: bool = True
) -> None:
    """Write a checkpoint; an earlier one stays in place until the new one is complete.

    Of a model that several processes have parts of, all call it, and one of them writes.

    Args:
        path: The file.
        model: The model, whose state is written under ``model.``.
        optimizer: The optimizer, whose state is written under ``optimizer.<parameter>.<name>``.
        progress: How far the run has come.
        write: Whether this process writes the file.

    Raises:
        ExperimentError: If the file cannot be written.
        FloatingPointError: If a weight is not finite; nothing is written then.
    """
    tensors = {MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{index}.{name}": tensor for name, tensor in state.items()}
    separate = {}
    for name, tensor in tensors.items():
        collected = whole(tensor)
        if name.startswith(MODEL) and collected.is_floating_point() and not torch.isfinite(collected).all():
            raise FloatingPointError(f"in {name.removeprefix(MODEL)}")
        if write:
            separate[name] = _separate(collected)
    if not write:
        return
    progress_text = json.dumps({"steps": progress.steps, "seconds": progress.seconds})
    metadata = {"progress": progress_text, SUM: _sum_of(separate, progress_text)}
    try:
        with replacing(path) as temporary:
            save_file(separate, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise ExperimentError(f"{path}: expected room for a checkpoint, got {brief(error)}") from error


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Progress:
    """Read a checkpoint into a model and, to go on with training, an optimizer.

    Args:
        path: The file.
        model: A model of the same architecture; if several processes have parts of it, all call it.
        optimizer: An optimizer of the model's parameters, or None to read the weights only.

    Returns:
        How far the run had come.

    Raises:
        ExperimentError: If the file is missing or damaged, a number in it is not finite, or its tensors are those of
            another architecture. Neither model nor optimizer is changed then.
    """
    tensors, progress = read_checkpoint(path)
    weights = {name.removeprefix(MODEL): tensor for name, tensor in tensors.items() if name.startswith(MODEL)}
    check_architecture(path, weights, model.state_dict())
    if optimizer is not None:
        state: dict[int, dict[str, Tensor]] = {}
        with reading(path, "the state of an optimizer in a checkpoint"):
            for name, tensor in tensors.items():
                if name.startswith(OPTIMIZER):
                    index, key = name.removeprefix(OPTIMIZER).split(".")
                    state.setdefault(int(index), {})[key] = tensor
            groups = optimizer.state_dict()["param_groups"]
            if not set(state) <= {index for group in groups for index in group["params"]}:  # not all need have one
                raise ValueError(f"that of the parameters {sorted(state)}")
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            shared = {
                place: {key: _shared_like(tensor, parameters[place]) for key, tensor in values.items()}
                for place, values in state.items()
            }
            optimizer.load_state_dict({"state": shared, "param_groups": groups})
    references = model.state_dict()
    model.load_state_dict({name: _shared_like(tensor, references[name]) for name, tensor in weights.items()})
    return progress


def whole(tensor: Tensor) -> Tensor:
    """Collect a tensor that several processes have parts of; all of them have to call it.

    Args:
        tensor: The tensor.

    Returns:
        The same numbers in this process; the tensor itself if they are there already.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _shared_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """Share out a tensor as another one of its shape is; all processes have to call it with the same numbers."""
    if not isinstance(reference, DTensor) or tensor.shape != reference.shape:  # the steps of an optimizer have none
        return tensor
    return distribute_tensor(tensor.to(reference.device), reference.device_mesh, reference.placements)


def _separate(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU, into memory of its own: the format refuses tensors that two modules share."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Progress]:
    """Read the tensors of a checkpoint, and how far the run had come.

    Args:
        path: The file.

    Returns:
        The tensors by their names, and the progress.

    Raises:
        ExperimentError: If the file is missing, is not the one that was written, or a number in it is not finite.
    """
    if not path.exists():
        raise ExperimentError(f"{path}: expected a checkpoint, got no such file")
    expected = "a complete checkpoint of latentflow"
    try:
        open_regular(path).close()
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        progress = Progress(**parse_object(metadata["progress"], path, expected))
        noted = metadata[SUM]
    except DataError:
        raise
    except (SafetensorError, *BROKEN) as error:
        raise ExperimentError(f"{path}: expected {expected}, got {brief(error)}") from error
    if noted != _sum_of(tensors, metadata["progress"]):
        raise ExperimentError(f"{path}: expected {expected} with the {SUM} it was written with, got changed contents")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ExperimentError(f"{path}: expected finite numbers, got NaN or infinity in {name}")
    return tensors, progress


def _sum_of(tensors: dict[str, Tensor], progress: str) -> str:
    """Hash names, types, shapes and bytes of tensors, and the progress."""
    digest = hashlib.sha256(progress.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_architecture(path: Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare the weights of a checkpoint with those of a model.

    Args:
        path: The checkpoint, for the message.
        found: Its weights, by their names.
        expected: The weights of the model.

    Raises:
        ExperimentError: If a name or a shape differs.
    """
    for name in sorted(expected.keys() | found.keys()):
        ours, theirs = (tuple(t[name].shape) if name in t else "none" for t in (expected, found))
        if ours != theirs:
            raise ExperimentError(f"{path}: expected {name} of shape {ours}, got {theirs}: another architecture")
