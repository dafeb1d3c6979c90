"""The check of a data set names every fault."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from made import cut, pngs, shapes, sprites
from PIL import Image

from latentflow.experiments.data.stores import check as module
from latentflow.experiments.data.stores.check import check_folder
from latentflow.experiments.errors import DataError

NPZ = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
KEPT = ((0, 4), (0,), (5,), (0,), (0, 2, 4), (1,), (0, 5))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The index of sprites goes into a folder of the test."""
    monkeypatch.setattr("latentflow.experiments.data.stores.npz.pooch.os_cache", lambda _: tmp_path / "cache")


def marked(folder, family="falcor3d", digits=KEPT):
    pngs(folder / "images", digits)
    mark = {"family": family, "digits": [list(kept) for kept in digits]}
    (folder / "SYNTHETIC.json").write_text(json.dumps(mark))
    return folder / "images"


def test_every_fault_of_a_folder_is_named(tmp_path):
    """Catches a check that stops at the first fault, or that counts a damaged image as read."""
    images = marked(tmp_path / "set")
    names = sorted(path.name for path in images.iterdir())
    cut(images / names[1], 0.5)
    Image.new("RGB", (64, 64)).save(images / names[2])
    (images / names[4]).unlink()
    (images / "000001.png").write_bytes((images / names[0]).read_bytes())
    (images / "notes.txt").write_text("x")
    report = check_folder(tmp_path / "set")
    assert report.images == 12 - 2
    assert report.synthetic
    text = "\n".join(report.faults)
    assert len(report.faults) == 5
    assert f"{names[1]}: expected a complete PNG image" in text
    assert f"{names[2]}: expected 128 x 128 pixels" in text
    assert f"{names[4]}: missing" in text
    assert "000001.png: not one of the set" in text
    assert "notes.txt: expected no file but" in text
    assert "synthetic stand-in), 10 images read, 5 faults" in report.text()


def test_a_set_without_faults(tmp_path):
    """Catches a stand-in that is measured against the whole family."""
    marked(tmp_path / "set")
    report = check_folder(tmp_path / "set")
    assert report.faults == ()
    assert report.images == 12
    assert "no fault" in report.text()
    assert check_folder(tmp_path / "set" / "images") == report


def test_an_unmarked_folder_has_to_be_complete(tmp_path):
    """Catches a published set of which a part is missing, and a list of 233,268 lines."""
    pngs(tmp_path / "images", KEPT)
    report = check_folder(tmp_path)
    assert not report.synthetic
    assert len(report.faults) == 233_280 - 12
    assert report.text().count("\n") == 21
    assert report.text().endswith("... and 233248 more")


@pytest.mark.parametrize(("write", "name"), [(sprites, NPZ), (shapes, "3dshapes.h5")])
def test_a_file_that_is_not_the_published_one(tmp_path, write, name):
    """Catches another file under the published name."""
    numbers = write(tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        report = check_folder(path)
        assert report.images == len(numbers)
        (fault,) = report.faults
        assert "expected the published file with SHA-256" in fault
    cut(tmp_path / name, 0.5)
    (fault,) = check_folder(tmp_path).faults
    assert f"{name}: expected" in fault


def test_damaged_images_inside_a_file_are_counted_one_by_one(tmp_path, monkeypatch):
    """Catches a block of images that is given up for one of them."""
    numbers = shapes(tmp_path / "3dshapes.h5")
    read = module.H5Frames.read

    def damaged(self, indices):
        if {3, 40} & set(indices.tolist()):
            raise DataError(f"{self.path}: images {indices.min()}: broken")
        return read(self, indices)

    monkeypatch.setattr(module.H5Frames, "read", damaged)
    report = check_folder(tmp_path)
    assert report.images == len(numbers) - 2
    assert [fault.split(": ")[1] for fault in report.faults[1:]] == ["images 3", "images 40"]


def test_sprites_with_a_pixel_of_two(tmp_path):
    """Catches images that are only checked when somebody trains on them."""
    sprites(tmp_path / NPZ, change=lambda arrays: arrays["imgs"].__setitem__((7, 9, 9), 2))
    report = check_folder(tmp_path)
    assert report.images == 0
    assert "image 7: expected pixels of 0 and 1, got 2" in report.faults[1]


def test_mnist(tmp_path):
    """Catches a missing file, and one with other bytes."""
    real = Path(os.environ.get("LATENTFLOW_DATA", "/nonexistent"), "mnist")
    if not real.is_dir():
        pytest.skip("needs the MNIST files in $LATENTFLOW_DATA/mnist")
    report = check_folder(real)
    assert (report.images, report.faults) == (70_000, ())
    for path in real.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    cut(tmp_path / "t10k-labels-idx1-ubyte.gz", 0.9)
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    faults = check_folder(tmp_path).faults
    assert any("train-images-idx3-ubyte.gz: missing" in fault for fault in faults)
    assert any("t10k-labels-idx1-ubyte.gz: expected the published file with SHA-256" in fault for fault in faults)
    assert any("t10k-labels-idx1-ubyte.gz: expected a complete gzip file" in fault for fault in faults)


def test_nothing_to_check(tmp_path):
    """Catches an empty folder that is found to be without faults."""
    with pytest.raises(DataError, match="expected a data set with one of dsprites_"):
        check_folder(tmp_path)
    with pytest.raises(DataError, match="got no such file or folder"):
        check_folder(tmp_path / "nowhere")


def test_the_family_of_a_folder(tmp_path):
    """Catches images of Isaac3D that are counted as those of Falcor3D."""
    folder = tmp_path / "isaac3d" / "images"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((128, 128, 3), np.uint8)).save(folder / "000000.png")
    assert check_folder(folder).name == "Isaac3D"
    assert check_folder(folder.rename(tmp_path / "images")).name == "Falcor3D"
