"""The examples: what they measure is right, what they write is whole, and the page shows what a run wrote."""

import importlib
import importlib.util
import json
import math
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from closed_forms import normal, ohj_quadratic
from matplotlib.figure import Figure
from PIL import Image
from torch.distributions import Independent, MultivariateNormal, Normal

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    FunctionPotential,
    HJResidual,
    MLPDecoder,
    MLPPotential,
    PotentialBank,
    PotentialFlow,
)
from latentflow_experiments.data.transformed import LabelledImages

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))  # where python puts the folder of a script that it runs

import digit_transport  # noqa: E402
import gaussian_transport  # noqa: E402
import page  # noqa: E402
import plane_transport  # noqa: E402
import record  # noqa: E402
import tabular  # noqa: E402
import toy_densities  # noqa: E402
import toy_sets  # noqa: E402


def grid(bound=6.0, points=240):
    """Midpoints of a square, and the weight of each."""
    line = ((torch.arange(points, dtype=torch.float64) + 0.5) / points * 2 - 1) * bound
    return torch.cartesian_prod(line, line), (2 * bound / points) ** 2


@pytest.mark.parametrize("name", toy_sets.TOY_SETS)
def test_the_density_of_a_toy_set_is_that_of_its_samples(name):
    """Catches a density of another radius, turn, noise or weight than the samples have, and one without normaliser."""
    toy, (z, weight) = toy_sets.TOY_SETS[name](), grid()
    density = toy.log_prob(z).exp() * weight
    assert abs(density.sum() - 1) < 1e-4
    samples = toy.sample(20_000, torch.Generator().manual_seed(0))
    assert samples.shape == (20_000, 2)
    assert samples.abs().max() < 5
    for wave in normal(1, 12, 2) * 2:
        for function in (torch.sin, torch.cos):
            found, expected = function(samples @ wave), (density * function(z @ wave)).sum()
            assert abs(found.mean() - expected) < 5 * found.std() / 20_000**0.5
    surprise = -toy.log_prob(samples)
    assert (
        abs(surprise.mean() - torch.special.entr(density / weight).sum() * weight)
        <= 5 * surprise.std() / 20_000**0.5 + 1e-6
    )


def test_entropies_are_those_of_parts_that_hardly_overlap():
    """Catches an entropy in bits, and a grid too coarse or too small for it."""
    assert abs(toy_sets.entropy(toy_sets.Checkerboard()) - math.log(32)) < 1e-6
    for toy, parts, area in ((toy_sets.EightGaussians(), 8, 0.35**2), (toy_sets.Pinwheel(), 5, 0.6 * 0.2)):
        apart = math.log(parts) + 1 + math.log(2 * math.pi * area)
        assert 0 < apart - toy_sets.entropy(toy) < 0.01  # the twist keeps areas, overlap lowers the entropy


def test_the_checkerboard_is_where_its_density_is():
    """Catches the other eight squares."""
    z = torch.tensor([[1.0, 1.0], [3.0, 1.0], [-1.0, -1.0], [-1.0, 1.0], [5.0, 1.0]], dtype=torch.float64)
    expected = [-math.log(32), -math.inf, -math.log(32), -math.inf, -math.inf]
    assert toy_sets.Checkerboard().log_prob(z).tolist() == expected


def test_a_straight_flow_measures_straight():
    """Catches a length, an action or a residual that is not that of the path: a uniform shift is known in full."""
    shift = torch.tensor([3.0, 4.0], dtype=torch.float64)
    flow = PotentialFlow(FunctionPotential(lambda z, t: z @ shift - 25 / 2 * t)).eval()
    result = toy_densities.evaluate(flow, toy_sets.EightGaussians(), toy_densities.Settings(), 400)
    expected = {"length_ratio": 1, "action_ratio": 1, "residual": 0, "kinetic": 12.5}
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    # the density is N(shift, I): E|z - shift|^2 = 2.8^2 + 2 * 0.35^2 + 25 for a ring about the origin
    nll = math.log(2 * math.pi) + (2.8**2 + 2 * 0.35**2 + 25) / 2
    assert abs(result["nll"] - nll) < 5 * 2.8 * 5 / 400**0.5
    assert result["nll_coarse"] == pytest.approx(result["nll"])
    assert abs(result["kl"] - (result["nll"] - result["entropy"])) < 0.3


def test_toy_densities_trains_measures_and_draws(tmp_path, capsys):
    """Catches a loss of the wrong sign, a figure or a record that is missing, and numbers that are not finite."""
    arguments = ["--out", str(tmp_path), "--sets", "pinwheel", "--steps", "10", "--samples", "50"]
    toy_densities.main([*arguments, "--resolution", "20"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.png", "toys.json", "toys.png"]
    pictures_are_whole(tmp_path)
    written = json.loads((tmp_path / "toys.json").read_text())
    assert set(written["results"]) == {"pinwheel", "pinwheel, no penalty"}
    for name, result in written["results"].items():
        assert all(math.isfinite(number) for number in result.values())
        assert 0.8 < result["mass"] < 1.1
        assert result["length_ratio"] >= 1 - 1e-6
        toy = toy_sets.TOY_SETS[name.removesuffix(", no penalty")]()
        z = toy.sample(2000, torch.Generator().manual_seed(7))
        assert result["nll"] < math.log(2 * math.pi) + float(z.square().sum(-1).mean()) / 2 - 0.1  # that of no flow
    assert "pinwheel, no penalty" in capsys.readouterr().err


@pytest.mark.parametrize("dim", [2, 8])
def test_matched_samples_have_the_cost_of_the_gaussians(dim):
    """Catches moments that are not matched, and two Gaussians of one shape: the samples move at exactly W2^2."""
    exact = gaussian_transport.problem(dim)
    z = gaussian_transport.draw_matched(exact.start, 50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(z.mean(0), exact.start.loc)
    torch.testing.assert_close(z.mT.cov(correction=0), exact.start.covariance_matrix)
    moved = exact.potential.transport(z)
    torch.testing.assert_close(moved.mT.cov(correction=0), exact.end.covariance_matrix)
    assert float((moved - z).square().sum(-1).mean()) == pytest.approx(exact.wasserstein_squared)
    assert (exact.start.covariance_matrix - exact.end.covariance_matrix).abs().max() > 0.1


def test_the_exact_flow_has_no_error():
    """Catches an error measured at the wrong time or against the wrong map, and a KL of the wrong sign."""
    exact = gaussian_transport.problem(2)
    eye = torch.eye(2, dtype=torch.float64)
    matrix = exact.potential.matrix
    flow = PotentialFlow(ohj_quadratic(matrix - eye, exact.end.loc - matrix @ exact.start.loc)).eval()
    result = gaussian_transport.evaluate(flow, exact, seed=0, samples=500)
    assert result["action"] == pytest.approx(result["wasserstein_squared"], rel=1e-6)
    assert result["action"] == pytest.approx(result["displacement_squared"], rel=1e-6)
    assert result["ratio"] == pytest.approx(1, rel=1e-6)
    assert result["dual_share"] == pytest.approx(1, rel=1e-6)
    for name in ("kl", "map_error", "path_error", "gradient_error", "residual", "excess"):
        assert abs(result[name]) < 1e-5, name
    standing = PotentialFlow(FunctionPotential(lambda z, t: 0 * z.sum(-1))).eval()
    still = gaussian_transport.evaluate(standing, exact, seed=0, samples=500)
    assert still["map_error"] == pytest.approx(1, rel=1e-6)
    assert still["gradient_error"] == pytest.approx(1, rel=1e-6)
    assert still["excess"] == pytest.approx(-1)
    assert still["kl"] > 1


def test_gaussian_transport_trains_compares_and_draws(tmp_path):
    """Catches a loss of the wrong sign, a weight of the residual that is not used, and a kind that is another."""
    gaussian_transport.main(["--out", str(tmp_path), "--dims", "2", "--steps", "10", "--samples", "50"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gaussians.json", "gaussians.png"]
    pictures_are_whole(tmp_path)
    results = json.loads((tmp_path / "gaussians.json").read_text())["results"]
    held, alone, exact = (results[f"dim 2, {kind}"] for kind in ("with the residual", *gaussian_transport.KINDS[::2]))
    assert all(math.isfinite(number) for result in results.values() for number in result.values())
    problem = gaussian_transport.problem(2)
    unmoved = torch.distributions.kl_divergence(problem.end, problem.start)
    assert max(held["kl"], alone["kl"], exact["kl"]) < unmoved / 2
    assert exact["residual"] < 1e-6 < held["residual"] < alone["residual"]


def test_plane_transport_trains_certifies_and_draws(tmp_path):
    """Catches a loss of the wrong sign, and a flow by construction that its own potential does not certify."""
    plane_transport.main(["--out", str(tmp_path), "--steps", "10", "--samples", "100"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plane.json", "plane.png"]
    pictures_are_whole(tmp_path)
    results = json.loads((tmp_path / "plane.json").read_text())["results"]
    assert list(results) == list(plane_transport.KINDS)
    assert all(math.isfinite(number) for result in results.values() for number in result.values())
    built = results["by construction"]
    assert built["ratio"] == pytest.approx(1, abs=1e-6)
    assert built["dual_share"] == pytest.approx(1, abs=1e-9)
    assert built["defect"] < 1e-6
    for result in results.values():
        assert result["lower_share"] <= 1 + 1e-12
        assert result["gap"] == pytest.approx(result["cost"] - result["wasserstein_squared"])
        assert result["ratio_low"] <= result["ratio"] + 1e-9


def test_splits_are_whitened_by_the_training_part():
    """Catches samples in two parts, statistics of the whole table, and a determinant of the wrong sign."""
    split = tabular.load_split(3)
    parts = (split.train, split.validation, split.test)
    assert [len(part) for part in parts] == [398, 86, 85]
    assert len(torch.cat(parts).unique(dim=0)) == 569
    torch.testing.assert_close(split.train.mean(0), torch.zeros(30, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(split.train.T.cov(), torch.eye(30, dtype=torch.float64), atol=1e-8, rtol=0)
    assert split.validation.mean(0).abs().max() > 0.05
    rows = torch.from_numpy(tabular.load_breast_cancer().data)
    rows = rows[torch.randperm(569, generator=torch.Generator().manual_seed(3))]
    rows = (rows - rows[:398].mean(0)) / rows[:398].std(0)
    fitted = MultivariateNormal(torch.zeros(30, dtype=torch.float64), rows[:398].T.cov())
    assert tabular.measure_gaussian(split)["test_nll"] == pytest.approx(-float(fitted.log_prob(rows[484:]).mean()))


def test_training_raises_the_likelihood():
    """Catches a loss of the wrong sign; a step of the probe's noise does not hide ten steps of training."""
    split, density = tabular.load_split(0), tabular.build("latentflow", 30)
    z = split.train[:100].float()
    before = density.log_prob(z).mean()
    adam = torch.optim.Adam(density.module.parameters(), lr=1e-2)
    for _ in range(10):
        adam.zero_grad()
        density.loss(z).backward()
        adam.step()
    density.module.eval()
    assert density.log_prob(z).mean() > before + 0.3


class Drifting:
    """A density whose validation likelihood is best where its one weight is 1."""

    def __init__(self):
        self.module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.module.weight)

    def loss(self, z):
        return -self.module.weight.sum()  # moves the weight up, past 1, for ever

    def log_prob(self, z):
        return -(self.module.weight - 1).square().sum().expand(len(z)).detach().to(z)


def test_the_best_weights_are_kept(monkeypatch):
    """Catches the last weights in place of the best, and a state that goes on changing after it was kept."""
    density, split = Drifting(), tabular.Split(*(torch.zeros(3, 1, dtype=torch.float64) for _ in range(3)), log_det=2.0)
    monkeypatch.setattr(tabular, "time", SimpleNamespace(perf_counter=count(0.0, 0.01).__next__))  # a step is 0.01 s
    found = tabular.fit(density, split, seconds=2.0, seed=0, rate=0.05)
    assert abs(density.module.weight.item() - 1) < 0.2
    assert found["validation_nll"] == pytest.approx((density.module.weight.item() - 1) ** 2 - 2)
    assert found["best_after"] < found["seconds"]


def test_tabular_trains_and_measures(tmp_path, capsys):
    """Catches weights that are worse than those at the start, and float32 and float64 that do not agree."""
    tabular.main(["--out", str(tmp_path), "--seconds", "1", "--seeds", "0"])
    assert [path.name for path in tmp_path.iterdir()] == ["tabular.json"]
    results = json.loads((tmp_path / "tabular.json").read_text())["results"]
    (ours,), (gaussian,) = results["latentflow"], results["gaussian"]
    assert all(math.isfinite(number) for number in ours.values())
    assert ours["test_nll"] < gaussian["test_nll"] + 0.5
    assert abs(ours["float32_difference"]) < 1e-3
    assert "latentflow" in capsys.readouterr().out


@pytest.mark.skipif(not all(map(importlib.util.find_spec, ("zuko", "torchcfm"))), reason="needs zuko and torchcfm")
def test_the_others_have_the_density_of_their_flow():
    """Catches a determinant of the wrong sign and a flow that runs the wrong way: a linear velocity is known."""
    tabular_others = importlib.import_module("tabular_others")
    density = tabular_others.FlowMatchingDensity(2, width=4)
    rates = torch.tensor([0.7, -0.4], dtype=torch.float64)

    class Linear(torch.nn.Module):
        def forward(self, t, z):
            return rates * z

    density.module = Linear()
    z = normal(0, 5, 2)
    expected = torch.distributions.Normal(0.0, rates.exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(density.log_prob(z), expected, rtol=1e-4, atol=1e-5)
    for method in tabular.OTHERS:
        other = tabular_others.build_other(method, 2)
        other.module.double()
        points, weight = grid(bound=8.0, points=60)
        assert float(other.log_prob(points).exp().sum() * weight) == pytest.approx(1, abs=0.02)


def test_an_interrupt_ends_an_example_and_leaves_nothing_half_written(tmp_path, capsys):
    """Catches a traceback on Ctrl-C, and a figure cut off in the middle under its final name."""

    class Cut(Figure):
        def savefig(self, path, **options):
            path.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        record.run(lambda arguments: record.write_figure(tmp_path / "figure.png", Cut()))
    assert stopped.value.code == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_records_say_where_they_come_from():
    """Catches a record from which the run cannot be repeated."""
    facts = record.describe_run(["--seed", "3"], seconds=1.5)
    assert facts["command"].endswith("--seed 3")
    assert all(facts[name] for name in ("date", "python", "processor", "cores", "threads", "seconds"))
    assert facts["packages"]["torch"] == torch.__version__


def test_the_page_shows_what_the_runs_wrote():
    """Catches a table edited by hand, and a run whose numbers did not reach the page."""
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.render(text, page.FOLDER) == text
    for picture in ("toys.png", "comparison.png", "gaussians.png", "plane.png", "digits.png"):
        assert f"(examples/{picture})" in text
    pictures_are_whole(page.FOLDER)


def test_the_page_is_written_over():
    """Catches a block that keeps what was edited by hand, and one that is lost."""
    text = page.PAGE.read_text(encoding="utf-8")
    edited = text.replace("| two moons ", "| two suns ")
    assert edited != text
    assert page.render(edited, page.FOLDER) == text
    with pytest.raises(ValueError, match="page: expected the blocks"):
        page.render(text.replace("<!-- begin tabular -->", ""), page.FOLDER)


def pictures_are_whole(folder):
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) > 100


def test_digits_of_one_class_arrive_at_the_other(tmp_path, monkeypatch):
    """Catches classes that are swapped, images in another channel, and shares of other images."""
    torch.manual_seed(0)
    labels = torch.arange(600) % 3
    places = torch.tensor([4, 12, 20])[labels]  # bars at three heights, a class each
    images = torch.zeros(600, 28, 28, dtype=torch.uint8)
    for image, place in zip(images, places, strict=True):
        image[place : place + 4] = int(torch.randint(100, 256, ()))

    class Read(torch.nn.Module):
        """The mean grey of each third of the red channel, as a latent."""

        def forward(self, x):
            assert x[:, 1:].abs().max() == 0
            return Independent(Normal(x[:, 0].reshape(len(x), 4, -1).mean(-1)[:, :3], 0.1), 1)

    shape = (3, 28, 28)
    bank = PotentialBank([MLPPotential(3, (4,))])
    model = FlowVAE(Read(), MLPDecoder(3, shape, (8,)), bank, DiffusionPrior(3, 1), HJResidual())
    monkeypatch.setattr(digit_transport, "open_run", lambda folder: SimpleNamespace(model=model))
    monkeypatch.setattr(digit_transport, "load_mnist", lambda split: LabelledImages(images, labels, "bars", split))
    digit_transport.main(["nowhere", "--digits", "0", "2", "--minutes", "0.05", "--out", str(tmp_path)])
    record = json.loads((tmp_path / "digits.json").read_text())
    results = record["results"]
    assert record["samples"] == [200, 200]
    assert record["test images"] == 200
    assert results["as they are"] == {"arrived": 0, "square": 0}
    assert results["transport"]["arrived"] > 0.9
    pictures_are_whole(tmp_path)
    assert "200 test images; trained on 200 and 200 images" in page.digits(record)
