"""The rendered rooms: what each factor changes, and that nothing else does."""

import colorsys
from itertools import pairwise

import numpy as np
import pytest

from latentflow_experiments.data.render.make import render_images
from latentflow_experiments.data.sets.falcor3d import FALCOR3D
from latentflow_experiments.data.sets.isaac3d import ISAAC3D
from latentflow_experiments.data.sets.shapes3d import SHAPES3D
from latentflow_experiments.errors import ExperimentError

FAMILIES = [SHAPES3D, FALCOR3D, ISAAC3D]


@pytest.fixture(autouse=True, scope="module")
def graphics():
    """Skip where nothing can be rendered."""
    try:
        render_images(SHAPES3D, np.array([[0, 0, 0, 0, 0, 0]]))
    except ExperimentError as error:
        pytest.skip(str(error))


def shown(family, **values):
    """The digits that contact sheets show, with some changed."""
    names = family.grid.names
    digits = [factor.shown for factor in family.factors]
    for name, value in values.items():
        digits[names.index(name.replace("__", "-"))] = value
    return digits


def render(family, *rows):
    return render_images(family, np.array(rows)).astype(int)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_every_value_of_every_factor_is_another_picture(family):
    """Catches a factor that is not drawn, and a value that is drawn like its neighbour."""
    for j, factor in enumerate(family.factors):
        rows = [[*shown(family)[:j], value, *shown(family)[j + 1 :]] for value in range(factor.size)]
        pictures = render(family, *rows)
        assert pictures.shape == (factor.size, *family.shape[1:], 3)
        for one, other in pairwise(pictures):
            changed = (np.abs(one - other).max(-1) > 8).mean()
            assert changed > 0.01, factor.name


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_a_picture_depends_on_nothing_but_its_digits(family):
    """Catches a size, a color or a light that stays from the picture before."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, family.grid.sizes, (6, len(family.factors)))
    forwards = render_images(family, rows)
    assert (render_images(family, rows[::-1])[::-1] == forwards).all()
    assert (render_images(family, rows[2:3])[0] == forwards[2]).all()


def hue(pixel):
    return colorsys.rgb_to_hsv(*(pixel / 255))[0]


@pytest.mark.parametrize("value", range(10))
def test_hues_of_the_shapes(value):
    """Catches hues that are not tenths of a turn, or that go to another part of the room."""
    places = {"floor_hue": (60, 6), "wall_hue": (24, 50), "object_hue": (46, 34)}
    for name, (row, column) in places.items():
        picture = render(SHAPES3D, shown(SHAPES3D, **{name: value}))[0]
        difference = (hue(picture[row, column]) - value / 10 + 0.5) % 1 - 0.5
        assert abs(difference) < 0.02, name


def test_the_object_grows_with_its_scale_and_stands_on_the_floor():
    """Catches a scale that goes down, and an object that floats or sinks."""
    for shape in range(4):
        rows = [shown(SHAPES3D, scale=s, shape=shape, floor_hue=3, wall_hue=6, orientation=7) for s in range(8)]
        red = [(p[..., 0] > 1.5 * p[..., 1:].max(-1)) for p in render(SHAPES3D, *rows)]
        areas = [int(mask.sum()) for mask in red]
        assert areas == sorted(areas)
        assert 2 < areas[-1] / areas[0] < 3.6  # (1.25 / .75)^2 = 2.8, and nearer
        bottoms = [np.flatnonzero(mask.any(1))[-1] for mask in red]
        assert max(bottoms) - min(bottoms) <= 4  # the near edge comes nearer


def test_the_camera_turns_about_the_object():
    """Catches an orientation of the object in front of a wall that stays."""
    pictures = render(SHAPES3D, *[shown(SHAPES3D, orientation=o, shape=2, floor_hue=3, wall_hue=6) for o in (0, 7, 14)])
    corner = np.abs(pictures[0, 20:28] - pictures[1, 20:28]).max(-1)
    assert (corner > 20).any()  # the wall behind
    red = [(p[..., 0] > 1.5 * p[..., 1:].max(-1)) for p in pictures]
    centres = [np.nonzero(mask)[1].mean() for mask in red]
    np.testing.assert_allclose(centres, 31.5, atol=1.5)


@pytest.mark.parametrize(("family", "count"), [(FALCOR3D, 5), (ISAAC3D, 4)])
def test_a_brighter_lamp(family, count):
    """Catches an intensity that goes down."""
    rows = [shown(family, lighting_intensity=value) for value in range(count)]
    means = render(family, *rows).mean((1, 2, 3))
    assert (np.diff(means) > 4).all()


def test_the_camera_moves_as_it_is_said():
    """Catches axes that are swapped: to the right, what is near goes left; nearer, it grows."""
    right = render(FALCOR3D, *[shown(FALCOR3D, **{"camera_x-pos": v}) for v in (0, 5)])
    vase = [(p[..., 0] > 60) & (p[..., 1] < 30) & (np.arange(128)[:, None] < 84) for p in right]
    assert np.nonzero(vase[1])[1].mean() < np.nonzero(vase[0])[1].mean() - 3
    high = render(FALCOR3D, *[shown(FALCOR3D, **{"camera_y-pos": v}) for v in (0, 5)])
    rug = [(p[..., 0] > 2 * p[..., 1] + 40).sum() for p in high]
    assert rug[1] > 1.05 * rug[0]  # from above more of the floor is seen
    far = render(FALCOR3D, *[shown(FALCOR3D, **{"camera_z-pos": v}) for v in (0, 5)])
    assert np.abs(far[0] - far[1]).mean() > 5


def blue(picture):
    return (picture[..., 2] > 1.6 * picture[..., 0]) & (picture[..., 2] > 1.6 * picture[..., 1])


def test_the_robot_carries_the_object_where_it_is_said():
    """Catches an arm that bends the wrong way, and x for y."""
    across = [blue(p) for p in render(ISAAC3D, *[shown(ISAAC3D, **{"robot_x-move": v}) for v in range(8)])]
    columns = [np.nonzero(mask)[1].mean() for mask in across]
    assert (np.diff(columns) > 4).all()
    up = [blue(p) for p in render(ISAAC3D, *[shown(ISAAC3D, **{"robot_y-move": v}) for v in range(5)])]
    rows = [np.nonzero(mask)[0].mean() for mask in up]
    assert (np.diff(rows) < -3).all()
    for value in range(4):
        scaled = blue(render(ISAAC3D, shown(ISAAC3D, object_scale=value))[0])
        assert scaled.sum() > (70, 130, 200, 280)[value]


def test_the_object_is_always_whole_in_the_picture():
    """Catches combinations in which the arm carries it out of the frame or something stands in front."""
    rng = np.random.default_rng(1)
    rows = rng.integers(0, ISAAC3D.grid.sizes, (40, 9))
    rows[:20, 1] = np.arange(20) % 2 * 7  # as far to either side as it goes,
    rows[:20, 4] = 3  # as large as it gets
    rows[:, 7] = 0  # blue
    rows[:, 5] = 3  # by a bright lamp
    for mask in map(blue, render(ISAAC3D, *rows)):
        assert mask.sum() > 40
        assert not mask[[0, -1]].any()
        assert not mask[:, [0, -1]].any()
