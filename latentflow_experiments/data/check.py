"""A data set read from end to end, with every fault by its name."""

from __future__ import annotations

from pathlib import Path

from latentflow_experiments.data.sets import DATASETS, FAMILIES
from latentflow_experiments.data.sets.mnist import check_mnist, mnist_files
from latentflow_experiments.data.stores.h5 import check_h5
from latentflow_experiments.data.stores.layout import Report
from latentflow_experiments.data.stores.npz import check_npz
from latentflow_experiments.data.stores.png import check_pngs, list_folder
from latentflow_experiments.errors import DataError
from latentflow_experiments.reading import open_regular, reading

IMAGES = "images"  # the folder of PNG files
NPZ, H5, PNG = (
    [DATASETS[name] for name, family in FAMILIES.items() if Path(family.file).suffix == suffix]
    for suffix in (".npz", ".h5", "")
)
_KNOWN = ", ".join(
    [
        *(str(dataset.file) for dataset in (*NPZ, *H5)),
        f"a folder {IMAGES} of PNG files",
        "train-images-idx3-ubyte.gz",
    ]
)


def check_folder(path: Path) -> Report:
    """Read every image of a data set and name what is wrong with it.

    Args:
        path: Its folder, or its file.

    Returns:
        The report. Published files are known by their SHA-256; a file with another one is at fault, unless it says
        that it is a synthetic stand-in.

    Raises:
        DataError: If there is nothing at the path, nothing that is known, or more than one data set.
    """
    if path.is_file():
        return _check_file(path)
    if path.exists() and not path.is_dir():
        open_regular(path).close()  # says what it is
    if not path.is_dir():
        raise DataError(f"{path}: expected a data set, got no such file or folder")
    files = [str(dataset.file) for dataset in (*NPZ, *H5)]
    there = [path / file for file in files if (path / file).is_file()]
    images = path / IMAGES
    if images.is_dir() or path.name == IMAGES or len(list_folder(path)[0]):
        there.append(images if images.is_dir() else path)
    there += [folder for folder in (path, path / "mnist") if mnist_files(folder)]
    if not there:
        raise DataError(f"{path}: expected a data set with one of {_KNOWN}, got none")
    if len(there) > 1:
        raise DataError(f"{path}: expected one data set, got {' and '.join(map(str, there))}; check them one by one")
    if there[0].is_file():
        return _check_file(there[0])
    return (
        check_mnist(there[0])
        if mnist_files(there[0])
        else check_pngs(there[0], [FAMILIES[dataset.name] for dataset in PNG])
    )


def _check_file(path: Path) -> Report:
    """Check a file, which is known by its name or, if that is another one, by how it begins."""
    with reading(path, "a readable file"), open_regular(path) as file:
        start = file.read(8)
    for name, place in mnist_files(path.parent).items():
        if path.name in (name, name.removesuffix(".gz")) and place.name == path.name:
            return check_mnist(path.parent, (name,))
    if path.suffix == ".npz" or start.startswith(b"PK"):
        return check_npz(path, FAMILIES[NPZ[0].name], NPZ[0].originals)
    if path.suffix == ".h5" or start == b"\x89HDF\r\n\x1a\n":
        return check_h5(path, FAMILIES[H5[0].name], H5[0].originals)
    raise DataError(f"{path}: expected {_KNOWN}, got a file of another kind")
