"""Data files, whole ones and what may be made of them by accident or on purpose."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from latentflow_experiments.data.factors import Family
from latentflow_experiments.data.frames import FactorGrid, Pixels, pick
from latentflow_experiments.data.render.make import write_h5, write_npz, write_pngs
from latentflow_experiments.data.render.sprites import draw_sprites
from latentflow_experiments.data.sets.dsprites import DSPRITES
from latentflow_experiments.data.sets.falcor3d import FALCOR3D
from latentflow_experiments.data.sets.shapes3d import SHAPES3D
from latentflow_experiments.data.stores.h5 import LABELS
from latentflow_experiments.data.stores.png import MARK

__all__ = ["FAMILY_OF", "FORMATS", "MNIST", "expected_pixels", "mutate", "write_originals"]

Rng = np.random.Generator
Mutation = Callable[[Path, Rng], str]

FAMILY_OF = {
    "npz": DSPRITES,
    "npz of others": DSPRITES,
    "h5": SHAPES3D,
    "h5 of others": SHAPES3D,
    "png": FALCOR3D,
    "png of others": FALCOR3D,
    "mark": FALCOR3D,
    "index": DSPRITES,
    "cache": FALCOR3D,
}
"""The family of each kind of file; those of others have no check sums of ours."""

FORMATS = (*FAMILY_OF, "mnist gz", "mnist raw")
MNIST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

_MEBIBYTE = 2**20
_HUGE = (0, 1, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1)


def rows_of(family: Family) -> tuple[tuple[tuple[int, ...], ...], np.ndarray]:
    """Return the smallest part of a family that has sequences: the values of each factor, and the rows."""
    kept = tuple(tuple(range(factor.size))[:2] for factor in family.factors)
    grid = FactorGrid(family.grid.names, tuple(map(len, kept)))
    return kept, pick(kept, grid.decode(np.arange(len(grid))))


def expected_pixels(name: str) -> Pixels:
    """Return the images that a whole file of a format holds."""
    if name not in FAMILY_OF:
        return np.random.default_rng(7).integers(0, 256, (40, 28, 28), np.uint8)
    family = FAMILY_OF[name]
    _, rows = rows_of(family)
    if family is DSPRITES:
        return draw_sprites(rows)
    channels, height, width = family.shape
    shape = (len(rows), height // 8, width // 8, channels)
    small = np.random.default_rng(len(rows)).integers(0, 256, shape, np.uint8)
    return small.repeat(8, 1).repeat(8, 2)


def write_originals(folder: Path) -> None:
    """Write a whole set of each format, in a folder of its name.

    Args:
        folder: Where to.
    """
    for name in FORMATS:
        place = folder / name
        place.mkdir(parents=True)
        pixels = expected_pixels(name)
        if name not in FAMILY_OF:
            end = ".gz" if name == "mnist gz" else ""
            _write_idx(place / f"{MNIST[0]}{end}", pixels)
            _write_idx(place / f"{MNIST[1]}{end}", np.arange(len(pixels)) % 10)
            continue
        family = FAMILY_OF[name]
        kept, rows = rows_of(family)
        mark: dict[str, object] = {"generator": "a test", "family": family.name, "digits": [list(k) for k in kept]}
        path = place / family.file
        if name == "h5 of others":
            _write_plain_h5(path, pixels, rows)
        elif family is SHAPES3D:
            write_h5(path, [pixels], rows, mark)
        elif family is DSPRITES:
            write_npz(path, [pixels], rows, mark)
            if name == "npz of others":
                _rewrite_npz(path, {"synthetic": None})
        else:
            path.mkdir()
            ours = name != "png of others"
            write_pngs(path, pixels, family.grid.encode(rows), family if ours else None)
            if ours:
                (place / MARK).write_text(json.dumps(mark))


def _write_idx(path: Path, array: np.ndarray) -> None:
    data = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _write_plain_h5(path: Path, pixels: Pixels, rows: np.ndarray) -> None:
    labels = np.stack([values[rows[:, j]] for j, values in enumerate(LABELS)], -1)
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=pixels, chunks=(1, *pixels.shape[1:]), compression="gzip")
        file.create_dataset("labels", data=labels)


def _rewrite_npz(path: Path, changed: dict[str, bytes | None]) -> None:
    """Write an archive anew with other members; None leaves one out."""
    with zipfile.ZipFile(path) as old:
        members = {name.removesuffix(".npy"): old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in (members | changed).items():
            if data is not None:
                new.writestr(f"{name}.npy", data)


def _member(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(f"{name}.npy")


def _target(place: Path, rng: Rng) -> Path:
    """Choose a file of a set."""
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.name != MARK)
    return files[rng.integers(len(files))]


# damage of bytes, for every format


def flip(path: Path, rng: Rng) -> str:
    """Flip some bits."""
    data = bytearray(path.read_bytes())
    for _ in range(int(rng.integers(1, 5))):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return "flipped bits"


def flip_structure(path: Path, rng: Rng) -> str:
    """Change a byte near the start or the end, where headers and tables are."""
    data = bytearray(path.read_bytes())
    near = min(int(rng.integers(1, 2048)), len(data))
    data[-near if rng.integers(2) else near - 1] = int(rng.integers(256))
    path.write_bytes(data)
    return "changed a byte of the structure"


def truncate(path: Path, rng: Rng) -> str:
    """Keep the first part."""
    os.truncate(path, int(rng.integers(path.stat().st_size)))
    return "truncated"


def _block(data: bytes | bytearray, rng: Rng) -> slice:
    length = int(min(len(data), rng.choice([1, 8, 64, 512, 4096])))
    start = int(rng.integers(len(data) - length + 1))
    return slice(start, start + length)


def zero(path: Path, rng: Rng) -> str:
    """Fill a block with zeros, as a lost sector is."""
    data = bytearray(path.read_bytes())
    block = _block(data, rng)
    data[block] = bytes(block.stop - block.start)
    path.write_bytes(data)
    return "zeroed a block"


def double(path: Path, rng: Rng) -> str:
    """Insert a block once more, or write it over another one."""
    data = bytearray(path.read_bytes())
    block = _block(data, rng)
    copied = data[block]
    other = int(rng.integers(len(data) - len(copied) + 1))
    data[other : other + (len(copied) if rng.integers(2) else 0)] = copied
    path.write_bytes(data)
    return "doubled a block"


def swap(path: Path, rng: Rng) -> str:
    """Exchange two blocks."""
    data = bytearray(path.read_bytes())
    first = _block(data, rng)
    length = first.stop - first.start
    other = int(rng.integers(len(data) - length + 1))
    data[first], data[other : other + length] = data[other : other + length], data[first]
    path.write_bytes(data)
    return "swapped blocks"


def hostile_number(path: Path, rng: Rng) -> str:
    """Write an extreme number over 4 or 8 bytes."""
    data = bytearray(path.read_bytes())
    kind = str(rng.choice(["<I", ">I", "<Q", ">Q"]))
    start = int(rng.integers(max(len(data) - 8, 1)))
    number = struct.pack(kind, int(rng.choice(_HUGE)))
    data[start : start + len(number)] = number
    path.write_bytes(data)
    return "wrote an extreme number"


def replace_content(path: Path, rng: Rng) -> str:
    """Put something else in the place of the content."""
    page = b"<html>not found</html>"
    contents = (b"", page, rng.bytes(5000), path.read_bytes() + rng.bytes(100), bytes(path.stat().st_size))
    which = int(rng.integers(len(contents)))
    path.write_bytes(contents[which])
    return ("emptied", "a web page", "random bytes", "more bytes at the end", "all zeros")[which]


def no_file(path: Path, rng: Rng) -> str:
    """Put something that is no file in its place."""
    path.unlink()
    which = int(rng.integers(6))
    if which == 0:
        os.mkfifo(path)
    elif which == 1:
        path.mkdir()
    elif which == 2:
        path.symlink_to("/dev/zero")
    elif which == 3:
        path.symlink_to(path)
    elif which == 4:
        path.symlink_to("/dev/stdin")
    else:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket must be short
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name[:80])
        finally:
            os.chdir(here)
    return ("a pipe", "a folder", "a device", "a link to itself", "standard input", "a socket")[which]


def sparse(path: Path, _: Rng) -> str:
    """Make a file of 20 GiB that takes no room."""
    os.truncate(path, 20 * 1024 * _MEBIBYTE)
    return "20 GiB of nothing at the end"


def unreadable_name(path: Path, _: Rng) -> str:
    """Add a file whose name clears the screen and starts a line."""
    (path.parent / "\x1b[2J\x1b[31mgone\n\u202e.png").touch()
    return "a name with control characters"


BYTES: tuple[Mutation, ...] = (
    *(flip, flip, flip_structure, flip_structure, truncate, zero, double, swap, hostile_number, hostile_number),
    *(replace_content, no_file, sparse, unreadable_name),
)


def _bomb(mebibytes: int, wbits: int) -> bytes:
    """Make a deflated stream of zeros without compressing them all: a block of it is repeated."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(_MEBIBYTE)) + packer.flush(zlib.Z_FULL_FLUSH)
    end = packer.flush()
    head = {-15: b"", 15: b"\x78\xda", 31: b"\x1f\x8b\x08" + bytes(7)}[wbits]
    return head + block * mebibytes + end + struct.pack("<II", 0, mebibytes * _MEBIBYTE % 2**32)


# damage that knows the format


def _npy(shape: str, descr: str = "'|u1'", data: bytes = b"", version: int = 1) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode("latin-1")
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text + data


def npz_header(place: Path, rng: Rng) -> str:
    """Write another header before the data of an array."""
    path = next(place.rglob("*.npz"))
    name = str(rng.choice(["imgs", "latents_classes", "latents_values"]))
    data = _member(path, name)[128:]
    deep = "(" * 900 + ")" * 900
    headers = [
        _npy("(1000000000, 64, 64)", data=data),
        _npy("(99999999999999999999, 64, 64)", data=data),
        _npy("(-1, 64, 64)", data=data),
        _npy("(True, 64, 64)", data=data),
        _npy(deep, data=data),
        _npy("(1, 64, 64", data=data),
        _npy("(1,)", "'|O'", data),
        _npy("(9,)", "[('a', '<i8'), ('b', '|O')]", data),
        _npy("(10000000000,)", "'<U0'", data),
        _npy("(1,)", "'<U2000000000'", data),
        _npy("(1,)", "'nonsense'", data),
        _npy("()", "'\\x1b[31m'", data),
        _npy("(32, 64, 64)", data=data[:-1]),
        _npy("(32, 6)", "'<i8'", data, version=2),
        b"\x93NUMPY\x02\x00" + b"\xff\xff\xff\xff" + data,
        b"\x93NUMPY\x09\x00" + data,
        b"",
        rng.bytes(300),
    ]
    which = int(rng.integers(len(headers)))
    _rewrite_npz(path, {name: headers[which]})
    return f"header {which} of an array"


def npz_bomb(place: Path, rng: Rng) -> str:
    """Let a few megabytes unpack to three gigabytes."""
    path = next(place.rglob("*.npz"))
    name = str(rng.choice(["imgs", "latents_classes", "synthetic"]))
    packed = _bomb(3000, -15)
    _rewrite_npz(path, {name: None})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{name}.npy", packed)
        info = archive.getinfo(f"{name}.npy")
    data = bytearray(path.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    for method, size in ((info.header_offset + 8, info.header_offset + 22), (central + 10, central + 24)):
        data[method : method + 2] = struct.pack("<H", zipfile.ZIP_DEFLATED)
        data[size : size + 4] = struct.pack("<I", 3000 * _MEBIBYTE)
    path.write_bytes(data)
    return f"a bomb in {name}"


def npz_members(place: Path, rng: Rng) -> str:
    """Change the list of members."""
    path = next(place.rglob("*.npz"))
    which = int(rng.integers(5))
    if which == 0:
        _rewrite_npz(path, {str(rng.choice(["imgs", "latents_classes", "latents_values"])): None})
    elif which == 1:
        _rewrite_npz(path, {"\x1b[2Jname": b"x"})
    elif which == 2:
        with zipfile.ZipFile(path, "a") as archive:
            for i in range(60_000):
                archive.writestr(f"{i}.npy", b"")
    elif which == 3:
        with zipfile.ZipFile(path) as old:
            members = {name: old.read(name) for name in old.namelist()}
        method = int(rng.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
        with zipfile.ZipFile(path, "w", method) as new:
            for name, data in members.items():
                new.writestr(name, data)
    else:
        _rewrite_npz(path, {"imgs": _member(path, "latents_classes"), "latents_classes": _member(path, "imgs")})
    return ("a key is missing", "a key too many", "60,000 keys", "another compression", "keys exchanged")[which]


def h5_structure(place: Path, rng: Rng) -> str:  # noqa: PLR0912 - a list of cases
    """Change data sets, links and types of an HDF5 file."""
    path = next(place.rglob("*.h5"))
    other = place / "other.h5"
    shutil.copy(path, other)
    which = int(rng.integers(14))
    name = str(rng.choice(["images", "labels"]))
    with h5py.File(path, "r+") as file:
        whole = file[name][()]
        if which < 9:
            del file[name]
        if which == 0:
            file[name] = h5py.ExternalLink("other.h5", name)
        elif which == 1:
            file[name] = h5py.SoftLink("/elsewhere")
        elif which == 2:
            layout = h5py.VirtualLayout(whole.shape, whole.dtype)
            layout[:] = h5py.VirtualSource("other.h5", name, whole.shape)
            file.create_virtual_dataset(name, layout)
        elif which == 3:
            (place / "raw").write_bytes(whole.tobytes())
            file.create_dataset(name, whole.shape, whole.dtype, external=[("raw", 0, whole.nbytes)])
        elif which == 4:
            file.create_dataset(name, (10**9, *whole.shape[1:]), whole.dtype, chunks=(1, *whole.shape[1:]))
        elif which == 5:
            file.create_dataset(name, whole.shape, whole.dtype, chunks=(1, *whole.shape[1:]))
        elif which == 6:
            file.create_dataset(name, data=whole.astype(str(rng.choice(["<f4", "<i8", "S9", "<c16"]))))
        elif which == 7:
            file.create_group(name)
        elif which == 8:
            file.create_dataset(name, (480_000, *whole.shape[1:]), whole.dtype, chunks=(6000, *whole.shape[1:]))
        elif which == 9:
            file.attrs["synthetic"] = [7, np.zeros(8000), np.bytes_("x" * 60_000)][int(rng.integers(3))]
        elif which == 10:
            file.attrs["synthetic"] = "{" * 50_000
        elif which == 11:
            del file["images"]
            images = file.create_dataset("images", (64, 64, 64, 3), np.uint8, chunks=(1, 64, 64, 3), compression="gzip")
            images.id.write_direct_chunk((0, 0, 0, 0), _bomb(3000, 15))
        elif which == 12:
            first = file["images"].id.read_direct_chunk((1, 0, 0, 0))[1]
            file["images"].id.write_direct_chunk((0, 0, 0, 0), first)
        else:
            file.move("images", "\x1b[2Jimages")
    return (
        *("external link", "soft link", "virtual data set", "external storage", "a billion rows", "no data behind it"),
        *("another type", "a group", "all extents, no data", "another attribute", "nested attribute"),
        *("a bomb in a chunk", "one image in the place of another", "a key with control characters"),
    )[which]


def _head(width: int, height: int, depth: int = 8, color: int = 2) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_content(place: Path, rng: Rng) -> str:
    """Write a hostile image, with right check sums."""
    path = _target(place / "images", rng)
    end = _chunk(b"IEND", b"")
    good = path.read_bytes()
    body = good[33:]
    start = b"\x89PNG\r\n\x1a\n"
    buffer = io.BytesIO()
    Image.new("RGB", (128, 128)).save(buffer, "JPEG")
    contents = (
        start + _head(2**31 - 1, 2**31 - 1) + body,
        start + _head(60_000, 60_000) + _chunk(b"IDAT", _bomb(1000, 15)) + end,
        start + _head(128, 128) + _chunk(b"IDAT", _bomb(3000, 15)) + end,
        start + _head(128, 128) + _chunk(b"zTXt", b"a\0\0" + _bomb(900, 15)) + body,
        start + _head(128, 128) + _chunk(b"iCCP", b"a\0\0" + _bomb(900, 15)) + body,
        start + _head(128, 128) + end,
        start + _head(128, 128, 16) + body,
        start + _head(128, 128, 3, 7) + body,
        start + _head(0, 0) + body,
        start + _head(128, 128) + _chunk(b"PLTE", b"x") + body,
        start + body,
        start + _chunk(b"IHDR", b"") + body,
        start + _head(128, 128) + _chunk(b"acTL", struct.pack(">II", 10**6, 0)) + body,
        buffer.getvalue(),
    )
    which = int(rng.integers(len(contents)))
    path.write_bytes(contents[which])
    return f"hostile image {which}"


def png_folder(place: Path, rng: Rng) -> str:
    """Change which files are in the folder."""
    paths = sorted((place / "images").glob("*.png"))
    first, second = (paths[i] for i in rng.choice(len(paths), 2, replace=False))
    which = int(rng.integers(5))
    if which == 0:
        data = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(data)
    elif which == 1:
        first.write_bytes(second.read_bytes())
    elif which == 2:
        first.unlink()
    elif which == 3:
        first.rename(first.with_name("999999.png"))
    else:
        for path in paths[len(paths) // 2 :]:
            path.unlink()
    done = ("two images exchanged", "one image twice", "one missing", "a number too large", "half of them missing")
    return done[which]


def mark_content(place: Path, rng: Rng) -> str:
    """Write something else into the mark of a stand-in."""
    path = place / MARK
    mark = json.loads(path.read_text())
    texts: Sequence[bytes] = (
        *(b"[" * 100_000, b'{"a":' * 50_000, b'{"a": NaN}', b'{"digits": 1, "digits": 2}', b"null", b"[1]"),
        *(b"\xff\xfe{}", b"", b'{"digits": ' + b"9" * 5000 + b"}", json.dumps({"x": "y" * 5_000_000}).encode()),
        json.dumps(mark | {"family": "\x1b[2J\n"}).encode(),
        json.dumps(mark | {"family": ["isaac3d"]}).encode(),
        json.dumps(mark | {"digits": [[0]] * 7}).encode(),
        json.dumps(mark | {"digits": [[True]] * 7}).encode(),
        json.dumps(mark | {"digits": "\x1b[31m" * 1000}).encode(),
        json.dumps(mark | {"digits": [[2**70, -1]] * 7}).encode(),
        json.dumps(mark | {"digits": {"a": 1}}).encode(),
    )
    which = int(rng.integers(len(texts)))
    path.write_bytes(texts[which])
    return f"hostile mark {which}"


def idx_content(place: Path, rng: Rng) -> str:
    """Write another header, or a hostile stream, into a file of MNIST."""
    path = _target(place, rng)
    packed = path.suffix == ".gz"
    data = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    word = int(rng.integers(1 + data[3])) * 4  # of the header
    edited = data[:word] + struct.pack(">I", int(rng.choice(_HUGE))) + data[word + 4 :]
    pack = gzip.compress if packed else bytes
    contents = (
        pack(edited),
        pack(data + b"\0"),
        pack(data[:-1]),
        pack(struct.pack(">IIII", 0x803, 1, 28, 28) + data[16:800]),
        _bomb(3000, 31),
        gzip.compress(data[:20]) + gzip.compress(data[20:]),
        b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 200_000,
        b"\x1f\x8b\x08\x04" + bytes(6) + b"\xff\xff",
    )
    which = int(rng.integers(len(contents)))
    path.write_bytes(contents[which])
    return (
        *("a number of the header", "a byte more", "a byte less", "one image", "a gzip bomb", "two members"),
        *("a name without an end", "a broken extra field"),
    )[which]


SPECIAL: dict[str, tuple[Mutation, ...]] = {
    "npz": (npz_header, npz_header, npz_bomb, npz_members),
    "npz of others": (npz_header, npz_members),
    "h5": (h5_structure,),
    "h5 of others": (h5_structure,),
    "png": (png_content, png_folder),
    "png of others": (png_content, png_folder),
    "mark": (mark_content,),
    "mnist gz": (idx_content,),
    "mnist raw": (idx_content,),
}


def mutate(name: str, place: Path, rng: Rng) -> str:
    """Damage a set in place.

    Args:
        name: Its format.
        place: Its folder.
        rng: The source of chance.

    Returns:
        What was done, in a few words.
    """
    special = SPECIAL.get(name, ())
    if special and rng.random() < (0.9 if name == "mark" else 0.35):
        return special[rng.integers(len(special))](place, rng)
    damage = BYTES[rng.integers(len(BYTES))]
    if name == "mark":
        return damage(place / MARK, rng)
    if name in ("index", "cache"):
        return damage(_target(place / "frames", rng), rng)
    return damage(_target(place, rng), rng)
