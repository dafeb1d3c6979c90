"""Sequences along a factor, on images that say which ones they are."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from latentflow_experiments.data.factors import SPLITS, Factor, FactorSequences, Family
from latentflow_experiments.data.frames import FactorGrid
from latentflow_experiments.data.sets.dsprites import DSPRITES
from latentflow_experiments.data.sets.falcor3d import FALCOR3D
from latentflow_experiments.data.sets.isaac3d import ISAAC3D
from latentflow_experiments.data.sets.shapes3d import SHAPES3D


class Numbered:
    """Every pixel of an image holds one digit of its index in the whole family."""

    def __init__(self, family, digits=None, synthetic=None):
        self.family = family
        self.digits = digits or tuple(tuple(range(f.size)) for f in family.factors)
        self.grid = FactorGrid(family.grid.names, tuple(map(len, self.digits)))
        self.shape = (3, 2, len(family.factors))
        self.synthetic = synthetic
        self.path = Path("numbered")
        self.asked = []

    def read(self, indices):
        self.asked.append(indices)
        there = self.grid.decode(indices)
        digits = np.stack([np.asarray(kept)[there[:, j]] for j, kept in enumerate(self.digits)], -1)
        return np.broadcast_to(digits[:, None, :, None], (len(indices), 2, digits.shape[1], 3)).astype(np.uint8)

    def sha256(self):
        return "0" * 64


def digits_of(frames):
    """The digits of every frame, from its pixels."""
    return (frames[..., 0, 0, :] * 255).round().long()


@pytest.mark.parametrize("family", [DSPRITES, SHAPES3D, FALCOR3D, ISAAC3D], ids=lambda f: f.name)
def test_a_sequence_changes_its_factor_and_nothing_else(family):
    """Catches a start digit that is not cleared, so that a sequence wraps into another factor."""
    data = FactorSequences(Numbered(family), family)
    rng = np.random.default_rng(0)
    for k, name in enumerate(data.names):
        indices = torch.from_numpy(rng.integers(0, len(family.grid), 20))
        digits = digits_of(data.sequence(indices, k))
        j = family.grid.position(name)
        assert digits.shape == (20, data.states, len(family.factors))
        assert (digits[:, :, j] == torch.tensor(data.digits(k))).all()
        start = torch.from_numpy(family.grid.decode(indices.numpy()))
        others = [i for i in range(len(family.factors)) if i != j]
        assert (digits[:, :, others] == start[:, None, others]).all()


@pytest.mark.parametrize(
    ("family", "names", "steps"),
    [
        (DSPRITES, ("scale", "orientation", "posX", "posY"), 5),
        (SHAPES3D, ("floor_hue", "wall_hue", "object_hue", "scale"), 7),
        (FALCOR3D, FALCOR3D.grid.names, 4),
        (ISAAC3D, ISAAC3D.grid.names[1:], 3),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_defaults_are_those_of_the_paper(family, names, steps):
    """Catches another number of transformations or steps: 4 and 7, 7 and 4, 8 and 3."""
    data = FactorSequences(Numbered(family), family)
    assert data.names == names
    assert data.steps == steps


def test_a_place_goes_through_its_whole_range():
    """Catches sprites that move by a sixth of the frame, and a stride that leaves the grid."""
    data = FactorSequences(Numbered(DSPRITES), DSPRITES)
    assert [data.digits(k) for k in range(4)] == [
        (0, 1, 2, 3, 4, 5),
        (0, 1, 2, 3, 4, 5),
        (0, 6, 12, 18, 24, 30),
        (0, 6, 12, 18, 24, 30),
    ]


def test_a_subset_has_sequences_of_its_own_values():
    """Catches indices of the whole family in the grid of a subset."""
    kept = SHAPES3D.subset(24_000)
    data = FactorSequences(Numbered(SHAPES3D, kept), SHAPES3D)
    assert data.states == min(len(kept[j]) for j in range(4))
    k = data.names.index("scale")
    digits = digits_of(data.sequence(data.starts(k)[:9], k))
    assert (digits[:, :, 3] == torch.tensor(kept[3][: data.states])).all()
    for j in (0, 1, 2, 4, 5):
        assert (digits[:, :, j] == digits[:, :1, j]).all()
        assert set(digits[:, 0, j].tolist()) <= set(kept[j])


@pytest.mark.parametrize("family", [DSPRITES, SHAPES3D, FALCOR3D, ISAAC3D], ids=lambda f: f.name)
def test_no_image_is_in_two_splits(family):
    """Catches test sequences whose images are those of a training sequence of another transformation."""
    seen, counts = {}, {}
    for split in SPLITS:
        data = FactorSequences(Numbered(family), family, split)
        seen[split] = np.zeros(len(family.grid), bool)
        for k, name in enumerate(data.names):
            starts = data.starts(k)
            first = data.grid.decode(starts.numpy())
            assert (first[:, family.grid.position(name)] == 0).all()
            assert len(starts.unique()) == len(starts)
            seen[split][data.lines(starts.numpy(), np.full(len(starts), k))] = True
            counts[split, k] = len(starts) * family.grid.sizes[family.grid.position(name)] / len(family.grid)
    assert not (seen["train"] & seen["test"]).any()
    assert not (seen["train"] & seen["validation"]).any()
    assert not (seen["validation"] & seen["test"]).any()
    for (split, _), share in counts.items():
        low, high = {"train": (0.6, 0.95), "validation": (0.005, 0.012), "test": (0.008, 0.012)}[split]
        assert low < share < high


def test_a_subset_has_the_test_sequences_of_the_whole():
    """Catches a model that was trained on a subset and is tested elsewhere on what it saw."""
    kept = SHAPES3D.subset(48_000)
    part, whole = (FactorSequences(Numbered(SHAPES3D, digits), SHAPES3D, "test") for digits in (kept, None))
    for k in range(4):
        first = part.grid.decode(part.starts(k).numpy())
        values = np.stack([np.asarray(there)[first[:, j]] for j, there in enumerate(kept)], -1)
        assert set(SHAPES3D.grid.encode(values).tolist()) <= set(whole.starts(k).tolist())


def test_mixed_transformations_in_one_batch_are_one_read():
    """Catches a batch that is read transformation by transformation, or handed back in another order."""
    data = FactorSequences(Numbered(SHAPES3D), SHAPES3D)
    indices, k = torch.tensor([7, 400_000, 7, 31, 479_999]), torch.tensor([3, 0, 1, 2, 3])
    mixed = data.sequence(indices, k)
    assert len(data.frames.asked) == 1
    for n in range(5):
        assert torch.equal(mixed[n], data.sequence(indices[n : n + 1], int(k[n]))[0])


def test_frames_are_the_pixels_over_255():
    """Catches channels in the last place, another scale, and a first frame that is not the image."""

    class Gradient(Numbered):
        shape = (3, 4, 5)

        def read(self, indices):
            pixels = np.arange(60).reshape(4, 5, 3)
            return np.stack([(pixels + i) % 256 for i in indices]).astype(np.uint8)

    frames = Gradient(SHAPES3D)
    frames.shape = (3, 4, 5)
    data = FactorSequences(frames, SHAPES3D)
    first = data.sequence(torch.tensor([12]), 0)[0, 0]
    expected = torch.from_numpy(frames.read([12])[0]).permute(2, 0, 1).float() / 255
    assert torch.equal(first, expected)
    assert first.dtype == torch.float32
    assert data.sequence(torch.tensor([12]), 0).is_contiguous()


def test_chosen_transformations_and_states():
    """Catches a k that counts the factors of the family, and a length that another factor limits."""
    data = FactorSequences(Numbered(ISAAC3D), ISAAC3D, names=("robot_y-move", "robot_x-move"))
    assert data.steps == 4
    assert (digits_of(data.sequence(torch.tensor([5]), 1))[0, :, 1] == torch.arange(5)).all()
    alone = FactorSequences(Numbered(ISAAC3D), ISAAC3D, names=("robot_x-move",))
    assert alone.steps == 7
    assert FactorSequences(Numbered(ISAAC3D), ISAAC3D, names=("robot_x-move",), states=3).steps == 2


def test_the_name_says_that_a_stand_in_is_synthetic():
    """Catches made images that pass for the published ones."""
    real = FactorSequences(Numbered(SHAPES3D), SHAPES3D)
    made = FactorSequences(Numbered(SHAPES3D, synthetic={"renderer": "x"}), SHAPES3D)
    assert real.name == "shapes3d"
    assert made.name == "shapes3d (synthetic)"
    assert made.identity()["synthetic"] == {"renderer": "x"}
    assert real.identity()["synthetic"] is None


def test_examples_are_starts_and_always_the_same():
    """Catches a picture of training sequences."""
    data = FactorSequences(Numbered(SHAPES3D), SHAPES3D, "test")
    chosen = data.examples(2, 5)
    assert len(chosen) == 5
    assert set(chosen.tolist()) <= set(data.starts(2).tolist())
    assert torch.equal(chosen, data.examples(2, 5))


def test_it_goes_to_the_workers_of_a_loader():
    """Catches a data set that cannot be pickled."""
    data = pickle.loads(pickle.dumps(FactorSequences(Numbered(SHAPES3D), SHAPES3D)))
    assert data.sequence(torch.tensor([3]), 0).shape == (1, 8, 3, 2, 6)


TINY = Family("tiny", "Tiny", (Factor("a", 3), Factor("b", 2)), (3, 2, 2), "tiny", "", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ("a", "c")}, "names: expected distinct ones of a, b, got"),
        ({"names": ("a", "a")}, "names: expected distinct ones of a, b, got"),
        ({"states": 3}, "states: expected from 2 to 2, the values of b, got 3"),
        ({"states": 1}, "states: expected from 2 to 2"),
        ({"split": "dev"}, "split: expected one of"),
    ],
)
def test_wrong_options(options, message):
    """Catches a choice that shows only when a sequence is read."""
    with pytest.raises(ValueError, match=message):
        FactorSequences(Numbered(TINY), TINY, **options)


@pytest.mark.parametrize(
    ("indices", "k", "message"),
    [
        (torch.tensor([6]), 0, "indices: expected values from 0 to 5, got 6"),
        (torch.tensor([0.0]), 0, "indices: expected shape"),
        (torch.tensor([[0]]), 0, "indices: expected shape"),
        (torch.tensor([0]), 2, "k: expected values from 0 to 1, got 2"),
        (torch.tensor([0]), torch.tensor([0, 1]), "k: expected an int or shape"),
    ],
)
def test_wrong_arguments_of_a_sequence(indices, k, message):
    """Catches an index that reads another image."""
    with pytest.raises(ValueError, match=message):
        FactorSequences(Numbered(TINY), TINY).sequence(indices, k)
