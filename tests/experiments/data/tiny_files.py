"""Small files in the published formats, whose images say which ones they are."""

import hashlib
import itertools
import json

import h5py
import numpy as np
from PIL import Image

from latentflow_experiments.data import DATASETS
from latentflow_experiments.data.factors import PublicFile

SPRITES_SIZES = (1, 3, 6, 40, 32, 32)
SHAPES_SIZES = (10, 10, 10, 8, 4, 15)
FALCOR_SIZES = (5, 6, 6, 6, 6, 6, 6)
ISAAC_SIZES = (3, 8, 5, 4, 4, 4, 6, 4, 4)

SPRITES_KEPT = ((0,), (0, 2), (1, 5), (0, 13, 39), (7,), (0, 31))
SHAPES_KEPT = ((0, 9), (3,), (1, 5), (0, 7), (0, 1, 2, 3), (4, 14))
FALCOR_KEPT = ((0, 4), (5,), (1, 2), (0,), (0, 3), (2,), (0, 5))

MARK = {"generator": "a test"}


def rows_of(kept):
    """All combinations, the last factor fastest, by another way than the package's."""
    return np.array(list(itertools.product(*kept)))


def numbers_of(kept, sizes):
    """Numbers in the whole family, by Horner's rule."""
    numbers = []
    for row in itertools.product(*kept):
        number = 0
        for digit, size in zip(row, sizes, strict=True):
            number = number * size + digit
        numbers.append(number)
    return numbers


def picture(number, height, width, channels=3):
    """An image that no other number has."""
    image = np.random.default_rng(number).integers(0, 256, (height, width, channels)).astype(np.uint8)
    image[0, 0, :3] = number >> 16, number >> 8 & 255, number & 255
    return image


def silhouette(number):
    """A binary image that no other number has, 64 x 64."""
    return np.random.default_rng(number).integers(0, 2, (64, 64)).astype(np.uint8)


def sprites_arrays(kept=SPRITES_KEPT):
    """The arrays of an npz file, as published but for their number."""
    rows = rows_of(kept)
    values = np.stack(
        [
            np.ones(1)[rows[:, 0]],
            np.arange(1.0, 4)[rows[:, 1]],
            np.linspace(0.5, 1, 6)[rows[:, 2]],
            np.linspace(0, 2 * np.pi, 40)[rows[:, 3]],
            np.linspace(0, 1, 32)[rows[:, 4]],
            np.linspace(0, 1, 32)[rows[:, 5]],
        ],
        -1,
    )
    return {
        "imgs": np.stack([silhouette(number) for number in numbers_of(kept, SPRITES_SIZES)]),
        "latents_classes": rows.astype(np.int64),
        "latents_values": values,
        "metadata": np.array({"title": "pickled"}, dtype=object),
    }


def write_sprites(path, mark=MARK, **changed):
    """Write an npz file; a changed array that is None is left out."""
    arrays = sprites_arrays() | changed
    if mark is not None:
        arrays["synthetic"] = np.array(json.dumps(mark))
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def shapes_labels(kept=SHAPES_KEPT):
    rows = rows_of(kept)
    hues = rows[:, :3] * 0.1
    rest = [np.linspace(0.75, 1.25, 8)[rows[:, 3]], rows[:, 4].astype(float), np.linspace(-30, 30, 15)[rows[:, 5]]]
    return np.concatenate([hues, np.stack(rest, -1)], 1)


def shapes_images(kept=SHAPES_KEPT):
    return np.stack([picture(number, 64, 64) for number in numbers_of(kept, SHAPES_SIZES)])


def write_shapes(path, mark=MARK, chunks=(1, 64, 64, 3), **changed):
    """Write an HDF5 file; a changed array that is None is left out."""
    arrays = {"images": shapes_images(), "labels": shapes_labels()} | changed
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                usual = name == "images" and array.shape[1:] == (64, 64, 3)
                file.create_dataset(name, data=array, chunks=chunks if usual else None, compression="gzip")
        if mark is not None:
            file.attrs["synthetic"] = json.dumps(mark)
    return path


def write_pngs(folder, kept=FALCOR_KEPT, sizes=FALCOR_SIZES, mark=MARK):
    """Write a folder of PNG files; give the folder of the images."""
    images = folder / "images"
    images.mkdir(parents=True)
    for number in numbers_of(kept, sizes):
        Image.fromarray(picture(number, 128, 128)).save(images / f"{number:06d}.png")
    if mark is not None:
        (folder / "SYNTHETIC.json").write_text(json.dumps(mark))
    return images


def publish(monkeypatch, name, *paths):
    """Let files count as the published ones."""
    files = [PublicFile(path.name, ("https://x/",), hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]
    monkeypatch.setattr(DATASETS[name], "originals", tuple(files))


def lines(report, path):
    """The faults without the path that each of them begins with."""
    assert all(fault.startswith(str(path)) for fault in report.faults)
    assert all("\n" not in fault for fault in report.faults)
    return [fault.removeprefix(str(path)).removeprefix(": ") for fault in report.faults]
