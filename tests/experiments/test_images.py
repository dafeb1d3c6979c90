"""The images: file formats, downloads and splits."""

import gzip
import hashlib
import math
import os
import shutil
import struct
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pooch
import pytest
import requests
import torch
from hypothesis import given, settings
from sklearn.datasets import load_digits as originals

from latentflow_experiments.data import DATASETS, LabelledImages
from latentflow_experiments.data.sets.digits import load_digits
from latentflow_experiments.data.sets.mnist import load_mnist, read_idx
from latentflow_experiments.errors import DataError, ExperimentError

real_mnist = pytest.mark.skipif(
    not Path(os.environ.get("LATENTFLOW_DATA", "/nonexistent"), "mnist").is_dir(),
    reason="needs the MNIST files in $LATENTFLOW_DATA/mnist",
)


def idx(array):
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_mnist(folder, prefix="train", compress=True, count=3):
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28))
    labels = np.arange(count) + 4
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        data = idx(array)
        name = f"{prefix}-{kind}-ubyte" + (".gz" if compress else "")
        (folder / name).write_bytes(gzip.compress(data) if compress else data)
    return images, labels


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty cache, no environment variable, and a retrieve that fails."""
    urls = []

    def retrieve(url, known_hash, fname, path, downloader):
        urls.append(url)
        raise requests.ConnectionError(f"no route to {url}")

    monkeypatch.delenv("LATENTFLOW_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return urls


def uint8(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


# IDX files


def test_read_idx_of_a_file_written_by_hand(tmp_path):
    path = tmp_path / "x-idx3-ubyte"
    path.write_bytes(b"\0\0\x08\x03" + b"\0\0\0\x02" + b"\0\0\0\x01" + b"\0\0\0\x03" + bytes([1, 2, 3, 250, 251, 252]))
    array = read_idx(path, (-1, 1, 3))
    assert array.dtype == torch.uint8
    assert array.tolist() == [[[1, 2, 3]], [[250, 251, 252]]]


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), data=st.data())
def test_read_idx_returns_what_was_written_and_refuses_any_other_length(shape, data):
    size = math.prod(shape)
    pixels = data.draw(st.binary(min_size=size, max_size=size))
    written = idx(np.frombuffer(pixels, np.uint8).reshape(shape))
    length = data.draw(st.integers(0, len(written) + 3).filter(lambda n: n != len(written)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        path.write_bytes(written)
        assert bytes(read_idx(path, (-1,) * len(shape)).numpy()) == pixels
        path.write_bytes((written + b"\0\0\0")[:length])
        with pytest.raises(DataError, match=rf"x: expected .* got {length} bytes$"):
            read_idx(path, (-1,) * len(shape))


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_gzip_names_the_file(tmp_path, fraction):
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    data = path.read_bytes()
    path.write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: expected") as caught:
        load_mnist("train", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("position", [0, 40, -6])
def test_corrupt_gzip_names_the_file(tmp_path, position):
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: expected a complete gzip file"):
        load_mnist("train", tmp_path)


def test_wrong_magic_number(tmp_path):
    write_mnist(tmp_path)
    shutil.copy(tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz")
    with pytest.raises(DataError, match=r"labels.*expected the IDX magic number 0x00000801, got 0x00000803"):
        load_mnist("train", tmp_path)


@pytest.mark.parametrize("shape", [(3, 28, 27), (3, 14, 56), (0, 28, 28)])
def test_wrong_dimensions(tmp_path, shape):
    path = tmp_path / "images"
    path.write_bytes(idx(np.zeros(shape)))
    with pytest.raises(DataError) as caught:
        read_idx(path, (-1, 28, 28))
    assert str(caught.value) == f"{path}: expected dimensions (n, 28, 28) without zeros, got {shape}"


def test_an_unreadable_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="expected a regular file, got a folder"):
        read_idx(tmp_path, (-1,))


# MNIST


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("subfolder", ["", "mnist"])
def test_mnist_from_a_folder(tmp_path, no_network, compress, subfolder):
    images, labels = write_mnist(tmp_path / subfolder, "t10k", compress)
    data = load_mnist("test", tmp_path)
    assert (data.name, data.split, len(data)) == ("mnist", "test", 3)
    assert np.array_equal(data.images.numpy(), images)
    assert data.labels.tolist() == labels.tolist()
    assert no_network == []


def test_mnist_from_the_environment(tmp_path, no_network, monkeypatch):
    images, _ = write_mnist(tmp_path / "mnist")
    monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path))
    assert np.array_equal(load_mnist("train").images.numpy(), images)


def test_an_explicit_folder_never_downloads(tmp_path, no_network, monkeypatch):
    write_mnist(tmp_path / "other" / "mnist")
    monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path / "other"))
    with pytest.raises(DataError) as caught:
        load_mnist("train", tmp_path)
    for part in (tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "mnist" / "train-images-idx3-ubyte.gz"):
        assert str(part) in str(caught.value)
    assert no_network == []


def test_an_incomplete_folder_of_the_environment_names_the_missing_file(tmp_path, no_network, monkeypatch):
    write_mnist(tmp_path / "mnist")
    monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"mnist/t10k-images-idx3-ubyte\.gz, with or without \.gz"):
        load_mnist("test")


@pytest.mark.parametrize("variable", [True, False])
def test_no_network_says_what_to_do(tmp_path, no_network, monkeypatch, variable):
    if variable:
        monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path / "data"))
    with pytest.raises(ExperimentError) as caught:
        load_mnist("train")
    folder = tmp_path / ("data" if variable else "cache/latentflow") / "mnist"
    for part in ("train-images-idx3-ubyte.gz", str(folder), "LATENTFLOW_DATA", "--data", "ConnectionError"):
        assert part in str(caught.value)
    assert len(no_network) == 2
    assert all(url.endswith("/mnist/train-images-idx3-ubyte.gz") for url in no_network)


def test_the_second_mirror_is_tried_and_hashes_are_passed(tmp_path, no_network, monkeypatch):
    images, _ = write_mnist(tmp_path / "server")
    hashes = {}

    def retrieve(url, known_hash, fname, path, downloader):
        if "amazonaws" in url:
            raise requests.ConnectionError(f"no route to {url}")
        hashes[fname] = known_hash
        assert path == tmp_path / "cache" / "latentflow" / "mnist"
        return str(tmp_path / "server" / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert np.array_equal(load_mnist("train").images.numpy(), images)
    assert hashes == {file.name: file.sha256 for file in DATASETS["mnist"].originals if file.name.startswith("train")}


def test_labels_that_do_not_belong_to_the_images(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.arange(4))))
    with pytest.raises(DataError, match="expected 3 labels, one for each image, got 4"):
        load_mnist("train", tmp_path)
    path.write_bytes(gzip.compress(idx(np.array([1, 10, 2]))))
    with pytest.raises(DataError, match="expected labels from 0 to 9, got 10"):
        load_mnist("train", tmp_path)


@real_mnist
def test_real_mnist_has_its_known_statistics():
    train, test = load_mnist("train"), load_mnist("test")
    assert (len(train), len(test)) == (60000, 10000)
    grey = train.images.double() / 255
    assert grey.mean().item() == pytest.approx(0.13066, abs=5e-6)
    assert grey.std(correction=0).item() == pytest.approx(0.30811, abs=5e-6)
    assert torch.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]


# Digits and labelled images


def test_digits_keep_the_frame_and_the_content_of_the_originals():
    train, test = load_digits("train"), load_digits("test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.labels[:10].tolist() == list(range(10))
    assert test.labels[-3:].tolist() == [8, 9, 8]
    images = torch.cat([train.images, test.images])
    assert images.max() == 255
    inside = images[:, 4:24, 4:24]
    assert inside.long().sum() == images.long().sum()
    assert (inside > 0).flatten(1).any(0).sum() > 350
    assert images.float().mean().item() / 255 == pytest.approx((20 / 28) ** 2 * 4.884 / 16, rel=0.02)


def test_digits_are_bilinear_samples_of_the_originals():
    small = originals().images[0] / 16 * 255
    large = load_digits("train").images[0].numpy()
    y, x = 9, 7
    v, u = (y + 0.5) * 0.4 - 0.5, (x + 0.5) * 0.4 - 0.5
    i, j, a, b = int(v), int(u), v - int(v), u - int(u)
    top = (1 - b) * small[i, j] + b * small[i, j + 1]
    bottom = (1 - b) * small[i + 1, j] + b * small[i + 1, j + 1]
    assert 0 < large[4 + y, 4 + x] < 255
    assert large[4 + y, 4 + x] == round((1 - a) * top + a * bottom)


@pytest.mark.parametrize("load", [load_digits, load_mnist])
def test_unknown_split(load):
    with pytest.raises(ValueError, match="split: expected 'train' or 'test', got 'val'"):
        load("val")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            torch.zeros(2, 28, 27, dtype=torch.uint8),
            torch.zeros(2).long(),
            r"images: expected shape \(n, 28, 28\), got",
        ),
        (torch.zeros(2, 28, 28), torch.zeros(2).long(), r"images: expected dtype torch.uint8, got torch.float32"),
        (uint8(2, 28, 28), torch.zeros(3).long(), r"labels: expected shape \(2,\), got \(3,\)"),
        (uint8(2, 28, 28), torch.zeros(2), r"labels: expected dtype torch.int64, got torch.float32"),
    ],
)
def test_labelled_images_are_validated(images, labels, message):
    with pytest.raises(ValueError, match=message):
        LabelledImages(images, labels, "x", "train")


def test_hash_depends_on_pixels_and_their_order_only():
    images = uint8(3, 28, 28)
    digest = LabelledImages(images, torch.zeros(3).long(), "a", "train").sha256()
    assert digest == hashlib.sha256(bytes(images.flatten().tolist())).hexdigest()
    assert digest == LabelledImages(images.mT.contiguous().mT, torch.ones(3).long(), "b", "test").sha256()
    assert digest != LabelledImages(images.flip(0), torch.zeros(3).long(), "a", "train").sha256()
