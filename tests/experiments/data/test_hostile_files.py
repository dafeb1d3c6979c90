"""Files that are damaged, not files, or made to harm: refused at once, in one line."""

import errno
import gzip
import json
import multiprocessing
import os
import socket
import struct
import tempfile
import zipfile
import zlib

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tiny_files import (
    FALCOR_KEPT,
    FALCOR_SIZES,
    numbers_of,
    picture,
    shapes_images,
    shapes_labels,
    silhouette,
    sprites_arrays,
    write_pngs,
    write_shapes,
    write_sprites,
)

from latentflow_experiments.data import SequenceConfig, Source, open_sequences
from latentflow_experiments.data.check import check_folder
from latentflow_experiments.data.contact_sheet import Row, draw_contact_sheet
from latentflow_experiments.data.factors import PublicFile
from latentflow_experiments.data.files import retrieve, variable_root
from latentflow_experiments.data.render import make as make_module
from latentflow_experiments.data.render.make import make
from latentflow_experiments.data.sets import fetch
from latentflow_experiments.data.sets.dsprites import DSPRITES
from latentflow_experiments.data.sets.falcor3d import FALCOR3D
from latentflow_experiments.data.sets.mnist import read_idx
from latentflow_experiments.data.sets.shapes3d import SHAPES3D
from latentflow_experiments.data.stores.cache import CachedFrames
from latentflow_experiments.data.stores.h5 import H5Frames
from latentflow_experiments.data.stores.npz import NpzFrames, read_member
from latentflow_experiments.data.stores.png import NAME_KEY, PngFrames, read_png
from latentflow_experiments.errors import DataError, ExperimentError, UsageError
from latentflow_experiments.locks import owned
from latentflow_experiments.reading import BROKEN, MARK_BYTES, open_regular, parse_mark, read_limited, reading

NUMBERS = numbers_of(FALCOR_KEPT, FALCOR_SIZES)


def bind(path):
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


NOT_FILES = {
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a device": lambda path: os.symlink("/dev/zero", path),
    "a socket": bind,
}


@pytest.mark.parametrize("kind", NOT_FILES)
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    """Catches an open that waits for a writer, or reads a device without an end."""
    path = tmp_path / "x"
    NOT_FILES[kind](path)
    for read in (
        open_regular,
        lambda path: read_limited(path, 9),
        lambda path: NpzFrames(path, DSPRITES, tmp_path / "cache"),
        lambda path: H5Frames(path, SHAPES3D),
        lambda path: read_png(path, (128, 128)),
        lambda path: read_idx(path, (-1,)),
    ):
        with pytest.raises(DataError, match=rf"x: expected a regular file, got {kind}$"):
            read(path)
    if kind != "a folder":
        with pytest.raises(DataError, match="expected a regular file"):
            check_folder(path)
    with pytest.raises(DataError, match="expected a regular file"):
        retrieve(PublicFile("x", ("http://127.0.0.1:1/x",), "0" * 64), tmp_path)


@pytest.mark.parametrize("error", BROKEN)
def test_whatever_a_broken_file_raises_becomes_one_line(tmp_path, error):
    """Catches an exception class that nobody listed, and one without a text."""
    with pytest.raises(DataError) as caught, reading(tmp_path / "a\nb", "a number"):
        raise error
    assert str(caught.value) == f"{tmp_path}/a\\nb: expected a number, got {error.__name__}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "RecursionError|recursion"),
        ('{"a": NaN}', "the number NaN"),
        ('{"a": 1, "a": 2}', "the key 'a' twice"),
        (b"\xff\xfe{", "codec"),
        ("9" * 10_000, "digits"),
        ("x" * (MARK_BYTES + 1), "expected a mark of at most"),
        (json.dumps(["\x1b[2J" * 1000]), r"expected a JSON object in the mark of a stand-in, got .*\.\.\.$"),
    ],
)
def test_a_hostile_mark_is_named_in_one_short_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        parse_mark(text, tmp_path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def bomb(wbits):
    """Three gigabytes of zeros in three megabytes."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return {15: b"\x78\xda", 31: b"\x1f\x8b\x08" + bytes(7)}[wbits] + block * 3000 + packer.flush() + bytes(8)


def test_no_more_of_a_gzip_bomb_is_unpacked_than_expected(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(bomb(31))
    with pytest.raises(DataError, match="expected at most 47,040,016 bytes when unpacked, got more"):
        read_idx(path, (-1, 28, 28))
    path.write_bytes(gzip.compress(bytes(10)) + gzip.compress(bytes(10)))
    with pytest.raises(DataError, match="expected a complete gzip file, got more after its end"):
        read_idx(path, (-1,))
    os.truncate(path, 2**40)
    with pytest.raises(DataError, match=r"expected at most .* bytes, got 1,099,511,627,776"):
        read_idx(path, (-1, 28, 28))


def npy(shape, descr="'|u1'", data=b""):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data


def with_member(path, name, data, method=zipfile.ZIP_DEFLATED):
    write_sprites(path, **({"mark": None} if name == "synthetic" else {name: None}))
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr(f"{name}.npy", data)
    return path


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("latents_classes", npy("(1000000000000, 6)", "'<i8'"), "expected an array latents_classes of at most"),
        ("latents_classes", npy("(-1, 6)", "'<i8'"), "expected an array latents_classes of at most"),
        ("latents_classes", npy("(True, 6)", "'<i8'"), "got shape"),
        ("latents_classes", npy("(9, 6)", "'<i8'", b"few"), "got fewer than the 432 bytes of its header"),
        ("latents_classes", b"\x93NUMPY\2\0\xff\xff\xff\xff", "got a header of 4,294,967,295 bytes"),
        ("latents_classes", npy("(" * 900), "expected a readable array latents_classes, got"),
        ("synthetic", npy("()", "'<U2000000'"), "expected an array synthetic of at most"),
        ("imgs", npy("(1000000000000, 64, 64)"), r"expected imgs of uint8 and shape \(24, 64, 64\)"),
        ("imgs", npy("(24, 64, 64)", "'nonsense'"), "expected an array imgs, got"),
    ],
)
def test_a_size_in_the_header_of_an_array_is_not_believed(tmp_path, name, data, message):
    path = with_member(tmp_path / "a.npz", name, data)
    with pytest.raises(DataError, match=message):
        NpzFrames(path, DSPRITES, tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_large_array_is_read_in_pieces(tmp_path, save):
    """Catches the bound on a table of contents that refuses an array of some megabytes, which cannot be compressed."""
    array = np.random.default_rng(0).integers(0, 256, 5_000_001, np.uint8)
    save(tmp_path / "a.npz", a=array)
    np.testing.assert_array_equal(read_member(tmp_path / "a.npz", "a", array.nbytes), array)
    with pytest.raises(DataError, match="expected an array a of at most 5,000,000 bytes"):
        read_member(tmp_path / "a.npz", "a", array.nbytes - 1)


def test_an_archive_of_other_making_is_refused(tmp_path):
    """Catches methods that unpack without a limit, a table of contents of gigabytes, and keys that reach the screen."""
    path = with_member(tmp_path / "a.npz", "latents_classes", bytes(10_000), zipfile.ZIP_BZIP2)
    with pytest.raises(DataError, match="got one that is compressed by method 12"):
        NpzFrames(path, DSPRITES, tmp_path)
    path = with_member(tmp_path / "a.npz", "\x1b[2J", b"")
    with pytest.raises(DataError, match=r"expected no key but .*, got '\\x1b\[2J.npy'"):
        NpzFrames(path, DSPRITES, tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(50_000):
            archive.writestr(f"{i}.npy", b"")
    with pytest.raises(DataError, match="got a table of contents of 2,"):
        NpzFrames(path, DSPRITES, tmp_path)


@pytest.mark.parametrize("store", ["npz", "h5"])
def test_a_file_larger_than_the_whole_family_is_not_read(tmp_path, store):
    """Catches a hash of 20 gigabytes of nothing."""
    path = tmp_path / (DSPRITES.file if store == "npz" else SHAPES3D.file)
    write_sprites(path) if store == "npz" else write_shapes(path)
    os.truncate(path, 20 * 2**30)
    with pytest.raises(DataError, match=r"expected at most .* bytes, those of all"):
        NpzFrames(path, DSPRITES, tmp_path) if store == "npz" else H5Frames(path, SHAPES3D)
    (fault,) = check_folder(path).faults
    assert "expected at most" in fault


def test_a_flipped_bit_in_the_index_mends_itself(tmp_path):
    """Catches wrong pixels from the cache, without a word, for ever."""
    path, every = write_sprites(tmp_path / "a.npz"), np.arange(24)
    expected = NpzFrames(path, DSPRITES, tmp_path / "cache").read(every)
    (index,) = (tmp_path / "cache").iterdir()
    data = bytearray(index.read_bytes())
    first = data[:516]
    for damage in (slice(3, 4), slice(514, 515), slice(516, 1032)):
        damaged = bytearray(data)
        damaged[damage] = first if damage.stop == 1032 else bytes([damaged[damage.start] ^ 1])
        index.write_bytes(damaged)
        np.testing.assert_array_equal(NpzFrames(path, DSPRITES, tmp_path / "cache").read(every), expected)
        assert index.read_bytes() == data


def test_what_a_killed_unpacking_left_is_cleared(tmp_path):
    frames = NpzFrames(write_sprites(tmp_path / "a.npz"), DSPRITES, tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f".{frames.sha256()}.bits.abcd_123.bits").write_bytes(bytes(100))
    frames.read(np.array([0]))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{frames.sha256()}.bits"]


def test_a_flipped_bit_in_the_cache_mends_itself(tmp_path):
    images, every = write_pngs(tmp_path / "set"), np.arange(16)
    store = PngFrames(images, FALCOR3D)
    CachedFrames(store, 2**24, tmp_path / "cache").read(every)
    (path,) = (tmp_path / "cache").iterdir()
    data = bytearray(path.read_bytes())
    for place in (0, 5, 16 * 8 + 1000):
        data[place] ^= 4
        path.write_bytes(data)
        np.testing.assert_array_equal(CachedFrames(store, 2**24, tmp_path / "cache").read(every), store.read(every))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="expected a regular file, got a pipe"):
        CachedFrames(store, 2**24, tmp_path / "cache").read(every)


def change_h5(path, name, change):
    with h5py.File(path, "r+") as file:
        data = file[name][()]
        del file[name]
        change(file, name, data)


def virtual(file, name, data):
    layout = h5py.VirtualLayout(data.shape, data.dtype)
    layout[:] = h5py.VirtualSource("other.h5", name, data.shape)
    file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("name", ["images", "labels"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file, name, _: file.update({name: h5py.ExternalLink("other.h5", name)}), "got a ExternalLink"),
        (lambda file, name, _: file.update({name: h5py.SoftLink("/other")}), "got a SoftLink"),
        (virtual, "in the file itself, got one in other files"),
        (
            lambda file, name, data: file.create_dataset(name, data.shape, data.dtype, external=[("raw", 0, 10**6)]),
            "in the file itself, got one in other files",
        ),
        (
            lambda file, name, data: file.create_dataset(name, (10**9, *data.shape[1:]), data.dtype, chunks=True),
            "expected at most 480000",
        ),
        (
            lambda file, name, data: file.create_dataset(name, data.shape, data.dtype, chunks=(1, *data.shape[1:])),
            "expected 64 chunks, got 0",
        ),
        (lambda file, name, data: file.create_dataset(name, data.shape, data.dtype), "expected data in the file, got"),
        (
            lambda file, name, data: file.create_dataset(name, data=data, chunks=data.shape, scaleoffset=4),
            r"expected (compression by gzip|chunks of at most)",
        ),
    ],
)
def test_data_that_is_not_in_the_file_is_refused(tmp_path, name, change, message):
    """Catches links that are followed, extents that are believed, and zeros for images that are not there."""
    path = write_shapes(tmp_path / "a.h5")
    write_shapes(tmp_path / "other.h5")
    (tmp_path / "raw").write_bytes(bytes(10**6))
    change_h5(path, name, change)
    with pytest.raises(DataError, match=message):
        H5Frames(path, SHAPES3D)


def test_a_bomb_in_a_chunk_is_refused(tmp_path):
    path = write_shapes(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["images"].id.write_direct_chunk((0, 0, 0, 0), bomb(15))
    with pytest.raises(DataError, match=r"expected chunks of at most 12,288 bytes, got .* compressed ones"):
        H5Frames(path, SHAPES3D)


def test_an_image_in_the_place_of_another_is_noticed(tmp_path):
    """Catches whole data in the wrong place, which no check sum of a chunk or a part notices."""
    rows = np.array(np.meshgrid(*[[0, 1]] * 6, indexing="ij")).reshape(6, -1).T
    make_module.write_h5(tmp_path / "a.h5", [shapes_images()], rows, {})
    assert (H5Frames(tmp_path / "a.h5", SHAPES3D).read(np.arange(64)) == shapes_images()).all()
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["images"].id.write_direct_chunk((0, 0, 0, 0), file["images"].id.read_direct_chunk((1, 0, 0, 0))[1])
    with pytest.raises(DataError, match=r"image 0: expected the check sum .*, got another"):
        H5Frames(tmp_path / "a.h5", SHAPES3D).read(np.array([3, 0]))
    assert "image 0: expected the check sum" in check_folder(tmp_path / "a.h5").text()
    change_h5(tmp_path / "a.h5", "crc32", lambda file, name, data: file.create_dataset(name, data=data[1:]))
    with pytest.raises(DataError, match="expected a check sum crc32 of each image"):
        H5Frames(tmp_path / "a.h5", SHAPES3D)

    images = write_pngs(tmp_path / "set")
    said = PngInfo()
    said.add_text(NAME_KEY, f"falcor3d {NUMBERS[1]:06d}")
    Image.fromarray(picture(NUMBERS[1], 128, 128)).save(images / f"{NUMBERS[0]:06d}.png", pnginfo=said)
    with pytest.raises(DataError, match=f"expected the image falcor3d {NUMBERS[0]:06d}, got falcor3d"):
        PngFrames(images, FALCOR3D).read(np.array([0]))


@pytest.mark.parametrize("place", [-9, -14, 60, 1000])
def test_every_part_of_a_png_file_is_compared_with_its_sum(tmp_path, place):
    """Catches a changed byte of compressed pixels that decodes to other ones: PIL does not look at the sums."""
    images = write_pngs(tmp_path)
    path = images / f"{NUMBERS[0]:06d}.png"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="expected a complete PNG image, got"):
        PngFrames(images, FALCOR3D).read(np.array([0]))


def test_a_huge_image_is_not_decoded(tmp_path):
    header = b"IHDR" + struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data += struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"expected 128 x 128 pixels, .* got 2147483647 x 2147483647"):
        read_png(tmp_path / "a.png", (128, 128))
    os.truncate(tmp_path / "a.png", 2**40)
    with pytest.raises(DataError, match="expected at most 1,310,720 bytes"):
        read_png(tmp_path / "a.png", (128, 128))


def test_a_mark_of_another_set_is_refused_on_opening(tmp_path):
    for mark, message in (
        ({"family": "isaac3d"}, "got one for 'isaac3d'"),
        ({"digits": [[0]] * 6}, "expected the dig"),
    ):
        path = write_sprites(tmp_path / "a.npz", mark)
        with pytest.raises(DataError, match=message):
            NpzFrames(path, DSPRITES, tmp_path)


def test_counts_in_options_are_checked(tmp_path):
    """Catches a billion states, which are a billion numbers in memory."""
    with pytest.raises(UsageError, match="states: expected at most 1000, got 1000000000"):
        open_sequences("digits", "test", SequenceConfig(states=10**9))
    with pytest.raises(UsageError, match="cache-gib: expected a size of at least 0 and at most 1048576, got"):
        Source(cache_gib=1e300)


def test_mnist_of_one_image_is_too_small(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 1, 28, 28) + bytes(784))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 1) + bytes(1))
    for split in ("train", "validation"):
        with pytest.raises(DataError, match=r"mnist: expected more than 5000 training images, .* got 1"):
            open_sequences("mnist", split, source=Source(data=tmp_path))


def test_a_home_of_nobody_is_named(monkeypatch):
    monkeypatch.setenv("LATENTFLOW_DATA", "~nobody_of_this_name/data")
    with pytest.raises(DataError, match="LATENTFLOW_DATA: expected a folder, got"):
        variable_root()


# making and downloading


def _hold(folder, ready):
    with owned(folder, "making images of dsprites"):
        ready.set()
        multiprocessing.Event().wait(60)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_second_call_for_one_folder_is_refused(tmp_path, monkeypatch):
    """Catches two makers that write into one set."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready))
    process.start()
    try:
        assert ready.wait(30)
        for call in (lambda: make(DSPRITES, tmp_path, size=300, workers=1), lambda: fetch("dsprites", tmp_path)):
            with pytest.raises(ExperimentError, match=f"process {process.pid}, which is making images of dsprites"):
                call()
    finally:
        process.kill()
        process.join()
    (tmp_path / ".partial").mkdir()
    left = [tmp_path / f".{DSPRITES.file}.abcdefgh.npz", tmp_path / ".partial" / ".000000.npz.abcdefgh.npz"]
    for path in left:
        path.touch()
    assert make(DSPRITES, tmp_path, size=300, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == [DSPRITES.file]


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["fsync", "mkstemp"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, where):
    """Catches a traceback, and half a file that passes for the set."""
    target = os if where == "fsync" else tempfile
    with monkeypatch.context() as patch:
        patch.setattr(target, where, full)
        with pytest.raises(DataError, match=r"expected a folder to write to, got .*No space left.*; try --out"):
            make(DSPRITES, tmp_path / "set", size=300, workers=1)
        with pytest.raises(DataError, match=r"expected an index of .* bytes, got .*No space left"):
            NpzFrames(write_sprites(tmp_path / "a.npz"), DSPRITES, tmp_path / "cache").read(np.array([0]))
        with pytest.raises(DataError, match=r"sheet\.png: expected a file that can be written, got .*No space left"):
            draw_contact_sheet([Row("a", torch.zeros(2, 1, 8, 8))], "title", tmp_path / "sheet.png")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "a.npz"]
    assert make(DSPRITES, tmp_path / "set", size=300, workers=1)


def test_hdf5_on_a_full_disk_is_an_error_of_the_disk(tmp_path, monkeypatch):
    """Catches the RuntimeError by which h5py says so when it closes the file."""

    def fail(*_):
        raise RuntimeError("Can't decrement id ref count")

    monkeypatch.setattr(make_module, "_write_h5", fail)
    with pytest.raises(OSError, match="decrement"):
        make_module.write_h5(tmp_path / "a.h5", [], np.zeros((0, 6), int), {})


def test_a_damaged_piece_is_removed_and_named(tmp_path, monkeypatch):
    """Catches a traceback from a piece that a power cut has damaged, on every call from then on."""
    with monkeypatch.context() as patch:
        patch.setattr(make_module, "write_npz", full)
        with pytest.raises(DataError, match="No space left"):
            make(DSPRITES, tmp_path, size=300, workers=1)
    (piece,) = (tmp_path / ".partial").glob("*.npz")
    piece.write_bytes(piece.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"000000\.npz: .*; it is removed, run the same command again"):
        make(DSPRITES, tmp_path, size=300, workers=1)
    assert make(DSPRITES, tmp_path, size=300, workers=1)
    (tmp_path / "other" / ".partial").mkdir(parents=True)
    (tmp_path / "other" / ".partial" / "plan.json").write_text("[" * 10**5)
    with pytest.raises(DataError, match=r"plan\.json: expected JSON"):
        make(DSPRITES, tmp_path / "other", size=300, workers=1)


def test_the_names_in_a_report_are_printable(tmp_path):
    images = write_pngs(tmp_path)
    (images / "\x1b[2J\n.png").touch()
    report = check_folder(images)
    assert all(line.isprintable() for line in report.text().splitlines())
    assert "\\x1b[2J\\n.png: expected no file" in report.text()


def test_the_arrays_of_these_tests_are_whole():
    """Catches a helper whose files are refused for another reason than the test names."""
    assert sprites_arrays()["imgs"].shape == (24, *silhouette(0).shape)
    assert len(shapes_labels()) == 64
