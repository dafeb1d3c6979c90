r"""Sprites drawn from their factors."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from latentflow_experiments.data.frames import Indices, Pixels

__all__ = ["VALUES", "draw_sprites"]

VALUES: tuple[NDArray[np.float64], ...] = (
    np.ones(1),
    np.arange(1.0, 4.0),
    np.linspace(0.5, 1, 6),
    np.linspace(0, 2 * math.pi, 40),
    np.linspace(0, 1, 32),
    np.linspace(0, 1, 32),
)
"""The value of each factor: color, shape, scale, orientation in radians, place in x and y."""

SIZE, REACH = 64, 15  # pixels of the frame, and from the centre of a sprite to the edge of its window
SQUARE, ELLIPSE = 0, 1
HALF_SIDE = 9.6
AXES = (12.76, 7.22)
HEART = (9.6018, 0.66306, -1.4386)  # half width, height of a unit, offset downwards
WITHIN = -3.0  # a point on the heart's axis from which all of its outline is seen


def draw_sprites(digits: Indices) -> Pixels:
    r"""Draw sprites, white on black.

    A pixel is on if its centre is inside the outline; nothing is smoothed. In pixels, with :math:`y` down, the centre
    of the sprite is at :math:`16 + 32 p` for the place :math:`p`, it is turned anticlockwise by the orientation, and at
    scale 1 its outline is

    - a square with sides of 19.2,
    - an ellipse with half axes of 12.76 in :math:`x` and 7.22 in :math:`y`,
    - a heart, :math:`x = 9.6018 \sin^3 s`, :math:`y = -1.4386 - 0.66306 (13 \cos s - 5 \cos 2s - 2 \cos 3s - \cos 4s)`.

    The numbers were fitted to the 320 frames of the animation that is published with dSprites: of the 77,010 pixels of
    sprites in them 96 differ. The direction of turning is that of the animation.

    Args:
        digits: Which value of each factor of dSprites, shape ``(n, 6)``.

    Returns:
        The images, 0 and 255, shape ``(n, 64, 64, 1)``.

    References:
        L. Matthey, I. Higgins, D. Hassabis and A. Lerchner, dSprites, https://github.com/google-deepmind/dsprites-dataset,
        2017.

    Example:
        >>> image = draw_sprites(np.array([[0, 0, 5, 0, 0, 31]]))[0, :, :, 0]  # a square at the lower left
        >>> assert image[48, 16] == 255 and image[16, 16] == 0 and (image > 0).sum() == 400
    """
    shape = digits[:, 1]
    scale, angle, x, y = (VALUES[j][digits[:, j]][:, None, None] for j in range(2, 6))
    centre = 16 + 32 * np.stack([x, y])
    first = np.floor(centre).astype(np.int64) - REACH
    window = np.arange(2 * REACH + 1)
    columns, rows = first[0] + window, first[1] + window[:, None]  # (n, 1, w) and (n, w, 1)
    right, down = columns + 0.5 - centre[0], rows + 0.5 - centre[1]
    u = (right * np.cos(angle) - down * np.sin(angle)) / scale
    v = (right * np.sin(angle) + down * np.cos(angle)) / scale
    images = np.zeros((len(digits), SIZE, SIZE, 1), np.uint8)
    for kind in range(3):
        chosen = np.flatnonzero(shape == kind)
        if len(chosen):
            inside = _inside(kind, u[chosen], v[chosen])
            image, row, column = np.nonzero(inside)
            which = chosen[image]
            images[which, rows[which, row, 0], columns[which, 0, column], 0] = 255
    return images


def _inside(shape: int, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points are inside the outline of a shape in its own frame."""
    if shape == SQUARE:
        return np.maximum(abs(u), abs(v)) <= HALF_SIDE
    if shape == ELLIPSE:
        return (u / AXES[0]) ** 2 + (v / AXES[1]) ** 2 <= 1
    inside = np.zeros(u.shape, bool)
    near = np.maximum(abs(u), abs(v)) < 12
    x, y = u[near], v[near] - WITHIN
    inside[near] = np.hypot(x, y) <= np.interp(np.arctan2(x, y), *_OUTLINE, period=2 * math.pi)
    return inside


def _heart() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the heart's outline as distances from the inner point by their direction."""
    s = np.linspace(0, 2 * math.pi, 2000, endpoint=False)
    width, height, offset = HEART
    x = width * np.sin(s) ** 3
    y = offset - height * (13 * np.cos(s) - 5 * np.cos(2 * s) - 2 * np.cos(3 * s) - np.cos(4 * s)) - WITHIN
    order = np.argsort(np.arctan2(x, y))
    return np.arctan2(x, y)[order], np.hypot(x, y)[order]


_OUTLINE = _heart()


def own_renderer() -> str:
    """Name the renderer: our own."""
    return "latentflow"
