"""The published results: every number on the page is one that a run wrote."""

import json
from pathlib import Path

import pytest

from latentflow.experiments.equivariance import Equivariance, EquivarianceError, table

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/evaluation.json")), ids=lambda path: path.parent.name)
def test_the_page_shows_what_the_run_measured(path):
    """Catches a table that was edited by hand, or a result without command, seed, commit and data."""
    evaluation = json.loads(path.read_text())
    result, facts = evaluation["result"], evaluation["provenance"]
    errors = {name: EquivarianceError(**error) for name, error in result.pop("errors").items()}
    page = (RESULTS / "mnist.md").read_text()
    assert table(Equivariance(errors=errors, **result)) in page
    (session,) = facts["training"]
    assert session["command"] in page
    assert f"seed {session['seed']}" in page
    assert f"{facts['steps']:,} steps" in page
    assert session["commit"] in page
    assert facts["data"]["sha256"][:12] in page
    assert f"{path.parent.name}/strips.png" in page
