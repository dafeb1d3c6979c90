"""Sequences in which several transformations take part."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from latentflow_experiments.data.factors import FactorSequences
from latentflow_experiments.data.frames import FactorGrid
from latentflow_experiments.data.sequences import interpolate, switched_states, turning_point, weighted_states
from latentflow_experiments.data.sets.dsprites import DSPRITES
from latentflow_experiments.data.sets.falcor3d import FALCOR3D
from latentflow_experiments.data.sets.isaac3d import ISAAC3D
from latentflow_experiments.data.sets.shapes3d import SHAPES3D
from latentflow_experiments.data.transformed import LabelledImages, TransformationSequences, TransformedImages


class Digits:
    """A store of images of which every pixel holds one digit of the index."""

    synthetic, path = None, Path("digits")

    def __init__(self, family):
        self.digits = tuple(tuple(range(f.size)) for f in family.factors)
        self.grid = FactorGrid(family.grid.names, family.grid.sizes)
        self.shape = (3, 1, len(family.factors))

    def read(self, indices):
        digits = self.grid.decode(indices)
        return np.broadcast_to(digits[:, None, :, None], (len(indices), 1, digits.shape[1], 3)).astype(np.uint8)

    def sha256(self):
        return "0" * 64


def digits_of(frames):
    return (frames[..., 0, 0, :] * 255).round().long()


def along(k, data):
    """The states of one transformation that runs alone."""
    return weighted_states([float(k == j) for j in range(len(data.names))], range(data.steps + 1))


@pytest.fixture
def images():
    pixels = torch.randint(0, 256, (4, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return LabelledImages(pixels, torch.tensor([7, 2, 2, 9]), "noise", "train")


@pytest.mark.parametrize("start", ["canonical", "random"])
@pytest.mark.parametrize("names", [(), ("coloring", "scaling")])
def test_one_transformation_of_images_is_a_sequence(images, start, names):
    """Catches states that go to another transformation, are shifted by one or lose the start of the index."""
    data = TransformedImages(images, names=names, start=start)
    indices = torch.arange(len(data.grid))[:: max(1, len(data.grid) // 5)]
    for k in range(len(data.names)):
        assert torch.equal(data.composed(indices, along(k, data)), data.sequence(indices, k))
        assert torch.equal(data.composed(indices, along(k, data).long()), data.sequence(indices, k))


@pytest.mark.parametrize("family", [DSPRITES, SHAPES3D, FALCOR3D, ISAAC3D], ids=lambda f: f.name)
def test_one_factor_is_a_sequence(family):
    """Catches states that are read as digits, and other factors that are set back."""
    data = FactorSequences(Digits(family), family)
    indices = torch.randint(len(family.grid), (9,), generator=torch.Generator().manual_seed(0))
    for k in range(len(data.names)):
        assert torch.equal(data.composed(indices, along(k, data)), data.sequence(indices, k))


def test_state_0_is_the_image_itself(images):
    """Catches a first frame that is resampled, or another image."""
    data = TransformedImages(images)
    frames = data.composed(torch.tensor([3, 1]), torch.zeros(2, 3))
    assert torch.equal(frames[:, 1, 0], images.images[[3, 1]] / 255)
    assert not frames[:, :, 1:].any()
    factors = FactorSequences(Digits(SHAPES3D), SHAPES3D)
    index = int(SHAPES3D.grid.encode([4, 3, 2, 1, 3, 9]))
    assert digits_of(factors.composed(torch.tensor([index]), torch.zeros(1, 4))).tolist() == [[[4, 3, 2, 1, 3, 9]]]


def test_coloring_and_rotating_is_coloring_what_is_rotated(images):
    """Catches a transformation that is dropped, and a color that is rotated by interpolation of its own."""
    data, indices = TransformedImages(images), torch.arange(4)
    frames = data.composed(indices, weighted_states((0.0, 1.0, 1.0), range(9)))
    rotated = data.sequence(indices, 1)[:, :, 0]
    for t, hue in enumerate(data.transformations.hues):
        rgb = (1, hue / 60, 0) if hue <= 60 else (2 - hue / 60, 1, 0) if hue <= 120 else (0, 1, (hue - 120) / 60)
        torch.testing.assert_close(frames[:, t], rotated[:, t, None] * torch.tensor(rgb)[:, None, None])


def test_fractional_states_are_interpolated_linearly(images):
    """Catches a scale or angle of the state below, a hue that is mixed as a color, or another order."""
    data = TransformedImages(images, TransformationSequences((1.0, 1.2, 2.0), (0.0, 10.0, 50.0), (0.0, 60.0, 180.0)))
    frame = data.composed(torch.tensor([2]), torch.tensor([[1.5, 1.25, 1.75]]))[0, 0]
    scale, angle = 1.6, math.radians(20)
    down, right = torch.meshgrid(torch.arange(28) - 13.5, torch.arange(28) - 13.5, indexing="ij")
    u = (math.cos(angle) * right - math.sin(angle) * down) / (scale * 13.5)
    v = (math.sin(angle) * right + math.cos(angle) * down) / (scale * 13.5)
    grey = F.grid_sample(images.images[None, 2:3] / 255, torch.stack([u, v], -1)[None], align_corners=True)[0]
    color = torch.tensor([0.0, 1.0, 0.5])[:, None, None]  # a hue of 150 degrees
    torch.testing.assert_close(frame, grey * color, atol=3e-5, rtol=0)


def test_interpolation_is_exact_in_the_states():
    """Catches a last state that rounds, or reads past the end of the table."""
    values = (0.0, 0.1, 0.3, 0.7)
    assert [interpolate(values, float(t)) for t in range(4)] == list(values)
    assert interpolate(values, 2.75) == pytest.approx(0.6)


def test_factors_that_run_together():
    """Catches a stride that is left out, the index's digit under a factor that runs, and one of another that goes."""
    data = FactorSequences(Digits(DSPRITES), DSPRITES, names=("posX", "scale"), states=6)
    index = torch.tensor(
        [int(DSPRITES.grid.encode([0, 2, 5, 7, 9, 11]))]
    )  # color, shape, scale, orientation, posX, posY
    digits = digits_of(data.composed(index, torch.tensor([[0, 0], [2, 0], [2, 3], [5, 5]])))
    assert digits.tolist() == [[[0, 2, 0, 7, 0, 11], [0, 2, 0, 7, 12, 11], [0, 2, 3, 7, 12, 11], [0, 2, 5, 7, 30, 11]]]
    held = digits_of(data.composed(index, torch.tensor([[1, 0], [1, 0]])))
    assert held.tolist() == [[[0, 2, 5, 7, 6, 11]] * 2]


def test_first_images_are_in_state_0_of_all_and_distinct(images):
    """Catches an image that counts once for each value of a factor that is set back, and a split that is left."""
    data = FactorSequences(Digits(SHAPES3D), SHAPES3D, "test")
    starts = data.composed_starts((0, 2))
    digits = SHAPES3D.grid.decode(starts.numpy())
    assert not digits[:, [0, 2]].any()
    assert len(starts.unique()) == len(starts) > 0
    lines = [SHAPES3D.grid.decode(data.starts(k).numpy()) for k in (0, 2)]
    for line in lines:
        line[:, [0, 2]] = 0
    assert set(map(tuple, digits)) == set(map(tuple, np.concatenate(lines)))
    assert torch.equal(data.composed_starts((2, 0)), starts)
    assert TransformedImages(images).composed_starts((1, 0)).tolist() == [0, 1, 2, 3]
    random = TransformedImages(images, TransformationSequences.of(3), start="random")
    digits = random.grid.decode(random.composed_starts((2, 0)).numpy())
    assert len(digits) == 4 * 3
    assert not digits[:, [1, 3]].any()


def test_the_states_of_a_switch():
    """Catches a first transformation that goes on or is taken back, and a second one that starts late."""
    assert [turning_point(steps) for steps in (2, 3, 7, 8)] == [1, 2, 4, 4]
    states = switched_states(2, 0, kinds=3, steps=8)
    assert states[:, 2].tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 4]
    assert states[:, 0].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4]
    assert not states[:, 1].any()
    with pytest.raises(ValueError, match=r"^kinds: expected distinct ones from 0 to 2, got \(1, 1\)"):
        switched_states(1, 1, kinds=3, steps=8)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (torch.zeros(4), r"states: expected shape \(frames, 3\), got \(4,\)"),
        (torch.zeros(4, 2), r"states: expected shape \(frames, 3\), got \(4, 2\)"),
        (
            torch.zeros(4, 3, dtype=torch.int32),
            r"states: expected dtype torch.int64 or floating point, got torch.int32",
        ),
        (torch.tensor([[0.0, 8.5, 0.0]]), "states: expected values from 0 to 8, got 8.5"),
        (torch.tensor([[0.0, -1.0, 0.0]]), "states: expected values from 0 to 8, got -1"),
        (torch.tensor([[0.0, float("nan"), 0.0]]), "states: expected values from 0 to 8, got nan"),
    ],
)
def test_wrong_states(images, states, message):
    """Catches a state that counts from the end, or leaves the table."""
    with pytest.raises(ValueError, match=message):
        TransformedImages(images).composed(torch.tensor([0]), states)


def test_wrong_arguments_of_factors(images):
    """Catches a state between two images that is rounded to one of them."""
    data = FactorSequences(Digits(SHAPES3D), SHAPES3D)
    with pytest.raises(ValueError, match=r"^states: expected integers, as images are numbered by factors, got 0.5"):
        data.composed(torch.tensor([0]), torch.tensor([[0.5, 0.0, 0.0, 0.0]]))
    with pytest.raises(ValueError, match=r"^indices: expected shape \(b,\) of int64"):
        data.composed(torch.tensor([0.0]), torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"^indices: expected values from 0 to 479999, got 480000"):
        data.composed(torch.tensor([480_000]), torch.zeros(1, 4))
    for kinds in ((), (0, 0), (0, 4), (-1,)):
        with pytest.raises(ValueError, match=r"^kinds: expected distinct ones from 0 to 3"):
            data.composed_starts(kinds)
    with pytest.raises(ValueError, match=r"^states: expected shape \(4, frames, 3\), got \(4, 3\)"):
        TransformationSequences().composed(images.images, torch.zeros(4, 3))
    assert TransformedImages(images).fractional
    assert not data.fractional
