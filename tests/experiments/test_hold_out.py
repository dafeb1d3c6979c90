"""The images that are held out of training for validation."""

import hashlib
import struct

import numpy as np
import pytest
import torch

from latentflow_experiments.data import SequenceConfig, Source, open_sequences
from latentflow_experiments.data.sets.digits import load_digits
from latentflow_experiments.errors import UsageError

SPLITS = ("train", "validation", "test")
DIGITS = {split: open_sequences("digits", split) for split in SPLITS}


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """The splits of 5,003 and 4 images in the files of MNIST, each image with its number in two of its pixels."""
    folder = tmp_path_factory.mktemp("mnist")
    for prefix, count in (("train", 5003), ("t10k", 4)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(count), 256)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return {split: open_sequences("mnist", split, source=Source(data=folder)) for split in SPLITS}


def test_digits_are_split_in_three():
    """Catches an image in two splits or in none, test images held out, and labels that stay behind."""
    assert {split: len(data.images) for split, data in DIGITS.items()} == {
        "train": 1293, "validation": 144, "test": 360,
    }  # fmt: skip
    official = load_digits("train")
    ours = [DIGITS[split].images for split in ("train", "validation")]
    assert torch.equal(torch.cat([part.images for part in ours]), official.images)
    assert torch.equal(torch.cat([part.labels for part in ours]), official.labels)
    assert torch.equal(DIGITS["test"].images.images, load_digits("test").images)
    assert torch.equal(DIGITS["test"].images.labels, load_digits("test").labels)


def test_no_picture_is_in_two_splits_of_the_digits():
    """Catches a validation that training has seen."""
    pictures = [{image.numpy().tobytes() for image in DIGITS[split].images.images} for split in SPLITS]
    assert [len(some) for some in pictures] == [1293, 144, 360]
    assert len(set.union(*pictures)) == 1797


def test_mnist_holds_out_the_last_five_thousand(mnist):
    """Catches images held out of the wrong end, a share instead of a number, and test images held out."""

    def numbers(split):
        images = mnist[split].images.images.long()
        return (256 * images[:, 0, 0] + images[:, 0, 1]).tolist()

    assert numbers("train") == [0, 1, 2]
    assert numbers("validation") == list(range(3, 5003))
    assert numbers("test") == [0, 1, 2, 3]
    assert mnist["validation"].images.labels.tolist() == [n % 10 for n in range(3, 5003)]


def test_splits_say_what_they_are(mnist):
    """Catches a run whose record names the images of another split."""
    for name, splits in (("digits", DIGITS), ("mnist", mnist)):
        identities = [splits[split].identity() for split in SPLITS]
        assert [(each["name"], each["split"]) for each in identities] == [(name, split) for split in SPLITS]
        assert len({each["sha256"] for each in identities}) == 3
        for split, each in zip(SPLITS, identities, strict=True):
            assert splits[split].split == split
            pixels = splits[split].images.images.numpy().tobytes()
            assert each["sha256"] == hashlib.sha256(pixels).hexdigest()


def test_validation_holds_every_digit():
    """Catches a choice on validation images that lack a digit."""
    counts = torch.bincount(DIGITS["validation"].images.labels, minlength=10)
    assert counts.min() >= 5


@pytest.mark.parametrize("start", ["canonical", "random"])
def test_the_sequences_are_those_of_the_held_out_images(start):
    """Catches options that a validation split forgets, and indices that count from the first training image."""
    config = SequenceConfig(transformations=("rotation", "coloring"), states=4, start=start)
    data = open_sequences("digits", "validation", config)
    assert data.names == ("rotation", "coloring")
    assert data.steps == 3
    states = 1 if start == "canonical" else 4
    for k in range(2):
        assert len(data.starts(k)) == 144 * states
    first = data.sequence(data.starts(0)[:1], 0)[0, 0, 0]
    assert torch.equal(first, load_digits("train").images[1293].float() / 255)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_other_splits_are_refused(name, tmp_path):
    """Catches an unknown split that is taken for training, or that is looked for on the disk first."""
    with pytest.raises(UsageError, match="split: expected one of train, validation, test, got 'valid'"):
        open_sequences(name, "valid", source=Source(data=tmp_path))
