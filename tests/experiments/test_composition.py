"""Compositions of flows, on models whose flows are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    FunctionPotential,
    GaussianLikelihood,
    HopfLaxFlow,
    PotentialBank,
    PotentialFlow,
    QuadraticPotential,
    SwitchedPotential,
)
from latentflow.experiments.composition import (
    Backwards,
    Switched,
    Together,
    composition_table,
    interaction_table,
    measure_compositions,
    measure_interactions,
    superpositions,
    switchings,
)
from latentflow.experiments.composition_strips import composition_strips, draw_composition_strips
from latentflow.experiments.data import FactorGrid, FactorSequences, LabelledImages, TransformedImages
from latentflow.experiments.data.family import Factor, Family

SIZES = (3, 6, 5, 6)
FACTORS = tuple(Factor(name, size) for name, size in zip(("kind", "x", "y", "hue"), SIZES, strict=True))
FAMILY = Family("tiny", "Tiny", FACTORS, (3, 1, 4), "tiny", "", "")


class Digits:
    """A store of images of which every pixel holds one digit of the index."""

    synthetic, path, shape = None, Path("digits"), (3, 1, 4)

    def __init__(self):
        self.digits = tuple(tuple(range(size)) for size in SIZES)
        self.grid = FactorGrid(FAMILY.grid.names, SIZES)

    def read(self, indices):
        digits = self.grid.decode(indices)
        return np.broadcast_to(digits[:, None, :, None], (len(indices), 1, 4, 3)).astype(np.uint8)

    def sha256(self):
        return "0" * 64


NAMES = ("x", "y", "hue")


def factors():
    return FactorSequences(Digits(), FAMILY, "train", NAMES)


def model(potentials, dynamics=PotentialFlow, decode=lambda z: z):
    """The latent is the digits of the image; the decoder is linear."""
    return FlowVAE(
        encoder=lambda x: Independent(Normal(255 * x[:, 0, 0], 1.0), 1),
        decoder=lambda z: decode(z)[:, None, None].expand(-1, 3, 1, -1) / 255,
        bank=PotentialBank(potentials),
        prior=DiffusionPrior(4, fields=len(potentials)),
        residual=None,
        likelihood=GaussianLikelihood(),
        dynamics=dynamics,
    )


def translation(coordinate, speed=1.0):
    return QuadraticPotential(4, vector=speed * torch.eye(4)[coordinate])


def clocked(coordinate):
    """A translation by ``t`` at time ``t``."""
    return FunctionPotential(lambda z, t: t * z[..., coordinate])


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


@pytest.mark.parametrize("steps", [2, 5, 8])
@pytest.mark.parametrize("clock", ["continue", "restart"])
def test_segments_are_the_flow_of_a_switched_potential(steps, clock):
    """Catches a switch one step early or late, and a clock that starts at 1 or goes on where it restarts."""
    potentials = [clocked(0) + translation(1), FunctionPotential(lambda z, t: (t + 1) * z.cos().sum(-1))]
    z0 = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    path = Switched(0, 1, clock == "restart").path(model(potentials), z0, steps)
    turn = (steps + 1) // 2
    switched = SwitchedPotential(potentials, [turn], clock)
    assert torch.equal(path, PotentialFlow(switched).rollout(z0, steps, volume=None).z)


def test_the_clocks_differ():
    """Catches two clocks that are one."""
    z0 = torch.zeros(1, 4)
    known = model([translation(0), clocked(1)])
    going, anew = (Switched(0, 1, restart).path(known, z0, 8)[-1, 0] for restart in (False, True))
    assert going.tolist() == [4, 4 + 5 + 6 + 7, 0, 0]
    assert anew.tolist() == [4, 0 + 1 + 2 + 3, 0, 0]


def test_a_solution_that_is_switched_to():
    """Catches straight paths that start at a time other than that of the solution."""
    matrix = torch.diag(torch.tensor([1.0, 0.5, -0.1, 0.0]))
    known = model([translation(0), QuadraticPotential(4, matrix)], HopfLaxFlow)
    z0 = torch.ones(1, 4)
    start = z0 + 2 * torch.eye(4)[0]
    speed = start * matrix.diagonal()
    anew = Switched(0, 1, restart=True).path(known, z0, 4)[-1]
    torch.testing.assert_close(anew, start + 2 * speed)
    going = Switched(0, 1, restart=False).path(known, z0, 4)[-1]  # the velocity at time 2 is A (I + 2 A)^-1 z
    torch.testing.assert_close(going, start + 2 * speed / (1 + 2 * matrix.diagonal()))


def test_the_way_back_reads_the_clock_backwards():
    """Catches steps that run on, and times counted from 0."""
    path = Backwards(0).path(model([clocked(2)]), torch.zeros(1, 4), 4)
    assert path[:, 0, 2].tolist() == [6, 6 - 4, 2 - 3, -1 - 2, -3 - 1]
    still = Backwards(0).path(model([translation(2)], HopfLaxFlow), torch.zeros(1, 4), 4)
    assert still[:, 0, 2].tolist() == [4, 3, 2, 1, 0]


def test_terms_of_one_potential_add():
    """Catches a weight that replaces another one, as where two transformations share a potential."""
    path = Together(((1, 1.0), (1, 0.5))).path(model([translation(0), translation(2)]), torch.zeros(1, 4), 2)
    assert path[:, 0].tolist() == [[0, 0, 0, 0], [0, 0, 1.5, 0], [0, 0, 3, 0]]


def test_interactions_of_flows_that_do_not_commute():
    """Catches a commutator of other step counts, ends paired with those of other samples, and a signed cross term."""
    a = torch.diag(torch.tensor([0.0, 0.3, 0.0, -0.2]))
    b = torch.zeros(4, 4)
    b[1, 3] = b[3, 1] = 0.4
    shift = torch.tensor([0.0, 1.0, 0.0, -1.0])
    known = model([QuadraticPotential(4, a, shift), QuadraticPotential(4, b), translation(2)])
    data = factors()
    result = measure_interactions(known, (0, 1, 2), data, batch_size=4, limit=9)
    starts = data.composed_starts((0, 1))
    starts = starts[torch.randperm(len(starts), generator=torch.Generator().manual_seed(0))[:9].sort().values]
    z0 = torch.from_numpy(FAMILY.grid.decode(starts.numpy())).double()
    a, b, shift = a.double(), b.double(), shift.double()

    def steps(z, *moves):
        for move in moves:
            z = z + move(z)
        return z

    first, second = (lambda z: z @ a + shift), (lambda z: z @ b)
    one, other = steps(z0, first, first, second, second), steps(z0, second, second, first, first)
    way = ((one - z0).norm(dim=1) + (other - z0).norm(dim=1)).mean() / 2
    cross, product, z = [], [], z0
    for _ in range(4):
        v, w = first(z), second(z)
        cross.append((v * w).sum(1).abs())
        product.append(v.norm(dim=1) * w.norm(dim=1))
        z = z + v + w
    signs = (first(z0) * second(z0)).sum(1).sign()
    assert len(signs.unique()) > 1
    found = result["x, y"]
    share = ((one - other).norm(dim=1).mean() / way).item()
    assert share > 0.1
    assert found.commutator_restart == pytest.approx(share, rel=1e-4)
    assert found.commutator_continue == pytest.approx(share, rel=1e-4)
    assert found.cross_term == pytest.approx(torch.stack(cross).mean().item(), rel=1e-4)
    assert found.cross_relative == pytest.approx((sum(cross).sum() / sum(product).sum()).item(), rel=1e-4)
    for pair in ("x, hue", "y, hue"):
        assert result[pair].commutator_restart == pytest.approx(0, abs=1e-6)
        assert result[pair].cross_relative == pytest.approx(0, abs=1e-6)


def test_an_odd_number_of_steps_and_a_clock_that_goes_on():
    """Catches a commutator of four steps and three, and clocks of the commutator that are one."""
    data = FactorSequences(Digits(), FAMILY, "train", ("x", "hue"))
    assert data.steps == 5
    result = measure_interactions(model([translation(1), clocked(3)]), (0, 1), data, limit=9)["x, hue"]
    assert result.commutator_restart == pytest.approx(0, abs=1e-6)
    # the clocked one goes 0 + 1 when it acts first and 2 + 3 when it acts second; the other one goes 2
    assert result.commutator_continue == pytest.approx(4 / ((5**0.5 + 29**0.5) / 2), rel=1e-5)


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
    error = measure_compositions(still, (0, 1, 2), TransformedImages(images))["half colouring"]
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
