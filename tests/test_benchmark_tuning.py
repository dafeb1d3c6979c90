"""The settings of the methods that are compared, and what was found of them."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.tuning import OWN, as_grid, score, trials
from latentflow_experiments.configuration import options
from latentflow_experiments.reports.document import as_markdown
from latentflow_experiments.reproduce.experiments import configure
from latentflow_experiments.reproduce.presets import PRESETS

RESULTS = Path(__file__).parents[1] / "docs" / "results"


@pytest.mark.parametrize("method", OWN)
def test_each_setting_changes_one_thing(method):
    """Catches a method that gets more settings than another, and a setting that changes two things."""
    default, *others = sorted(trials(method), key=lambda trial: trial.name != "defaults")
    changed = [options(asdict(trial.config), asdict(default.config))[::2] for trial in others]
    assert sorted(changed[:3]) == [["--batch-size"], ["--learning-rate"], ["--learning-rate"]]
    (own,) = changed[3:]
    assert len(own) == 1


def test_the_best_setting_is_bold_and_a_training_that_diverged_is_named():
    """Catches a number for a training that left the finite ones, and a setting under the title of another."""
    settings = {"rate 0.001": 3.0, "defaults": 2.0, "rate 0.004": None, "batch 32": 4.0, "dim 64": 1.0}
    results = {
        name: {"diverged": "at step 4"} if value is None else {"errors": {"scaling": value, "rotation": value + 2}}
        for name, value in settings.items()
    }
    grid = as_grid({"flow": {"best": "dim 64", "settings": results}})
    assert grid.header == ["method", "rate 0.001", "defaults", "rate 0.004", "batch 32", "a setting of its own"]
    assert grid.rows == [["flow", "4", "3", "diverged", "5", "2 (dim 64)"]]
    assert grid.best == {(0, 5)}


def test_the_published_table_shows_what_was_found():
    """Catches a table that was edited by hand, and settings of a reproduction that nobody has tried."""
    found = json.loads((RESULTS / "tuning.json").read_text())
    assert (RESULTS / "tuning.md").read_text() == as_markdown([as_grid(found["methods"])])
    assert "dirty" not in found["provenance"]["commit"]


@pytest.mark.parametrize("method", OWN)
def test_a_reproduction_takes_the_best_rate_or_batch(method):
    """Catches settings of a reproduction that nobody has tried, and a method that keeps worse ones than the others."""
    found = json.loads((RESULTS / "tuning.json").read_text())["methods"][method]["settings"]
    shared = [trial for trial in trials(method) if trial.name != OWN[method][0]]
    best = min(shared, key=lambda trial: score(found[trial.name]))
    changed = options(asdict(best.config), asdict(configure("mnist", method=method)))
    tuned = PRESETS["laptop"].tuned.get(method, {})
    assert changed == [word for key, value in tuned.items() for word in (f"--{key.replace('_', '-')}", str(value))]
