"""Pictures of compositions, of a model whose flows are known."""

import pytest
from digit_latents import NAMES, clocked, factors, model, translation

from latentflow_experiments.metrics.composition import superpositions, switchings
from latentflow_experiments.reports.strips import composition_strips, draw_composition_strips


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
