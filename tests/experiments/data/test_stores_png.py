"""Falcor3D and Isaac3D from folders of PNG files."""

import pickle

import numpy as np
import pytest
from PIL import Image
from tiny_files import FALCOR_KEPT, FALCOR_SIZES, ISAAC_SIZES, MARK, numbers_of, picture, write_pngs
from workers import check_workers

from latentflow_experiments.data.frames import FrameStore
from latentflow_experiments.data.sets.falcor3d import FALCOR3D
from latentflow_experiments.data.sets.isaac3d import ISAAC3D
from latentflow_experiments.data.stores import open_frames
from latentflow_experiments.data.stores.png import PngFrames
from latentflow_experiments.errors import DataError

NUMBERS = numbers_of(FALCOR_KEPT, FALCOR_SIZES)
ISAAC_KEPT = ((2,), (0, 7), (4,), (0,), (3,), (1,), (0, 5), (2,), (0, 3))
FORKS = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


@pytest.fixture
def images(tmp_path):
    return write_pngs(tmp_path / "set")


@pytest.mark.parametrize(
    ("family", "kept", "sizes"), [(FALCOR3D, FALCOR_KEPT, FALCOR_SIZES), (ISAAC3D, ISAAC_KEPT, ISAAC_SIZES)]
)
def test_unsorted_and_repeated_images_come_as_asked(tmp_path, family, kept, sizes):
    """Catches names that are numbered within the subset, or sorted as text or in the order of the folder."""
    frames: FrameStore = PngFrames(write_pngs(tmp_path, kept, sizes), family)
    numbers = numbers_of(kept, sizes)
    indices = np.array([5, 0, 7, 5, 1])
    read = frames.read(indices)
    assert read.dtype == np.uint8
    assert read.shape == (5, 128, 128, 3)
    for image, index in zip(read, indices, strict=True):
        np.testing.assert_array_equal(image, picture(numbers[index], 128, 128))
    assert frames.digits == kept
    assert frames.grid.sizes == tuple(map(len, kept))
    assert frames.read(np.array([], np.int64)).shape == (0, 128, 128, 3)


def test_the_folder_or_the_one_around_it_will_do(images):
    for path in (images, images.parent):
        frames = PngFrames(path, FALCOR3D)
        assert frames.path == images
        assert frames.synthetic == MARK
    assert isinstance(open_frames(FALCOR3D, images.parent), PngFrames)
    (images.parent / "SYNTHETIC.json").unlink()
    assert PngFrames(images, FALCOR3D).synthetic is None


@pytest.mark.parametrize("index", [-1, 16])
def test_an_index_out_of_range_is_refused(images, index):
    """Catches negative indices that count from the end."""
    with pytest.raises(ValueError, match=f"expected values from 0 to 15, got {index}"):
        PngFrames(images, FALCOR3D).read(np.array([index]))


def test_other_files_do_not_count(images):
    """Catches a pattern that takes any digits or any ending for an image."""
    for name in ("Thumbs.db", "0000001.png", "12345.png", "000001.jpg", "٠٠٠٠٠١.png", "000001.png.part"):
        (images / name).touch()
    assert PngFrames(images, FALCOR3D).digits == FALCOR_KEPT


def test_a_missing_image_is_noticed(images):
    (images / f"{NUMBERS[6]:06d}.png").unlink()
    with pytest.raises(
        DataError, match=r"images: names: expected all 16 combinations .* got 15 rows; `latentflow data"
    ):
        PngFrames(images, FALCOR3D)


def test_a_number_beyond_the_family_is_named(images):
    (images / "233280.png").touch()
    with pytest.raises(DataError, match=r"expected numbers below 233280, got 233280\.png"):
        PngFrames(images, FALCOR3D)


def test_an_empty_folder_and_none_are_named(tmp_path):
    with pytest.raises(DataError, match=r"expected images such as 000000\.png, got none"):
        PngFrames(tmp_path, FALCOR3D)
    with pytest.raises(DataError, match="absent: expected a folder of images, got"):
        PngFrames(tmp_path / "absent", FALCOR3D)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "expected a complete PNG image, got image file is truncated"),
        (lambda data: data[:20000] + bytes(1000) + data[21000:], "expected a complete PNG image, got"),
        (lambda _: b"", "expected a PNG image, got something else"),
        (lambda _: b"<html>not found</html>", "expected a PNG image, got something else"),
    ],
)
def test_a_damaged_image_is_named(images, damage, message):
    path = images / f"{NUMBERS[6]:06d}.png"
    path.write_bytes(damage(path.read_bytes()))
    frames = PngFrames(images, FALCOR3D)
    with pytest.raises(DataError, match=message) as caught:
        frames.read(np.array([5, 6, 7]))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(frames.read(np.array([5]))[0], picture(NUMBERS[5], 128, 128))


@pytest.mark.parametrize("size", [512, 1024, 127])
def test_an_image_of_the_large_version_is_named(images, size):
    """Catches large originals that would be cut or shrunk in silence."""
    Image.new("RGB", (size, size)).save(images / f"{NUMBERS[0]:06d}.png")
    with pytest.raises(DataError, match=rf"{NUMBERS[0]:06d}\.png: expected 128 x 128 pixels, .* got {size} x {size}"):
        PngFrames(images, FALCOR3D).read(np.array([0]))


def test_a_jpeg_in_disguise_is_refused(images):
    """Catches a decoder that takes any format for PNG."""
    Image.new("RGB", (128, 128)).save(images / f"{NUMBERS[0]:06d}.png", format="JPEG")
    with pytest.raises(DataError, match="expected a PNG image, got something else"):
        PngFrames(images, FALCOR3D).read(np.array([0]))


def test_an_image_with_a_palette_or_opacity_is_read_in_color(images):
    red = Image.new("RGB", (128, 128), (204, 51, 51))
    for mode in ("RGBA", "P"):
        red.convert(mode).save(images / f"{NUMBERS[0]:06d}.png")
        read = PngFrames(images, FALCOR3D).read(np.array([0]))
        assert (read == (204, 51, 51)).all()


def test_a_set_is_known_by_its_names_and_sizes(images):
    """Catches one identity for two sets, and one that changes with the order of the folder."""
    first = PngFrames(images, FALCOR3D).sha256()
    assert PngFrames(images.parent, FALCOR3D).sha256() == first
    with (images / f"{NUMBERS[3]:06d}.png").open("ab") as file:
        file.write(b"\0")
    assert PngFrames(images, FALCOR3D).sha256() != first


def test_a_broken_mark_is_named(images):
    for content, message in (("{", "expected JSON in the mark"), ("[1]", "expected a JSON object")):
        (images.parent / "SYNTHETIC.json").write_text(content)
        with pytest.raises(DataError, match=f"SYNTHETIC.json: {message}"):
            PngFrames(images, FALCOR3D)


@FORKS
def test_workers_read_what_the_parent_reads(images):
    frames = PngFrames(images, FALCOR3D)
    check_workers(frames)
    every = np.arange(16)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(frames)).read(every), frames.read(every))
