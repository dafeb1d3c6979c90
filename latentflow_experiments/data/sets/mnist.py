"""MNIST from its canonical IDX files, found in a folder or downloaded."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from latentflow_experiments.data.dataset import ImageSet
from latentflow_experiments.data.factors import PublicFile
from latentflow_experiments.data.files import VARIABLE, DownloadError, cache_root, retrieve, variable_root
from latentflow_experiments.data.stores.layout import Report, published_faults
from latentflow_experiments.data.transformed import LabelledImages
from latentflow_experiments.errors import DataError
from latentflow_experiments.reading import read_limited, reading

_MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


def _mnist(name: str, sha256: str, size: int) -> PublicFile:
    return PublicFile(name, tuple(mirror + name for mirror in _MNIST_MIRRORS), sha256, size)


ORIGINALS = (
    _mnist(
        "train-images-idx3-ubyte.gz",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        9_912_422,
    ),
    _mnist(
        "train-labels-idx1-ubyte.gz",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        28_881,
    ),
    _mnist(
        "t10k-images-idx3-ubyte.gz",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        1_648_877,
    ),
    _mnist(
        "t10k-labels-idx1-ubyte.gz",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        4_542,
    ),
)


_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


_PUBLIC = {file.name: file for file in ORIGINALS}


def load_mnist(split: Literal["train", "test"], folder: Path | None = None) -> LabelledImages:
    """Load one split of MNIST.

    The four gzip files (``train-images-idx3-ubyte.gz`` and so on, or the same names without ``.gz``) are read from
    ``folder`` or its subfolder ``mnist`` if it is given, else from ``$LATENTFLOW_DATA/mnist`` if that exists, else from
    the user's cache, into which they are downloaded once from public mirrors and checked by their SHA-256.

    Args:
        split: ``"train"`` (60,000 images) or ``"test"`` (10,000 images).
        folder: Folder with the files, or with a subfolder ``mnist`` of them; nothing is downloaded when it is given.

    Returns:
        The split, named ``"mnist"``.

    Raises:
        DataError: If a file is missing and cannot be downloaded, is damaged, or the two files do not belong together.
        ValueError: If ``split`` is neither.

    References:
        Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-based learning applied to document recognition, 1998.
    """
    if split not in _FILES:
        raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
    images_path, labels_path = (_locate(name, folder) for name in _FILES[split])
    most = _SHAPES[_FILES[split][0]][0]
    images = read_idx(images_path, (-1, 28, 28), most)
    labels = read_idx(labels_path, (-1,), most).long()
    if len(labels) != len(images):
        raise DataError(f"{labels_path}: expected {len(images)} labels, one for each image, got {len(labels)}")
    if labels.max() > 9:
        raise DataError(f"{labels_path}: expected labels from 0 to 9, got {int(labels.max())}")
    return LabelledImages(images, labels, "mnist", split)


def read_idx(path: Path, shape: tuple[int, ...], most: int = 60_000) -> Tensor:
    """Read an IDX file of unsigned bytes, gzip-compressed if its name ends in ``.gz``.

    The file is the magic number ``0x00000800 + d``, the ``d`` sizes as big-endian 32-bit integers, and one byte for
    each element in row-major order, with nothing after it.

    Args:
        path: The file.
        shape: Expected sizes, ``-1`` for any positive size up to ``most``.
        most: The largest such size; nothing beyond is read or unpacked.

    Returns:
        The array, of the sizes in the file, uint8.

    Raises:
        DataError: If the file cannot be read, or its magic number, sizes or length are not as expected.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "labels-idx1-ubyte")
        ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]))
        ...     assert read_idx(path, (-1,)).tolist() == [5, 0, 4]
    """
    start = 4 + 4 * len(shape)
    data = _read_bytes(path, start + math.prod(most if size == -1 else size for size in shape))
    if len(data) < start:
        raise DataError(f"{path}: expected an IDX header of {start} bytes, got {len(data)} bytes")
    magic, *sizes = struct.unpack(f">{1 + len(shape)}I", data[:start])
    if magic != 0x0800 + len(shape):
        raise DataError(f"{path}: expected the IDX magic number 0x{0x0800 + len(shape):08x}, got 0x{magic:08x}")
    if any(size == 0 or expected not in (-1, size) for size, expected in zip(sizes, shape, strict=True)):
        wanted = ", ".join("n" if size == -1 else str(size) for size in shape)
        raise DataError(f"{path}: expected dimensions ({wanted}) without zeros, got {tuple(sizes)}")
    if len(data) != start + math.prod(sizes):
        raise DataError(
            f"{path}: expected {start + math.prod(sizes)} bytes for dimensions {tuple(sizes)}, got {len(data)} bytes"
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(sizes).copy())


def _read_bytes(path: Path, most: int) -> bytes:
    """Read a file of at most so many bytes, after unpacking if it is compressed."""
    if path.suffix != ".gz":
        return read_limited(path, most)
    packed = read_limited(path, most + most // 100 + 2**16)
    with reading(path, "a complete gzip file"):
        unpacking = zlib.decompressobj(wbits=31)  # of gzip, which compares length and check sum
        data = unpacking.decompress(packed, most + 1)
    if len(data) > most:
        raise DataError(f"{path}: expected at most {most:,} bytes when unpacked, got more")
    if not unpacking.eof or unpacking.unused_data.strip(b"\0"):
        got = "more after its end" if unpacking.eof else "its first part"
        raise DataError(f"{path}: expected a complete gzip file, got {got}")
    return data


def _locate(name: str, folder: Path | None) -> Path:
    if folder is not None:
        return _find(name, folder, folder / "mnist")
    root = variable_root()
    local = None if root is None else root / "mnist"
    if local is not None and local.is_dir():
        return _find(name, local)
    return _download(name, local)


def _find(name: str, *folders: Path) -> Path:
    for path in (folder / file for folder in folders for file in (name, name.removesuffix(".gz"))):
        if path.is_file():
            return path
    places = " or ".join(str(folder / name) for folder in folders)
    raise DataError(f"expected the MNIST file {places}, with or without .gz, got no such file")


def _download(name: str, local: Path | None) -> Path:
    cache = cache_root() / "mnist"
    try:
        return retrieve(_PUBLIC[name], cache)
    except DownloadError as error:
        raise DataError(
            f"{error}: put the four MNIST files into {local or cache}, or set {VARIABLE} to the folder that holds "
            f"them in mnist/, or pass their folder with --data"
        ) from error


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
    published = {file.name: file for file in DATASET.originals}
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
    faults = published_faults(path, [published]) if path.suffix == ".gz" else []
    try:
        highest = int(read_idx(path, shape).max())
    except DataError as error:
        return [*faults, str(error)]
    if len(shape) == 1 and highest > 9:
        faults.append(f"{path}: expected labels from 0 to 9, got {highest}")
    return faults


DATASET = ImageSet(
    "mnist",
    "MNIST",
    load=load_mnist,
    count=70_000,
    held_out=5000,
    variants=3,
    file="train-images-idx3-ubyte.gz",
    originals=ORIGINALS,
)
