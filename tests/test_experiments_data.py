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
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from kornia.enhance import adjust_hue

from latentflow.experiments.data import LabelledImages, TransformationSequences, load_digits, load_mnist, read_idx
from latentflow.experiments.data import mnist as mnist_module
from latentflow.experiments.errors import DataError, ExperimentError

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

    def retrieve(url, known_hash, fname, path):
        urls.append(url)
        raise ConnectionError(f"no route to {url}")

    monkeypatch.delenv("LATENTFLOW_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return urls


def uint8(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def blob(x, y, width=1.5, size=28):
    grid = torch.arange(size, dtype=torch.float32)
    return torch.exp(-((grid[None, :] - x) ** 2 + (grid[:, None] - y) ** 2) / (2 * width**2))[None]


def centroid(image):
    grid = torch.arange(image.shape[-1], dtype=image.dtype)
    return (
        torch.stack([(image.sum(-2) * grid).sum(-1), (image.sum(-1) * grid).sum(-1)], -1)
        / image.sum((-2, -1))[..., None]
    )


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
    with pytest.raises(DataError, match="expected a readable file"):
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

    def retrieve(url, known_hash, fname, path):
        if "amazonaws" in url:
            raise ValueError("SHA256 hash of downloaded file does not match")
        hashes[fname] = known_hash
        assert path == tmp_path / "cache" / "latentflow" / "mnist"
        return str(tmp_path / "server" / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert np.array_equal(load_mnist("train").images.numpy(), images)
    assert hashes == {name: mnist_module._SHA256[name] for name in mnist_module._FILES["train"]}


def test_a_download_with_other_bytes_is_refused(tmp_path, monkeypatch):
    write_mnist(tmp_path / "server")
    monkeypatch.delenv("LATENTFLOW_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache")
    monkeypatch.setattr(mnist_module, "_MIRRORS", ("http://mirror/",))

    def choose(url, progressbar=False):
        return lambda url, output, pooch_: shutil.copyfile(tmp_path / "server" / url.rsplit("/", 1)[1], output)

    monkeypatch.setattr("pooch.core.choose_downloader", choose)
    with pytest.raises(DataError, match=r"http://mirror/: wrong SHA-256"):
        load_mnist("train")
    assert not list((tmp_path / "cache" / "mnist").iterdir())


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


@real_mnist
def test_recorded_hashes_are_those_of_the_real_files():
    folder = Path(os.environ["LATENTFLOW_DATA"], "mnist")
    for name, digest in mnist_module._SHA256.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


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
    from sklearn.datasets import load_digits as originals  # noqa: PLC0415

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


# Transformation sequences


def test_default_states_are_those_of_the_paper():
    sequences = TransformationSequences()
    assert sequences.steps == 8
    assert sequences.names == ("scaling", "rotation", "colouring")
    assert sequences.scales == pytest.approx([1 + 0.1 * t for t in range(9)])
    assert sequences.angles == tuple(10.0 * t for t in range(9))
    assert sequences.hues == tuple(20.0 * t for t in range(9))


def test_colouring_is_the_closed_form_and_the_hue_of_whole_images():
    sequences = TransformationSequences()
    images = uint8(4, 28, 28)
    frames = sequences(images, 2)
    table = [
        (1, h / 60, 0) if h <= 60 else (2 - h / 60, 1, 0) if h <= 120 else (0, 1, (h - 120) / 60)
        for h in sequences.hues
    ]
    closed = torch.einsum("bhw,tc->btchw", images / 255, torch.tensor(table))
    torch.testing.assert_close(frames, closed, atol=1e-6, rtol=0)
    red = F.pad(images[:, None] / 255, (0, 0, 0, 0, 0, 2))
    whole = torch.stack([adjust_hue(red, math.radians(hue)) for hue in sequences.hues], 1)
    torch.testing.assert_close(frames, whole, atol=2e-6, rtol=0)


def test_hues_go_all_the_way_round_either_way():
    states = (0.0, 240.0, 300.0, 340.0, 360.0, -60.0)
    sequences = TransformationSequences((1.0,) * 6, (0.0,) * 6, states)
    colours = sequences(torch.full((1, 1, 1), 255, dtype=torch.uint8), 2)[0, :, :, 0, 0]
    expected = torch.tensor([[1, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 1 / 3], [1, 0, 0], [1, 0, 1]])
    torch.testing.assert_close(colours, expected, atol=1e-6, rtol=0)


def test_a_quarter_turn_is_rot90_counter_clockwise():
    sequences = TransformationSequences((1.0, 1.0), (0.0, 90.0), (0.0, 0.0))
    images = uint8(5, 28, 28)
    turned = sequences(images, 1)[:, 1, 0]
    torch.testing.assert_close(turned, torch.rot90(images / 255, 1, (1, 2)), atol=1e-5, rtol=0)
    right = torch.zeros(1, 28, 28)
    right[0, 13:15, 24:27] = 1
    assert sequences(right, 1)[0, 1, 0, 1:4, 13:15].min() > 0.999


def test_scaling_magnifies_a_ramp_about_the_centre():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    frames = TransformationSequences((1.0, 2.0), (0.0, 0.0), (0.0, 0.0))((0.1 + 0.05 * x + 0.02 * y)[None], 0)
    expected = 0.1 + 0.05 * (3.5 + (x - 3.5) / 2) + 0.02 * (2.5 + (y - 2.5) / 2)
    torch.testing.assert_close(frames[0, 1, 0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize(("height", "width"), [(28, 28), (20, 31)])
def test_every_state_samples_the_first_frame_on_the_inverse_grid(kind, height, width):
    sequences = TransformationSequences()
    images = uint8(3, height, width) / 255
    frames = sequences(images, kind)
    y, x = (height - 1) / 2, (width - 1) / 2
    down, right = torch.meshgrid(torch.arange(height) - y, torch.arange(width) - x, indexing="ij")
    for t in range(9):
        scale, angle = (sequences.scales[t], 0.0) if kind == 0 else (1.0, math.radians(sequences.angles[t]))
        u = (math.cos(angle) * right - math.sin(angle) * down) / (scale * x)
        v = (math.sin(angle) * right + math.cos(angle) * down) / (scale * y)
        grid = torch.stack([u, v], -1)[None].expand(3, -1, -1, -1)
        expected = F.grid_sample(images[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        torch.testing.assert_close(frames[:, t, 0], expected[:, 0], atol=2e-5, rtol=0)
    assert not frames[:, :, 1:].any()


def test_turning_back_returns_the_blob():
    image = blob(18, 10, width=3)
    turn, back = (TransformationSequences((1.0, 1.0), (0.0, angle), (0.0, 0.0)) for angle in (40.0, -40.0))
    there = turn(image, 1)[:, 1, 0]
    again = back(there, 1)[:, 1, 0]
    assert (there - image).abs().max() > 0.3
    assert (again - image).abs().max() < 0.05
    torch.testing.assert_close(centroid(again), centroid(image), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", [0, 1])
def test_a_centred_blob_does_not_drift(kind):
    centres = centroid(TransformationSequences()(blob(13.5, 13.5, width=2), kind)[0, :, 0])
    torch.testing.assert_close(centres, torch.full((9, 2), 13.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_the_first_frame_is_exactly_the_red_image(kind):
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    first = TransformationSequences()(images, kind)[:, 0]
    assert first.dtype == torch.float32
    assert torch.equal(first[:, 0], images.float() / 255)
    assert not first[:, 1:].any()


@settings(max_examples=25, deadline=None)
@given(kinds=st.lists(st.integers(0, 2), max_size=7), seed=st.integers(0, 1000))
def test_each_image_has_the_sequence_it_would_have_alone(kinds, seed):
    sequences = TransformationSequences()
    images, k = uint8(len(kinds), 9, 12, seed=seed), torch.tensor(kinds, dtype=torch.int64)
    frames = sequences(images, k)
    assert frames.shape == (len(kinds), 9, 3, 9, 12)
    assert torch.equal(frames[:, 0, 0], images / 255)
    for image, kind, sequence in zip(images, kinds, frames, strict=True):
        torch.testing.assert_close(sequence, sequences(image[None], kind)[0], atol=1e-6, rtol=0)
    assert not len(kinds) or 0 <= frames.min() <= frames.max() <= 1
    order = torch.randperm(len(kinds), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(sequences(images[order], k[order]), frames[order], atol=1e-6, rtol=0)


def test_an_empty_batch_and_other_float_types():
    sequences = TransformationSequences()
    for k in (0, 2, torch.zeros(0, dtype=torch.int64)):
        assert sequences(torch.zeros(0, 28, 28, dtype=torch.uint8), k).shape == (0, 9, 3, 28, 28)
    image = uint8(1, 28, 28)
    frames = sequences(image.double() / 255, 1)
    assert frames.dtype == torch.float32
    torch.testing.assert_close(frames, sequences(image, 1))


@pytest.mark.parametrize(
    ("images", "k", "message"),
    [
        (uint8(2, 1, 28, 28), 0, r"images: expected shape \(b, h, w\), got \(2, 1, 28, 28\)"),
        (uint8(2, 28, 28).int(), 0, r"images: expected dtype torch.uint8 or floating point, got torch.int32"),
        (uint8(2, 28, 28).float(), 0, r"images: expected floating-point values from 0 to 1, got 0 to 255"),
        (torch.full((2, 28, 28), math.nan), 0, r"images: expected floating-point values from 0 to 1, got nan"),
        (uint8(2, 28, 28), 3, r"k: expected values from 0 to 2, got 3"),
        (uint8(2, 28, 28), torch.tensor([0, -1]), r"k: expected values from 0 to 2, got -1"),
        (uint8(2, 28, 28), torch.tensor([0, 1, 2]), r"k: expected an int or shape \(2,\), got shape \(3,\)"),
        (uint8(2, 28, 28), torch.tensor([0.0, 1.0]), r"k: expected dtype torch.int64, got torch.float32"),
    ],
)
def test_wrong_arguments_of_a_call(images, k, message):
    with pytest.raises(ValueError, match=message):
        TransformationSequences()(images, k)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ({"scales": (1.0, 2.0)}, r"expected one length of at least 2, got lengths \(2, 9, 9\)"),
        ({"scales": (1.0,), "angles": (0.0,), "hues": (0.0,)}, r"at least 2, got lengths \(1, 1, 1\)"),
        ({"scales": (0.5,) * 9}, r"scales: expected the first state to be the identity 1, got 0.5"),
        ({"angles": (10.0,) * 9}, r"angles: expected the first state to be the identity 0, got 10.0"),
        ({"hues": (0.0,) * 8 + (math.inf,)}, r"hues: expected finite states, got"),
        ({"scales": (1.0,) * 8 + (0.0,)}, r"scales: expected positive states, got"),
    ],
)
def test_wrong_states(states, message):
    with pytest.raises(ValueError, match=message):
        TransformationSequences(**states)
