"""Images of dSprites in their npz file, and the check of that file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pooch
from numpy.typing import NDArray
from tqdm import tqdm

from latentflow_experiments.data.factors import Family, PublicFile
from latentflow_experiments.data.frames import FactorGrid, Indices, Pixels
from latentflow_experiments.data.stores.layout import (
    Layout,
    Report,
    digits_of_rows,
    file_sha256,
    mark_faults,
    published_faults,
    read_mark,
)
from latentflow_experiments.errors import DataError
from latentflow_experiments.records import replacing

_BROKEN = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)  # what a damaged file raises
_BLOCK = 256  # images unpacked at once
_LONG = 50_000  # images from which on unpacking shows a bar


class NpzFrames:
    """Reads binary images from a compressed npz file with the keys ``imgs`` and ``latents_classes``.

    A compressed array cannot be read at random. When images are first read, the array is unpacked block by block into
    an index of one bit a pixel, which stays in the cache under the SHA-256 of the file, and is mapped into memory from
    then on. The key ``metadata`` is never read: it is pickled.

    Args:
        path: The file.
        family: What it holds.
        cache_folder: Folder of the index; by default that of the user's cache.

    Raises:
        DataError: If the file cannot be read, lacks a key, or its arrays are not as described.

    References:
        L. Matthey, I. Higgins, D. Hassabis and A. Lerchner, dSprites, https://github.com/google-deepmind/dsprites-dataset,
        2017.
    """

    def __init__(self, path: Path, family: Family, cache_folder: Path | None = None) -> None:
        self.path, self.family = path, family
        self.shape = family.shape
        self._cache_folder = cache_folder or Path(pooch.os_cache("latentflow")) / "frames"
        layout = read_layout(path, family)
        if layout.faults:
            raise DataError(f"{path}: {layout.faults[0]}")
        self.digits = layout.digits
        self.grid = FactorGrid(family.grid.names, tuple(map(len, self.digits)))
        self.synthetic = read_npz_mark(path)

    def read(self, indices: Indices) -> Pixels:
        """Read images, 0 and 255."""
        self.grid.checked(indices)
        bits = np.unpackbits(self._index[indices], axis=1, count=self._pixels)
        bits *= 255
        return bits.reshape(len(indices), *self.shape[1:], 1)

    def sha256(self) -> str:
        """Return the SHA-256 of the file."""
        return self._sha256

    def __getstate__(self) -> dict[str, Any]:
        """Leave the map of the index behind: another process opens its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_index"}

    @property
    def _pixels(self) -> int:
        return self.shape[1] * self.shape[2]

    @cached_property
    def _sha256(self) -> str:
        return file_sha256(self.path)

    @cached_property
    def _index(self) -> NDArray[np.uint8]:
        path = self._cache_folder / f"{self._sha256}.bits"
        shape = (len(self.grid), -(-self._pixels // 8))
        try:
            if not path.exists() or path.stat().st_size != shape[0] * shape[1]:
                self._cache_folder.mkdir(parents=True, exist_ok=True)
                self._unpack(path)
            return np.asarray(np.memmap(path, np.uint8, "r", shape=shape))
        except OSError as error:
            raise DataError(f"{path}: expected an index of {shape[0] * shape[1]} bytes, got {error}") from error

    def _unpack(self, path: Path) -> None:
        count, first = len(self.grid), 0
        with (
            replacing(path) as temporary,
            temporary.open("wb") as index,
            tqdm(
                total=count, unit="image", desc=f"unpacking {self.path.name}", disable=None if count >= _LONG else True
            ) as bar,
        ):
            for block in image_blocks(self.path, self.family):
                if block.max() > 1:
                    row = int((block > 1).any(1).argmax())
                    raise DataError(
                        f"{self.path}: image {first + row}: expected pixels of 0 and 1, got {block[row].max()}"
                    )
                index.write(np.packbits(block, axis=1).tobytes())
                first += len(block)
                bar.update(len(block))


def read_layout(path: Path, family: Family) -> Layout:
    """Read what a file says of its images, without the images.

    Args:
        path: The npz file.
        family: What it should hold.

    Returns:
        The values of the factors, and every fault of ``latents_classes`` and of the header of ``imgs``.
    """
    faults: list[str] = []
    digits: tuple[tuple[int, ...], ...] = ()
    rows: int | None = None
    try:
        classes = read_member(path, "latents_classes")
        rows = _count_of(classes, len(family.factors))
        digits = digits_of_rows(classes, family)
    except (DataError, ValueError) as error:
        faults.append(_without(path, error, "latents_classes"))
    readable = False
    try:
        with _open_images(path) as (shape, dtype, fortran, _):
            wanted = (shape[0] if rows is None and shape else rows, *family.shape[1:])
            if shape != wanted or dtype != np.uint8 or fortran:
                order = " in Fortran order" if fortran else ""
                faults.append(
                    f"expected imgs of uint8 and shape {wanted} in C order, got {dtype} and shape {shape}{order}"
                )
            readable = shape[1:] == wanted[1:] and dtype == np.uint8 and not fortran
    except DataError as error:
        faults.append(_without(path, error, "imgs"))
    return Layout(digits, readable, tuple(dict.fromkeys(faults)))


def image_blocks(path: Path, family: Family) -> Iterator[NDArray[np.uint8]]:
    """Unpack the images of a file whose layout is right, never more than a few megabytes at once.

    Args:
        path: The npz file.
        family: What it holds.

    Yields:
        Images in their order, uint8, shape ``(n, height * width)``.

    Raises:
        DataError: If the data is damaged, or it is less or more than the header says.
    """
    pixels = family.shape[1] * family.shape[2]
    with _open_images(path) as (shape, _, _, file):
        for first in range(0, shape[0], _BLOCK):
            images = min(_BLOCK, shape[0] - first)
            try:
                data = file.read(images * pixels)
            except _BROKEN as error:
                raise DataError(f"{path}: image {first}: expected readable data, got {error}") from error
            if len(data) != images * pixels:
                whole = first + len(data) // pixels
                raise DataError(f"{path}: expected {shape[0]} images, got the end of imgs after {whole}")
            yield np.frombuffer(data, np.uint8).reshape(images, pixels)
        if file.read(1):
            raise DataError(f"{path}: expected {shape[0]} images, got more data in imgs")


def read_member(path: Path, name: str) -> NDArray[Any]:
    """Read an array that is not pickled.

    Args:
        path: The npz file.
        name: The key.

    Returns:
        The array.

    Raises:
        DataError: If the file is no npz file, lacks the key, or the array is damaged or pickled.
    """
    with _opened(path) as archive, _member(archive, path, name) as file:
        try:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        except _BROKEN as error:
            raise DataError(f"{path}: expected a readable array {name}, got {error}") from error
    return array


def read_npz_mark(path: Path) -> dict[str, object] | None:
    """Read what a stand-in says of its making.

    Args:
        path: The npz file.

    Returns:
        The contents of the key ``synthetic``; None if there is no such key.

    Raises:
        DataError: If it cannot be read.
    """
    with _opened(path) as archive:
        marked = "synthetic.npy" in archive.namelist()
    return read_mark(str(read_member(path, "synthetic")), path) if marked else None


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except _BROKEN as error:
        got = error if path.exists() else "no such file"
        raise DataError(f"{path}: expected an npz file that is complete, got {got}") from error
    with archive:
        yield archive


@contextmanager
def _member(archive: zipfile.ZipFile, path: Path, name: str) -> Iterator[IO[bytes]]:
    if f"{name}.npy" not in archive.namelist():
        raise DataError(f"{path}: expected the key {name}, got none")
    try:
        file = archive.open(f"{name}.npy")
    except _BROKEN as error:
        raise DataError(f"{path}: expected a readable array {name}, got {error}") from error
    with file:
        yield file


@contextmanager
def _open_images(path: Path) -> Iterator[tuple[tuple[int, ...], np.dtype[Any], bool, IO[bytes]]]:
    """Open the array of images; give its shape, type and order, and the file behind its header."""
    with _opened(path) as archive, _member(archive, path, "imgs") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
        except _BROKEN as error:
            raise DataError(f"{path}: expected an array imgs, got {error}") from error
        yield shape, dtype, fortran, file


def _count_of(classes: NDArray[Any], factors: int) -> int:
    if classes.dtype != np.int64 or classes.ndim != 2 or classes.shape[1] != factors:
        got = f"{classes.dtype} and shape {classes.shape}"
        raise DataError(f"expected latents_classes of int64 and shape (n, {factors}), got {got}")
    return len(classes)


def _without(path: Path, error: Exception, name: str) -> str:
    """Describe a fault, with its place in the file and without the name of the file."""
    return str(error).removeprefix(f"{path}: ") if isinstance(error, DataError) else f"{name}: {error}"


def check_npz(path: Path, family: Family, originals: Sequence[PublicFile]) -> Report:
    """Read every image of an npz file and name each fault; nothing is written.

    Args:
        path: The file.
        family: The family that it should hold.
        originals: The published files of which it may be one.

    Returns:
        The report.
    """
    layout = read_layout(path, family)
    faults = [f"{path}: {fault}" for fault in layout.faults]
    mark: dict[str, object] | None = None
    try:
        mark = read_npz_mark(path)
    except DataError as error:
        faults.append(str(error))
    try:
        faults += _value_faults(path, family)
    except DataError as error:
        faults.append(str(error))
    if mark is None:
        faults += published_faults(path, originals)
    else:
        faults += [f"{path}: {fault}" for fault in mark_faults(mark, layout.digits)]
    read = 0
    if layout.readable:
        read, wrong = _read(path, family)
        faults += wrong
    return Report(path, family.title, read, mark is not None, tuple(dict.fromkeys(faults)))


def _value_faults(path: Path, family: Family) -> list[str]:
    """Name what is wrong with the values of the factors, which must be one for each class, ascending."""
    values, classes = (read_member(path, name) for name in ("latents_values", "latents_classes"))
    count = len(family.factors)
    if values.dtype != np.float64 or values.ndim != 2 or values.shape[1] != count:
        got = f"{values.dtype} and shape {values.shape}"
        return [f"{path}: latents_values: expected float64 and shape (n, {count}), got {got}"]
    if values.shape != classes.shape:
        return [f"{path}: latents_values: expected {len(classes)} rows, got {len(values)}"]
    faults: list[str] = []
    for name, column, digits in zip(family.grid.names, values.T, classes.T, strict=True):
        if not np.array_equal(np.unique(column, return_inverse=True)[1], np.unique(digits, return_inverse=True)[1]):
            faults.append(f"{path}: latents_values: expected one value of {name} for each class, ascending, got others")
    return faults


def _read(path: Path, family: Family) -> tuple[int, list[str]]:
    """Count the images that are right, and name those that are not."""
    right, first = 0, 0
    faults: list[str] = []
    try:
        with tqdm(unit="image", desc="checking", disable=None) as bar:
            for block in image_blocks(path, family):
                highest = block.max(1)
                wrong = np.flatnonzero(highest > 1).tolist()
                faults += [
                    f"{path}: image {first + row}: expected pixels of 0 and 1, got {highest[row]}" for row in wrong
                ]
                right, first = right + len(block) - len(wrong), first + len(block)
                bar.update(len(block))
    except DataError as error:
        faults.append(str(error))
    return right, faults
