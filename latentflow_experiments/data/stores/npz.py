"""Images of dSprites in their npz file, and the check of that file."""

from __future__ import annotations

import io
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pooch
from numpy.typing import NDArray
from tqdm import tqdm

from latentflow.calculus.files import replacing
from latentflow_experiments.data.factors import Family, PublicFile
from latentflow_experiments.data.frames import FactorGrid, Indices, Pixels
from latentflow_experiments.data.stores.layout import (
    Layout,
    Report,
    check_mark,
    digits_of_rows,
    file_sha256,
    mark_faults,
    published_faults,
)
from latentflow_experiments.errors import DataError, printable
from latentflow_experiments.locks import held_folder
from latentflow_experiments.reading import (
    MARK_BYTES,
    brief,
    check_size,
    open_regular,
    parse_mark,
    reading,
)
from latentflow_experiments.records import clear_temporaries

_BLOCK = 256  # images unpacked at once
_LONG = 50_000  # images from which on unpacking shows a bar
_AT_ONCE = 2**21  # bytes read from the file at once: more than a block, or than a table of contents has
_PIECE = 2**20  # bytes of an array read at once
_HEADER = 2**16  # bytes of the header of an array
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others unpack without a limit
_KEYS = frozenset(("imgs", "latents_classes", "latents_values", "latents_names", "metadata", "synthetic"))
_SUM = 4  # bytes of the check sum after each image of the index


class NpzFrames:
    """Reads binary images from a compressed npz file with the keys ``imgs`` and ``latents_classes``.

    A compressed array cannot be read at random. When images are first read, the array is unpacked block by block into
    an index of one bit a pixel, which stays in the cache under the SHA-256 of the file, and is mapped into memory from
    then on. After each image in it comes a check sum, which is compared when the image is first read; an index that is
    damaged is made again. The key ``metadata`` is never read: it is pickled.

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
        check_mark(self.synthetic, self.digits, family, path)

    def read(self, indices: Indices) -> Pixels:
        """Read images, 0 and 255."""
        self.grid.checked(indices)
        if not self._sound(indices):
            self._forget()
            with reading(self._index_path, "an index that can be made again"):
                self._index_path.unlink(missing_ok=True)
            if not self._sound(indices):
                raise DataError(f"{self._index_path}: expected the images that were written, got others")
        bits = np.unpackbits(self._index[indices, :-_SUM], axis=1, count=self._pixels)
        bits *= 255
        return bits.reshape(len(indices), *self.shape[1:], 1)

    def sha256(self) -> str:
        """Return the SHA-256 of the file."""
        return self._sha256

    def __getstate__(self) -> dict[str, Any]:
        """Leave the map of the index behind: another process opens its own."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_index", "_known")}

    @property
    def _pixels(self) -> int:
        return self.shape[1] * self.shape[2]

    @cached_property
    def _sha256(self) -> str:
        return file_sha256(self.path)

    @property
    def _index_path(self) -> Path:
        return self._cache_folder / f"{self._sha256}.bits"

    @cached_property
    def _index(self) -> NDArray[np.uint8]:
        path = self._index_path
        shape = (len(self.grid), -(-self._pixels // 8) + _SUM)
        size = shape[0] * shape[1]
        with reading(path, f"an index of {size} bytes"):
            self._cache_folder.mkdir(parents=True, exist_ok=True)
            if not _has_size(path, size):
                with held_folder(self._cache_folder):
                    if not _has_size(path, size):
                        clear_temporaries(path.parent, path.name)
                        self._unpack(path)
            with open_regular(path) as file:
                return np.asarray(np.memmap(file, np.uint8, "r", shape=shape))

    @cached_property
    def _known(self) -> NDArray[np.bool_]:
        """Which images of the index this process has compared with their check sums."""
        return np.zeros(len(self.grid), bool)

    def _sound(self, indices: Indices) -> bool:
        """Compare images of the index with their check sums, each once."""
        new = np.unique(indices[~self._known[indices]])
        rows = self._index[new]
        if any(
            row[-_SUM:].tobytes() != _sum(row[:-_SUM].tobytes(), i) for i, row in zip(new.tolist(), rows, strict=True)
        ):
            return False
        self._known[new] = True
        return True

    def _forget(self) -> None:
        for name in ("_index", "_known"):
            self.__dict__.pop(name, None)

    def _unpack(self, path: Path) -> None:
        count, first = len(self.grid), 0
        with (
            replacing(path) as temporary,
            temporary.open("wb") as index,
            tqdm(
                total=count,
                unit="image",
                desc=printable(f"unpacking {self.path.name}"),
                disable=None if count >= _LONG else True,
            ) as bar,
        ):
            for block in image_blocks(self.path, self.family):
                if block.max() > 1:
                    row = int((block > 1).any(1).argmax())
                    raise DataError(
                        f"{self.path}: image {first + row}: expected pixels of 0 and 1, got {block[row].max()}"
                    )
                for row, bits in enumerate(np.packbits(block, axis=1), first):
                    index.write(bits.tobytes() + _sum(bits.tobytes(), row))
                first += len(block)
                bar.update(len(block))


def _has_size(path: Path, size: int) -> bool:
    """Tell whether a file is there with a size; what is no file is refused."""
    if not path.exists():
        return False
    with open_regular(path) as file:
        return os.fstat(file.fileno()).st_size == size


def _sum(data: bytes, index: int) -> bytes:
    """Sum up an image and its place, so that one in the place of another is noticed too."""
    return zlib.crc32(data, index).to_bytes(_SUM, "little")


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
        check_size(path, family)
        with _opened(path) as archive:
            other = [name for name in archive.namelist() if name.removesuffix(".npy") not in _KEYS]
            if other:
                faults.append(f"expected no key but {', '.join(sorted(_KEYS))}, got {brief(other[0])}")
        classes = read_member(path, "latents_classes", _rows_limit(family))
        rows = _count_of(classes, family)
        digits = digits_of_rows(classes, family)
    except (DataError, ValueError) as error:
        faults.append(_without(path, error, "latents_classes"))
    readable = False
    try:
        with _open_images(path) as (shape, dtype, fortran, _):
            wanted = (shape[0] if rows is None and shape else rows, *family.shape[1:])
            if shape != wanted or dtype != np.uint8 or fortran:
                order = " in Fortran order" if fortran else ""
                got = f"{brief(str(dtype))[1:-1]} and shape {brief(shape)}{order}"
                faults.append(f"expected imgs of uint8 and shape {wanted} in C order, got {got}")
            readable = shape[1:] == wanted[1:] and dtype == np.uint8 and not fortran
            if readable and not 0 <= shape[0] <= len(family.grid):
                readable = False
                faults.append(f"expected at most {len(family.grid)} images, got {shape[0]}")
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
            with _faults(f"{path}: image {first}: expected readable data"):
                data = file.read(images * pixels)
            if len(data) != images * pixels:
                whole = first + len(data) // pixels
                raise DataError(f"{path}: expected {shape[0]} images, got the end of imgs after {whole}")
            yield np.frombuffer(data, np.uint8).reshape(images, pixels)
        with _faults(f"{path}: imgs: expected readable data"):
            more = file.read(1)
        if more:
            raise DataError(f"{path}: expected {shape[0]} images, got more data in imgs")


Check = Callable[[tuple[int, ...], np.dtype[Any]], None]


def _accept(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Accept every shape and type."""


def read_keys(path: Path) -> tuple[str, ...]:
    """List the keys of an npz file.

    Args:
        path: The npz file.

    Returns:
        The keys, in their order.

    Raises:
        DataError: If the file is no npz file.
    """
    with _opened(path) as archive:
        return tuple(name.removesuffix(".npy") for name in archive.namelist())


def read_member(path: Path, name: str, most: int, check: Check = _accept) -> NDArray[Any]:
    """Read an array that is not pickled.

    Args:
        path: The npz file.
        name: The key.
        most: The largest number of bytes that it may have; no more is read.
        check: Raises a ValueError for a shape and a type that are not wanted, before the bytes are read.

    Returns:
        The array.

    Raises:
        DataError: If the file is no npz file, lacks the key, or the array is damaged, pickled or too large.
    """
    with _opened(path) as archive, _member(archive, path, name) as file, reading(path, f"a readable array {name}"):
        shape, fortran, dtype = _read_header(file)
        if dtype.hasobject or dtype.itemsize < 1:
            raise ValueError(f"one of {dtype}, which is not read")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or size > most:
            raise DataError(f"{path}: expected an array {name} of at most {most:,} bytes, got shape {brief(shape)}")
        check(shape, dtype)
        pieces = [file.read(min(_PIECE, size - start)) for start in range(0, size, _PIECE)]
        data = b"".join(pieces)
        if len(data) != size or file.read(1):
            raise ValueError(f"{'fewer' if len(data) != size else 'more'} than the {size:,} bytes of its header")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an array, whose length numpy would believe; give shape, order and type."""
    start = file.read(8)
    size = file.read(2 if start[6:7] == b"\x01" else 4)
    length = int.from_bytes(size, "little")
    if length > _HEADER:
        raise ValueError(f"a header of {length:,} bytes")
    header = io.BytesIO(start + size + file.read(length))
    version = np.lib.format.read_magic(header)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(header)
    if not all(type(size) is int for size in shape):
        raise ValueError(f"shape {brief(shape)}")
    return shape, fortran, dtype


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
    return parse_mark(str(read_member(path, "synthetic", 4 * MARK_BYTES)), path) if marked else None


class _Bounded(io.BufferedReader):
    """A file that is never read far at once, whatever sizes are written in it."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > _AT_ONCE:
            raise zipfile.BadZipFile(f"a table of contents of {size:,} bytes")
        return super().read(size)


@contextmanager
def _faults(expected: str) -> Iterator[None]:
    """Turn what a broken archive raises into one line that begins with a place in it."""
    try:
        with reading(Path(), ""):
            yield
    except DataError as error:
        if error.__cause__ is None:
            raise
        raise DataError(f"{expected}, got {brief(error.__cause__)}") from error.__cause__


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    if not path.exists():
        raise DataError(f"{path}: expected an npz file that is complete, got no such file")
    with ExitStack() as stack:
        with reading(path, "an npz file that is complete"):
            file = stack.enter_context(_Bounded(open_regular(path).detach()))
            archive = stack.enter_context(zipfile.ZipFile(file))
        yield archive


@contextmanager
def _member(archive: zipfile.ZipFile, path: Path, name: str) -> Iterator[IO[bytes]]:
    if f"{name}.npy" not in archive.namelist():
        raise DataError(f"{path}: expected the key {name}, got none")
    with reading(path, f"a readable array {name}"):
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type not in _METHODS:
            raise ValueError(f"one that is compressed by method {info.compress_type}")
        file = archive.open(info)
    with file:
        yield file


@contextmanager
def _open_images(path: Path) -> Iterator[tuple[tuple[int, ...], np.dtype[Any], bool, IO[bytes]]]:
    """Open the array of images; give its shape, type and order, and the file behind its header."""
    with _opened(path) as archive, _member(archive, path, "imgs") as file:
        with reading(path, "an array imgs"):
            shape, fortran, dtype = _read_header(file)
        yield shape, dtype, fortran, file


def _rows_limit(family: Family) -> int:
    """Return the bytes of a number for each factor of every image."""
    return len(family.grid) * len(family.factors) * 8


def _count_of(classes: NDArray[Any], family: Family) -> int:
    factors = len(family.factors)
    if classes.dtype != np.int64 or classes.ndim != 2 or classes.shape[1] != factors:
        got = f"{classes.dtype} and shape {classes.shape}"
        raise DataError(f"expected latents_classes of int64 and shape (n, {factors}), got {got}")
    if len(classes) > len(family.grid):
        raise DataError(f"expected at most {len(family.grid)} images, got {len(classes)} rows of latents_classes")
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
    try:
        check_size(path, family)
    except DataError as error:
        return Report(path, family.title, 0, False, (str(error),))
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
    values, classes = (read_member(path, name, _rows_limit(family)) for name in ("latents_values", "latents_classes"))
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
