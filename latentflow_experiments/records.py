"""Files that are never half written, and the provenance of what they hold."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import latentflow


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside its place and move it there when it is complete.

    Args:
        path: Where the file goes; what is there stays as it was until the new one is on the disk.

    Yields:
        The path to write to, in the same folder.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     target = Path(folder, "note.txt")
        ...     with replacing(target) as temporary:
        ...         _ = temporary.write_text("done")
        ...     assert target.read_text() == "done" and len(list(Path(folder).iterdir())) == 1
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def clear_temporaries(folder: Path, name: str) -> None:
    """Remove what killed processes have left beside files that they were :func:`replacing`.

    Args:
        folder: The folder of the files, in which no other process may be writing them now.
        name: Their name, with ``?`` for any character.
    """
    for left in folder.glob(f".{name}.????????{Path(name).suffix}"):
        left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is never half written."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


PACKAGES = ("torch", "torchdiffeq", "numpy", "geomloss", "kornia", "lightning-fabric", "safetensors", "scikit-learn")


def provenance(**facts: object) -> dict[str, Any]:
    """Describe the command, the code and the machine of a result.

    Args:
        **facts: What else to note: the seed, the data and so on.

    Returns:
        A dictionary that JSON can hold.
    """
    return {
        "command": shlex.join([*_program(Path(sys.argv[0])), *sys.argv[1:]]),
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
    """Return the versions of distributions; None for one that is not installed."""

    def installed(name: str) -> str | None:
        try:
            return version(name)
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


def _program(path: Path) -> list[str]:
    """Return the words by which a program was called; a package that runs as a module has no name of its own."""
    return ["python", "-m", path.parent.name] if path.name == "__main__.py" else [path.name]
