"""The check of the four files of MNIST."""

import gzip
import struct

import pytest
from tiny_files import lines, publish

from latentflow_experiments.data import DATASETS
from latentflow_experiments.data.check import check_folder
from latentflow_experiments.data.factors import PublicFile
from latentflow_experiments.data.stores.layout import Report


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """Files of the right sizes, with zeros; the labels are compressed and count as the published ones."""
    sizes = {"train-images-idx3-ubyte": (60_000, 28, 28), "t10k-images-idx3-ubyte": (10_000, 28, 28)}
    for name, shape in sizes.items():
        with (tmp_path / name).open("wb") as file:
            file.write(struct.pack(">4I", 0x0803, *shape))
            file.truncate(16 + shape[0] * 784)
    for name, count in (("train-labels-idx1-ubyte.gz", 60_000), ("t10k-labels-idx1-ubyte.gz", 10_000)):
        (tmp_path / name).write_bytes(gzip.compress(struct.pack(">2I", 0x0801, count) + bytes(count)))
    images = [PublicFile(f"{name}.gz", ("https://x/",), "0" * 64) for name in sizes]
    publish(monkeypatch, "mnist", *sorted(tmp_path.glob("*.gz")))
    monkeypatch.setattr(DATASETS["mnist"], "originals", (*DATASETS["mnist"].originals, *images))
    return tmp_path


def test_mnist_without_fault(mnist):
    assert check_folder(mnist) == Report(mnist, "MNIST", 70_000, False, ())
    assert check_folder(mnist / "train-labels-idx1-ubyte.gz").faults == ()
    assert check_folder(mnist / "t10k-images-idx3-ubyte").images == 10_000
    (mnist / "around").mkdir()
    for path in mnist.glob("*ubyte*"):
        (mnist / "around" / "mnist").mkdir(exist_ok=True)
        path.rename(mnist / "around" / "mnist" / path.name)
    assert check_folder(mnist / "around").images == 70_000


def test_each_fault_of_mnist_is_named(mnist):
    """Catches a check that stops at the first file."""
    (mnist / "train-images-idx3-ubyte").unlink()
    with (mnist / "t10k-images-idx3-ubyte").open("r+b") as file:
        file.truncate(5000)
    labels = mnist / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(struct.pack(">2I", 0x0801, 60_000) + bytes(59_999) + b"\x0a"))
    (mnist / "t10k-labels-idx1-ubyte.gz").write_bytes(b"<html>")
    report = check_folder(mnist)
    found = lines(report, mnist)
    assert len(found) == 6
    assert found[0] == "/train-images-idx3-ubyte.gz: missing"
    assert found[1].startswith("/train-labels-idx1-ubyte.gz: expected the published file")
    assert found[2] == "/train-labels-idx1-ubyte.gz: expected labels from 0 to 9, got 10"
    assert found[3].startswith(
        "/t10k-images-idx3-ubyte: expected 7840016 bytes for dimensions (10000, 28, 28), got 5000"
    )
    assert found[4].startswith("/t10k-labels-idx1-ubyte.gz: expected the published file")
    assert found[5].startswith("/t10k-labels-idx1-ubyte.gz: expected a complete gzip file")
    assert report.images == 0
