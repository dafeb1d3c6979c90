"""Synthetic stand-ins for published images, rendered in parallel and in pieces."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from latentflow_experiments.data.family import FAMILIES, Family
from latentflow_experiments.data.frames import Pixels
from latentflow_experiments.data.grid import FactorGrid, Indices, pick
from latentflow_experiments.data.render.images import render_images
from latentflow_experiments.data.render.rendered import describe
from latentflow_experiments.data.render.write import write_h5, write_npz, write_pngs
from latentflow_experiments.data.stores import open_frames
from latentflow_experiments.data.stores.png import MARK
from latentflow_experiments.errors import DataError
from latentflow_experiments.files import replacing, write_text

__all__ = ["make"]

PIECES = {"sprites": 4096, "shapes3d": 128, "falcor3d": 48, "isaac3d": 48}  # images that take about a second


def make(family: Family, folder: Path, *, size: int | None = None, workers: int = 2) -> bool:
    """Render a synthetic stand-in for a family in the format of the published files.

    Pieces of it are kept in ``.partial`` until all are there. After Ctrl-C, or if the process was killed, the same call
    goes on with the missing ones; the result is the same.

    Args:
        family: The family.
        folder: Where to put it.
        size: Largest number of images, taken evenly from the family; None for all.
        workers: The number of processes to render in; with 1 it is this one.

    Returns:
        Whether there was anything to do: False if the folder holds just this stand-in already.

    Raises:
        DataError: If the folder holds other images, or pieces of another stand-in; they are left as they are.
        ExperimentError: If MuJoCo or the libraries that it renders with are missing.
        ValueError: If ``size`` is too small for sequences.
    """
    digits = family.subset(len(family.grid) if size is None else size)
    plan = _Plan(family, digits, folder)
    if (folder / family.file).exists():
        plan.check_finished()
        shutil.rmtree(plan.pieces, ignore_errors=True)  # of a call that was killed at its very end
        return False
    plan.start()
    _in_parallel(_render_piece, plan, plan.missing(), workers, "rendering")
    plan.assemble(workers)
    shutil.rmtree(plan.pieces)
    return True


@dataclass(frozen=True)
class _Plan:
    """What is to be rendered, and where its pieces go."""

    family: Family
    digits: tuple[tuple[int, ...], ...]
    folder: Path

    @property
    def pieces(self) -> Path:
        return self.folder / ".partial"

    @property
    def mark(self) -> dict[str, object]:
        return describe(self.family, self.digits)

    @property
    def grid(self) -> FactorGrid:
        return FactorGrid(self.family.grid.names, tuple(map(len, self.digits)))

    @property
    def count(self) -> int:
        return len(self.grid)

    @property
    def size(self) -> int:
        """The images in a piece."""
        return PIECES[self.family.name]

    def rows(self, piece: int | None = None) -> Indices:
        """Give the digits of the images of a piece, or of all, shape ``(n, factors)``."""
        every = np.arange(self.count)
        chosen = every if piece is None else every[piece * self.size : (piece + 1) * self.size]
        return pick(self.digits, self.grid.decode(chosen))

    def path(self, piece: int) -> Path:
        return self.pieces / f"{piece:06d}.npz"

    def check_finished(self) -> None:
        mark = open_frames(self.family, self.folder).synthetic
        if mark is None:
            raise DataError(f"{self.folder}: expected a folder for a stand-in, got one with the original files")
        if mark != self.mark:
            raise DataError(f"{self.folder}: expected no images or those of {_say(self.mark)}, got {_say(mark)}")

    def start(self) -> None:
        note = self.pieces / "plan.json"
        if note.exists():
            begun = json.loads(note.read_text(encoding="utf-8"))
            if begun != self.mark:
                raise DataError(
                    f"{self.pieces}: expected pieces of {_say(self.mark)}, got {_say(begun)}; delete them or go on "
                    f"with that"
                )
            return
        try:
            self.pieces.mkdir(parents=True, exist_ok=True)
            write_text(note, json.dumps(self.mark))
        except OSError as error:
            raise DataError(f"{self.folder}: expected a folder to write to, got {error}; try --out") from error

    def missing(self) -> list[int]:
        return [piece for piece in range(-(-self.count // self.size)) if not self.path(piece).exists()]

    def load(self, piece: int) -> Pixels:
        with np.load(self.path(piece)) as file:
            images: Pixels = file["images"]
        return images

    def blocks(self) -> Iterator[Pixels]:
        """Give the images, piece by piece, and show how far it is."""
        with tqdm(total=self.count, unit="image", desc="writing", disable=None) as bar:
            for piece in range(-(-self.count // self.size)):
                images = self.load(piece)
                yield images
                bar.update(len(images))

    def assemble(self, workers: int) -> None:
        path = self.folder / self.family.file
        if path.suffix == ".npz":
            write_npz(path, self.blocks(), self.rows(), self.mark)
        elif path.suffix == ".h5":
            write_h5(path, self.blocks(), self.rows(), self.mark)
        else:
            (self.pieces / "images").mkdir(exist_ok=True)
            _in_parallel(_write_piece, self, range(-(-self.count // self.size)), workers, "writing")
            write_text(self.folder / MARK, json.dumps(self.mark, sort_keys=True))
            (self.pieces / "images").replace(path)


def _render_piece(plan: _Plan, piece: int) -> int:
    """Render a piece into its file, in a process of its own; give the number of images."""
    images = render_images(plan.family, plan.rows(piece))
    with replacing(plan.path(piece)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, images=images)
    return len(images)


def _write_piece(plan: _Plan, piece: int) -> int:
    """Write the images of a piece as PNG files."""
    images = plan.load(piece)
    write_pngs(plan.pieces / "images", images, plan.family.grid.encode(plan.rows(piece)))
    return len(images)


def _in_parallel(
    work: Callable[[_Plan, int], int], plan: _Plan, pieces: Iterable[int], workers: int, doing: str
) -> None:
    """Work on pieces, in several processes or in this one, and show how far it is."""
    pieces = list(pieces)
    with tqdm(total=plan.count, unit="image", desc=doing, disable=None) as bar:
        bar.update(plan.count - sum(min(plan.size, plan.count - piece * plan.size) for piece in pieces))
        done = (work(plan, piece) for piece in pieces) if workers == 1 else _pooled(work, plan, pieces, workers)
        with closing(done):
            for images in done:
                bar.update(images)


def _pooled(work: Callable[[_Plan, int], int], plan: _Plan, pieces: Sequence[int], workers: int) -> Generator[int]:
    """Work in several processes; after Ctrl-C the pieces that were begun are finished and the others left."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(max(1, min(workers, len(pieces))), context, _follow_parent)
    todo = iter(pieces)
    try:
        pending = {pool.submit(work, plan, piece) for piece in islice(todo, workers)}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            pending |= {pool.submit(work, plan, piece) for piece in islice(todo, len(done))}
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _follow_parent() -> None:
    """Leave Ctrl-C to the first process, and end when that is gone, even if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _say(mark: object) -> str:
    """Describe a stand-in in a few words."""
    if not isinstance(mark, dict) or mark.get("family") not in FAMILIES:
        return "something else"
    return (
        f"{math.prod(map(len, mark['digits'])):,} images of {mark['family']} by {mark['generator']}, {mark['renderer']}"
    )
