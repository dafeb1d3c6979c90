"""The published results: every number on the page is one that a run wrote."""

import json
from pathlib import Path

import pytest

from latentflow.experiments.comparison import compare
from latentflow.experiments.markdown import lay_out
from latentflow.experiments.run_folder import RunFolder

RESULTS = Path(__file__).parents[2] / "docs" / "results"
COLUMNS = {  # of the published tables, with standard errors; newer ones have intervals in their place
    "E_k": ("output", ".2f"),
    "s.e.": ("output_standard_error", ".2f"),
    "static": ("static", ".2f"),
    "E_k / (T P)": ("output_per_pixel", ".5f"),
    "latent": ("latent", ".2f"),
    "latent / sd": ("latent_scaled", ".2f"),
    "static latent": ("latent_static", ".2f"),
}


def published(result):
    """The table of a record as it was printed when the pages were written."""
    rows = [("transformation", *COLUMNS)]
    for name, error in result["errors"].items():
        rows.append((name, *(format(error[key], form) for key, form in COLUMNS.values())))
    reference = f"T * mean |x_0 - Dec(mu(x_0))| = {result['reconstruction']:.2f}"
    counts = f"{result['images']} images, T = {result['steps']}"
    return f"{lay_out(rows)}\n\nreconstruction reference {reference}, {counts}"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/evaluation.json")), ids=lambda path: path.parent.name)
def test_the_page_shows_what_the_run_measured(path):
    """Catches a table that was edited by hand, or a result without command, seed, commit and data."""
    evaluation = json.loads(path.read_text())
    result, facts = evaluation["result"], evaluation["provenance"]
    page = (RESULTS / "mnist.md").read_text()
    assert published(result) in page
    (session,) = facts["training"]
    assert session["command"] in page
    assert f"seed {session['seed']}" in page
    assert f"{facts['steps']:,} steps" in page
    assert session["commit"] in page
    assert facts["data"]["sha256"][:12] in page
    assert f"{path.parent.name}/strips.png" in page


@pytest.mark.parametrize("path", sorted(RESULTS.glob("stand-ins/*/evaluation.json")), ids=lambda path: path.parent.name)
def test_the_page_of_stand_ins_shows_what_the_runs_measured(path):
    """Catches a table that was edited by hand, and synthetic data that is not called so."""
    evaluation = json.loads(path.read_text())
    result, facts = evaluation["result"], evaluation["provenance"]
    page = (RESULTS / "stand-ins.md").read_text()
    begin = page.index(f"<!-- begin {path.parent.name} -->")
    block = page[begin : page.index("<!-- end -->", begin)]
    assert published(result) in block
    assert "synthetic" in facts["data"]["name"]
    assert facts["data"]["name"] in block
    (session,) = facts["training"]
    for value in (session["commit"], facts["commit"], f"seed {session['seed']}", f"{facts['steps']:,} steps"):
        assert value in block
        assert "dirty" not in value
    for digest in (session["data"]["sha256"], facts["data"]["sha256"]):
        assert f"`{digest[:12]}`" in block
    assert f"{path.parent.name}/strips.png" in page
    assert (path.parent / "strips.png").is_file()


def cells(line):
    """The cells of a row of a table in Markdown."""
    return tuple(cell.strip() for cell in line.split("|"))


@pytest.mark.parametrize("path", sorted(RESULTS.glob("digits/*/evaluation.json")), ids=lambda path: path.parent.name)
def test_the_comparison_shows_what_the_runs_measured(path):
    """Catches a row that was edited by hand, under another heading, or without command, seed, commit and data."""
    page = [cells(line) for line in (RESULTS / "digits.md").read_text().splitlines()]
    header, _, row = (cells(line) for line in compare([RunFolder(path.parent)]).splitlines())
    headings = [line for line in page[: page.index(row)] if line[1:2] == ("run",)]
    assert headings[-1] == header
    facts = json.loads(path.read_text())["provenance"]
    (session,) = facts["training"]
    assert "train digits" in session["command"]
    assert session["seed"] == 0
    assert not session["commit"].endswith("dirty")
    assert len(facts["data"]["sha256"]) == 64
    assert f"`{session['commit']}`" in (RESULTS / "digits.md").read_text()
