"""The variants of training images."""

import numpy as np
import pytest
import torch

from latentflow_experiments.configuration import TrainConfig
from latentflow_experiments.data import SequenceConfig, open_sequences
from latentflow_experiments.data.variants import draw_variants
from latentflow_experiments.errors import UsageError

SIDE = 28


def affine_maps(count):
    """Recover the map of each variant from those of two ramps, which a cubic reads without an error."""
    places = np.arange(SIDE) - (SIDE - 1) / 2
    across, down = np.meshgrid(places, places, indexing="xy")
    inside = (abs(across) < 6) & (abs(down) < 6)
    points = np.stack([across[inside], down[inside], np.ones(inside.sum())], -1)
    rows = []
    for ramp in (across, down):
        grey = torch.tensor(128 + 9 * ramp).round().clamp(0, 255).to(torch.uint8)
        read = draw_variants(grey.expand(count, SIDE, SIDE), 1, seed=3).numpy()[:, inside]
        exact = (read.astype(float) - 128) / 9
        rows.append(np.linalg.lstsq(points, exact.T, rcond=None)[0].T)
    maps = np.stack(rows, 1)
    return maps[:, :, :2], maps[:, :, 2]


def test_variants_are_the_affine_maps_of_the_docstring():
    """Catches axes that are exchanged, factors in another order, and a deviation in another unit."""
    count = 4000
    matrices, shifts = affine_maps(count)
    turns, uppers = np.linalg.qr(matrices)  # a rotation times an upper triangle, with a positive diagonal
    signs = np.sign(np.diagonal(uppers, axis1=1, axis2=2))
    turns, uppers = turns * signs[:, None], uppers * signs[..., None]
    assert np.linalg.det(turns) == pytest.approx(np.ones(count))
    angle = np.arctan2(turns[:, 1, 0], turns[:, 0, 0])
    wide, tall = np.log(uppers[:, 0, 0]), np.log(uppers[:, 1, 1])
    shear = uppers[:, 0, 1] / uppers[:, 1, 1]
    drawn = np.stack([angle, shear, (wide + tall) / 2, (wide - tall) / 2, *shifts.T])
    expected = np.array([0.13, 0.1, 0.06, 0.06, 0.7, 0.7])
    assert drawn.std(1) == pytest.approx(expected, rel=0.06)  # the standard error is 1.1 %, of rounded greys beside it
    assert (abs(drawn.mean(1)) < 4 * expected / count**0.5 + 2e-3).all()
    correlations = np.corrcoef(drawn) - np.eye(6)
    assert abs(correlations).max() < 0.08  # 5 standard errors


def test_every_draw_is_another_one_and_the_same_again():
    """Catches variants that repeat, and a run that cannot be repeated."""
    images = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    images[:, 8:20, 12:16] = 200
    variants = draw_variants(images, 2)
    assert len({variant.numpy().tobytes() for variant in variants}) == 6
    assert torch.equal(variants, draw_variants(images, 2))
    assert not torch.equal(variants, draw_variants(images, 2, seed=1))
    assert draw_variants(images, 0).shape == (0, SIDE, SIDE)


def test_only_training_images_have_variants():
    """Catches variants that are measured on, images that are lost, and another identity of the data."""
    plain = open_sequences("digits", "train", SequenceConfig(variants=0))
    more = open_sequences("digits", "train", SequenceConfig(variants=2))
    count = len(plain.images)
    assert len(plain.starts(0)) == count
    assert len(more.starts(0)) == 3 * count
    assert len(open_sequences("digits", "train").starts(0)) == count
    drawn = draw_variants(plain.images.images, 2)
    numbers = torch.tensor([5, count - 1, count, count + 5, 3 * count - 1])
    first = more.sequence(numbers, 2)[:, 0, 0]
    expected = torch.cat([plain.images.images[[5, count - 1]], drawn[[0, 5, 2 * count - 1]]])
    assert torch.equal(first, expected.float() / 255)
    assert more.identity() == plain.identity()
    moved = more.to("meta")
    assert moved.variants.device.type == "meta"
    for split in ("validation", "test"):
        opened = open_sequences("digits", split, SequenceConfig(variants=2))
        assert len(opened.starts(0)) == len(opened.images)


def test_variants_of_a_random_start_keep_the_states():
    """Catches states that are read as images."""
    data = open_sequences("digits", "train", SequenceConfig(variants=1, start="random"))
    index = torch.from_numpy(data.grid.encode(np.array([[len(data.images) + 7, 0, 0, 6]])))
    green = data.sequence(index, 0)[0, 0]
    assert torch.equal(green[1], data.variants[7].float() / 255)
    assert green[0].max() == 0


@pytest.mark.parametrize(("name", "variants"), [("digits", -1), ("digits", 101), ("dsprites", 1)])
def test_variants_that_cannot_be_had_are_refused(name, variants):
    """Catches a negative number of copies, a memory that is full, and an option that changes nothing."""
    with pytest.raises(UsageError, match="variants: expected"):
        open_sequences(name, "train", SequenceConfig(variants=variants))


def test_an_older_run_has_no_variants():
    """Catches an older run that is resumed with other images."""
    values = TrainConfig("digits").known()
    assert TrainConfig.from_values(values).sequences.variants is None
    del values["sequences"]["variants"]
    assert TrainConfig.from_values(values).sequences.variants == 0
    del values["sequences"]
    assert TrainConfig.from_values(values).sequences.variants == 0
