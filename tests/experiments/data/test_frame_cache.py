"""Decoded images that stay on the disk, in a file of limited size."""

import numpy as np
import pytest
from made import shapes

from latentflow.experiments.data.family import SHAPES3D
from latentflow.experiments.data.stores import CachedFrames, H5Frames
from latentflow.experiments.errors import UsageError

ORDER = np.array([7, 3, 3, 0, 11, 2, 3])


@pytest.fixture
def h5_frames(tmp_path):
    path = tmp_path / "3dshapes.h5"
    numbers = shapes(path)
    return H5Frames(path), numbers


def shape_numbers(pixels):
    return pixels[:, 0, :6, 1].astype(int) @ np.array(SHAPES3D.grid.bases)


class Counting:
    """Counts what is read behind a cache."""

    def __init__(self, frames):
        self.frames, self.asked = frames, []

    def read(self, indices):
        self.asked.append(indices.tolist())
        return self.frames.read(indices)

    def __getattr__(self, name):
        return getattr(self.frames, name)


def test_a_cache_of_full_size_reads_each_image_once(h5_frames, tmp_path):
    """Catches a cache that never hits, that hands out other images, or that forgets with the process."""
    frames, numbers = h5_frames
    behind = Counting(frames)
    cached = CachedFrames(behind, 10**9, tmp_path / "cache")
    assert shape_numbers(cached.read(ORDER)).tolist() == numbers[ORDER].tolist()
    assert behind.asked == [[0, 2, 3, 7, 11]]
    assert shape_numbers(cached.read(np.array([11, 5, 0]))).tolist() == numbers[[11, 5, 0]].tolist()
    assert behind.asked[1:] == [[5]]
    again = CachedFrames(behind, 10**9, tmp_path / "cache")
    assert shape_numbers(again.read(ORDER)).tolist() == numbers[ORDER].tolist()
    assert len(behind.asked) == 2
    assert (again.grid, again.digits, again.shape, again.path) == (
        frames.grid,
        frames.digits,
        frames.shape,
        frames.path,
    )


@pytest.mark.parametrize("slots", [1, 3, 7])
def test_a_small_cache_is_right_and_stays_small(h5_frames, tmp_path, slots):
    """Catches two images in one slot, in one read or in two, and a file above its limit."""
    frames, numbers = h5_frames
    limit = slots * (64 * 64 * 3 + 8)
    cached = CachedFrames(frames, limit, tmp_path / "cache")
    rng = np.random.default_rng(0)
    for _ in range(30):
        indices = rng.integers(0, len(numbers), 9)
        assert shape_numbers(cached.read(indices)).tolist() == numbers[indices].tolist()
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= limit


def test_a_cache_after_a_crash(h5_frames, tmp_path, monkeypatch):
    """Catches pixels that were half written when the process died."""
    frames, numbers = h5_frames
    cached = CachedFrames(frames, 10**9, tmp_path / "cache")
    cached.read(np.array([3]))
    owners, pixels = cached._maps
    owners[3], pixels[3, 0] = -1, 77  # as a process leaves them that is killed while it writes
    again = CachedFrames(frames, 10**9, tmp_path / "cache")
    assert shape_numbers(again.read(np.array([3]))).tolist() == [numbers[3]]


def test_a_cache_belongs_to_one_set_of_images(tmp_path):
    """Catches images of a set that was there before."""
    path = tmp_path / "3dshapes.h5"
    shapes(path)
    CachedFrames(H5Frames(path), 10**9, tmp_path / "cache").read(np.array([0]))
    shapes(path, change=lambda arrays: arrays["images"].__setitem__(slice(None), 5))
    assert (CachedFrames(H5Frames(path), 10**9, tmp_path / "cache").read(np.array([0])) == 5).all()


def test_a_cache_without_room(h5_frames):
    """Catches a limit that is silently exceeded."""
    with pytest.raises(UsageError, match="cache: expected room for an image of 12288 bytes, got 100"):
        CachedFrames(h5_frames[0], 100)
