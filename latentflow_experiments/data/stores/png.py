"""Images in a folder of numbered PNG files, and the check of that folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from latentflow_experiments.data.factors import Family
from latentflow_experiments.data.frames import FactorGrid, Indices, Pixels, pick
from latentflow_experiments.data.stores.layout import Report, check_mark, digits_of_rows, mark_digits
from latentflow_experiments.errors import DataError, printable
from latentflow_experiments.reading import (
    MARK_BYTES,
    parse_mark,
    read_limited,
    reading,
)

MARK = "SYNTHETIC.json"
NAME_KEY = "latentflow"
"""The keyword of the text in an image of a stand-in that says which one it is, see :func:`name_of`."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LISTED = 2_000_000  # entries of a folder, more than twice as many as any family has
_NAME = re.compile(r"([0-9]{6})\.png")


class PngFrames:
    """Reads images from the files ``000000.png``, ``000001.png``, ..., numbered by the grid of the family.

    The names are listed once. Which of the family's images are there must be all combinations of some values of each
    factor. Images are decoded one after the other: threads were not faster.

    Args:
        path: The folder, or the folder in which it is called ``images``.
        family: What it holds.

    Raises:
        DataError: If there is no image, or the numbers are not of such combinations.

    References:
        W. Nie, T. Karras, A. Garg, S. Debnath, A. Patney, A. B. Patel and A. Anandkumar, Semi-supervised StyleGAN for
        disentanglement learning, 2020; https://github.com/NVlabs/High-res-disentanglement-datasets.
    """

    def __init__(self, path: Path, family: Family) -> None:
        self.path = path / family.file if (path / family.file).is_dir() else path
        self.family = family
        self.shape = family.shape
        numbers, _ = list_folder(self.path)
        if not len(numbers):
            raise DataError(f"{self.path}: expected images such as 000000.png, got none")
        if numbers[-1] >= len(family.grid):
            raise DataError(f"{self.path}: expected numbers below {len(family.grid):06d}, got {numbers[-1]:06d}.png")
        try:
            self.digits = digits_of_rows(family.grid.decode(numbers), family)
        except ValueError as error:
            raise DataError(f"{self.path}: names: {error}; `latentflow data check` lists what is missing") from error
        self.grid = FactorGrid(family.grid.names, tuple(map(len, self.digits)))
        self.synthetic = read_png_mark(self.path)
        check_mark(self.synthetic, self.digits, family, self.path.parent / MARK)
        self._numbers = numbers

    def read(self, indices: Indices) -> Pixels:
        """Read images, each that is asked for once."""
        self.grid.checked(indices)
        places, back = np.unique(indices, return_inverse=True)
        channels, height, width = self.shape
        images: Pixels = np.empty((len(places), height, width, channels), np.uint8)
        for image, number in zip(images, self._numbers[places].tolist(), strict=True):
            path = self.path / f"{number:06d}.png"
            image[:] = read_png(path, (height, width), name_of(self.family, number))
        return images[back]

    def sha256(self) -> str:
        """Return the SHA-256 of the names and sizes of the files, in order."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256()
        for number in self._numbers.tolist():
            path = self.path / f"{number:06d}.png"
            with reading(path, "an image"):
                digest.update(json.dumps([path.name, path.stat().st_size]).encode())
        return digest.hexdigest()


def list_folder(folder: Path) -> tuple[Indices, tuple[str, ...]]:
    """List what is in a folder of images.

    Args:
        folder: The folder.

    Returns:
        The numbers of the images, ascending, shape ``(n,)``, and the names of everything else, sorted.

    Raises:
        DataError: If it is not a folder that can be read.
    """
    numbers: list[int] = []
    others: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if match := _NAME.fullmatch(entry.name):
                    numbers.append(int(match[1]))
                else:
                    others.append(printable(entry.name))
                if len(numbers) + len(others) > _LISTED:
                    raise DataError(f"{folder}: expected at most {_LISTED:,} files, got more")
    except OSError as error:
        raise DataError(f"{folder}: expected a folder of images, got {error}") from error
    return np.sort(np.array(numbers, np.int64)), tuple(sorted(others))


def name_of(family: Family, number: int) -> str:
    """Return what an image of a stand-in says of itself, so that one in the place of another is noticed.

    Args:
        family: The family.
        number: The number of the image in it.

    Returns:
        A text without a special character.
    """
    return f"{family.name} {number:06d}"


def read_png(path: Path, size: tuple[int, int], name: str | None = None) -> Pixels:
    """Read a PNG file; the check sums of all its parts are compared, which decoding alone does not do.

    Args:
        path: The file.
        size: Its expected height and width.
        name: What an image of a stand-in has to say of itself; an image may say nothing.

    Returns:
        The image in red, green and blue, shape ``(height, width, 3)``.

    Raises:
        DataError: If it cannot be read, has another size, or says that it is another image.
    """
    return _read_png(path, size, name)[0]


def _read_png(path: Path, size: tuple[int, int], name: str | None) -> tuple[Pixels, str]:
    """Read a PNG file; give the image and its mode."""
    height, width = size
    data = read_limited(path, 16 * height * width + MARK_BYTES)  # the deepest format has 8 bytes a pixel
    if not data.startswith(_SIGNATURE):
        raise DataError(f"{path}: expected a PNG image, got something else")
    with reading(path, "a complete PNG image"):
        found, said = _parts(data)
        if found != (width, height):
            got = f"{found[0]} x {found[1]}"
            raise DataError(
                f"{path}: expected {width} x {height} pixels, the size of the smaller published version, got {got}"
            )
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            pixels, mode = np.asarray(image.convert("RGB")), image.mode
    if name is not None and said not in (None, name):
        raise DataError(f"{path}: expected the image {name}, got {printable(said or '', 80)}")
    return pixels, mode


def _parts(data: bytes) -> tuple[tuple[int, int], str | None]:
    """Compare the check sum of each part of a PNG file; give the width and height, and the name of a stand-in."""
    place, kind = len(_SIGNATURE), b""
    size: tuple[int, int] | None = None
    said: str | None = None
    while kind != b"IEND":
        if len(data) < place + 8:
            raise ValueError("image file is truncated")
        length, kind = struct.unpack_from(">I4s", data, place)
        if len(data) < place + 12 + length:
            raise ValueError("image file is truncated")
        content = data[place + 8 : place + 8 + length]
        (expected,) = struct.unpack_from(">I", data, place + 8 + length)
        if zlib.crc32(kind + content) != expected:
            raise ValueError(f"a wrong check sum at byte {place}")
        if size is None:
            if kind != b"IHDR":
                raise ValueError("no header at its start")
            size = struct.unpack_from(">II", content)
        if kind == b"tEXt" and content.startswith(f"{NAME_KEY}\0".encode()):
            said = content.partition(b"\0")[2].decode("latin-1")
        place += 12 + length
    if size is None:
        raise ValueError("no header")
    return size, said


def read_png_mark(folder: Path) -> dict[str, object] | None:
    """Read what a stand-in says of its making.

    Args:
        folder: The folder of the images.

    Returns:
        The contents of ``SYNTHETIC.json`` beside the folder; None if there is no such file.

    Raises:
        DataError: If it cannot be read.
    """
    path = folder.parent / MARK
    if not path.exists() and not path.is_symlink():
        return None
    return parse_mark(read_limited(path, MARK_BYTES), path)


def check_pngs(folder: Path, families: Sequence[Family]) -> Report:
    """Read every image of a folder and name each fault.

    The family is that of the mark of a stand-in, else that of the name of the folder or of the one around it, else
    Isaac3D if a number is too large for Falcor3D.

    Args:
        folder: The folder of the images.
        families: The families that such folders hold.

    Returns:
        The report.

    Raises:
        DataError: If the folder cannot be read.
    """
    numbers, others = list_folder(folder)
    faults = [f"{folder / name}: expected no file but 000000.png and so on" for name in others]
    mark: dict[str, object] | None = None
    try:
        mark = read_png_mark(folder)
    except DataError as error:
        faults.append(str(error))
    family = _family_of(mark, folder, numbers, families)
    try:
        expected = _expected(family, mark, numbers)
    except ValueError as error:
        faults.append(f"{folder.parent / MARK if mark else folder}: {error}")
        expected = numbers[numbers < len(family.grid)]
    faults += _runs(folder, np.setdiff1d(expected, numbers), "missing")
    faults += _runs(folder, np.setdiff1d(numbers, expected), "not one of the set")
    right = 0
    for number in tqdm(numbers.tolist(), unit="image", desc="checking", disable=None):
        wrong = _image_faults(folder / f"{number:06d}.png", family, number)
        faults += wrong
        right += not wrong
    return Report(folder, family.title, right, mark is not None, tuple(faults))


def _family_of(mark: dict[str, object] | None, folder: Path, numbers: Indices, families: Sequence[Family]) -> Family:
    """Choose the family of a folder: by its mark, its name, or the smallest grid that holds its numbers."""
    marked = None if mark is None else mark.get("family")
    for family in families:
        if marked == family.name:
            return family
    for name in (folder.resolve().name.lower(), folder.resolve().parent.name.lower()):
        for family in families:
            if family.name in name:
                return family
    by_size = sorted(families, key=lambda family: len(family.grid))
    last = int(numbers[-1]) if len(numbers) else 0
    return next((family for family in by_size if last < len(family.grid)), by_size[-1])


def _expected(family: Family, mark: dict[str, object] | None, numbers: Indices) -> Indices:
    """Return the numbers that should be there; all of the family if no mark says which."""
    every = np.arange(len(family.grid))
    if mark is not None:
        kept = mark_digits(mark, family)
        if kept is None:
            return every
        part = FactorGrid(family.grid.names, tuple(map(len, kept)))
        return family.grid.encode(pick(kept, part.decode(np.arange(len(part)))))
    if len(numbers) and numbers[-1] < len(every) and len(numbers) < len(every):
        try:
            digits_of_rows(family.grid.decode(numbers), family)
        except ValueError:
            return every
        raise ValueError(f"not the published set: expected {len(every)} images, got a part of them, {len(numbers)}")
    return every


def _runs(folder: Path, numbers: Indices, what: str) -> Iterator[str]:
    """Write one line for each run of neighboring numbers."""
    starts = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)
    for run in np.split(numbers, starts[1:]) if len(numbers) else []:
        last = f" to {run[-1]:06d}.png" if len(run) > 1 else ""
        yield f"{folder / f'{run[0]:06d}.png'}{last}: {what}"


def _image_faults(path: Path, family: Family, number: int) -> list[str]:
    """Decode an image, and name what is wrong with it."""
    try:
        _, mode = _read_png(path, (family.shape[1], family.shape[2]), name_of(family, number))
    except DataError as error:
        return [str(error)]
    return [] if mode == "RGB" else [f"{path}: expected an image of mode RGB, got {mode}"]
