"""Images of 3D Shapes from their HDF5 file."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from latentflow.experiments.data.family import SHAPES3D, Family
from latentflow.experiments.data.frames import Pixels
from latentflow.experiments.data.grid import FactorGrid, Indices
from latentflow.experiments.data.stores.files import file_sha256, read_mark
from latentflow.experiments.data.stores.products import digits_of_rows
from latentflow.experiments.errors import DataError

__all__ = ["LABELS", "H5Frames"]

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

    def __init__(self, path: Path, family: Family = SHAPES3D) -> None:
        self.path, self.family = path, family
        self.shape = family.shape
        self._opened: tuple[int, h5py.File] | None = None
        images, labels = (self._dataset(name) for name in ("images", "labels"))
        channels, height, width = family.shape
        self._expect(images.dtype == np.uint8, "images of uint8", images.dtype)
        self._expect(
            images.shape[1:] == (height, width, channels), f"images of {height} x {width} pixels", images.shape
        )
        wanted = (len(images), len(family.factors))
        self._expect(labels.shape == wanted, f"labels of shape {wanted}", labels.shape)
        values = self._attempt(lambda: np.asarray(labels[()], np.float64), "labels")
        try:
            self.digits = digits_of_rows(_digits_of_labels(values), family)
        except ValueError as error:
            raise DataError(f"{path}: labels: {error}") from error
        self.grid = FactorGrid(family.grid.names, tuple(map(len, self.digits)))
        mark = self._file.attrs.get("synthetic")
        self.synthetic = None if mark is None else read_mark(str(mark), path)

    def read(self, indices: Indices) -> Pixels:
        """Read images, each that is asked for once, in the order of the file."""
        places, back = np.unique(indices, return_inverse=True)
        images = self._dataset("images")
        there: Pixels = np.empty((len(places), *images.shape[1:]), np.uint8)
        runs = np.split(np.arange(len(places)), np.flatnonzero(np.diff(places) > 1) + 1)
        for run in runs if len(places) else []:
            rows = slice(int(places[run[0]]), int(places[run[-1]]) + 1)
            there[run[0] : run[-1] + 1] = self._attempt(partial(images.__getitem__, rows), f"images from {rows.start}")
        return there[back]

    def sha256(self) -> str:
        """Give the SHA-256 of the file."""
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
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = os.getpid(), h5py.File(self.path, "r")
            except OSError as error:
                raise DataError(f"{self.path}: expected a complete HDF5 file, got {error}") from error
        return self._opened[1]

    def _dataset(self, name: str) -> h5py.Dataset:
        dataset = self._attempt(lambda: self._file.get(name), name)
        self._expect(isinstance(dataset, h5py.Dataset), f"the data set {name}", "none")
        return dataset

    def _expect(self, condition: bool, expected: str, got: object) -> None:
        if not condition:
            raise DataError(f"{self.path}: expected {expected}, got {got}")

    def _attempt(self, read: Callable[[], Any], what: str) -> Any:  # noqa: ANN401 - of h5py, which has no types
        try:
            return read()
        except (OSError, RuntimeError, KeyError) as error:
            raise DataError(f"{self.path}: expected readable {what}, got {error}") from error


def _digits_of_labels(labels: NDArray[np.float64]) -> Indices:
    """Find the value of each factor that is nearest to its label; a label far from all is refused."""
    columns = []
    for j, documented in enumerate(LABELS):
        nearest = np.abs(labels[:, j, None] - documented).argmin(1)
        step = documented[1] - documented[0]
        far = np.flatnonzero(~(np.abs(labels[:, j] - documented[nearest]) < step / 4))
        if len(far):
            raise ValueError(f"row {far[0]}: expected one of {documented.round(3).tolist()}, got {labels[far[0], j]}")
        columns.append(nearest)
    return np.stack(columns, -1).astype(np.int64)
