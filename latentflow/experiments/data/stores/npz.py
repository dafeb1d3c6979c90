"""Images of sprites from the npz file of dSprites."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pooch
from numpy.typing import NDArray
from tqdm import tqdm

from latentflow.experiments.data.family import SPRITES, Family
from latentflow.experiments.data.frames import Pixels
from latentflow.experiments.data.grid import FactorGrid, Indices
from latentflow.experiments.data.stores.files import file_sha256, read_mark
from latentflow.experiments.data.stores.products import digits_of_rows
from latentflow.experiments.errors import DataError
from latentflow.experiments.files import replacing

__all__ = ["NpzFrames"]

BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
"""What a damaged file raises."""

_BLOCK = 4096  # images unpacked at once
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

    def __init__(self, path: Path, family: Family = SPRITES, cache_folder: Path | None = None) -> None:
        self.path, self.family = path, family
        self.shape = family.shape
        self._cache_folder = cache_folder or Path(pooch.os_cache("latentflow")) / "frames"
        classes = _read_member(path, "latents_classes")
        count = len(family.factors)
        if classes.dtype != np.int64 or classes.ndim != 2 or classes.shape[1] != count:
            raise DataError(
                f"{path}: expected latents_classes of int64 and shape (n, {count}), got {classes.dtype} and shape "
                f"{classes.shape}"
            )
        try:
            self.digits = digits_of_rows(classes, family)
        except ValueError as error:
            raise DataError(f"{path}: latents_classes: {error}") from error
        self.grid = FactorGrid(family.grid.names, tuple(map(len, self.digits)))
        self.synthetic = self._mark()
        with self._images():
            pass

    def read(self, indices: Indices) -> Pixels:
        """Read images, 0 and 255."""
        bits = np.unpackbits(self._index[indices], axis=1, count=self._pixels)
        bits *= 255
        return bits.reshape(len(indices), *self.shape[1:], 1)

    def sha256(self) -> str:
        """Give the SHA-256 of the file."""
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
        if not path.exists() or path.stat().st_size != shape[0] * shape[1]:
            self._unpack(path)
        return np.asarray(np.memmap(path, np.uint8, "r", shape=shape))

    def _mark(self) -> dict[str, object] | None:
        with zipfile.ZipFile(self.path) as archive:
            if "synthetic.npy" not in archive.namelist():
                return None
        return read_mark(str(_read_member(self.path, "synthetic")), self.path)

    @contextmanager
    def _images(self) -> Iterator[IO[bytes]]:
        """Open the array of images behind its header."""
        with zipfile.ZipFile(self.path) as archive:
            if "imgs.npy" not in archive.namelist():
                raise DataError(f"{self.path}: expected the key imgs, got none")
            with archive.open("imgs.npy") as file:
                self._check_header(file)
                yield file

    def _check_header(self, file: IO[bytes]) -> None:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
        except BROKEN as error:
            raise DataError(f"{self.path}: expected an array imgs, got {error}") from error
        wanted = (len(self.grid), *self.shape[1:])
        if shape != wanted or dtype != np.uint8 or fortran:
            raise DataError(
                f"{self.path}: expected imgs of uint8 and shape {wanted} in C order, got {dtype} and shape {shape}"
                f"{' in Fortran order' if fortran else ''}"
            )

    def _unpack(self, path: Path) -> None:
        self._cache_folder.mkdir(parents=True, exist_ok=True)
        count = len(self.grid)
        with (
            replacing(path) as temporary,
            temporary.open("wb") as index,
            self._images() as file,
            tqdm(total=count, unit="image", desc=f"unpacking {self.path.name}", disable=count < _LONG) as bar,
        ):
            for first in range(0, count, _BLOCK):
                images = min(_BLOCK, count - first)
                try:
                    data = file.read(images * self._pixels)
                except BROKEN as error:
                    raise DataError(f"{self.path}: image {first}: expected readable data, got {error}") from error
                if len(data) != images * self._pixels:
                    whole = first + len(data) // self._pixels
                    raise DataError(f"{self.path}: expected {count} images, got the file's end after {whole}")
                block = np.frombuffer(data, np.uint8).reshape(images, self._pixels)
                if block.max() > 1:
                    row = first + int((block > 1).any(1).argmax())
                    raise DataError(f"{self.path}: image {row}: expected pixels of 0 and 1, got {block.max()}")
                index.write(np.packbits(block, axis=1).tobytes())
                bar.update(images)


def _read_member(path: Path, name: str) -> NDArray[Any]:
    try:
        if not zipfile.is_zipfile(path):
            raise OSError("something else" if path.exists() else "no such file")
        with np.load(path, allow_pickle=False) as archive:
            array: NDArray[Any] = archive[name]
    except KeyError:
        raise DataError(f"{path}: expected the key {name}, got none") from None
    except BROKEN as error:
        raise DataError(f"{path}: expected an npz file with a readable array {name}, got {error}") from error
    return array
