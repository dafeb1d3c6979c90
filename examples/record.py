"""What every example writes beside its figures: the numbers and where they come from."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import latentflow as lf

PACKAGES = ("torch", "torchdiffeq", "numpy", "scikit-learn", "zuko", "torchcfm")


def describe_run(arguments: list[str], **facts: object) -> dict[str, Any]:
    """Describe the command, the code and the machine.

    Args:
        arguments: The arguments of the command.
        **facts: What else to note: the seed, the settings and so on.

    Returns:
        A dictionary that JSON can hold.
    """
    return {
        "command": shlex.join(["python", f"examples/{Path(sys.argv[0]).name}", *arguments]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {"latentflow": lf.__version__} | {name: _version(name) for name in PACKAGES},
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **facts,
    }


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record; the file is never half written."""
    _replace(path, lambda temporary: temporary.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n"))


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure; the file is never half written."""
    _replace(path, lambda temporary: figure.savefig(temporary, dpi=150, facecolor="white"))


def run(main: Callable[[list[str]], None]) -> None:
    """Run an example with the arguments of the command line; Ctrl-C ends it without a traceback."""
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print("\ninterrupted: nothing was written that is not whole", file=sys.stderr)
        sys.exit(130)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Name the commit of the source tree, marked if files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
