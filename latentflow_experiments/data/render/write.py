"""Rendered images in the file formats of the published ones."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentflow_experiments.data.frames import Pixels
from latentflow_experiments.data.grid import Indices
from latentflow_experiments.data.render.sprites import VALUES
from latentflow_experiments.data.stores.h5 import LABELS
from latentflow_experiments.files import replacing

__all__ = ["write_h5", "write_npz", "write_pngs"]

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
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        shape = (len(digits), 64, 64, 3)
        images = file.create_dataset(
            "images", shape, np.uint8, chunks=(1, *shape[1:]), compression="gzip", track_times=False
        )
        first = 0
        for block in blocks:
            images[first : first + len(block)] = block
            first += len(block)
        labels = np.stack([values[digits[:, j]] for j, values in enumerate(LABELS)], -1)
        file.create_dataset("labels", data=labels, track_times=False)
        file.attrs["synthetic"] = json.dumps(mark, sort_keys=True)


def write_pngs(folder: Path, images: Pixels, numbers: Indices) -> None:
    """Write images as files with their numbers for names.

    Args:
        folder: The folder.
        images: The images, shape ``(n, height, width, 3)``.
        numbers: Their numbers, shape ``(n,)``.
    """
    for image, number in zip(images, numbers.tolist(), strict=True):
        Image.fromarray(image).save(folder / f"{number:06d}.png", optimize=False)


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    info = zipfile.ZipInfo(f"{name}.npy", DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    return archive.open(info, "w", force_zip64=True)
