"""Images of 3D Shapes in their HDF5 file, and the check of that file."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

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
from latentflow_experiments.errors import DataError
from latentflow_experiments.reading import (
    BROKEN,
    MARK_BYTES,
    brief,
    check_size,
    open_regular,
    parse_mark,
    reading,
)

SUMS = "crc32"
"""The data set of a stand-in with a check sum of each image and its place, see :func:`image_sum`."""

_CHUNK = 2**19  # bytes of a chunk: a hostile one of deflate unpacks to a thousand times its size
_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF)
_BROKEN_DATA = "expected readable data"

LABELS: tuple[NDArray[np.float64], ...] = (
    np.arange(10) / 10,
    np.arange(10) / 10,
    np.arange(10) / 10,
    np.linspace(0.75, 1.25, 8),
    np.arange(4.0),
    np.linspace(-30, 30, 15),
)
"""What ``labels`` holds for each value of each factor: hues, scale, shape, degrees."""


class H5Frames:
    """Reads images from an HDF5 file with the data sets ``images`` and ``labels``.

    The file is opened by the process that reads, when it reads first. Both data sets have to be in the file itself, and
    all of the images on the disk: links and virtual data sets lead to other files, and an image that is missing would
    be read as zeros. If there is a data set ``crc32``, as in stand-ins, each image is compared with its check sum.

    Args:
        path: The file.
        family: What it holds.

    Raises:
        DataError: If the file cannot be read, lacks a data set, or they are not as described.

    References:
        C. Burgess and H. Kim, 3D Shapes, https://github.com/google-deepmind/3d-shapes, 2018.
    """

    def __init__(self, path: Path, family: Family) -> None:
        self.path, self.family = path, family
        self.shape = family.shape
        self._opened: tuple[int, h5py.File] | None = None
        check_size(path, family)
        layout = read_h5_layout(self._file, family)
        if layout.faults:
            raise DataError(f"{path}: {layout.faults[0]}")
        self.digits = layout.digits
        self.grid = FactorGrid(family.grid.names, tuple(map(len, self.digits)))
        self.synthetic = read_h5_mark(self._file, path)
        check_mark(self.synthetic, self.digits, family, path)
        self._sums = read_sums(self._file, path, len(self.grid))

    def read(self, indices: Indices) -> Pixels:
        """Read images, each that is asked for once, in the order of the file."""
        self.grid.checked(indices)
        rows, back = np.unique(indices, return_inverse=True)
        return read_rows(self._file, self.path, rows, self._sums)[back]

    def sha256(self) -> str:
        """Return the SHA-256 of the file."""
        return self._sha256

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind."""
        return self.__dict__ | {"_opened": None}

    @cached_property
    def _sha256(self) -> str:
        return file_sha256(self.path)

    @property
    def _file(self) -> h5py.File:
        """The file, opened by this process."""
        if self._opened is not None and self._opened[0] != os.getpid():
            self._opened[1].close()  # the copy of a forked process, else HDF5 would take it for the same file
            self._opened = None
        if self._opened is None:
            self._opened = os.getpid(), open_h5(self.path)
        return self._opened[1]


def open_h5(path: Path) -> h5py.File:
    """Open an HDF5 file.

    Args:
        path: The file.

    Returns:
        The file, for reading, without a lock, which not every file system has.

    Raises:
        DataError: If it is no complete HDF5 file.
    """
    with reading(path, "a complete HDF5 file"):
        open_regular(path).close()
        return h5py.File(path, "r", locking=False)


def read_h5_layout(file: h5py.File, family: Family) -> Layout:
    """Read what a file says of its images, without the images.

    Args:
        file: The HDF5 file.
        family: What it should hold.

    Returns:
        The values of the factors, and every fault of the labels and of the type and sizes of the images.
    """
    faults: list[str] = []
    digits: tuple[tuple[int, ...], ...] = ()
    images, labels = (_dataset(file, name, faults) for name in ("images", "labels"))
    readable = False
    if images is not None:
        wrong = _image_layout_faults(images, family)
        readable = not wrong
        faults += wrong
    if labels is not None:
        try:
            values = _read_labels(labels, family)
            if readable and images is not None and len(values) != len(images):
                faults.append(f"expected labels of shape {(len(images), values.shape[1])}, got {values.shape}")
            digits = digits_of_rows(digits_of_labels(values), family)
        except BROKEN as error:
            faults.append(f"labels: {brief(error)}")
    return Layout(digits, readable, tuple(faults))


def _image_layout_faults(images: h5py.Dataset, family: Family) -> list[str]:
    """Name what is wrong with the type, the sizes and the storage of the images."""
    channels, height, width = family.shape
    faults: list[str] = []
    try:
        if images.dtype != np.uint8:
            faults.append(f"expected images of uint8, got {brief(str(images.dtype))[1:-1]}")
        if images.shape[1:] != (height, width, channels):
            faults.append(f"expected images of {height} x {width} pixels and {channels} channels, got {images.shape}")
        elif images.shape[0] > len(family.grid):
            faults.append(f"expected at most {len(family.grid)} images, got {images.shape[0]}")
        return faults or _storage_faults(images)
    except BROKEN as error:
        return [*faults, f"images: {_BROKEN_DATA}, got {brief(error)}"]


def _storage_faults(data: h5py.Dataset) -> list[str]:
    """Name what is wrong with the place of the data in the file, without reading it."""
    if data.chunks is None:
        return [] if not data.size or data.id.get_offset() is not None else ["expected data in the file, got none"]
    chunk = math.prod(data.chunks) * data.dtype.itemsize
    if chunk > _CHUNK:
        return [f"expected chunks of at most {_CHUNK:,} bytes, got {chunk:,}"]
    kept = data.id.get_create_plist()
    used = [kept.get_filter(i)[0] for i in range(kept.get_nfilters())]
    if not set(used) <= set(_FILTERS):
        return [f"expected compression by gzip, or none, got the filters {used}"]
    sizes: list[int] = []
    data.id.chunk_iter(lambda place: sizes.append(place.size))
    expected = math.prod(-(-n // k) for n, k in zip(data.shape, data.chunks, strict=True))
    if len(sizes) != expected:
        return [f"expected {expected:,} chunks, got {len(sizes):,}"]
    if max(sizes, default=0) > chunk + chunk // 8 + 1024:
        return [f"expected chunks of at most {chunk:,} bytes, got {max(sizes):,} compressed ones"]
    return []


def image_sum(pixels: bytes, row: int) -> int:
    """Sum up an image and its row, so that one in the place of another is noticed too.

    Args:
        pixels: The bytes of the image.
        row: Its row.

    Returns:
        A CRC-32.
    """
    return zlib.crc32(pixels, row)


def read_sums(file: h5py.File, path: Path, count: int) -> NDArray[np.uint32] | None:
    """Read the check sums of the images of a stand-in.

    Args:
        file: The HDF5 file.
        path: The file.
        count: The number of images.

    Returns:
        A sum for each image, shape ``(count,)``; None if the file has none.

    Raises:
        DataError: If there are others than one for each image.
    """
    with reading(path, f"the data set {SUMS}"):
        if SUMS not in file:
            return None
    faults: list[str] = []
    sums = _dataset(file, SUMS, faults)
    if sums is None:
        raise DataError(f"{path}: {faults[0]}")
    with reading(path, f"a check sum {SUMS} of each image"):
        if sums.dtype != np.uint32 or sums.shape != (count,):
            raise ValueError(f"{brief(str(sums.dtype))[1:-1]} of shape {sums.shape}")
        faults = _storage_faults(sums)
        if faults:
            raise ValueError(faults[0])
        return np.asarray(sums[()])


def read_rows(file: h5py.File, path: Path, rows: Indices, sums: NDArray[np.uint32] | None = None) -> Pixels:
    """Read images, a run of neighbors at a time.

    Args:
        file: The HDF5 file, whose layout is right.
        path: The file.
        rows: Their indices, ascending and distinct, shape ``(n,)``.
        sums: The check sums of all images, if there are some.

    Returns:
        The images, shape ``(n, height, width, channels)``.

    Raises:
        DataError: If one cannot be read, or is not the one that was written.
    """
    images = file["images"]
    read: Pixels = np.empty((len(rows), *images.shape[1:]), np.uint8)
    starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    stops = np.flatnonzero(np.diff(rows, append=-2) != 1) + 1
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        first, last = int(rows[start]), int(rows[stop - 1])
        try:
            images.read_direct(read, np.s_[first : last + 1], np.s_[start:stop])
        except BROKEN as error:
            what = f"image {first}" if first == last else f"an image from {first} to {last}"
            raise DataError(f"{path}: {what}: {_BROKEN_DATA}, got {brief(error)}") from error
    if sums is not None:
        for row, image in zip(rows.tolist(), read, strict=True):
            if image_sum(image.tobytes(), row) != sums[row]:
                raise DataError(f"{path}: image {row}: expected the check sum {sums[row]:08x}, got another")
    return read


def read_h5_mark(file: h5py.File, path: Path) -> dict[str, object] | None:
    """Read what a stand-in says of its making.

    Args:
        file: The HDF5 file.
        path: The file.

    Returns:
        The contents of the attribute ``synthetic``; None if there is no such attribute.

    Raises:
        DataError: If it is not a JSON object.
    """
    with reading(path, "a mark of a stand-in that is a text"):
        if "synthetic" not in file.attrs:
            return None
        there = file.attrs.get_id("synthetic")
        if there.shape != () or there.dtype.itemsize > MARK_BYTES:
            raise ValueError(f"{brief(str(there.dtype))[1:-1]} of shape {there.shape}")
        mark = file.attrs["synthetic"]
    return parse_mark(mark if isinstance(mark, bytes) else str(mark), path)


def digits_of_labels(labels: NDArray[np.float64]) -> Indices:
    """Find which value of its factor each label is.

    A column with as many values as the factor has is numbered in their order. Of one with fewer, the label counts as
    the documented value that is nearest, if it is nearer than a quarter of their distance.

    Args:
        labels: The labels, shape ``(n, 6)``.

    Returns:
        The digits, shape ``(n, 6)``.

    Raises:
        ValueError: If a label is none of the values.

    Example:
        >>> labels = np.array([[0.1, 0.9, 0.0, 1.25, 2.0, -30.0]])
        >>> assert digits_of_labels(labels).tolist() == [[1, 9, 0, 7, 2, 0]]
    """
    columns: list[Indices] = []
    for column, documented in zip(labels.T, LABELS, strict=True):
        there, order = np.unique(column, return_inverse=True)
        if len(there) == len(documented) and np.isfinite(there).all():
            columns.append(order)
            continue
        nearest = np.abs(there[:, None] - documented).argmin(1)
        near = np.abs(there - documented[nearest]) < (documented[1] - documented[0]) / 4
        if not near.all():
            row = int((~near)[order].argmax())
            raise ValueError(f"row {row}: expected one of {documented.round(3).tolist()}, got {column[row]}")
        columns.append(nearest[order])
    return np.stack(columns, -1).astype(np.int64)


def _dataset(file: h5py.File, name: str, faults: list[str]) -> h5py.Dataset | None:
    """Find a data set that is in the file itself; None, and a line more in the faults, if there is none."""
    try:
        link = file.get(name, getlink=True)
        there = file[name] if isinstance(link, h5py.HardLink) else None
        if isinstance(there, h5py.Dataset) and there.shape is not None:
            if there.is_virtual or there.external:
                faults.append(f"expected the data set {name} in the file itself, got one in other files")
                return None
            return there
        got = "none" if link is None or isinstance(link, h5py.HardLink) else f"a {type(link).__name__}"
    except BROKEN as error:
        got = "none" if isinstance(error, KeyError) else brief(error)
    faults.append(f"expected the data set {name}, got {got}")
    return None


def _read_labels(labels: h5py.Dataset, family: Family) -> NDArray[np.float64]:
    factors = len(family.factors)
    if labels.dtype.kind != "f" or labels.ndim != 2 or labels.shape[1] != factors:
        kind = brief(str(labels.dtype))[1:-1]
        raise ValueError(f"expected floats of shape (n, {factors}), got {kind} and shape {labels.shape}")
    if len(labels) > len(family.grid):
        raise ValueError(f"expected at most {len(family.grid)} rows, got {len(labels)}")
    faults = _storage_faults(labels)
    if faults:
        raise ValueError(faults[0])
    try:
        return np.asarray(labels[()], np.float64)
    except BROKEN as error:
        raise ValueError(f"{_BROKEN_DATA}, got {brief(error)}") from error


_BLOCK = 256  # images read at once


def check_h5(path: Path, family: Family, originals: Sequence[PublicFile]) -> Report:
    """Read every image of an HDF5 file and name each fault.

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
    try:
        opened = open_h5(path)
    except DataError as error:
        return Report(path, family.title, 0, False, (str(error), *published_faults(path, originals)))
    with opened as file:
        layout = read_h5_layout(file, family)
        faults = [f"{path}: {fault}" for fault in layout.faults]
        mark: dict[str, object] | None = None
        sums: NDArray[np.uint32] | None = None
        try:
            mark = read_h5_mark(file, path)
            sums = read_sums(file, path, len(file["images"])) if layout.readable else None
        except DataError as error:
            faults.append(str(error))
        if mark is None:
            faults += published_faults(path, originals)
        else:
            faults += [f"{path}: {fault}" for fault in mark_faults(mark, layout.digits)]
        read = 0
        if layout.readable:
            count = len(file["images"])
            with tqdm(total=count, unit="image", desc="checking", disable=None) as bar:
                for first in range(0, count, _BLOCK):
                    rows = np.arange(first, min(first + _BLOCK, count))
                    unread = _unreadable(file, path, rows, sums)
                    read += len(rows) - len(unread)
                    faults += unread
                    bar.update(len(rows))
    return Report(path, family.title, read, mark is not None, tuple(faults))


def _unreadable(file: h5py.File, path: Path, rows: Indices, sums: NDArray[np.uint32] | None) -> list[str]:
    """Read images together and, if that fails, one by one; name those that cannot be read."""
    try:
        read_rows(file, path, rows, sums)
    except DataError as error:
        if len(rows) == 1:
            return [str(error)]
        return [fault for row in rows for fault in _unreadable(file, path, row[None], sums)]
    return []
