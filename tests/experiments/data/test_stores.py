"""Images read from files of the published formats."""

import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from made import cut, damage_member, png_numbers, pngs, shapes, sprite_numbers, sprites
from PIL import Image

from latentflow.experiments.data import FactorSequences
from latentflow.experiments.data.family import FALCOR3D, SHAPES3D, SPRITES
from latentflow.experiments.data.stores import H5Frames, NpzFrames, PngFrames, npz, open_frames
from latentflow.experiments.errors import DataError

NPZ = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"


@pytest.fixture
def npz_frames(tmp_path):
    path = tmp_path / NPZ
    numbers = sprites(path)
    return NpzFrames(path, cache_folder=tmp_path / "cache"), numbers


@pytest.fixture
def h5_frames(tmp_path):
    path = tmp_path / "3dshapes.h5"
    numbers = shapes(path)
    return H5Frames(path), numbers


@pytest.fixture
def png_frames(tmp_path):
    numbers = pngs(tmp_path / "falcor3d" / "images")
    return PngFrames(tmp_path / "falcor3d", FALCOR3D), numbers


def shape_numbers(pixels):
    return pixels[:, 0, :6, 1].astype(int) @ np.array(SHAPES3D.grid.bases)


ORDER = np.array([7, 3, 3, 0, 11, 2, 3])


def test_sprites_come_in_the_order_that_is_asked_for(npz_frames):
    """Catches images of neighbouring rows, bits in another order, and values other than 0 and 255."""
    frames, numbers = npz_frames
    pixels = frames.read(ORDER)
    assert pixels.shape == (7, 64, 64, 1)
    assert set(np.unique(pixels)) == {0, 255}
    assert (pixels[:, 63, 63] == 255).all()
    assert sprite_numbers(pixels).tolist() == numbers[ORDER].tolist()
    assert frames.digits == ((0,), (0, 1, 2), (0, 5), (0, 13), (0, 8, 16), (31,))
    assert frames.grid.sizes == (1, 3, 2, 2, 3, 1)
    assert frames.synthetic is None


def test_shapes_come_in_the_order_that_is_asked_for(h5_frames):
    """Catches rows in the order of the file, and labels taken for other values: a hue of .4 is value 4."""
    frames, numbers = h5_frames
    pixels = frames.read(ORDER)
    assert pixels.shape == (7, 64, 64, 3)
    assert (pixels[:, 63, 63, 2] == 200).all()
    assert shape_numbers(pixels).tolist() == numbers[ORDER].tolist()
    assert frames.digits == ((0, 4, 8), (1,), (0, 9), (0, 7), (0, 3), (7, 14))
    assert frames.synthetic is None


def test_pngs_come_in_the_order_that_is_asked_for(png_frames):
    """Catches names in the order of the folder, and swapped channels."""
    frames, numbers = png_frames
    pixels = frames.read(ORDER)
    assert pixels.shape == (7, 128, 128, 3)
    assert (pixels[:, 0, 0] == 40).all()
    assert png_numbers(pixels).tolist() == numbers[ORDER].tolist()
    assert frames.digits == ((0, 4), (0,), (5,), (0,), (0, 2, 4), (1,), (0, 5))


def test_sequences_from_files_change_one_factor(h5_frames):
    """Catches a loader whose rows are not those of its grid."""
    frames, _ = h5_frames
    data = FactorSequences(frames, SHAPES3D, "train", names=("floor_hue",))
    sequence = data.sequence(torch.tensor([5]), 0)[0]
    digits = (sequence[:, 1, 0, :6] * 255).round().int()
    assert digits[:, 0].tolist() == [0, 4, 8]
    assert (digits[:, 1:] == digits[0, 1:]).all()
    assert (digits[0, 1:].numpy() == SHAPES3D.grid.decode(shape_numbers(frames.read([5])))[0, 1:]).all()


@pytest.mark.parametrize("store", ["npz_frames", "h5_frames", "png_frames"])
def test_an_empty_read_and_another_order(store, request):
    """Catches a reader that needs at least one image."""
    frames, _ = request.getfixturevalue(store)
    assert frames.read(np.zeros(0, np.int64)).shape == (0, *frames.shape[1:], frames.shape[0])
    every = np.arange(len(frames.grid))
    assert (frames.read(every[::-1]) == frames.read(every)[::-1]).all()


def numbers_there(frames, indices):
    """Read in another process."""
    return frames.read(indices)


@pytest.mark.parametrize(
    ("store", "method"), [("npz_frames", "fork"), ("h5_frames", "fork"), ("h5_frames", "spawn"), ("png_frames", "fork")]
)
def test_workers_open_their_own_files(store, method, request, recwarn):
    """Catches a handle that is shared by processes, or that keeps a store from being sent to one."""
    frames, _ = request.getfixturevalue(store)
    expected = frames.read(ORDER)  # the file is open here before
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert (pool.apply(numbers_there, (frames, ORDER)) == expected).all()
    assert (pickle.loads(pickle.dumps(frames)).read(ORDER) == expected).all()


def test_the_archive_of_sprites_is_unpacked_once_and_in_pieces(tmp_path, monkeypatch):
    """Catches an archive that is read as a whole, and an index that is made anew for every process."""
    monkeypatch.setattr(npz, "_BLOCK", 5)
    path = tmp_path / NPZ
    numbers = sprites(path)
    asked = []
    read = npz.zipfile.ZipExtFile.read

    def watched(file, n=-1):
        if file.name == "imgs.npy":
            asked.append(n)
        return read(file, n)

    monkeypatch.setattr(npz.zipfile.ZipExtFile, "read", watched)
    every = np.arange(len(numbers))
    assert sprite_numbers(NpzFrames(path, cache_folder=tmp_path / "c").read(every)).tolist() == numbers.tolist()
    assert max(asked) == 5 * 64 * 64
    asked.clear()
    assert sprite_numbers(NpzFrames(path, cache_folder=tmp_path / "c").read(every)).tolist() == numbers.tolist()
    assert not [n for n in asked if n > 1000]
    (index,) = (tmp_path / "c").iterdir()
    assert index.stat().st_size == len(numbers) * 512


def test_an_unpacking_that_fails_leaves_no_index(tmp_path):
    """Catches an index of half a file that is taken for a whole one."""
    path = tmp_path / NPZ
    sprites(path)
    damage_member(path, "imgs.npy")
    frames = NpzFrames(path, cache_folder=tmp_path / "c")
    for _ in range(2):
        with pytest.raises(DataError, match=rf"{NPZ}: image 0: expected readable data"):
            frames.read(np.array([0]))
    assert not list((tmp_path / "c").iterdir())


def test_open_frames_takes_the_file_of_the_family(tmp_path, npz_frames, h5_frames, png_frames):
    """Catches a family that is read as another one."""
    assert isinstance(open_frames(SPRITES, tmp_path), NpzFrames)
    assert isinstance(open_frames(SHAPES3D, tmp_path), H5Frames)
    assert isinstance(open_frames(FALCOR3D, tmp_path / "falcor3d"), PngFrames)


def set_key(name, value):
    return lambda arrays: arrays.update({name: value(arrays[name])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("imgs"), "expected the key imgs, got none"),
        (lambda arrays: arrays.pop("latents_classes"), "expected the key latents_classes, got none"),
        (set_key("imgs", lambda a: a.astype(float)), "expected imgs of uint8 .* got float64"),
        (
            set_key("imgs", lambda a: a[:-1]),
            r"imgs of uint8 and shape \(36, 64, 64\).* shape \(35",
        ),
        (set_key("imgs", np.asfortranarray), "in Fortran order"),
        (set_key("imgs", lambda a: 2 * a), "image 0: expected pixels of 0 and 1, got 2"),
        (set_key("latents_classes", lambda a: a.astype(float)), "latents_classes of int64"),
        (set_key("latents_classes", lambda a: a[:, 1:]), r"latents_classes of int64 and shape \(n, 6\)"),
        (
            set_key("latents_classes", lambda a: a[::-1]),
            "row 0: expected shape 0, with the last factor",
        ),
        (set_key("latents_classes", lambda a: a + 1), "expected color from 0 to 0, got 1"),
        (set_key("latents_classes", lambda a: a[1:]), "expected all 36 combinations .* got 35 rows"),
    ],
)
def test_a_wrong_npz(tmp_path, change, message):
    """Catches a file that is accepted because its name fits."""
    path = tmp_path / NPZ
    sprites(path, change=change)
    with pytest.raises(DataError, match=f"{NPZ}: .*{message}") as caught:
        NpzFrames(path, cache_folder=tmp_path / "c").read(np.array([0]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("images"), "expected the data set images, got none"),
        (lambda arrays: arrays.pop("labels"), "expected the data set labels, got none"),
        (set_key("images", lambda a: a.astype(float)), "expected images of uint8, got float64"),
        (set_key("images", lambda a: a[:, :32]), "expected images of 64 x 64 pixels"),
        (set_key("labels", lambda a: a[:-1]), r"expected labels of shape \(48, 6\), got \(47, 6\)"),
        (
            set_key("labels", lambda a: a[::-1]),
            "labels: row 0: expected floor_hue 0, with the last",
        ),
        (set_key("labels", lambda a: a + 0.04), "labels: row 0: expected one of"),
        (set_key("labels", lambda a: a * np.nan), "labels: row 0: expected one of .* got nan"),
    ],
)
def test_a_wrong_h5(tmp_path, change, message):
    """Catches labels in another order or of other factors."""
    path = tmp_path / "3dshapes.h5"
    shapes(path, change=change)
    with pytest.raises(DataError, match=f"3dshapes.h5: .*{message}") as caught:
        H5Frames(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_archives(tmp_path, share):
    """Catches a traceback of h5py or zipfile."""
    sprites(tmp_path / NPZ)
    shapes(tmp_path / "3dshapes.h5")
    cut(tmp_path / NPZ, share)
    cut(tmp_path / "3dshapes.h5", share)
    with pytest.raises(DataError, match=f"{NPZ}: expected an npz file"):
        NpzFrames(tmp_path / NPZ, cache_folder=tmp_path / "c")
    with pytest.raises(DataError, match=r"3dshapes.h5: expected a complete HDF5 file"):
        H5Frames(tmp_path / "3dshapes.h5")


def test_files_that_are_not_there(tmp_path):
    """Catches a missing file that is called damaged."""
    with pytest.raises(DataError, match="no such file"):
        NpzFrames(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"[Nn]o such file"):
        H5Frames(tmp_path / "a.h5")
    with pytest.raises(DataError, match="expected a folder of images"):
        PngFrames(tmp_path / "a", FALCOR3D)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8])
def test_a_truncated_png_is_named(png_frames, share):
    """Catches an image that is half grey, and an error without the name of the file."""
    frames, numbers = png_frames
    cut(frames.path / f"{numbers[5]:06d}.png", share)
    frames.read(np.array([4]))
    with pytest.raises(DataError, match=rf"{numbers[5]:06d}\.png: expected a (complete )?PNG image"):
        frames.read(np.array([4, 5]))


def test_other_pngs(tmp_path):
    """Catches the published images of full size, grey ones that are no fault, and a format under another name."""
    folder = tmp_path / "images"
    numbers = pngs(folder, size=256)
    with pytest.raises(DataError, match=rf"{numbers[0]:06d}\.png: expected 128 x 128 pixels.* got 256 x 256"):
        PngFrames(folder, FALCOR3D).read(np.array([0]))
    grey = Image.fromarray(np.full((128, 128), 9, np.uint8))
    grey.save(folder / f"{numbers[0]:06d}.png")
    assert (PngFrames(folder, FALCOR3D).read(np.array([0])) == 9).all()
    grey.save(folder / f"{numbers[0]:06d}.png", format="JPEG")
    with pytest.raises(DataError, match="expected a PNG image, got something else"):
        PngFrames(folder, FALCOR3D).read(np.array([0]))


def test_numbers_that_are_no_grid(png_frames, tmp_path):
    """Catches a missing image that shifts all that follow."""
    frames, numbers = png_frames
    (frames.path / f"{numbers[3]:06d}.png").unlink()
    with pytest.raises(DataError, match=r"names: expected all 12 combinations .* got 11 rows; `latentflow data check`"):
        PngFrames(frames.path, FALCOR3D)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected images such as 000000\.png, got none"):
        PngFrames(tmp_path / "empty", FALCOR3D)
    (tmp_path / "empty" / "233280.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"expected numbers below 233280, got 233280\.png"):
        PngFrames(tmp_path / "empty", FALCOR3D)
