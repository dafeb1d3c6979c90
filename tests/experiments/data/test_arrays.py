"""Sequences in memory: what is read, what is refused, and how they are split."""

import itertools

import numpy as np
import pytest
import torch

from latentflow_experiments.data import ArraySequences
from latentflow_experiments.errors import UsageError


def random_frames(count=20, shape=(4, 1, 8, 8)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def test_frames_come_back_as_they_were_given():
    """Catches a wrong scale, an axis that is swapped, and sequences of another label."""
    pixels = random_frames(6, (4, 3, 8, 5))
    data = ArraySequences(pixels, [0, 1, 0, 1, 0, 1], ("up", "down"))
    found = data.sequence(torch.tensor([5, 1]), 1)
    torch.testing.assert_close(found, torch.from_numpy(pixels[[5, 1]]).float() / 255)
    assert (data.steps, data.shape, data.names) == (3, (3, 8, 5), ("up", "down"))
    assert torch.equal(data.starts(1), torch.tensor([1, 3, 5]))
    with pytest.raises(ValueError, match="k: expected 1 for sequence 1, got 0"):
        data.sequence(torch.tensor([0, 1]), 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floating_point_frames_are_not_scaled(dtype):
    """Catches floats that are divided by 255, and bytes in the order of another machine."""
    frames = (random_frames() / 255).astype(dtype)
    found = ArraySequences(frames).sequence(torch.tensor([3]), 0)[0]
    torch.testing.assert_close(found, torch.from_numpy(frames[3].astype(np.float32)))


def test_names_of_transformations():
    """Catches names that are sorted when given, and labels that are numbered in the order of their appearance."""
    frames = random_frames(6)[:, :, 0]
    assert ArraySequences(frames).names == ("change",)
    assert ArraySequences(frames, [0, 1] * 3).names == ("transformation 0", "transformation 1")
    named = ArraySequences(frames, ["turn", "grow"] * 3)
    assert named.names == ("grow", "turn")
    assert named.starts(1).tolist() == [0, 2, 4]
    given = ArraySequences(frames, ["turn", "grow"] * 3, ("turn", "grow"))
    assert given.starts(0).tolist() == [0, 2, 4]


def test_the_split_is_disjoint_complete_and_fixed():
    """Catches a sequence in two splits, a label without test sequences, and a draw of another machine or version."""
    data = ArraySequences(random_frames(43), [0] * 40 + [1] * 3)
    train, validation, test = data.split_into_parts()
    for k, counts in enumerate([(32, 4, 4), (1, 1, 1)]):
        parts = [part.starts(k).tolist() for part in (train, validation, test)]
        assert tuple(map(len, parts)) == counts
        assert sorted(itertools.chain(*parts)) == data.starts(k).tolist()
    assert validation.starts(0).tolist() == FIXED
    assert [part.identity()["split"] for part in (train, validation, test)] == ["train", "validation", "test"]
    with pytest.raises(UsageError, match="expected all sequences, got the test split"):
        test.split_into_parts()


FIXED = [6, 14, 34, 38]
"""Ranks whose `printf "0 RANK" | sha256sum` is smallest among 40."""


def test_identity_tells_data_apart():
    """Catches a run that goes on with other pixels, labels or names."""
    frames, labels = random_frames(6), [0, 1] * 3
    known = ArraySequences(frames, labels).identity()["sha256"]
    assert ArraySequences(frames.copy(), labels).identity()["sha256"] == known
    other = frames.copy()
    other[0, 0, 0, 0, 0] ^= 1
    changed = [
        ArraySequences(other, labels),
        ArraySequences(frames, labels[::-1]),
        ArraySequences(frames, labels, ("a", "b")),
        ArraySequences(frames),
    ]
    assert known not in {data.identity()["sha256"] for data in changed}


def test_sequences_without_labels_belong_to_every_flow():
    """Catches flows that see a part of the sequences only, and a split by labels that nobody gave."""
    data = ArraySequences(random_frames(), None, ("a", "b", "c"))
    train, _, test = data.split_into_parts()
    assert data.unlabelled
    assert all(torch.equal(train.starts(k), train.starts(0)) for k in range(3))
    labelled = test.with_labels(torch.tensor([0, 2]))
    assert (labelled.names, labelled.potentials, test.potentials) == (("a", "c"), (0, 2), None)
    assert [labelled.starts(k).tolist() for k in range(2)] == [[i] for i in test.starts(0).tolist()]
    assert labelled.identity() == test.identity()


@pytest.mark.parametrize(
    ("frames", "options", "cause"),
    [
        (random_frames().astype(np.int64), {}, "frames: expected uint8 or floating point, got int64"),
        (np.full((5, 3, 4, 4), np.nan), {}, "frames: expected values in .0, 1., got values in .nan, nan."),
        (np.full((5, 3, 4, 4), 255.0), {}, "divide them by 255"),
        (random_frames(5, (1, 1, 8, 8)), {}, "at least 2 frames in a sequence, got 1"),
        (random_frames(5, (4, 8, 8, 3)), {}, "move the channels to the third axis"),
        (random_frames(5, (4, 2, 8, 8)), {}, "expected 1 or 3 channels"),
        (random_frames(2), {}, "at least 3 sequences"),
        (random_frames(0), {}, "expected shape"),
        (random_frames(6), {"labels": [0, 0, 0, 0, 1, 1]}, "got 2 of 'transformation 1'; add some"),
        (random_frames(6), {"labels": [0, 2] * 3}, "labels: expected integers from 0 to 1, each of them, got 2"),
        (random_frames(6), {"labels": [-1, 0] * 3}, "labels: expected integers from 0, got -1"),
        (random_frames(6), {"labels": [0.5] * 6}, "labels: expected integers or names, got float64"),
        (random_frames(6), {"labels": [0] * 5}, "labels: expected one for each sequence"),
        (random_frames(6), {"names": ("a", "a")}, "names: expected distinct names"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_remedy(frames, options, cause):
    """Catches data that trains to nonsense instead of an error at once."""
    with pytest.raises(UsageError, match=cause):
        ArraySequences(frames, **options)


def test_composed_sequences_are_refused():
    """Catches an AttributeError in place of the reason."""
    with pytest.raises(UsageError, match="several changes at once"):
        ArraySequences(random_frames()).composed_starts((0,))
