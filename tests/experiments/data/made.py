"""Small sets of images in the formats of the published ones, written without the package."""

import zipfile

import h5py
import numpy as np
from PIL import Image

from latentflow.experiments.data.family import FALCOR3D, SHAPES3D, SPRITES

HUES = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
SCALES = [0.75 + 0.5 * i / 7 for i in range(8)]
DEGREES = [-30 + 60 * i / 14 for i in range(15)]


def product(digits):
    """All combinations, the last factor fastest."""
    return np.array(np.meshgrid(*digits, indexing="ij")).reshape(len(digits), -1).T


def sprites(path, digits=((0,), (0, 1, 2), (0, 5), (0, 13), (0, 8, 16), (31,)), change=None):
    """An npz file whose images hold the number of the whole family in their first 20 pixels, as bits."""
    rows = product(digits)
    numbers = rows @ np.array(SPRITES.grid.bases)
    images = np.zeros((len(rows), 64, 64), np.uint8)
    images[:, 0, :20] = numbers[:, None] >> np.arange(20) & 1
    images[:, 63, 63] = 1
    arrays = {
        "imgs": images,
        "latents_classes": rows.astype(np.int64),
        "latents_values": rows.astype(np.float64),
        "metadata": np.array({"not": "read"}, dtype=object),
    }
    if change is not None:
        change(arrays)
    np.savez_compressed(path, **arrays)
    return numbers


def sprite_numbers(pixels):
    """The numbers that images of sprites hold."""
    return (pixels[:, 0, :20, 0] > 0) @ (1 << np.arange(20))


def shapes(path, digits=((0, 4, 8), (1,), (0, 9), (0, 7), (0, 3), (7, 14)), change=None):
    """An HDF5 file whose images hold the digits of the whole family in the first row."""
    rows = product(digits)
    images = np.zeros((len(rows), 64, 64, 3), np.uint8)
    images[:, 0, :6, 1] = rows
    images[:, 63, 63, 2] = 200
    tables = (HUES, HUES, HUES, SCALES, [0, 1, 2, 3], DEGREES)
    labels = np.stack([np.array(table)[rows[:, j]] for j, table in enumerate(tables)], -1)
    arrays = {"images": images, "labels": labels.astype(np.float64)}
    if change is not None:
        change(arrays)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return rows @ np.array(SHAPES3D.grid.bases)


def pngs(folder, digits=((0, 4), (0,), (5,), (0,), (0, 2, 4), (1,), (0, 5)), size=128):
    """A folder of PNG files whose images hold their number in the colour of one pixel."""
    folder.mkdir(parents=True)
    numbers = product(digits) @ np.array(FALCOR3D.grid.bases)
    for number in numbers.tolist():
        pixels = np.full((size, size, 3), 40, np.uint8)
        pixels[3, 7] = number >> 16 & 255, number >> 8 & 255, number & 255
        Image.fromarray(pixels).save(folder / f"{number:06d}.png")
    return numbers


def png_numbers(pixels):
    """The numbers that images from such files hold."""
    return pixels[:, 3, 7].astype(int) @ np.array([65536, 256, 1])


def cut(path, share):
    """Keep only the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def damage_member(path, name):
    """Flip a byte in the middle of a member of a zip file."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
    data = bytearray(path.read_bytes())
    data[info.header_offset + 60 + info.compress_size // 2] ^= 0xFF
    path.write_bytes(data)
