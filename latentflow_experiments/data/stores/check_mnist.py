"""The four files of MNIST read from end to end."""

from __future__ import annotations

from pathlib import Path

from latentflow_experiments.data.mnist import read_idx
from latentflow_experiments.data.originals import ORIGINALS, PublicFile
from latentflow_experiments.data.stores.files import published_faults
from latentflow_experiments.data.stores.report import Report
from latentflow_experiments.errors import DataError

__all__ = ["check_mnist", "mnist_files"]

_SHAPES: dict[str, tuple[int, ...]] = {
    "train-images-idx3-ubyte.gz": (60_000, 28, 28),
    "train-labels-idx1-ubyte.gz": (60_000,),
    "t10k-images-idx3-ubyte.gz": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte.gz": (10_000,),
}


def mnist_files(folder: Path) -> dict[str, Path]:
    """Find the files of MNIST in a folder.

    Args:
        folder: The folder.

    Returns:
        By the published name, which ends in ``.gz``, each file that is there, with or without this ending.
    """
    places = {name: (folder / name, folder / name.removesuffix(".gz")) for name in _SHAPES}
    return {name: path for name, both in places.items() for path in both[::-1] if path.is_file()}


def check_mnist(folder: Path, names: tuple[str, ...] = tuple(_SHAPES)) -> Report:
    """Read files of MNIST and name each fault; the published SHA-256 is that of the compressed ones.

    Args:
        folder: Their folder.
        names: The published names of those to read.

    Returns:
        The report.
    """
    published = {file.name: file for file in ORIGINALS["mnist"]}
    there = mnist_files(folder)
    read = 0
    faults: list[str] = []
    for name in names:
        if name not in there:
            faults.append(f"{folder / name}: missing")
            continue
        wrong = _faults(there[name], _SHAPES[name], published[name])
        read += _SHAPES[name][0] if len(_SHAPES[name]) == 3 and not wrong else 0
        faults += wrong
    return Report(folder, "MNIST", read, False, tuple(faults))


def _faults(path: Path, shape: tuple[int, ...], published: PublicFile) -> list[str]:
    faults = published_faults(path, published) if path.suffix == ".gz" else []
    try:
        highest = int(read_idx(path, shape).max())
    except DataError as error:
        return [*faults, str(error)]
    if len(shape) == 1 and highest > 9:
        faults.append(f"{path}: expected labels from 0 to 9, got {highest}")
    return faults
