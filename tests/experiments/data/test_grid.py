"""The algebra of images that are numbered by factors."""

import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from latentflow_experiments.data import FAMILIES
from latentflow_experiments.data.factors import draw_split
from latentflow_experiments.data.frames import FactorGrid

PUBLISHED = {  # how far apart neighbours are, from the READMEs of the data sets
    "dsprites": (737_280, 245_760, 40_960, 1024, 32, 1),
    "shapes3d": (48_000, 4_800, 480, 60, 15, 1),
    "falcor3d": (46_656, 7_776, 1_296, 216, 36, 6, 1),
    "isaac3d": (245_760, 30_720, 6_144, 1_536, 384, 96, 16, 4, 1),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_bases_are_the_published_ones(name):
    """Catches factors in another order: of Isaac3D the README names them in one that its sizes do not fit."""
    assert FAMILIES[name].grid.bases == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "count"), [("dsprites", 737_280), ("shapes3d", 480_000), ("falcor3d", 233_280), ("isaac3d", 737_280)]
)
def test_every_tuple_of_factors_comes_back(name, count):
    """Catches an order, a size or a base that is wrong for any image of any family."""
    grid = FAMILIES[name].grid
    assert len(grid) == count
    every = np.arange(count)
    digits = grid.decode(every)
    assert (digits == np.stack(np.unravel_index(every, grid.sizes), -1)).all()
    assert (grid.encode(digits) == every).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_line_of_every_family_changes_one_digit(name):
    """Catches a sequence that runs over the end of its factor into the next one."""
    grid = FAMILIES[name].grid
    every = np.arange(len(grid))
    for j, factor in enumerate(grid.names):
        line = grid.line(every, factor, [0, grid.sizes[j] - 1])
        digits = grid.decode(line)
        assert (digits[:, 0, j] == 0).all()
        assert (digits[:, 1, j] == grid.sizes[j] - 1).all()
        others = np.delete(digits, j, -1)
        assert (others == np.delete(grid.decode(every), j, -1)[:, None]).all()
        assert (grid.clear(every, factor) == line[:, 0]).all()


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_lines_by_counting(sizes, data):
    """Catches the algebra against a list of all tuples."""
    grid = FactorGrid(tuple(f"f{j}" for j in range(len(sizes))), tuple(sizes))
    tuples = list(itertools.product(*(range(size) for size in sizes)))
    index = data.draw(st.integers(0, len(tuples) - 1))
    j = data.draw(st.integers(0, len(sizes) - 1))
    expected = [tuples.index((*tuples[index][:j], d, *tuples[index][j + 1 :])) for d in range(sizes[j])]
    assert grid.line([index], f"f{j}", range(sizes[j])).tolist() == [expected]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.encode([2, 0]), "digits: expected hue from 0 to 1, got 2"),
        (lambda g: g.encode([0, -1]), "digits: expected shape from 0 to 2, got -1"),
        (lambda g: g.encode([0]), r"digits: expected shape \(\*batch, 2\), got \(1,\)"),
        (lambda g: g.decode([0, 6]), "indices: expected values from 0 to 5, got 6"),
        (lambda g: g.line([-1], "hue", [0]), "indices: expected values from 0 to 5, got -1"),
        (lambda g: g.line([0], "hue", [2]), "digits: expected hue from 0 to 1, got 2"),
        (lambda g: g.line([0], "size", [0]), "factor: expected one of hue, shape, got 'size'"),
        (lambda _: FactorGrid(("a", "a"), (1, 2)), "names: expected 2 distinct names"),
        (lambda _: FactorGrid(("a",), (0,)), "sizes: expected positive sizes"),
    ],
)
def test_wrong_arguments(call, message):
    """Catches an index that wraps around silently."""
    with pytest.raises(ValueError, match=message):
        call(FactorGrid(("hue", "shape"), (2, 3)))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [1_000_000, 100_000, 20_000, 3_000])
def test_a_subset_is_an_even_part_of_the_grid(name, size):
    """Catches a subset that is too large, far too small, uneven, or that leaves no transformation to see."""
    family = FAMILIES[name]
    digits = family.subset(size)
    count = math.prod(map(len, digits))
    assert count <= size
    assert count == len(family.grid) or count > size / 4
    for kept, factor in zip(digits, family.factors, strict=True):
        assert kept[0] == 0
        assert len(set(np.diff(kept))) <= 1
        assert kept[-1] < factor.size
        assert not factor.transforms or len(kept) > 1


def test_a_subset_that_is_too_small():
    """Catches a subset without sequences."""
    with pytest.raises(ValueError, match="size: expected at least"):
        FAMILIES["isaac3d"].subset(10)


def test_the_draw_is_disjoint_complete_and_fixed():
    """Catches a draw that depends on the process, and one that follows the grid."""
    every = np.arange(200_000)
    masks = np.stack([draw_split(every, split) for split in ("train", "validation", "test")])
    assert (masks.sum(0) == 1).all()
    assert masks.mean(1) == pytest.approx([0.98, 0.01, 0.01], abs=0.001)
    for stride in (2, 10, 480):  # along a factor the shares are the same
        assert draw_split(every[::stride], "train").mean() == pytest.approx(0.98, abs=0.015)
    numbers = [splitmix(int(i)) % 100 for i in every[:500]]
    assert draw_split(every[:500], "test").tolist() == [number == 0 for number in numbers]
    assert draw_split(every[:500], "validation").tolist() == [number == 1 for number in numbers]
    with pytest.raises(ValueError, match="split: expected one of train, validation, test, got 'dev'"):
        draw_split(every, "dev")


def splitmix(state):
    """SplitMix64 as its authors write it, in whole numbers of any length."""
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)
