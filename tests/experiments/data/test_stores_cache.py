"""Decoded images that stay on the disk."""

import errno
import multiprocessing
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest

from latentflow_experiments.data.frames import FactorGrid, FrameStore
from latentflow_experiments.data.stores.cache import CachedFrames
from latentflow_experiments.errors import DataError, UsageError

FRAME = 4 * 5 * 3 + 8
FORKS = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


class Counted:
    """Images whose pixels say which ones they are; remembers what it was asked for."""

    def __init__(self, name="a", count=40, shape=(3, 4, 5), shift=0):
        self.path, self.name, self.shape, self.shift = Path("counted"), name, shape, shift
        self.grid = FactorGrid(("number",), (count,))
        self.digits = (tuple(range(count)),)
        self.synthetic = {"generator": "a test"}
        self.asked = []

    def read(self, indices):
        self.asked.append(indices.tolist())
        return pixels_of(indices, self.shape, self.shift)

    def sha256(self):
        return self.name * 64


def pixels_of(indices, shape=(3, 4, 5), shift=0):
    channels, height, width = shape
    pixels = np.arange(height * width * channels) + 7 * np.asarray(indices)[:, None] + shift
    return (pixels % 256).reshape(-1, height, width, channels).astype(np.uint8)


@pytest.mark.parametrize("slots", [1, 7, 40, 1000])
def test_it_is_the_store_whatever_the_limit(tmp_path, slots):
    """Catches an image that is taken for another one of the same slot."""
    store = Counted()
    frames: FrameStore = CachedFrames(store, slots * FRAME, tmp_path)
    rng = np.random.default_rng(slots)
    for size in (1, 5, 40, 100, 0):
        indices = rng.integers(0, 40, size)
        read = frames.read(indices)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, pixels_of(indices))
    assert (frames.path, frames.grid, frames.digits) == (store.path, store.grid, store.digits)
    assert (frames.shape, frames.synthetic, frames.sha256()) == (store.shape, store.synthetic, "a" * 64)


def test_what_was_read_is_not_read_again(tmp_path):
    """Catches a cache that never hits, several calls of the store for one batch, and repeated images in a call."""
    store = Counted()
    frames = CachedFrames(store, 40 * FRAME, tmp_path)
    frames.read(np.array([3, 9, 3, 0]))
    frames.read(np.array([0, 9, 5, 3, 5]))
    frames.read(np.array([9, 5, 5]))
    assert store.asked == [[0, 3, 9], [5]]


def test_the_next_process_finds_what_this_one_has_read(tmp_path):
    CachedFrames(Counted(), 40 * FRAME, tmp_path).read(np.arange(40))
    store = Counted()
    np.testing.assert_array_equal(
        CachedFrames(store, 40 * FRAME, tmp_path).read(np.arange(39, -1, -1)), pixels_of(np.arange(39, -1, -1))
    )
    assert store.asked == []


def test_a_returned_image_is_not_the_cache_itself(tmp_path):
    """Catches a view into the file: whoever scales an image in place would spoil it for all."""
    frames = CachedFrames(Counted(), 40 * FRAME, tmp_path)
    for _ in range(2):
        frames.read(np.arange(8))[:] = 0
    np.testing.assert_array_equal(frames.read(np.arange(8)), pixels_of(np.arange(8)))


@pytest.mark.parametrize("limit", [FRAME, 10 * FRAME - 1, 12 * FRAME + 17])
def test_the_file_stays_within_the_limit(tmp_path, limit):
    """Catches a limit that counts the pixels only."""
    frames = CachedFrames(Counted(), limit, tmp_path)
    frames.read(np.arange(40))
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert limit - FRAME < size <= limit


def test_a_limit_below_one_image_is_refused(tmp_path):
    with pytest.raises(UsageError, match=f"expected room for an image of 60 bytes, got {FRAME - 1}"):
        CachedFrames(Counted(), FRAME - 1, tmp_path)


@pytest.mark.parametrize("other", [Counted("b", shift=1), Counted(shape=(3, 5, 4), shift=1)])
def test_another_set_has_another_cache(tmp_path, other):
    """Catches the images of one data set that come up in another one."""
    indices = np.arange(40)
    CachedFrames(Counted(), 40 * FRAME, tmp_path).read(indices)
    read = CachedFrames(other, 40 * FRAME, tmp_path).read(indices)
    np.testing.assert_array_equal(read, pixels_of(indices, other.shape, 1))
    assert other.asked


def test_another_limit_takes_the_place_of_the_first(tmp_path):
    """Catches a folder that grows with every limit, and slots of one limit that are read with another one."""
    first = CachedFrames(Counted(), 40 * FRAME, tmp_path)
    first.read(np.arange(40))
    second = CachedFrames(Counted(), 7 * FRAME, tmp_path)
    np.testing.assert_array_equal(second.read(np.arange(40)), pixels_of(np.arange(40)))
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [7 * FRAME]
    np.testing.assert_array_equal(first.read(np.arange(40)), pixels_of(np.arange(40)))


@pytest.mark.parametrize("index", [-1, 40])
def test_an_index_out_of_range_is_refused(tmp_path, index):
    """Catches -1, whose entry would be that of a free slot."""
    with pytest.raises(ValueError, match=f"expected values from 0 to 39, got {index}"):
        CachedFrames(Counted(), 40 * FRAME, tmp_path).read(np.array([index]))


def test_a_new_cache_holds_nothing(tmp_path):
    """Catches zeros of a new file that pass for image 0."""
    store = Counted()
    np.testing.assert_array_equal(CachedFrames(store, 40 * FRAME, tmp_path).read(np.array([0])), pixels_of([0]))
    assert store.asked == [[0]]


class Deadly(np.ndarray):
    """Pixels that kill the process in the middle of being written."""

    def __setitem__(self, slots, values):
        super().__setitem__(slots, 99)
        os.kill(os.getpid(), signal.SIGKILL)


def _die(folder):
    frames = CachedFrames(Counted(), 7 * FRAME, folder)
    opened = frames._cache()
    frames._opened = opened._replace(pixels=opened.pixels.view(Deadly))
    frames.read(np.array([8, 9]))


@FORKS
def test_a_killed_process_leaves_no_wrong_image(tmp_path):
    """Catches a slot that is claimed before its pixels are there, or keeps its owner while they are written."""
    frames = CachedFrames(Counted(), 7 * FRAME, tmp_path)
    frames.read(np.arange(7))
    process = multiprocessing.get_context("fork").Process(target=_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = Counted()
    again = CachedFrames(store, 7 * FRAME, tmp_path)
    np.testing.assert_array_equal(again.read(np.array([0, 1, 2, 3])), pixels_of([0, 1, 2, 3]))
    assert store.asked == [[1, 2]]
    np.testing.assert_array_equal(again.read(np.array([8, 9])), pixels_of([8, 9]))


@FORKS
def test_processes_that_write_to_the_same_slots_read_right_images(tmp_path):
    """Catches two writers of which one claims the slot and the other one fills it."""
    shape = (3, 64, 64)
    frames = CachedFrames(Counted(shape=shape), 4 * (64 * 64 * 3 + 8), tmp_path)
    frames.read(np.arange(4))

    def fight(seed):
        rng = np.random.default_rng(seed)
        for _ in range(150):
            indices = rng.integers(0, 40, 30)
            if (frames.read(indices) != pixels_of(indices, shape)).any():
                os._exit(1)

    processes = [multiprocessing.get_context("fork").Process(target=fight, args=(seed,)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]


def test_a_pickled_cache_opens_its_file_anew(tmp_path):
    frames = CachedFrames(Counted(), 40 * FRAME, tmp_path)
    frames.read(np.arange(40))
    frames.store.asked.clear()
    sent = pickle.dumps(frames)
    assert len(sent) < 4096
    again = pickle.loads(sent)
    np.testing.assert_array_equal(again.read(np.arange(40)), pixels_of(np.arange(40)))
    assert again.store.asked == []


def test_a_full_disk_is_named_at_once(tmp_path, monkeypatch):
    """Catches a sparse file, which kills the process when the disk fills up later."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=f"expected room for {40 * FRAME} bytes of decoded images, got .*No space left"):
        CachedFrames(Counted(), 40 * FRAME, tmp_path).read(np.array([0]))
    assert list(tmp_path.iterdir()) == []
