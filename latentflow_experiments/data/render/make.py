"""Synthetic stand-ins for published images, rendered in pieces and written in the published formats."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

import latentflow
from latentflow.calculus.files import replacing
from latentflow_experiments.data.factors import Family
from latentflow_experiments.data.frames import FactorGrid, Indices, Pixels, pick
from latentflow_experiments.data.render.pool import work_in_processes
from latentflow_experiments.data.render.sprites import VALUES
from latentflow_experiments.data.stores import open_frames
from latentflow_experiments.data.stores.h5 import LABELS, SUMS, image_sum
from latentflow_experiments.data.stores.npz import read_member
from latentflow_experiments.data.stores.png import MARK, NAME_KEY, name_of
from latentflow_experiments.errors import DataError, ExperimentError
from latentflow_experiments.locks import owned
from latentflow_experiments.reading import MARK_BYTES, brief, parse_mark, read_limited
from latentflow_experiments.records import clear_temporaries, write_text


def render_images(family: Family, digits: Indices) -> Pixels:
    """Render images of a family; they depend on nothing but the digits.

    Args:
        family: The family.
        digits: Which value of each factor, shape ``(n, factors)``.

    Returns:
        The images, shape ``(n, height, width, channels)``, from 0 to 255.

    Raises:
        ExperimentError: If MuJoCo or the libraries that it renders with are missing.
    """
    if family.render is None:
        raise ValueError(f"family: expected one with a stand-in, got {family.name}")
    return family.render(digits)


def renderer_name(family: Family) -> str:
    """Name the renderer of a family, with the version of what is not our own."""
    if family.renderer is None:
        raise ValueError(f"family: expected one with a stand-in, got {family.name}")
    return family.renderer()


@dataclass(frozen=True)
class RenderedFrames:
    """All images of a family without a file, each rendered anew whenever it is read.

    Args:
        family: The family.
    """

    family: Family

    @property
    def path(self) -> Path:
        """Nowhere."""
        return Path()

    @property
    def grid(self) -> FactorGrid:
        """The grid of the family."""
        return self.family.grid

    @property
    def digits(self) -> tuple[tuple[int, ...], ...]:
        """All values of every factor."""
        return tuple(tuple(range(size)) for size in self.grid.sizes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image."""
        return self.family.shape

    @property
    def synthetic(self) -> dict[str, object]:
        """What makes the images."""
        return describe(self.family, self.digits)

    def read(self, indices: Indices) -> Pixels:
        """Render images."""
        return render_images(self.family, self.grid.decode(indices))

    def sha256(self) -> str:
        """Return the SHA-256 of what makes the images."""
        return hashlib.sha256(json.dumps(self.synthetic, sort_keys=True).encode()).hexdigest()


def describe(family: Family, digits: tuple[tuple[int, ...], ...]) -> dict[str, object]:
    """Describe the origin of a stand-in.

    Args:
        family: The family.
        digits: The values of each factor that it has.

    Returns:
        What is written into its files.
    """
    return {
        "generator": f"latentflow {latentflow.__version__}",
        "renderer": renderer_name(family),
        "family": family.name,
        "digits": [list(kept) for kept in digits],
    }


DATE = (1980, 1, 1, 0, 0, 0)  # of the members of a zip file, so that equal contents are equal bytes


def write_npz(path: Path, blocks: Iterable[Pixels], digits: Indices, mark: dict[str, object]) -> None:
    """Write sprites as dSprites are published, block by block.

    Args:
        path: The npz file.
        blocks: The images, 0 and 255, in their order, shape ``(n, height, width, 1)`` each.
        digits: Which value of each factor every image has, shape ``(n, 6)``.
        mark: What made them; it goes into the key ``synthetic``.
    """
    values = np.stack([VALUES[j][digits[:, j]] for j in range(digits.shape[1])], -1)
    names = ("color", "shape", "scale", "orientation", "posX", "posY")
    possible = {name: VALUES[j][np.unique(digits[:, j])] for j, name in enumerate(names)}
    metadata = {
        "title": "Synthetic sprites after dSprites",
        "description": "Rendered stand-in; not the published images.",
        "version": 1,
        "date": "",
        "author": "latentflow",
        "latents_names": names,
        "latents_sizes": np.array([len(kept) for kept in possible.values()]),
        "latents_possible_values": possible,
    }
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive,
    ):
        with _member(archive, "imgs") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(digits), 64, 64)}
            np.lib.format.write_array_header_1_0(file, header)
            for images in blocks:
                file.write((images[..., 0] > 0).astype(np.uint8).tobytes())
        arrays: dict[str, NDArray[Any]] = {
            "latents_classes": digits,
            "latents_values": values,
            "metadata": np.array(metadata, dtype=object),
            "synthetic": np.array(json.dumps(mark, sort_keys=True)),
        }
        for name, array in arrays.items():
            with _member(archive, name) as file:
                np.lib.format.write_array(file, array, allow_pickle=name == "metadata")


def write_h5(path: Path, blocks: Iterable[Pixels], digits: Indices, mark: dict[str, object]) -> None:
    """Write images as 3D Shapes are published, block by block.

    Args:
        path: The HDF5 file.
        blocks: The images in their order, shape ``(n, height, width, 3)`` each.
        digits: Which value of each factor every image has, shape ``(n, 6)``.
        mark: What made them; it goes into the attribute ``synthetic``.
    """
    try:
        _write_h5(path, blocks, digits, mark)
    except RuntimeError as error:  # what h5py may raise when the disk is full
        raise OSError(str(error)) from error


def _write_h5(path: Path, blocks: Iterable[Pixels], digits: Indices, mark: dict[str, object]) -> None:
    version = ("v110", "v110")  # from it on the file has check sums of its own structures too
    with replacing(path) as temporary, h5py.File(temporary, "w", libver=version) as file:
        shape = (len(digits), 64, 64, 3)
        kept = {"compression": "gzip", "fletcher32": True, "track_times": False}
        images = file.create_dataset("images", shape, np.uint8, chunks=(1, *shape[1:]), **kept)
        sums = np.empty(len(digits), np.uint32)
        first = 0
        for block in blocks:
            images[first : first + len(block)] = block
            for row, image in enumerate(block, first):
                sums[row] = image_sum(image.tobytes(), row)
            first += len(block)
        labels = np.stack([values[digits[:, j]] for j, values in enumerate(LABELS)], -1)
        file.create_dataset("labels", data=labels, **kept)
        file.create_dataset(SUMS, data=sums, **kept)
        file.attrs["synthetic"] = json.dumps(mark, sort_keys=True)


def write_pngs(folder: Path, images: Pixels, numbers: Indices, family: Family | None = None) -> None:
    """Write images as files with their numbers for names.

    Args:
        folder: The folder.
        images: The images, shape ``(n, height, width, 3)``.
        numbers: Their numbers, shape ``(n,)``.
        family: The family whose images they say they are; None if they should say nothing.
    """
    for image, number in zip(images, numbers.tolist(), strict=True):
        said = PngInfo()
        if family is not None:
            said.add_text(NAME_KEY, name_of(family, number))
        Image.fromarray(image).save(folder / f"{number:06d}.png", optimize=False, pnginfo=said)


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    info = zipfile.ZipInfo(f"{name}.npy", DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    return archive.open(info, "w", force_zip64=True)


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
        DataError: If the folder holds other images, or pieces of another stand-in, which are left as they are; or if
            it cannot be written to, or there is no room. Of a file nothing is left then that is not whole.
        ExperimentError: If MuJoCo or the libraries that it renders with are missing, another process is making images
            in the folder, or one that renders was killed.
        ValueError: If ``size`` is too small for sequences.
    """
    digits = family.subset(len(family.grid) if size is None else size)
    plan = _Plan(family, digits, folder)
    if (folder / family.file).exists() and not plan.pieces.exists():
        plan.check_finished()
        return False
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _writing(folder), owned(folder, f"making images of {family.name}"):
        return _make(family, folder, plan, workers)


def _make(family: Family, folder: Path, plan: _Plan, workers: int) -> bool:
    if (folder / family.file).exists():
        plan.check_finished()
        shutil.rmtree(plan.pieces, ignore_errors=True)  # of a call that was killed at its very end
        return False
    for place, name in ((folder, family.file), (folder, MARK), (plan.pieces, "plan.json"), (plan.pieces, "??????.npz")):
        clear_temporaries(place, name)
    plan.start()
    _in_parallel(_render_piece, plan, plan.missing(), workers, "rendering")
    plan.assemble(workers)
    shutil.rmtree(plan.pieces)
    return True


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn a full disk, a folder that cannot be written to and a killed process into one line."""
    try:
        yield
    except BrokenProcessPool as error:
        raise ExperimentError(
            f"{folder}: expected the processes that render to live, one was killed; run the same command again, with "
            f"fewer workers if the memory is short"
        ) from error
    except OSError as error:
        raise DataError(f"{folder}: expected a folder to write to, got {error}; try --out") from error


@dataclass(frozen=True)
class _Plan:
    """The images to render, and the places of their pieces."""

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
        return self.family.piece

    def rows(self, piece: int | None = None) -> Indices:
        """Return the digits of the images of a piece, or of all, shape ``(n, factors)``."""
        every = np.arange(self.count)
        chosen = every if piece is None else every[piece * self.size : (piece + 1) * self.size]
        return pick(self.digits, self.grid.decode(chosen))

    @property
    def note(self) -> Path:
        """The file that says which stand-in the pieces are of."""
        return self.pieces / "plan.json"

    def path(self, piece: int) -> Path:
        return self.pieces / f"{piece:06d}.npz"

    def paths(self) -> list[Path]:
        return [self.path(piece) for piece in range(-(-self.count // self.size))]

    def check_finished(self) -> None:
        mark = open_frames(self.family, self.folder).synthetic
        if mark is None:
            raise DataError(f"{self.folder}: expected a folder for a stand-in, got one with the original files")
        if mark != self.mark:
            raise DataError(f"{self.folder}: expected no images or those of {_say(self.mark)}, got {_say(mark)}")

    def start(self) -> None:
        if self.note.exists():
            begun = parse_mark(read_limited(self.note, MARK_BYTES), self.note)
            if begun != self.mark:
                raise DataError(
                    f"{self.pieces}: expected pieces of {_say(self.mark)}, got {_say(begun)}; delete them or go on "
                    f"with that"
                )
            return
        self.pieces.mkdir(parents=True, exist_ok=True)
        try:
            write_text(self.note, json.dumps(self.mark))
        except OSError:
            self.pieces.rmdir()
            raise

    def missing(self) -> list[int]:
        return [piece for piece, path in enumerate(self.paths()) if not path.exists()]

    def load(self, piece: int) -> Pixels:
        path, (channels, height, width) = self.path(piece), self.family.shape
        shape = (len(self.rows(piece)), height, width, channels)
        try:
            images = read_member(path, "images", math.prod(shape))
            if images.dtype != np.uint8 or images.shape != shape:
                raise DataError(
                    f"{path}: expected images of uint8 and shape {shape}, got {images.dtype} {images.shape}"
                )
        except DataError as error:
            path.unlink(missing_ok=True)
            raise DataError(f"{error}; it is removed, run the same command again") from error
        return images

    def blocks(self) -> Iterator[Pixels]:
        """Return the images, piece by piece, and show how far it is."""
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
    write_pngs(plan.pieces / "images", images, plan.family.grid.encode(plan.rows(piece)), plan.family)
    return len(images)


def _in_parallel(
    work: Callable[[_Plan, int], int], plan: _Plan, pieces: Iterable[int], workers: int, doing: str
) -> None:
    """Work on pieces, in several processes or in this one, and show how far it is."""
    pieces = list(pieces)
    with tqdm(total=plan.count, unit="image", desc=doing, disable=None) as bar:
        bar.update(plan.count - sum(min(plan.size, plan.count - piece * plan.size) for piece in pieces))
        own = partial(work, plan)
        done = (own(piece) for piece in pieces) if workers == 1 else work_in_processes(own, pieces, workers, __name__)
        with closing(done):
            for images in done:
                bar.update(images)


def _say(mark: object) -> str:
    """Describe a stand-in in a few words."""
    if not isinstance(mark, dict) or not {"family", "digits", "generator", "renderer"} <= mark.keys():
        return "something else"
    digits = mark["digits"]
    if not isinstance(digits, list) or not all(isinstance(kept, list) for kept in digits):
        return "something else"
    family, generator, renderer = (brief(str(mark[key]))[1:-1] for key in ("family", "generator", "renderer"))
    return f"{math.prod(map(len, digits)):,} images of {family} by {generator}, {renderer}"
