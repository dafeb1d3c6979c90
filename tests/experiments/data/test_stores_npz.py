"""Sprites from an npz file."""

import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from tiny_files import MARK, SPRITES_KEPT, SPRITES_SIZES, numbers_of, rows_of, silhouette, sprites_arrays, write_sprites
from workers import check_workers

from latentflow_experiments.data.frames import FrameStore
from latentflow_experiments.data.sets.dsprites import DSPRITES
from latentflow_experiments.data.stores import npz as module
from latentflow_experiments.data.stores import open_frames
from latentflow_experiments.data.stores.npz import NpzFrames
from latentflow_experiments.errors import DataError

NUMBERS = numbers_of(SPRITES_KEPT, SPRITES_SIZES)
FORKS = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_sprites(tmp_path_factory.mktemp("dsprites") / "tiny.npz")


@pytest.fixture
def frames(tiny, tmp_path):
    return NpzFrames(tiny, DSPRITES, cache_folder=tmp_path / "cache")


def test_images_come_in_the_order_that_is_asked_for(frames):
    """Catches a transposed or shifted index, packed bits in the wrong order, and 0 and 1 instead of 0 and 255."""
    store: FrameStore = frames
    indices = np.array([5, 0, 23, 5, 1, 22])
    read = store.read(indices)
    assert read.dtype == np.uint8
    assert read.shape == (6, 64, 64, 1)
    for image, index in zip(read, indices, strict=True):
        np.testing.assert_array_equal(image[..., 0], silhouette(NUMBERS[index]) * 255)
    assert store.read(np.array([], np.int64)).shape == (0, 64, 64, 1)


def test_the_grid_is_that_of_the_values_that_are_there(frames):
    """Catches digits that count within the file instead of within the family."""
    assert frames.digits == SPRITES_KEPT
    assert frames.grid.sizes == (1, 2, 2, 3, 1, 2)
    assert frames.synthetic == MARK
    assert frames.shape == (1, 64, 64)


@pytest.mark.parametrize("index", [-1, 24])
def test_an_index_out_of_range_is_refused(frames, index):
    """Catches negative indices that count from the end."""
    with pytest.raises(ValueError, match=f"expected values from 0 to 23, got {index}"):
        frames.read(np.array([0, index]))


def test_an_original_has_no_mark(tmp_path):
    assert NpzFrames(write_sprites(tmp_path / "tiny.npz", mark=None), DSPRITES, cache_folder=tmp_path).synthetic is None


def test_the_archive_is_unpacked_once(tiny, tmp_path, monkeypatch):
    """Catches an index that is not kept, or that stays when the archive is replaced by another."""
    archive, cache = tmp_path / "a.npz", tmp_path / "cache"
    archive.write_bytes(tiny.read_bytes())
    unpacked = []
    blocks = module.image_blocks
    monkeypatch.setattr(module, "image_blocks", lambda *given: unpacked.append(given) or blocks(*given))
    for _ in range(2):
        NpzFrames(archive, DSPRITES, cache_folder=cache).read(np.array([0]))
    assert len(unpacked) == 1
    assert [path.stat().st_size for path in cache.iterdir()] == [24 * 516]
    other = sprites_arrays()["imgs"]
    write_sprites(archive, imgs=1 - other)
    np.testing.assert_array_equal(
        NpzFrames(archive, DSPRITES, cache_folder=cache).read(np.array([3]))[0, ..., 0], (1 - other[3]) * 255
    )
    assert len(unpacked) == 2


def test_a_damaged_archive_leaves_no_index(tmp_path):
    """Catches an index that is written in place, so that half of it would be taken for the whole."""
    images = sprites_arrays()["imgs"]
    images[17, 3, 3] = 2
    frames = NpzFrames(write_sprites(tmp_path / "tiny.npz", imgs=images), DSPRITES, cache_folder=tmp_path / "cache")
    with pytest.raises(DataError, match=r"tiny\.npz: image 17: expected pixels of 0 and 1, got 2"):
        frames.read(np.array([0]))
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_index_of_the_wrong_size_is_made_again(frames, tmp_path):
    """Catches an index that is trusted by its name only."""
    expected = frames.read(np.array([23]))
    (index,) = (tmp_path / "cache").iterdir()
    index.write_bytes(index.read_bytes()[:-1])
    again = NpzFrames(frames.path, DSPRITES, cache_folder=tmp_path / "cache")
    np.testing.assert_array_equal(again.read(np.array([23])), expected)


def test_the_images_are_never_all_in_memory(tmp_path):
    """Catches reading the whole array, of 33 MB here, at once: unpacking stays below a quarter of it."""
    kept = ((0,), (0,), (0, 1), (0, 1, 2, 3), range(32), range(32))
    one = silhouette(1)
    arrays = {
        "imgs": np.broadcast_to(one, (8192, 64, 64)),
        "latents_classes": rows_of(kept),
    }
    path = tmp_path / "large.npz"
    np.savez_compressed(path, **arrays)
    frames = NpzFrames(path, DSPRITES, cache_folder=tmp_path / "cache")
    tracemalloc.start()
    try:
        read = frames.read(np.array([8191]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(read[0, ..., 0], one * 255)
    assert peak < 8192 * 4096 / 4


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_the_pickle_is_never_loaded(tmp_path):
    """Catches `allow_pickle=True`: unpickling what a stranger wrote would run it."""
    bomb = np.array(Bomb(tmp_path / "exploded"), dtype=object)
    NpzFrames(write_sprites(tmp_path / "a.npz", metadata=bomb), DSPRITES, cache_folder=tmp_path).read(np.array([0]))
    for name in ("imgs", "latents_classes"):
        path = write_sprites(tmp_path / "b.npz", **{name: bomb})
        with pytest.raises(DataError, match=r"imgs|latents_classes"):
            NpzFrames(path, DSPRITES, cache_folder=tmp_path)
    assert not (tmp_path / "exploded").exists()


def swapped(rows):
    rows = rows.copy()
    rows[[3, 4]] = rows[[4, 3]]
    return rows


CLASSES = sprites_arrays()["latents_classes"]
IMAGES = sprites_arrays()["imgs"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"imgs": None}, "expected the key imgs, got none"),
        ({"latents_classes": None}, "expected the key latents_classes, got none"),
        ({"imgs": IMAGES.astype(np.int32)}, r"expected imgs of uint8 and shape \(24, 64, 64\) in C order, got int32"),
        ({"imgs": IMAGES[:, :32]}, r"shape \(24, 64, 64\) in C order, got uint8 and shape \(24, 32, 64\)"),
        ({"imgs": IMAGES[:23]}, r"shape \(24, 64, 64\) in C order, got uint8 and shape \(23, 64, 64\)"),
        ({"imgs": np.asfortranarray(IMAGES)}, "got uint8 and .* in Fortran order"),
        (
            {"latents_classes": CLASSES.astype(float)},
            r"expected latents_classes of int64 and shape \(n, 6\), got fl",
        ),
        (
            {"latents_classes": CLASSES[:, :5]},
            r"of int64 and shape \(n, 6\), got int64 and shape \(24, 5\)",
        ),
        ({"latents_classes": CLASSES[:-1]}, "expected all 24 combinations of the 1 x 2 x 2 x 3 x 1 x 2 values"),
        ({"latents_classes": swapped(CLASSES)}, "row 3: expected orientation 13, with the last factor running fastest"),
        ({"latents_classes": CLASSES + np.array([0, 0, 0, 0, 25, 0])}, "row 0: expected posX from 0 to 31, got 32"),
        ({"latents_classes": CLASSES[:0]}, "expected at least one image"),
    ],
)
def test_every_wrong_layout_is_named(tmp_path, changed, message):
    path = write_sprites(tmp_path / "tiny.npz", **changed)
    with pytest.raises(DataError, match=message) as caught:
        NpzFrames(path, DSPRITES, cache_folder=tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", "half"])
def test_something_that_is_no_archive_is_named(tiny, tmp_path, content):
    path = tmp_path / "tiny.npz"
    path.write_bytes(tiny.read_bytes()[: tiny.stat().st_size // 2] if content == "half" else content)
    with pytest.raises(
        DataError, match=r"tiny\.npz: expected an npz file that is complete, got File is not a zip file"
    ):
        NpzFrames(path, DSPRITES, cache_folder=tmp_path)
    with pytest.raises(DataError, match=r"absent\.npz: expected an npz file that is complete, got no such file"):
        NpzFrames(tmp_path / "absent.npz", DSPRITES, cache_folder=tmp_path)


def test_a_changed_byte_in_the_images_is_noticed(tiny, tmp_path):
    """Catches images that are read without the check sum of the archive."""
    data = bytearray(tiny.read_bytes())
    with zipfile.ZipFile(tiny) as archive:
        place = archive.getinfo("imgs.npy")
    data[place.header_offset + place.compress_size // 2] ^= 1
    path = tmp_path / "tiny.npz"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"tiny\.npz: image 0: expected readable data"):
        NpzFrames(path, DSPRITES, cache_folder=tmp_path).read(np.array([0]))


def test_data_after_the_last_image_is_refused(tiny, tmp_path):
    """Catches a header that says fewer images than there are: the check sum would never be compared."""
    path = tmp_path / "tiny.npz"
    with zipfile.ZipFile(tiny) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) + (b"\0" if name == "imgs.npy" else b""))
    with pytest.raises(DataError, match="expected 24 images, got more data in imgs"):
        NpzFrames(path, DSPRITES, cache_folder=tmp_path).read(np.array([0]))


def test_a_cache_that_cannot_be_written_is_named(tiny, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(DataError, match=r"\.bits: expected an index of 12384 bytes, got"):
        NpzFrames(tiny, DSPRITES, cache_folder=tmp_path / "cache").read(np.array([0]))


def test_a_pickled_store_does_not_carry_the_images(frames):
    """Catches a mapped index that is copied into the pickle."""
    first = frames.read(np.array([7]))
    sent = pickle.dumps(frames)
    assert len(sent) < 4096
    np.testing.assert_array_equal(pickle.loads(sent).read(np.array([7])), first)


@FORKS
def test_workers_read_what_the_parent_reads(frames):
    check_workers(frames)


def test_the_family_says_which_file_it_is(tiny, cache, tmp_path):
    """Catches a store for the wrong format; the index goes into the user's cache."""
    (tmp_path / DSPRITES.file).write_bytes(tiny.read_bytes())
    frames = open_frames(DSPRITES, tmp_path)
    assert isinstance(frames, NpzFrames)
    frames.read(np.array([0]))
    assert [path.name for path in (cache / "frames").iterdir()] == [f"{frames.sha256()}.bits"]
