"""Pictures of compositions, of a model whose flows are known."""

import pytest
from digit_latents import NAMES, clocked, factors, model, translation
from PIL import Image

from latentflow_experiments.metrics.composition import superpositions, switchings
from latentflow_experiments.reports import strips as strips_module
from latentflow_experiments.reports.strips import composition_strips, draw_composition_strips


def test_of_many_compositions_some_are_drawn(tmp_path, monkeypatch):
    """Catches a picture whose height grows with the square of the number of transformations."""
    known, data = model([translation(1), clocked(2), translation(3)]), factors()
    drawn = []
    original = strips_module.composition_strips
    monkeypatch.setattr(
        strips_module,
        "composition_strips",
        lambda model, data, panel, count: drawn.append(panel[0].name) or original(model, data, panel, count),
    )
    draw_composition_strips(known, (0, 1, 2), data, tmp_path / "all.png", 1)
    assert len(drawn) == 6 + 4
    whole = [*drawn]
    drawn.clear()
    monkeypatch.setattr(strips_module, "MOST_SWITCHES", 2)
    monkeypatch.setattr(strips_module, "MOST_SUPERPOSITIONS", 3)
    draw_composition_strips(known, (0, 1, 2), data, tmp_path / "some.png", 1)
    assert drawn == [*whole[:2], *whole[6:8], whole[-1]]
    heights = []
    for name in ("all.png", "some.png"):
        with Image.open(tmp_path / name) as image:
            heights.append(image.height)
    assert heights[1] < heights[0]


def test_strips_show_the_data_above_each_flow(tmp_path):
    """Catches swapped rows, clocks in another order, and another image under the truth."""
    known, data = model([translation(1), clocked(2), translation(3)]), factors()
    both = switchings(NAMES, (0, 1, 2), 4)[:2]
    picture = composition_strips(known, data, both, 2)
    assert picture.shape == (2 * 3, 5 * 4, 3)
    values = (picture[..., 0] * 255).round().long().view(2, 3, 5, 4)
    assert values[0, 0, :, 1].tolist() == values[0, 1, :, 1].tolist() == values[0, 2, :, 1].tolist() == [0, 1, 2, 2, 2]
    assert values[1, 0, :, 2].tolist() == [0, 0, 0, 1, 2]
    assert values[1, 1, :, 2].tolist() == [0, 0, 0, 2, 5]
    assert values[1, 2, :, 2].tolist() == [0, 0, 0, 0, 1]
    assert (values[..., 0] == values[:, :1, :1, 0]).all()
    draw_composition_strips(known, (0, 1, 2), data, tmp_path / "strips.png", 2)
    assert (tmp_path / "strips.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"^drawn: expected compositions of the same states"):
        composition_strips(known, data, superpositions(NAMES, (0, 1, 2), 4), 2)
