"""Sprites read from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from latentflow_experiments.data.family import Family
from latentflow_experiments.data.originals import ORIGINALS
from latentflow_experiments.data.stores.files import published_faults
from latentflow_experiments.data.stores.npz import image_blocks, read_layout, read_member, read_npz_mark
from latentflow_experiments.data.stores.products import mark_faults
from latentflow_experiments.data.stores.report import Report
from latentflow_experiments.errors import DataError

__all__ = ["check_npz"]


def check_npz(path: Path, family: Family) -> Report:
    """Read every image of an npz file and name each fault; nothing is written.

    Args:
        path: The file.
        family: What it should hold.

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
        (published,) = ORIGINALS[family.name]
        faults += published_faults(path, published)
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
