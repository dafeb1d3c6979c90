"""The common parts of all stores: hashes and marks of files, the order of their images, reports of faults."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentflow_experiments.data.factors import Family, PublicFile
from latentflow_experiments.data.frames import Indices
from latentflow_experiments.errors import DataError, printable
from latentflow_experiments.reading import brief, open_regular, reading


def file_sha256(path: Path) -> str:
    """Hash a file.

    Args:
        path: The file.

    Returns:
        Its SHA-256, 64 hexadecimal digits.

    Raises:
        DataError: If it cannot be read.
    """
    with reading(path, "a readable file"), open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def published_faults(path: Path, published: Sequence[PublicFile]) -> list[str]:
    """Compare a file with the published ones.

    Args:
        path: The file.
        published: The published files of which it has to be one.

    Returns:
        What is wrong: nothing, or one line.
    """
    most = max((file.size or 0 for file in published), default=0)
    try:
        if published and all(file.size for file in published):
            with reading(path, "a readable file"), open_regular(path) as opened:
                size = os.fstat(opened.fileno()).st_size
            if size > most:
                return [f"{path}: expected the published file of {most:,} bytes, got {size:,}"]
        found = file_sha256(path)
    except DataError as error:
        return [str(error)]
    known = [file.sha256 for file in published]
    if found in known:
        return []
    return [f"{path}: expected the published file with SHA-256 {' or '.join(known)}, got {found}"]


@dataclass(frozen=True)
class Layout:
    """The images of a file, as its arrays describe them.

    Attributes:
        digits: Which values of each factor are there; empty if that cannot be told.
        readable: Whether the array of images has the type and the sizes that it should have.
        faults: What is not as it should be, without the name of the file.
    """

    digits: tuple[tuple[int, ...], ...]
    readable: bool
    faults: tuple[str, ...]


def digits_of_rows(digits: Indices, family: Family) -> tuple[tuple[int, ...], ...]:
    """Find the values of each factor of which the rows are all combinations, in the order of the family.

    Args:
        digits: The digits of every row in the whole family, shape ``(n, factors)``.
        family: The family.

    Returns:
        The values of each factor, ascending.

    Raises:
        ValueError: If a digit is out of range, or the rows are not all combinations in order, the last factor fastest.

    Example:
        >>> from latentflow_experiments.data.sets.shapes3d import SHAPES3D
        >>> rows = np.array([[0, 0, 0, 0, 1, 3], [0, 0, 0, 0, 1, 7], [0, 2, 0, 0, 1, 3], [0, 2, 0, 0, 1, 7]])
        >>> assert digits_of_rows(rows, SHAPES3D) == ((0,), (0, 2), (0,), (0,), (1,), (3, 7))
    """
    sizes = np.asarray(family.grid.sizes)
    if not len(digits):
        raise ValueError("expected at least one image, got none")
    outside = (digits < 0) | (digits >= sizes)
    if outside.any():
        row, factor = np.argwhere(outside)[0].tolist()
        raise ValueError(
            f"row {row}: expected {family.grid.names[factor]} from 0 to {sizes[factor] - 1}, got {digits[row, factor]}"
        )
    there = [np.unique(digits[:, j]) for j in range(digits.shape[1])]
    count = math.prod(map(len, there))
    if len(digits) != count:
        values = " x ".join(str(len(values)) for values in there)
        raise ValueError(f"expected all {count} combinations of the {values} values that occur, got {len(digits)} rows")
    positions = np.unravel_index(np.arange(count), tuple(map(len, there)))
    for j, (kept, position) in enumerate(zip(there, positions, strict=True)):
        wrong = np.flatnonzero(digits[:, j] != kept[position])
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"row {row}: expected {family.grid.names[j]} {kept[position[row]]}, with the last factor running "
                f"fastest, got {digits[row, j]}"
            )
    return tuple(tuple(kept.tolist()) for kept in there)


def mark_digits(mark: dict[str, object], family: Family) -> tuple[tuple[int, ...], ...] | None:
    """Return the values of each factor that a stand-in says it holds.

    Args:
        mark: What it says of its making.
        family: The family.

    Returns:
        The values of each factor; None if it does not say.

    Raises:
        ValueError: If what it says are no ascending values of each factor.

    Example:
        >>> from latentflow_experiments.data.sets.dsprites import DSPRITES
        >>> assert mark_digits({"digits": [[0], [1, 2], [5], [0], [0], [31]]}, DSPRITES)[1] == (1, 2)
    """
    kept = mark.get("digits")
    if kept is None:
        return None
    sizes = family.grid.sizes
    if not isinstance(kept, list) or len(kept) != len(sizes):
        raise ValueError(f"digits: expected values of {len(sizes)} factors, got {brief(kept)}")
    for values, factor in zip(kept, family.factors, strict=True):
        if not isinstance(values, list) or not values or any(type(value) is not int for value in values):
            raise ValueError(f"digits: expected values of {factor.name}, got {brief(values)}")
        if values != sorted(set(values)) or values[0] < 0 or values[-1] >= factor.size:
            raise ValueError(
                f"digits: expected {factor.name} ascending from 0 to {factor.size - 1}, got {brief(values)}"
            )
    return tuple(tuple(values) for values in kept)


def mark_faults(mark: dict[str, object], digits: tuple[tuple[int, ...], ...]) -> list[str]:
    """Compare what a stand-in says it holds with what is there.

    Args:
        mark: What it says of its making.
        digits: The values of each factor that are there; empty if that cannot be told.

    Returns:
        What is wrong: nothing, or one line.
    """
    said = mark.get("digits")
    if said is None or not digits or said == [list(kept) for kept in digits]:
        return []
    return [f"synthetic: expected the digits {[list(kept) for kept in digits]}, those of the images, got {brief(said)}"]


def check_mark(mark: dict[str, object] | None, digits: tuple[tuple[int, ...], ...], family: Family, path: Path) -> None:
    """Refuse a stand-in that says that it is something else.

    Args:
        mark: What it says of its making; None if it says nothing.
        digits: The values of each factor that are there.
        family: The family as which it is opened.
        path: Where it is from.

    Raises:
        DataError: If it names another family or other values.
    """
    if mark is None:
        return
    said = mark.get("family", family.name)
    if said != family.name:
        raise DataError(f"{path}: expected a stand-in for {family.name}, got one for {brief(said)}")
    for fault in mark_faults(mark, digits):
        raise DataError(f"{path}: {fault}")


_SHOWN = 20


@dataclass(frozen=True)
class Report:
    """The faults that a check found in a data set.

    Attributes:
        path: Where it is.
        name: What it is of.
        images: The number of images that could be read and are right.
        synthetic: Whether it says that it is a synthetic stand-in.
        faults: What is wrong with it, one line each.

    Example:
        >>> report = Report(Path("images"), "Isaac3D", 2, True, ("images/000002.png: missing",))
        >>> print(report.text())
        images: Isaac3D (synthetic stand-in), 2 images read, 1 fault
          images/000002.png: missing
    """

    path: Path
    name: str
    images: int
    synthetic: bool
    faults: tuple[str, ...]

    def text(self) -> str:
        """Format the report in a few lines, with the first faults."""
        kind = "synthetic stand-in" if self.synthetic else "not marked as synthetic"
        count = len(self.faults)
        verdict = f"{count or 'no'} fault{'s' * (count > 1)}"
        lines = [printable(f"{self.path}: {self.name} ({kind}), {self.images:,} images read, {verdict}")]
        lines += [f"  {printable(fault)}" for fault in self.faults[:_SHOWN]]
        if count > _SHOWN:
            lines.append(f"  ... and {count - _SHOWN} more")
        return "\n".join(lines)
