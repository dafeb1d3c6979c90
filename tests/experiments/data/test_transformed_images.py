"""Images with their transformations as a data set of sequences."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from latentflow_experiments.data.transformed import LabelledImages, TransformationSequences, TransformedImages


@pytest.fixture
def images():
    pixels = torch.randint(0, 256, (4, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return LabelledImages(pixels, torch.tensor([7, 2, 2, 9]), "noise", "train")


def test_a_canonical_start_is_the_image_itself(images):
    """Catches a first frame that is resampled."""
    data = TransformedImages(images)
    for k in range(3):
        assert data.starts(k).tolist() == [0, 1, 2, 3]
        frames = data.sequence(torch.tensor([3, 1]), k)
        assert torch.equal(frames, TransformationSequences()(images.images[[3, 1]], k))
        assert torch.equal(frames[:, 0, 0], images.images[[3, 1]] / 255)


def test_a_random_start_changes_one_transformation_only(images):
    """Catches states that go to the wrong transformation, and a start that the running one keeps."""
    data = TransformedImages(images, start="random")
    transformations = data.transformations
    index = int(data.grid.encode([2, 3, 4, 5]))
    size = 28
    centre = (size - 1) / 2
    down, right = torch.meshgrid(torch.arange(size) - centre, torch.arange(size) - centre, indexing="ij")
    for k in range(3):
        frames = data.sequence(torch.tensor([index]), k)[0]
        for t in range(9):
            states = [3, 4, 5]
            states[k] = t
            scale, angle = transformations.scales[states[0]], math.radians(transformations.angles[states[1]])
            u = (math.cos(angle) * right - math.sin(angle) * down) / (scale * centre)
            v = (math.sin(angle) * right + math.cos(angle) * down) / (scale * centre)
            grey = F.grid_sample(images.images[None, 2:3] / 255, torch.stack([u, v], -1)[None], align_corners=True)[0]
            hue = transformations.hues[states[2]]
            color = (1, hue / 60, 0) if hue <= 60 else (2 - hue / 60, 1, 0) if hue <= 120 else (0, 1, (hue - 120) / 60)
            expected = grey * torch.tensor(color)[:, None, None]
            torch.testing.assert_close(frames[t], expected, atol=3e-5, rtol=0)


def test_the_starts_of_a_random_start_are_all_states_of_the_others(images):
    """Catches a sequence that is counted once for every state it runs through."""
    data = TransformedImages(images, TransformationSequences.of(3), start="random")
    for k in range(3):
        digits = data.grid.decode(data.starts(k).numpy())
        assert len(digits) == 4 * 3 * 3
        assert (digits[:, 1 + k] == 0).all()
        assert len(np.unique(digits, axis=0)) == len(digits)


def test_fewer_transformations_in_another_order(images):
    """Catches a k that counts those that are not in use."""
    data = TransformedImages(images, names=("coloring", "scaling"))
    every = TransformedImages(images)
    indices = torch.tensor([0, 3])
    assert torch.equal(data.sequence(indices, 0), every.sequence(indices, 2))
    assert torch.equal(data.sequence(indices, torch.tensor([1, 0])), every.sequence(indices, torch.tensor([0, 2])))
    random = TransformedImages(images, names=("coloring",), start="random")
    assert random.grid.names == ("image", "coloring")
    assert torch.equal(random.sequence(torch.tensor([9 * 3 + 5]), 0), every.sequence(torch.tensor([3]), 2))


def test_examples_are_the_first_of_a_few_classes(images):
    """Catches examples that move with the split or the transformation."""
    many = LabelledImages(
        images.images.repeat(3, 1, 1), torch.tensor([9, 7, 2, 2, 5, 4, 3, 0, 7, 1, 8, 6]), "many", "train"
    )
    data = TransformedImages(many)
    assert data.examples(0, 5).tolist() == [2, 6, 5, 4, 1]  # the first 2, 3, 4, 5 and 7
    assert data.examples(0, 1).tolist() == [2]
    random = TransformedImages(many, start="random")
    digits = random.grid.decode(random.examples(1, 5).numpy())
    assert digits[:, 0].tolist() == [2, 6, 5, 4, 1]
    assert (digits[:, 2] == 0).all()
    assert TransformedImages(images).examples(0, 3).tolist() == [0, 1, 3]  # no such digits: spread over all
    assert TransformedImages(images).examples(0, 9).tolist() == [0, 1, 2, 3]


def test_twelve_states_and_the_hues_of_the_text():
    """Catches the states of the ablation of table 10: scales to 2.1, angles to 110 degrees."""
    twelve = TransformationSequences.of(12)
    assert twelve.scales == pytest.approx([1 + 0.1 * t for t in range(12)])
    assert twelve.angles == tuple(10.0 * t for t in range(12))
    assert twelve.hues == tuple(20.0 * t for t in range(12))
    assert TransformationSequences.of(last_hue=340).hues == tuple(42.5 * t for t in range(9))
    with pytest.raises(ValueError, match="states: expected at least 2, got 1"):
        TransformationSequences.of(1)


@pytest.mark.parametrize("names", [("turning",), ("scaling", "scaling")])
def test_wrong_names(images, names):
    """Catches a transformation that is not there."""
    with pytest.raises(ValueError, match="names: expected distinct ones of scaling, rotation, coloring"):
        TransformedImages(images, names=names)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (torch.zeros(1, 3, dtype=torch.int64), r"start: expected shape \(4, 3\), got \(1, 3\)"),
        (torch.zeros(4, 3), "start: expected dtype torch.int64"),
        (torch.full((4, 3), 9), "start: expected states from 0 to 8, got 9"),
    ],
)
def test_wrong_starts(images, start, message):
    """Catches a state that wraps around."""
    with pytest.raises(ValueError, match=message):
        TransformationSequences()(images.images, 0, start)


def test_an_image_that_is_not_there(images):
    """Catches an index that counts from the end."""
    for start in ("canonical", "random"):
        with pytest.raises(ValueError, match="indices: expected values from 0 to"):
            TransformedImages(images, start=start).sequence(torch.tensor([-1]), 0)
