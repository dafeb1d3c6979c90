"""What every example writes beside its figures: the numbers and where they come from."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import latentflow as lf
from latentflow.calculus.files import replacing
from latentflow_experiments.records import processor, source_commit, versions, write_text

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
        "commit": source_commit(),
        "python": platform.python_version(),
        "packages": {"latentflow": lf.__version__} | versions(PACKAGES),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **facts,
    }


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record; the file is never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=2, allow_nan=False) + "\n")


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure; the file is never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, facecolor="white")


def run(main: Callable[[list[str]], None]) -> None:
    """Run an example with the arguments of the command line; Ctrl-C ends it without a traceback."""
    source_commit()  # noted before the example writes anything
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print("\ninterrupted: nothing was written that is not whole", file=sys.stderr)
        sys.exit(130)
