"""The errors of composed flows, on models whose flows are known."""

import pytest
import torch
from digit_latents import FAMILY, NAMES, Digits, factors, model, translation
from torch.distributions import Independent, Normal

from latentflow import FunctionPotential, HopfLaxFlow, PotentialFlow, QuadraticPotential
from latentflow_experiments.data import FactorSequences, LabelledImages, TransformedImages
from latentflow_experiments.metrics.composition import (
    Superposed,
    composition_table,
    measure_compositions,
    superpositions,
)
from latentflow_experiments.metrics.interaction import interaction_table, measure_interactions


@pytest.mark.parametrize("dynamics", [PotentialFlow, HopfLaxFlow])
def test_translations_of_the_latent_compose(dynamics):
    """Catches a wrong truth or flow of any composition, an order that is not used, and frames of other times."""
    still = FunctionPotential(lambda z, t: 0 * z.sum(-1))
    oracle = model([translation(3), still, translation(1), translation(2)], dynamics)
    result = measure_compositions(oracle, (2, 3, 0), factors(), batch_size=7, limit=20)
    assert len(result) == 12 + 4 + 3 + 3
    for error in result.values():
        assert error.output == pytest.approx(0, abs=1e-4)
        assert error.reconstruction == pytest.approx(0, abs=1e-5)
        assert error.static > 0.03
    wrong = measure_compositions(oracle, (3, 2, 0), factors(), batch_size=7, limit=20)
    assert wrong["x then y, restart"].output == pytest.approx(3 / 255 * (2 + 4 + 2), rel=1e-4)


def test_the_errors_of_a_latent_that_stays():
    """Catches a mean for a sum, the first frame counted, channels left out, and every second time without its truth."""
    still = FunctionPotential(lambda z, t: 0 * z.sum(-1))
    result = measure_compositions(model([still] * 3), (0, 1, 2), factors(), limit=20)
    digit, steps = 3 / 255, 4  # an error of one digit in three channels
    assert result["x + y"].output == pytest.approx(digit * 2 * (1 + 2 + 3 + 4), rel=1e-5)
    assert result["x + y + hue"].output == pytest.approx(digit * 3 * 10, rel=1e-5)
    assert result["x then hue, continue"].output == pytest.approx(digit * (1 + 2 + 2 * 2 + 1 + 2), rel=1e-5)
    assert result["half y"].output == pytest.approx(digit * (1 + 2), rel=1e-5)
    assert result["half y"].frames == 2
    assert result["y backwards"].output == pytest.approx(digit * (3 + 2 + 1), rel=1e-5)
    error = result["x + y"]
    assert error.static == pytest.approx(error.output)
    assert error.output_per_pixel == pytest.approx(error.output / (steps * 12), rel=1e-6)
    assert error.output_standard_error == pytest.approx(0, abs=1e-6)


def test_the_standard_error_and_the_reconstruction():
    """Catches a deviation for an error of the mean, a short batch that counts as a whole one, and no steps in it."""
    blurred = model([translation(j) for j in (1, 2, 3)], decode=lambda z: z * torch.tensor([2.0, 1.0, 1.0, 1.0]))
    data = factors()
    error = measure_compositions(blurred, (0, 1, 2), data, batch_size=5, limit=7)["x + hue"]
    starts = data.composed_starts((0, 2))
    starts = starts[torch.randperm(len(starts), generator=torch.Generator().manual_seed(0))[:7]]
    kind = torch.from_numpy(FAMILY.grid.decode(starts.numpy())[:, 0]).double()  # it is decoded twice as large
    each = 4 * 3 * kind / 255
    assert error.images == 7
    assert error.output == pytest.approx(each.mean().item(), rel=1e-4)
    assert error.output_standard_error == pytest.approx(each.std().item() / 7**0.5, rel=1e-4)
    assert error.reconstruction == pytest.approx(error.output, rel=1e-4)
    alone = measure_compositions(blurred, (0, 1, 2), data, limit=1)["x + hue"]
    assert alone.output_standard_error is None


def test_paths_that_meet_have_no_error():
    """Catches a table that breaks off where straight paths cannot be continued."""
    meeting = QuadraticPotential(4, -0.5 * torch.eye(4))  # all paths are at 0 at time 2
    known = model([meeting] * 3, HopfLaxFlow)
    result = measure_compositions(known, (0, 1, 2), factors(), limit=4)
    assert result["x then y, continue"] is None
    assert result["x then y, restart"] is not None
    assert "paths meet" in composition_table(result)
    interactions = measure_interactions(known, (0, 1, 2), factors(), limit=4)
    assert interactions["x, y"] is None
    assert "paths meet" in interaction_table(interactions)


def test_half_strength_between_states():
    """Catches half a state that is rounded where images can be made of it."""
    grey = torch.tensor([51, 102, 255], dtype=torch.uint8)
    images = LabelledImages(grey.view(3, 1, 1).repeat(1, 28, 28), torch.zeros(3, dtype=torch.int64), "grey", "test")
    still = model([FunctionPotential(lambda z, t: 0 * z.sum(-1))] * 3)
    still.encoder = lambda x: Independent(Normal(x[:, 0, 0, :4], 1.0), 1)
    still.decoder = lambda z: torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1) * z[:, :1, None, None].expand(-1, 3, 28, 28)
    error = measure_compositions(still, (0, 1, 2), TransformedImages(images))["half coloring"]
    rgb = torch.tensor([(1, hue / 60, 0) if hue <= 60 else (2 - hue / 60, 1, 0) for hue in range(10, 90, 10)])
    change = (rgb - torch.tensor([1.0, 0.0, 0.0])).abs().sum().item()
    assert error.frames == 8
    assert error.reconstruction == pytest.approx(0, abs=1e-4)
    assert error.output == pytest.approx(28 * 28 * change * (0.2 + 0.4 + 1) / 3, rel=1e-5)


def test_the_mode_of_the_model_and_wrong_arguments():
    """Catches an evaluation that switches training off, an index that counts from the end, and a switch in no steps."""
    known = model([translation(1), translation(2), translation(3)]).train()
    measure_compositions(known, (0, 1, 2), factors(), limit=1)
    assert known.training
    for order in ((0, 1), (0, 1, 3), (0, 1, -1)):
        with pytest.raises(ValueError, match=r"^order: expected 3 indices from 0 to 2, got \(0, 1"):
            measure_interactions(known, order, factors())
    short = FactorSequences(Digits(), FAMILY, "train", NAMES, states=2)
    with pytest.raises(ValueError, match=r"^data: expected at least 2 steps"):
        measure_compositions(known, (0, 1, 2), short)


def test_the_tables_have_every_number():
    """Catches a column under the wrong heading."""
    known = model([translation(1), translation(2), translation(3)], decode=lambda z: z + 1)
    result = measure_compositions(known, (0, 1, 2), factors(), limit=9)
    heading, _, *lines = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in composition_table(result).split("\n")
    )
    for line, (name, error) in zip(lines, result.items(), strict=True):
        row = dict(zip(heading, line, strict=True))
        assert row["composition"] == name
        assert float(row["E"]) == pytest.approx(error.output, abs=0.01)
        assert float(row["static"]) == pytest.approx(error.static, abs=0.01)
        assert float(row["reconstruction"]) == pytest.approx(error.reconstruction, abs=0.01)
        assert (int(row["T"]), int(row["images"])) == (error.frames, error.images)
    table = interaction_table(measure_interactions(known, (0, 1, 2), factors(), limit=9))
    assert table.split("\n")[2].split("|")[1].strip() == "x, y"


@pytest.mark.parametrize(("count", "sizes"), [(1, []), (2, [2]), (4, [2] * 6 + [3] * 4 + [4]), (6, [2] * 15 + [6])])
def test_superpositions_of_many_transformations(count, sizes):
    """Catches every subset of many, all of them left out or listed twice, and triples of few that are lost."""
    order = tuple(reversed(range(count)))
    every = superpositions("abcdef"[:count], order, 3)
    assert [len(c.kinds) for c in every] == sizes
    assert len({c.kinds for c in every}) == len({c.name for c in every}) == len(every)
    for c in every:
        moved = [float(k in c.kinds) for k in range(count)]
        torch.testing.assert_close(c.states, torch.arange(4.0)[:, None] * torch.tensor(moved))
        assert c.flow == Superposed(tuple((order[k], 1.0) for k in c.kinds))


@pytest.mark.parametrize("measure", [measure_compositions, measure_interactions])
@pytest.mark.parametrize("name", ["limit", "batch_size"])
def test_counts_that_are_none(measure, name):
    """Catches a limit of no images that is said to be a lack of data, and a mode that an error leaves changed."""
    known = model([translation(1), translation(2), translation(3)]).train()
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        measure(known, (0, 1, 2), factors(), **{name: 0})
    assert known.training
