"""The smallest run there is, and what it is compared by."""

from __future__ import annotations

import hashlib
import importlib
import json
import struct
from pathlib import Path
from typing import Any, NoReturn

__all__ = [
    "MEASURE",
    "checkpoint_every",
    "checkpoints",
    "leftovers",
    "numbers",
    "records",
    "strict_json",
    "train",
    "weights",
]

OPTIONS = (
    *("--batch-size", "4", "--width", "4", "--dim", "2", "--hidden", "3", "--precision", "32", "--device", "cpu"),
    *("--transformations", "coloring", "--states", "2"),
)
MEASURE = ("--parts", "likelihood", "--images", "2", "--samples", "1", "2")
COMPARED = ("result", "transport", "recovery", "choice", "settings")  # of a file of results; the rest is its origin


def train(out: Path | str, steps: int, *more: str) -> list[str]:
    """Return the arguments of a tiny training run.

    Args:
        out: The folder of the run.
        steps: The number of steps.
        *more: More options, such as ``--resume``.

    Returns:
        The arguments.
    """
    return ["train", "digits", "--steps", str(steps), *OPTIONS, "--out", str(out), *more]


def checkpoint_every(seconds: float) -> None:
    """Make this process write a checkpoint so often; with 0, after every step."""
    loop: Any = importlib.import_module("latentflow_experiments.training.loop")
    assert hasattr(loop, "CHECKPOINT_SECONDS"), "the campaign sets the time between two checkpoints"
    loop.CHECKPOINT_SECONDS = seconds
    loop.LOG_STEPS = 5


def weights(folder: Path) -> dict[str, tuple[str, str, str]]:
    """Read the tensors of all checkpoints of a run.

    Args:
        folder: The folder of the run.

    Returns:
        Type, shape and SHA-256 of the bytes, by the file and the name of the tensor.
    """
    found = {}
    for path in checkpoints(folder):
        data = path.read_bytes()
        if len(data) < 8:
            raise ValueError(f"{path.name}: expected tensors, got {len(data)} bytes")
        start = 8 + struct.unpack("<Q", data[:8])[0]
        for name, entry in json.loads(data[8:start]).items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                digest = hashlib.sha256(data[start + first : start + last]).hexdigest()
                found[f"{path.name}:{name}"] = (entry["dtype"], str(entry["shape"]), digest)
    return found


def checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints of a run, without temporaries of them, which are hidden."""
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("."))


def numbers(folder: Path, *names: str) -> dict[str, Any]:
    """Read the results of a run, without when and where they were found.

    Args:
        folder: The folder of the run.
        *names: The names of the files, without ``.json``.

    Returns:
        The values by the name of the file.
    """
    found = {}
    for name in names:
        content = strict_json((folder / f"{name}.json").read_text(encoding="utf-8"))
        found[name] = {key: content.get(key) for key in COMPARED}
    return found


def records(folder: Path) -> list[dict[str, Any]]:
    """Read the training metrics of a run, without the seconds."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in strict_json(line).items() if key != "seconds"} for line in lines]


def strict_json(text: str) -> Any:  # noqa: ANN401 - whatever the text holds
    """Read JSON in which NaN and Infinity are errors, as they are everywhere but in Python."""

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"expected JSON, got {word}")

    return json.loads(text, parse_constant=refuse)


def leftovers(folder: Path) -> list[str]:
    """Name the hidden files in a folder: temporaries, locks, and what else should have gone."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) if folder.is_dir() else []
