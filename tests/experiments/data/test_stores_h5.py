"""3D Shapes from an HDF5 file."""

import os
import pickle
import tracemalloc

import h5py
import numpy as np
import pytest
from tiny_files import MARK, SHAPES_KEPT, SHAPES_SIZES, numbers_of, picture, shapes_images, shapes_labels, write_shapes
from workers import check_workers

from latentflow_experiments.data.frames import FrameStore
from latentflow_experiments.data.sets.shapes3d import SHAPES3D
from latentflow_experiments.data.stores import open_frames
from latentflow_experiments.data.stores.h5 import LABELS, H5Frames, digits_of_labels
from latentflow_experiments.errors import DataError

NUMBERS = numbers_of(SHAPES_KEPT, SHAPES_SIZES)
COUNT = len(NUMBERS)
FORKS = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes") / "tiny.h5")


@pytest.mark.parametrize("chunks", [(1, 64, 64, 3), (24, 32, 64, 3), (COUNT, 16, 16, 1)])
def test_unsorted_and_repeated_images_come_as_asked(tmp_path, chunks):
    """Catches images in the order of the file instead of that of the indices, and runs that are off by one."""
    frames: FrameStore = H5Frames(write_shapes(tmp_path / "tiny.h5", chunks=chunks), SHAPES3D)
    indices = np.array([31, 0, 1, 2, 31, 63, 62, 7, 5, 0])
    read = frames.read(indices)
    assert read.dtype == np.uint8
    assert read.shape == (10, 64, 64, 3)
    for image, index in zip(read, indices, strict=True):
        np.testing.assert_array_equal(image, picture(NUMBERS[index], 64, 64))
    assert frames.read(np.array([], np.int64)).shape == (0, 64, 64, 3)


def test_the_grid_is_that_of_the_values_that_are_there(tiny):
    """Catches digits that count within the file instead of within the family: hue .9 is digit 9."""
    frames = H5Frames(tiny, SHAPES3D)
    assert frames.digits == SHAPES_KEPT
    assert frames.grid.sizes == (2, 1, 2, 2, 4, 2)
    assert frames.synthetic == MARK
    assert frames.shape == (3, 64, 64)


@pytest.mark.parametrize("index", [-1, COUNT])
def test_an_index_out_of_range_is_refused(tiny, index):
    with pytest.raises(ValueError, match=f"expected values from 0 to {COUNT - 1}, got {index}"):
        H5Frames(tiny, SHAPES3D).read(np.array([0, index]))


def test_labels_of_all_values_count_by_their_order():
    """Catches reliance on documented values that the published file need not have: scale 0 to 1, angles in radians."""
    digits = np.stack([np.arange(480) % size for size in SHAPES_SIZES], -1)
    labels = np.stack([np.linspace(0, 1, size)[digits[:, j]] for j, size in enumerate(SHAPES_SIZES)], -1)
    labels[:, 5] = np.linspace(-0.52, 0.52, 15)[digits[:, 5]]
    np.testing.assert_array_equal(digits_of_labels(labels), digits)


def test_labels_of_some_values_count_by_the_nearest_documented_one():
    """Catches rounding down: .3 is stored as .30000000000000004 or, in single precision, .3000000119."""
    digits = np.array([[3, 7, 0, 6, 2, 13], [1, 9, 5, 1, 0, 2]])
    exact = np.stack([LABELS[j][digits[:, j]] for j in range(6)], -1)
    for labels in (exact, exact.astype(np.float32).astype(np.float64), np.nextafter(exact, -np.inf)):
        np.testing.assert_array_equal(digits_of_labels(labels), digits)


def test_the_documented_labels_are_those_of_the_paper():
    closed = [[k / 10 for k in range(10)]] * 3
    closed += [[0.75 + k / 14 for k in range(8)], [0, 1, 2, 3], [-30 + 30 * k / 7 for k in range(15)]]
    for values, expected in zip(LABELS, closed, strict=True):
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-14)


def changed_labels(row, column, value):
    labels = shapes_labels()
    labels[row, column] = value
    return labels


def swapped_labels():
    labels = shapes_labels()
    labels[[0, 1]] = labels[[1, 0]]
    return labels


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": None}, "expected the data set images, got none"),
        ({"labels": None}, "expected the data set labels, got none"),
        (
            {"images": shapes_images().astype(np.float32)},
            "expected images of uint8, got float32",
        ),
        (
            {"images": shapes_images()[:, :, :32]},
            r"expected images of 64 x 64 pixels .* got \(64, 64, 32, 3\)",
        ),
        ({"images": shapes_images()[:-1]}, rf"expected labels of shape \({COUNT - 1}, 6\), got \({COUNT}, 6\)"),
        ({"labels": shapes_labels()[:, :5]}, r"labels: expected floats of shape \(n, 6\), got float64 and shape"),
        ({"labels": shapes_labels().astype(int)}, "labels: expected floats"),
        ({"labels": changed_labels(5, 1, 0.34)}, r"labels: row 5: expected one of \[0.0, 0.1, .*, got 0.34"),
        ({"labels": changed_labels(9, 0, np.nan)}, "labels: row 9: expected one of .*, got nan"),
        ({"labels": swapped_labels()}, "labels: row 0: expected orientation 4, with the last factor running fastest"),
        ({"images": shapes_images()[1:], "labels": shapes_labels()[1:]}, "labels: expected all 64 combinations"),
    ],
)
def test_every_wrong_layout_is_named(tmp_path, changed, message):
    path = write_shapes(tmp_path / "tiny.h5", **changed)
    with pytest.raises(DataError, match=message) as caught:
        H5Frames(path, SHAPES3D)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_named(tiny, tmp_path, part):
    path = tmp_path / "tiny.h5"
    path.write_bytes(tiny.read_bytes()[: int(part * tiny.stat().st_size)])
    with pytest.raises(DataError, match=r"tiny\.h5: expected a complete HDF5 file, got"):
        H5Frames(path, SHAPES3D)


def test_something_else_or_nothing_is_named(tmp_path):
    (tmp_path / "page.h5").write_text("<html>not found</html>" * 100)
    for name in ("page.h5", "absent.h5"):
        with pytest.raises(DataError, match=f"{name}: expected a complete HDF5 file, got"):
            H5Frames(tmp_path / name, SHAPES3D)


def damage(path, index):
    """Change bytes in the middle of the compressed data of one image."""
    with h5py.File(path) as file:
        place = file["images"].id.get_chunk_info_by_coord((index, 0, 0, 0))
    with path.open("r+b") as file:
        file.seek(place.byte_offset + place.size // 2)
        file.write(b"\xff" * 64)


def test_a_damaged_image_is_named_and_the_others_are_read(tmp_path):
    path = write_shapes(tmp_path / "tiny.h5")
    damage(path, 40)
    frames = H5Frames(path, SHAPES3D)
    with pytest.raises(DataError, match=r"tiny\.h5: image 40: expected readable data, got"):
        frames.read(np.array([2, 40]))
    np.testing.assert_array_equal(frames.read(np.array([41]))[0], picture(NUMBERS[41], 64, 64))


def test_reading_a_few_images_reads_no_more(tmp_path, tiny):
    """Catches reading everything between the first and the last image that is asked for, or the whole file."""
    frames = H5Frames(tiny, SHAPES3D)
    frames.read(np.array([1]))
    tracemalloc.start()
    try:
        frames.read(np.array([0, 63]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 64 * 64 * 3

    path = tmp_path / "tiny.h5"
    path.write_bytes(tiny.read_bytes())
    damage(path, 40)
    H5Frames(path, SHAPES3D).read(np.array([39, 41]))


@FORKS
def test_workers_read_what_the_parent_reads(tiny):
    """Catches a file that is shared with a forked process, which moves its position."""
    frames = H5Frames(tiny, SHAPES3D)
    check_workers(frames)


@FORKS
def test_a_forked_process_opens_the_file_itself(tiny):
    """Catches a handle that is taken over: the child must have another open file than its parent."""
    frames = H5Frames(tiny, SHAPES3D)
    frames.read(np.array([0]))
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            inherited = frames._opened[1]
            frames.read(np.array([1]))
            os.write(writer, b"own" if not inherited and frames._opened[0] == os.getpid() else b"not")
        finally:
            os._exit(0)
    os.close(writer)
    os.wait()
    assert os.read(reader, 3) == b"own"
    os.close(reader)
    assert frames._opened[1]
    np.testing.assert_array_equal(frames.read(np.array([2]))[0], picture(NUMBERS[2], 64, 64))


def test_a_pickled_store_opens_its_file_anew(tiny):
    frames = H5Frames(tiny, SHAPES3D)
    sent = pickle.dumps(frames)
    assert len(sent) < 4096
    np.testing.assert_array_equal(pickle.loads(sent).read(np.array([7])), frames.read(np.array([7])))


def test_the_family_says_which_file_it_is(tiny, tmp_path):
    (tmp_path / SHAPES3D.file).write_bytes(tiny.read_bytes())
    assert isinstance(open_frames(SHAPES3D, tmp_path), H5Frames)
