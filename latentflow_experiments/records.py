"""Files that are never half written, and the provenance of what they hold."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import latentflow
from latentflow.calculus.files import replacing
from latentflow_experiments.errors import DataError, ExperimentError
from latentflow_experiments.reading import parse_object, read_limited


def clear_temporaries(folder: Path, name: str) -> None:
    """Remove what killed processes have left beside files that they were :func:`replacing`.

    Args:
        folder: The folder of the files, in which no other process may be writing them now.
        name: Their name, with ``?`` for any character.
    """
    for left in folder.glob(f".{name}.????????{Path(name).suffix}"):
        if left.is_file():
            left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is never half written."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


SUM = "sha256"
"""The key under which a JSON file holds the checksum of its other contents."""

LARGEST_JSON = 2**26
"""The largest size of a JSON file of a run, in bytes."""


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object with its checksum; the file is never half written, and holds no NaN.

    Args:
        path: The file.
        values: What JSON can hold, under keys that are text; an infinite number is written as null.

    Raises:
        ExperimentError: If a number is NaN; what is there stays as it was.
        OSError: If it cannot be written.
    """
    plain = json.loads(json.dumps(_without_infinity(values, path.name)))
    write_text(path, json.dumps(plain | {SUM: _sum_of(plain)}, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, expected: str, *, unsealed: bool = False) -> dict[str, Any]:
    """Read a JSON object of a run, and compare it with its checksum.

    Args:
        path: The file.
        expected: What it should be, for the message, such as ``"the configuration of a run"``.
        unsealed: Whether it may have no checksum, as files of versions before 0.3.

    Returns:
        Its contents, without the checksum.

    Raises:
        FileNotFoundError: If there is nothing.
        DataError: If it is no regular file, too large, no strict JSON, or changed after it was written.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(path)
    values = parse_object(read_limited(path, LARGEST_JSON), path, f"{expected} in JSON")
    noted = values.pop(SUM, None)
    if noted is None and unsealed:
        return values
    if noted is None:
        raise DataError(f"{path}: expected {expected} with its {SUM}, got none: it is damaged or of an older version")
    if noted != _sum_of(values):
        raise DataError(f"{path}: expected {expected} with the {SUM} it was written with, got changed contents")
    return values


def _sum_of(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _without_infinity(value: object, where: str) -> object:
    """Write infinity as None; an ExperimentError names the place of a NaN."""
    if isinstance(value, dict):
        return {key: _without_infinity(entry, f"{where}: {key}") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_infinity(entry, where) for entry in value]
    if isinstance(value, float) and math.isnan(value):
        raise ExperimentError(f"{where}: expected a number, got NaN; nothing was written")
    return None if isinstance(value, float) and math.isinf(value) else value


PACKAGES = ("torch", "torchdiffeq", "numpy", "kornia", "lightning-fabric", "safetensors", "scikit-learn")


def provenance(**facts: object) -> dict[str, Any]:
    """Describe the command, the code and the machine of a result; paths in the command are relative to its folder.

    Args:
        **facts: What else to note: the seed, the data and so on.

    Returns:
        A dictionary that JSON can hold.
    """
    return {
        "command": shlex.join([*_program(), *map(_relative, sys.argv[1:])]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "latentflow": latentflow.__version__,
        "commit": source_commit(),
        "python": platform.python_version(),
        "packages": versions(PACKAGES),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **facts,
    }


def versions(names: Iterable[str]) -> dict[str, str | None]:
    """Return the versions of distributions, of torch with what it is built for; None for one that is not installed."""

    def installed(name: str) -> str | None:
        try:
            return str(torch.__version__) if name == "torch" else version(name)
        except PackageNotFoundError:
            return None

    return {name: installed(name) for name in names}


def processor() -> str:
    """Name the processor of this machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def source_commit() -> str | None:
    """Name the commit of the source tree that the process started from, marked if files differ from it."""
    root = Path(latentflow.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def _relative(word: str) -> str:
    """Write an absolute path among the arguments, alone or after ``=``, relative to the folder of the command.

    Example:
        >>> _relative(f"--out={Path.cwd() / 'runs' / 'digits'}"), _relative("--steps")
        ('--out=runs/digits', '--steps')
    """
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{os.path.relpath(value)}" if os.path.isabs(value) else word


def _program() -> list[str]:
    """Return the words by which the program was called: ``python -m MODULE`` of a module, or the name of a script."""
    script, module = sys.argv[0], sys.modules["__main__"].__spec__
    if module is not None and module.origin == script:
        return ["python", "-m", module.name.removesuffix(".__main__")]
    return [Path(script).name]
