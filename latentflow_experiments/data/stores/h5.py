"""Images of 3D Shapes in their HDF5 file, and the check of that file."""

from __future__ import annotations

import os
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
    digits_of_rows,
    file_sha256,
    mark_faults,
    published_faults,
    read_mark,
)
from latentflow_experiments.errors import DataError

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

    The file is opened by the process that reads, when it reads first.

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
        layout = read_h5_layout(self._file, family)
        if layout.faults:
            raise DataError(f"{path}: {layout.faults[0]}")
        self.digits = layout.digits
        self.grid = FactorGrid(family.grid.names, tuple(map(len, self.digits)))
        self.synthetic = read_h5_mark(self._file, path)

    def read(self, indices: Indices) -> Pixels:
        """Read images, each that is asked for once, in the order of the file."""
        self.grid.checked(indices)
        rows, back = np.unique(indices, return_inverse=True)
        return read_rows(self._file, self.path, rows)[back]

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
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DataError(f"{path}: expected a complete HDF5 file, got {error}") from error


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
    images, labels = _dataset(file, "images"), _dataset(file, "labels")
    channels, height, width = family.shape
    readable = images is not None and images.dtype == np.uint8 and images.shape[1:] == (height, width, channels)
    for name, there in (("images", images), ("labels", labels)):
        if there is None:
            faults.append(f"expected the data set {name}, got none")
    if images is not None and images.dtype != np.uint8:
        faults.append(f"expected images of uint8, got {images.dtype}")
    if images is not None and images.shape[1:] != (height, width, channels):
        faults.append(f"expected images of {height} x {width} pixels and {channels} channels, got {images.shape}")
    if labels is not None:
        try:
            values = _read_labels(labels, len(family.factors))
            if readable and images is not None and len(values) != len(images):
                faults.append(f"expected labels of shape {(len(images), values.shape[1])}, got {values.shape}")
            digits = digits_of_rows(digits_of_labels(values), family)
        except ValueError as error:
            faults.append(f"labels: {error}")
    return Layout(digits, readable, tuple(faults))


def read_rows(file: h5py.File, path: Path, rows: Indices) -> Pixels:
    """Read images, a run of neighbors at a time.

    Args:
        file: The HDF5 file, whose layout is right.
        path: The file.
        rows: Their indices, ascending and distinct, shape ``(n,)``.

    Returns:
        The images, shape ``(n, height, width, channels)``.

    Raises:
        DataError: If one cannot be read.
    """
    images = file["images"]
    read: Pixels = np.empty((len(rows), *images.shape[1:]), np.uint8)
    starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    stops = np.flatnonzero(np.diff(rows, append=-2) != 1) + 1
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        first, last = int(rows[start]), int(rows[stop - 1])
        try:
            images.read_direct(read, np.s_[first : last + 1], np.s_[start:stop])
        except (OSError, RuntimeError) as error:
            what = f"image {first}" if first == last else f"an image from {first} to {last}"
            raise DataError(f"{path}: {what}: expected readable data, got {error}") from error
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
    mark = file.attrs.get("synthetic")
    return None if mark is None else read_mark(str(mark), path)


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


def _dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    try:
        there = file.get(name)
    except (OSError, RuntimeError, KeyError):
        return None
    return there if isinstance(there, h5py.Dataset) and there.shape is not None else None


def _read_labels(labels: h5py.Dataset, factors: int) -> NDArray[np.float64]:
    if labels.dtype.kind != "f" or labels.ndim != 2 or labels.shape[1] != factors:
        raise ValueError(f"expected floats of shape (n, {factors}), got {labels.dtype} and shape {labels.shape}")
    try:
        return np.asarray(labels[()], np.float64)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"expected readable data, got {error}") from error


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
        opened = open_h5(path)
    except DataError as error:
        return Report(path, family.title, 0, False, (str(error), *published_faults(path, originals)))
    with opened as file:
        layout = read_h5_layout(file, family)
        faults = [f"{path}: {fault}" for fault in layout.faults]
        mark: dict[str, object] | None = None
        try:
            mark = read_h5_mark(file, path)
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
                    unread = _unreadable(file, path, rows)
                    read += len(rows) - len(unread)
                    faults += unread
                    bar.update(len(rows))
    return Report(path, family.title, read, mark is not None, tuple(faults))


def _unreadable(file: h5py.File, path: Path, rows: Indices) -> list[str]:
    """Read images together and, if that fails, one by one; name those that cannot be read."""
    try:
        read_rows(file, path, rows)
    except DataError as error:
        if len(rows) == 1:
            return [str(error)]
        return [fault for row in rows for fault in _unreadable(file, path, row[None])]
    return []
