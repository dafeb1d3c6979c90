"""Sprites against the geometry of their outlines, and against the published animation."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from latentflow_experiments.data.render.sprites import VALUES, draw_sprites

ANIMATION = Path(os.environ.get("LATENTFLOW_DATA", "/nonexistent"), "real_samples", "dsprites.gif")
SQUARE, ELLIPSE, HEART = 0, 1, 2


def draw(*digits):
    """One sprite as truth values."""
    return draw_sprites(np.array([digits]))[0, :, :, 0] > 0


def every(shape):
    """Sprites of a shape in all scales and 8 orientations, with their digits."""
    digits = np.array(
        [(0, shape, s, o, x, y) for s in range(6) for o in range(0, 40, 5) for x, y in ((3, 28), (16, 9))]
    )
    return digits, draw_sprites(digits)[..., 0] > 0


def area_of_the_heart():
    """The area inside the heart's outline, by Green's theorem over a fine polygon."""
    s = np.linspace(0, 2 * math.pi, 200_001)
    x = 9.6018 * np.sin(s) ** 3
    y = -0.66306 * (13 * np.cos(s) - 5 * np.cos(2 * s) - 2 * np.cos(3 * s) - np.cos(4 * s))
    return abs(np.sum(x[:-1] * np.diff(y) - y[:-1] * np.diff(x))) / 2


@pytest.mark.parametrize(
    ("shape", "area"), [(SQUARE, 19.2**2), (ELLIPSE, math.pi * 12.76 * 7.22), (HEART, area_of_the_heart())]
)
def test_areas(shape, area):
    """Catches a size taken for a half size, a scale that multiplies the coordinates, and a shape that is cut off."""
    digits, images = every(shape)
    scale = 0.5 + 0.1 * digits[:, 2]
    found = images.sum((1, 2))
    assert np.abs(found - area * scale**2).max() < 40  # pixels: a row of them at each side of an upright square
    assert np.abs(found / (area * scale**2) - 1).mean() < 0.025


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE])
def test_centres(shape):
    """Catches a place that is off by half a pixel, and x for y."""
    digits, images = every(shape)
    grid = np.arange(64) + 0.5
    x = (images.sum(1) * grid).sum(1) / images.sum((1, 2))
    y = (images.sum(2) * grid).sum(1) / images.sum((1, 2))
    for found, digit in ((x, digits[:, 4]), (y, digits[:, 5])):
        off = found - (16 + 32 * digit / 31)
        assert np.abs(off).max() < 0.5
        assert np.abs(off).mean() < 0.1


def test_the_ellipse_turns_anticlockwise():
    """Catches a turn the other way, and half axes that are swapped."""
    grid = np.arange(64) + 0.5
    for o in range(40):
        image = draw(0, ELLIPSE, 5, o, 16, 16)
        rows, columns = np.nonzero(image)
        x, y = grid[columns] - grid[columns].mean(), -(grid[rows] - grid[rows].mean())
        long_axis = math.atan2(2 * (x * y).mean(), (x * x).mean() - (y * y).mean()) / 2
        difference = (long_axis - 2 * math.pi * o / 39 + math.pi / 2) % math.pi - math.pi / 2
        assert abs(difference) < 0.03


def test_the_heart_points_down_and_is_symmetric():
    """Catches a heart upside down."""
    image = draw(0, HEART, 5, 0, 0, 0)
    rows = np.flatnonzero(image.any(1))
    widths = image.sum(1)[rows]
    assert widths[-1] < 4 < widths[len(widths) // 3]
    centred = draw_sprites(np.array([[0, HEART, 5, 0, 0, 0]]))[0, :, :32, 0]  # the centre is at 16
    assert (centred == centred[:, ::-1]).all()
    assert not image[rows[0], 16]  # between the two arcs


def test_a_full_turn_is_the_first_picture_and_colors_are_white():
    """Catches 40 steps of a turn instead of 39, as the published values have it, and grey edges."""
    assert VALUES[3][-1] == 2 * math.pi
    for shape in range(3):
        assert (draw(0, shape, 3, 0, 10, 20) == draw(0, shape, 3, 39, 10, 20)).all()
        assert (draw(0, shape, 3, 0, 10, 20) != draw(0, shape, 3, 1, 10, 20)).any()
        assert set(np.unique(draw_sprites(np.array([[0, shape, 5, 7, 31, 0]])))) == {0, 255}


def test_sprites_do_not_depend_on_their_neighbours():
    """Catches pixels of one sprite in the image of another one."""
    digits = np.random.default_rng(0).integers(0, (1, 3, 6, 40, 32, 32), (40, 6))
    together = draw_sprites(digits)
    assert all((draw_sprites(row[None])[0] == image).all() for row, image in zip(digits, together, strict=True))


@pytest.mark.skipif(not ANIMATION.is_file(), reason="needs the published animation in $LATENTFLOW_DATA/real_samples")
def test_the_frames_of_the_published_animation():
    """Catches an outline that is a fifth of a pixel too wide, and a turn the other way: each frame is some sprite."""
    with Image.open(ANIMATION) as file:
        frames = [np.asarray(frame.convert("L")) > 127 for frame in ImageSequence.Iterator(file)]
    if frames[0].shape != (64, 64):
        step = frames[0].shape[0] // 64
        frames = [frame[step // 2 :: step, step // 2 :: step][:64, :64] for frame in frames]
    turning = {HEART: (18, 58), ELLIPSE: (210, 250), SQUARE: (274, 314)}
    differing = total = 0
    for i, frame in enumerate(frames):
        rows, columns = np.nonzero(frame)
        x, y = ((columns.mean() + 0.5 - 16) / 32, (rows.mean() + 0.5 - 16) / 32)
        shape = HEART if i < 192 else ELLIPSE if i < 256 else SQUARE
        first, last = turning[shape]
        turns, scales = ([i - first], [5]) if first <= i < last else ([0], range(6))
        near = [[j for j in range(32) if abs(j / 31 - centre) < 0.09] for centre in (x, y)]
        digits = np.array([(0, shape, s, o, p, q) for s in scales for o in turns for p in near[0] for q in near[1]])
        differing += (draw_sprites(digits)[..., 0] > 0).__ne__(frame).sum((1, 2)).min()
        total += frame.sum()
    assert len(frames) == 320
    assert (differing, total) == (96, 77_010)
