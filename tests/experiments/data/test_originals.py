"""The published files, and the places where files are looked for."""

import hashlib
import os
import re
from pathlib import Path

import pytest
from serving import CONTENT, Reply

from latentflow_experiments.data import DATASETS, FAMILIES
from latentflow_experiments.data.factors import PublicFile
from latentflow_experiments.data.files import default_folder
from latentflow_experiments.data.sets import fetch
from latentflow_experiments.data.sets import mnist as mnist_module
from latentflow_experiments.errors import DataError


def test_the_table_of_published_files():
    for files in (dataset.originals for dataset in DATASETS.values()):
        for file in files:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.addresses
            assert all(address.startswith("https://") for address in file.addresses)
            assert all(address.endswith(f"/{file.name}") for address in file.addresses)
    assert [file.name for name in ("dsprites", "shapes3d") for file in DATASETS[name].originals] == [
        FAMILIES[name].file for name in ("dsprites", "shapes3d")
    ]


@pytest.mark.skipif(
    not Path(os.environ.get("LATENTFLOW_DATA", "/nonexistent"), "mnist").is_dir(),
    reason="needs the MNIST files in $LATENTFLOW_DATA/mnist",
)
def test_the_table_is_that_of_the_real_mnist():
    for file in DATASETS["mnist"].originals:
        data = Path(os.environ["LATENTFLOW_DATA"], "mnist", file.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size, file.sha256)


@pytest.mark.parametrize("variable", [True, False])
def test_fetch_takes_all_files_into_the_default_folder(server, cache, tmp_path, monkeypatch, variable):
    if variable:
        monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path / "data"))
    one = server.file([Reply()])
    two = PublicFile("two.bin", one.addresses, one.sha256, one.size)
    monkeypatch.setattr(DATASETS["dsprites"], "originals", (one, two))
    folder = (tmp_path / "data" if variable else cache) / "dsprites"
    assert fetch("dsprites") == (folder / "file.bin", folder / "two.bin")
    assert (folder / "two.bin").read_bytes() == CONTENT


def test_fetch_without_network_says_what_to_put_where(server, tmp_path, monkeypatch):
    file = server.file([Reply(status=503)])
    monkeypatch.setattr(DATASETS["shapes3d"], "originals", (file,))
    with pytest.raises(DataError) as caught:
        fetch("shapes3d", tmp_path)
    assert str(caught.value) == (
        f"could not download file.bin ({file.addresses[0]}: HTTP status 503): run the same command again, "
        f"or put the file into {tmp_path} and check it with `latentflow data check {tmp_path}`"
    )


@pytest.mark.parametrize("name", ["falcor3d", "isaac3d"])
def test_what_is_only_to_be_had_by_hand(tmp_path, name):
    """Catches a download of the page that asks for confirmation instead of the images."""
    with pytest.raises(DataError) as caught:
        fetch(name, tmp_path)
    for part in (FAMILIES[name].address, str(tmp_path / "images"), f"`latentflow data check {tmp_path}`"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fetch_of_something_unknown():
    with pytest.raises(ValueError, match=r"name: expected one of mnist, dsprites, .*, got 'celeba'"):
        fetch("celeba")


def test_mnist_of_other_bytes_is_refused(server, cache, monkeypatch):
    """Catches a way of load_mnist round the check of the hash."""
    name = "train-images-idx3-ubyte.gz"
    file = server.file([Reply(content=b"other")], size=None)
    monkeypatch.setitem(mnist_module._PUBLIC, name, PublicFile(name, file.addresses, file.sha256))
    with pytest.raises(DataError, match=r"wrong SHA-256.*put the four MNIST files into .*/mnist, or set LATENTFLOW_"):
        mnist_module.load_mnist("train")
    assert list((cache / "mnist").iterdir()) == []


def test_the_order_of_the_places(cache, tmp_path, monkeypatch):
    """Catches a stand-in that is preferred to the original, or the cache to the folder of the user."""
    monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path / "data"))
    places = [root / sub for root in (tmp_path / "data", cache) for sub in ("shapes3d", "synthetic/shapes3d")]
    for place in reversed(places):
        place.mkdir(parents=True)
        (place / "3dshapes.h5").touch()
        assert DATASETS["shapes3d"].locate(None) == place
    monkeypatch.delenv("LATENTFLOW_DATA")
    assert DATASETS["shapes3d"].locate(None) == places[2]


def test_a_given_folder_is_the_only_place(cache, tmp_path):
    """Catches a --data that is passed over in silence because the cache has something."""
    for place in (cache / "isaac3d", tmp_path / "given" / "isaac3d"):
        (place / "images").mkdir(parents=True)
    assert DATASETS["isaac3d"].locate(tmp_path / "given") == tmp_path / "given" / "isaac3d"
    (tmp_path / "given" / "images").mkdir()
    assert DATASETS["isaac3d"].locate(tmp_path / "given") == tmp_path / "given"
    with pytest.raises(DataError, match="expected the images of isaac3d"):
        DATASETS["isaac3d"].locate(tmp_path / "other")


@pytest.mark.parametrize("name", [*FAMILIES, "mnist"])
def test_what_is_missing_is_named_with_its_remedies(cache, tmp_path, monkeypatch, name):
    """Catches a remedy that does not exist, such as a download of Isaac3D or a stand-in of MNIST."""
    monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError) as caught:
        DATASETS[name].locate(None)
    message = str(caught.value)
    for part in (tmp_path / "data" / name / DATASETS[name].file, tmp_path / "data" / "synthetic" / name, cache / name):
        assert str(part) in message
    assert "\n" not in message
    assert (f"`latentflow data fetch {name}`" in message) == (name in ("mnist", "dsprites", "shapes3d"))
    assert ("on Google Drive" in message) == (name in ("falcor3d", "isaac3d"))
    assert (f"`latentflow data make {name}`" in message) == (name != "mnist")


def test_the_default_folder(cache, tmp_path, monkeypatch):
    assert default_folder("dsprites", synthetic=False) == cache / "dsprites"
    assert default_folder("dsprites", synthetic=True) == cache / "synthetic" / "dsprites"
    monkeypatch.setenv("LATENTFLOW_DATA", "~/somewhere")
    assert default_folder("dsprites", synthetic=True) == Path.home() / "somewhere" / "synthetic" / "dsprites"
    monkeypatch.setenv("LATENTFLOW_DATA", "")
    assert default_folder("dsprites", synthetic=False) == cache / "dsprites"
