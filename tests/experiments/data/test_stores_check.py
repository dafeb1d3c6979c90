"""Checks of whole data sets: each fault has its line."""

import hashlib

import h5py
import numpy as np
import pytest
from PIL import Image
from tiny_files import (
    FALCOR_KEPT,
    FALCOR_SIZES,
    ISAAC_SIZES,
    MARK,
    SHAPES_KEPT,
    SPRITES_KEPT,
    lines,
    numbers_of,
    publish,
    shapes_images,
    shapes_labels,
    sprites_arrays,
    write_pngs,
    write_shapes,
    write_sprites,
)

from latentflow_experiments.data import DATASETS
from latentflow_experiments.data.check import check_folder
from latentflow_experiments.data.sets.dsprites import DSPRITES
from latentflow_experiments.data.sets.shapes3d import SHAPES3D
from latentflow_experiments.data.stores.layout import Report
from latentflow_experiments.errors import DataError

NUMBERS = numbers_of(FALCOR_KEPT, FALCOR_SIZES)
SPRITES_MARK = MARK | {"family": "dsprites", "digits": [list(kept) for kept in SPRITES_KEPT]}
SHAPES_MARK = MARK | {"family": "shapes3d", "digits": [list(kept) for kept in SHAPES_KEPT]}
FALCOR_MARK = MARK | {"family": "falcor3d", "digits": [list(kept) for kept in FALCOR_KEPT]}


@pytest.fixture
def pngs(tmp_path):
    return write_pngs(tmp_path / "set", mark=FALCOR_MARK)


def test_stand_ins_without_fault(tmp_path, pngs):
    """Catches a stand-in that is measured by the published check sum."""
    write_sprites(tmp_path / DSPRITES.file, SPRITES_MARK)
    (tmp_path / "shapes").mkdir()
    path = write_shapes(tmp_path / "shapes" / SHAPES3D.file, SHAPES_MARK)
    assert check_folder(tmp_path) == Report(tmp_path / DSPRITES.file, "dSprites", 24, True, ())
    assert check_folder(tmp_path / "shapes") == check_folder(path) == Report(path, "3D Shapes", 64, True, ())
    for folder in (pngs, pngs.parent):
        assert check_folder(folder) == Report(pngs, "Falcor3D", 16, True, ())
    assert "3D Shapes (synthetic stand-in), 64 images read, no fault" in check_folder(path).text()


def test_unmarked_files_must_be_the_published_ones(tmp_path, monkeypatch):
    """Catches a file from elsewhere that passes for the original."""
    sprites, shapes = write_sprites(tmp_path / "a.npz", mark=None), write_shapes(tmp_path / "b.h5", mark=None)
    for path, name in ((sprites, "dsprites"), (shapes, "shapes3d")):
        (fault,) = lines(check_folder(path), path)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        assert fault == f"expected the published file with SHA-256 {DATASETS[name].originals[0].sha256}, got {found}"
        publish(monkeypatch, name, path)
        assert check_folder(path).faults == ()
        assert "not marked as synthetic" in check_folder(path).text()


def test_a_file_is_known_by_its_name_or_its_beginning(tmp_path):
    renamed = write_sprites(tmp_path / "a.npz", SPRITES_MARK).rename(tmp_path / "download")
    assert check_folder(renamed).name == "dSprites"
    renamed = write_shapes(tmp_path / "a.h5", SHAPES_MARK).rename(tmp_path / "download (1)")
    assert check_folder(renamed).name == "3D Shapes"
    page = tmp_path / SHAPES3D.file
    page.write_text("<html>not found</html>")
    first, second = lines(check_folder(page), page)
    assert first.startswith("expected a complete HDF5 file, got")
    assert second.startswith("expected the published file")


def test_each_fault_of_an_npz_file_is_named(tmp_path):
    """Catches a check that stops at the first fault."""
    arrays = sprites_arrays()
    images, values = arrays["imgs"], arrays["latents_values"]
    images[3, 0, 0], images[20, 5, 5] = 255, 2
    values[7, 4] = 0.123
    path = write_sprites(
        tmp_path / "a.npz", MARK, imgs=images, latents_values=values, latents_classes=arrays["latents_classes"][::-1]
    )
    report = check_folder(path)
    found = lines(report, path)
    assert found[0].startswith("latents_classes: row 0: expected shape 0, with the last factor running fastest")
    assert "image 3: expected pixels of 0 and 1, got 255" in found
    assert "image 20: expected pixels of 0 and 1, got 2" in found
    assert "latents_values: expected one value of posX for each class, ascending, got others" in found
    assert report.images == 22


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"imgs": None, "latents_values": None}, ["expected the key imgs", "expected the key latents_values"]),
        ({"latents_classes": None}, ["expected the key latents_classes"]),
        ({"latents_values": np.zeros((24, 5))}, ["latents_values: expected float64 and shape (n, 6), got float64"]),
        ({"latents_values": np.zeros((23, 6))}, ["latents_values: expected 24 rows, got 23"]),
        (
            {"imgs": np.zeros((24, 64, 64), bool)},
            ["expected imgs of uint8 and shape (24, 64, 64) in C order, got bool"],
        ),
        ({"imgs": np.zeros((25, 64, 64), np.uint8)}, ["expected imgs of uint8 and shape (24, 64, 64)"]),
    ],
)
def test_a_wrong_key_type_or_count_of_an_npz_file_is_named(tmp_path, changed, expected):
    path = write_sprites(tmp_path / "a.npz", SPRITES_MARK, **changed)
    found = lines(check_folder(path), path)
    assert len(found) == len(expected)
    assert all(fault.startswith(start) for fault, start in zip(found, expected, strict=True))


def test_half_an_npz_file_is_named_once(tmp_path):
    path = write_sprites(tmp_path / "a.npz", SPRITES_MARK)
    path.write_bytes(path.read_bytes()[:5000])
    first, second = lines(check_folder(path), path)
    assert first == "expected an npz file that is complete, got File is not a zip file"
    assert second.startswith("expected the published file")


def test_a_check_of_an_npz_file_writes_nothing(tmp_path, cache):
    check_folder(write_sprites(tmp_path / "a.npz", SPRITES_MARK))
    assert not cache.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_each_fault_of_an_hdf5_file_is_named(tmp_path):
    labels = shapes_labels()
    labels[[5, 6]] = labels[[6, 5]]
    path = write_shapes(tmp_path / "a.h5", SHAPES_MARK, labels=labels)
    for index in (2, 40):
        with h5py.File(path) as file:
            place = file["images"].id.get_chunk_info_by_coord((index, 0, 0, 0))
        with path.open("r+b") as file:
            file.seek(place.byte_offset + place.size // 2)
            file.write(b"\xff" * 64)
    report = check_folder(path)
    found = lines(report, path)
    assert len(found) == 3
    assert found[0].startswith("labels: row 5: expected ")
    assert found[1].startswith("image 2: expected readable data, got")
    assert found[2].startswith("image 40: expected readable data, got")
    assert report.images == 62


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"images": None}, ["expected the data set images, got none"]),
        (
            {"images": shapes_images()[:, :32], "labels": shapes_labels().astype(int)},
            [
                "expected images of 64 x 64 pixels and 3 channels, got (64, 32, 64, 3)",
                "labels: expected floa",
            ],
        ),
        ({"images": shapes_images()[:60]}, ["expected labels of shape (60, 6), got (64, 6)"]),
    ],
)
def test_a_wrong_data_set_type_or_count_of_an_hdf5_file_is_named(tmp_path, changed, expected):
    path = write_shapes(tmp_path / "a.h5", SHAPES_MARK, **changed)
    found = lines(check_folder(path), path)
    assert len(found) == len(expected)
    assert all(fault.startswith(start) for fault, start in zip(found, expected, strict=True))


def test_a_stand_in_that_says_something_else_is_named(tmp_path):
    """Catches a mark from another file; and one that is no JSON leaves the file an unmarked one."""
    mark = SHAPES_MARK | {"digits": [[0]] * 6}
    path = write_shapes(tmp_path / "a.h5", mark)
    (fault,) = lines(check_folder(path), path)
    assert fault.startswith("synthetic: expected the digits [[0, 9], [3], [1, 5], [0, 7], [0, 1, 2, 3], [4, 14]]")
    path = write_sprites(tmp_path / "b.npz", mark=None, synthetic=np.array("{"))
    first, second = lines(check_folder(path), path)
    assert first.startswith("expected JSON in the mark of a stand-in")
    assert second.startswith("expected the published file")


def test_each_fault_of_a_folder_is_named(pngs):
    """Catches a check that stops at the first fault, or decodes only the images that the set should have."""
    paths = [pngs / f"{number:06d}.png" for number in NUMBERS]
    paths[1].unlink()
    paths[2].write_bytes(paths[2].read_bytes()[:9000])
    paths[3].write_bytes(paths[3].read_bytes()[:-14])
    Image.new("RGB", (512, 512)).save(paths[4])
    Image.new("L", (128, 128)).save(paths[5])
    paths[6].write_text("<html>")
    Image.new("RGB", (128, 128)).save(pngs / "000007.png")
    (pngs / "note.txt").touch()
    (pngs / "more").mkdir()
    report = check_folder(pngs)
    wanted = {
        paths[1]: "missing",
        paths[2]: "expected a complete PNG image, got",
        paths[3]: "expected a complete PNG image, got",
        paths[4]: "expected 128 x 128 pixels, the size of the smaller published version, got 512 x 512",
        paths[5]: "expected an image of mode RGB, got L",
        paths[6]: "expected a PNG image, got something else",
        pngs / "000007.png": "not one of the set",
        pngs / "note.txt": "expected no file but 000000.png",
        pngs / "more": "expected no file but 000000.png",
    }
    assert len(report.faults) == len(wanted)
    for path, start in wanted.items():
        assert sum(fault.startswith(f"{path}: {start}") for fault in report.faults) == 1
    assert report.images == 16 - 6 + 1


def test_missing_neighbours_share_a_line(tmp_path):
    """Catches a line for each of 230,000 images of a download that broke off."""
    images = write_pngs(tmp_path / "Falcor3D_down128", ((0,),) * 5 + ((0, 1), (0, 1, 2, 3, 4, 5)), mark=None)
    (images / "000003.png").unlink()
    assert lines(check_folder(images), images) == ["/000003.png: missing", "/000012.png to 233279.png: missing"]


def test_a_part_of_the_published_images_is_named(tmp_path):
    images = write_pngs(tmp_path / "falcor3d", mark=None)
    assert lines(check_folder(images), images) == [
        "not the published set: expected 233280 images, got a part of them, 16"
    ]


@pytest.mark.parametrize(
    ("folder", "number", "mark", "title"),
    [
        ("x", 0, None, "Falcor3D"),
        ("x", 233_280, None, "Isaac3D"),
        ("Isaac3D_down128", 0, None, "Isaac3D"),
        ("Falcor3D_down128", 500_000, None, "Falcor3D"),
        ("falcor3d", 0, {"family": "isaac3d"}, "Isaac3D"),
    ],
)
def test_a_folder_is_known_by_its_mark_its_name_or_its_numbers(tmp_path, folder, number, mark, title):
    images = write_pngs(tmp_path / folder, ((0,),) * 9, ISAAC_SIZES, mark)
    (images / "000000.png").rename(images / f"{number:06d}.png")
    assert check_folder(images.parent).name == title


@pytest.mark.parametrize(
    ("digits", "message"),
    [
        (7, "digits: expected values of 7 factors, got 7"),
        ([[0]] * 6, "digits: expected values of 7 factors"),
        ([[0]] * 6 + [["a"]], "digits: expected values of camera_z-pos, got ['a']"),
        ([[0]] * 6 + [[6]], "digits: expected camera_z-pos ascending from 0 to 5, got [6]"),
        ([[0]] * 6 + [[2, 1]], "digits: expected camera_z-pos ascending from 0 to 5, got [2, 1]"),
    ],
)
def test_nonsense_in_the_mark_of_a_folder_is_named(tmp_path, digits, message):
    """Catches a traceback from what a file says; the images are still read."""
    images = write_pngs(tmp_path, mark={"family": "falcor3d", "digits": digits})
    report = check_folder(images)
    (fault,) = report.faults
    assert fault.startswith(f"{tmp_path / 'SYNTHETIC.json'}: {message}")
    assert report.images == 16


def test_the_list_of_faults_is_cut_but_their_number_is_not(tmp_path):
    report = Report(tmp_path, "Isaac3D", 5, True, tuple(f"fault {i}" for i in range(23)))
    text = report.text().splitlines()
    assert text[0] == f"{tmp_path}: Isaac3D (synthetic stand-in), 5 images read, 23 faults"
    assert text[1:21] == [f"  fault {i}" for i in range(20)]
    assert text[21:] == ["  ... and 3 more"]
    assert "more" not in Report(tmp_path, "Isaac3D", 5, True, report.faults[:20]).text()


def test_what_is_no_data_set_is_named(tmp_path):
    with pytest.raises(DataError, match="absent: expected a data set, got no such file or folder"):
        check_folder(tmp_path / "absent")
    with pytest.raises(DataError, match=r"expected a data set with one of dsprites.* got none"):
        check_folder(tmp_path)
    (tmp_path / "note.txt").write_text("note")
    with pytest.raises(DataError, match=r"note\.txt: expected dsprites.*, got a file of another kind"):
        check_folder(tmp_path / "note.txt")
    write_sprites(tmp_path / DSPRITES.file)
    write_shapes(tmp_path / SHAPES3D.file)
    with pytest.raises(DataError, match=r"expected one data set, got .*dsprites.* and .*3dshapes"):
        check_folder(tmp_path)
    (tmp_path / "set" / "images").mkdir(parents=True)
    assert "missing" in check_folder(tmp_path / "set").text()
