"""The pairs of the benchmark of transport, and its page."""

import json
import os
from pathlib import Path

import pytest
import torch

from benchmarks.transport import others
from benchmarks.transport.__main__ import NUMBERS, add, compare
from benchmarks.transport.page import GAUSSIAN, PAGE, PUBLISHED, render
from benchmarks.transport.pairs import ClusterPair, GaussianPair, MixturePair
from latentflow import gaussian_wasserstein2

OURS = ("latentflow", "latentflow, MLP alone")
TRUTH = {2: 0.656, 4: 1.698, 8: 4.716, 16: 14.20, 32: 38.31, 64: 86.37, 128: 186.2}
FOLDER = Path(os.environ.get("LATENTFLOW_DATA", "nowhere"), "w2_benchmark")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the pairs of the benchmark are not in $LATENTFLOW_DATA")
@pytest.mark.parametrize("dim", TRUTH)
def test_the_mixtures_are_those_of_the_benchmark(dim):
    """Catches a layer, a scale or a component that is read wrongly: distance, variance and identity are published."""
    pair = MixturePair.load(FOLDER / f"{dim}.npz")
    x = pair.source(20_000, seeded())
    y = pair.map(x)
    cost = (x - y).square().sum(-1)
    assert abs(float(cost.mean()) - TRUTH[dim]) < 4 * float(cost.std()) / 20_000**0.5
    assert abs(float(y.var(0).sum()) / pair.variance - 1) < 0.05
    H = torch.func.vmap(torch.func.hessian(lambda x: pair._potential(x[None])[0]))(x[:20])
    assert torch.linalg.eigvalsh(H).min() > 0


def test_the_map_between_gaussians_is_the_optimal_one():
    """Catches a map that only matches the covariance, and a root that is taken for the covariance."""
    pair = GaussianPair.draw(4, seed=0)
    x = pair.source(200_000, seeded())
    y = pair.map(x)
    S0, S1 = pair.roots @ pair.roots
    torch.testing.assert_close(y.T.cov(), S1, rtol=0, atol=0.03)
    torch.testing.assert_close(y.mean(0), pair.means[1], rtol=0, atol=0.02)
    truth = gaussian_wasserstein2(pair.means[0], S0, pair.means[1], S1, squared=True)
    torch.testing.assert_close((x - y).square().sum(-1).mean(), truth, rtol=0.01, atol=0)
    values = torch.linalg.eigvalsh(S1)
    torch.testing.assert_close(values[[0, -1]], torch.tensor([0.5, 2.0]))
    assert abs(float(values.sum()) - pair.variance) < 1e-4


def test_the_map_to_clusters_is_the_optimal_one():
    """Catches a map that is no gradient, and one of a function that is not convex; and a variance of the source."""
    pair = ClusterPair.draw(5, seed=0)
    x = pair.source(200, seeded())
    J = torch.func.vmap(torch.func.jacrev(lambda x: pair.map(x[None])[0]))(x)
    torch.testing.assert_close(J, J.mT, rtol=0, atol=1e-5)
    assert torch.linalg.eigvalsh(J).min() > 0.19
    psi = lambda x: 0.1 * x.square().sum() + 0.3 * 5**0.5 * (pair.points @ x / (0.3 * 5**0.5)).logsumexp(0)  # noqa: E731
    torch.testing.assert_close(pair.map(x), torch.func.vmap(torch.func.grad(psi))(x), rtol=1e-4, atol=1e-5)
    assert abs(float(pair.target(2**15, seeded(1)).var(0).sum()) / pair.variance - 1) < 0.03
    assert torch.equal(pair.points, ClusterPair.draw(5, seed=0).points)


def test_a_map_is_compared_in_percent_of_the_variance():
    """Catches a root, a mean over coordinates, and a cosine of the points in the place of their displacements."""
    truth, start = torch.tensor([[1.0, 1.0], [3.0, 1.0]]), torch.tensor([[0.0, 1.0], [3.0, 0.0]])
    found = torch.tensor([[1.0, 1.0], [3.0, 2.0]])
    result = compare(found, truth, start, variance=5.0)
    assert result["uvp"] == pytest.approx(100 * 0.5 / 5)
    assert result["cosine"] == pytest.approx(3 / (5**0.5 * 2**0.5))


def test_the_maps_of_others_are_compared_on_new_points(monkeypatch):
    """Catches a map that is applied to the points it was fitted to, and one interpreter that all need."""
    monkeypatch.setattr(others, "SAMPLES", 500)
    monkeypatch.setattr(others, "POOL", 1000)
    monkeypatch.delenv(others.PYTHON, raising=False)
    rows = others.measure_others("gaussian", GaussianPair.draw(3, seed=0), minutes=1, seed=0)
    errors = {row["name"]: row["forward"]["uvp"] for row in rows}
    assert set(errors) == {"POT, linear", "POT, exact", "POT, entropic"}
    assert errors["POT, linear"] < 3  # the map is linear
    assert errors["POT, linear"] < errors["POT, exact"] < 60


def test_a_run_replaces_the_one_it_repeats(tmp_path):
    """Catches a file that grows with each repetition."""
    path = tmp_path / "runs.json"
    for dim, value in ((16, 1), (2, 2), (16, 3)):
        add(path, {"pair": "mixture", "dim": dim, "seed": 0, "name": "ours", "value": value})
    assert [(run["dim"], run["value"]) for run in json.loads(path.read_text())] == [(2, 2), (16, 3)]


def test_the_page_shows_the_numbers():
    """Catches a table that was edited by hand, and a run from a tree with changes."""
    before = PAGE.read_text()
    runs = json.loads(NUMBERS.read_text())
    try:
        render(runs)
        assert PAGE.read_text() == before
    finally:
        PAGE.write_text(before)
    assert all("dirty" not in run["provenance"]["commit"] for run in runs)
    for run in runs:
        if "certificate" not in run:
            continue
        lower, upper = run["certificate"]["lower"], run["certificate"]["upper"]
        assert lower < run["truth"] < run["certificate"]["upper_bound"]
        assert run["truth"] < upper or "the upper end is below the truth" in " ".join(before.split())


@pytest.mark.parametrize(("kind", "largest", "published"), [("mixture", 64, PUBLISHED), ("gaussian", 64, GAUSSIAN)])
def test_the_errors_are_those_that_the_page_speaks_of(kind, largest, published):
    """Catches a page that still says "at or below" when a new run is above the best published number."""
    runs = [run for run in json.loads(NUMBERS.read_text()) if run["pair"] == kind and run["name"] in OURS]
    assert {run["dim"] for run in runs} >= {2**i for i in range(1, 7)}
    for run in runs:
        if run["dim"] <= largest:
            names = ("MM", "MM:R", "MMv1") if kind == "mixture" else ("NCF, adaptive",)
            assert run["forward"]["uvp"] <= min(published[name][run["dim"]] for name in names)
