"""The published results: every number on the page is one that a run wrote."""

import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from latentflow_experiments.metrics.equivariance import Equivariance, EquivarianceError, equivariance_table
from latentflow_experiments.metrics.transport import Optimality, transport_table
from latentflow_experiments.records import provenance
from latentflow_experiments.reports.comparison import compare
from latentflow_experiments.reports.curves import validation_table
from latentflow_experiments.reports.tables import table
from latentflow_experiments.reproduce.experiments import TABLES
from latentflow_experiments.reproduce.paper import LIKELIHOOD
from latentflow_experiments.reproduce.results import Cell
from latentflow_experiments.runs import RunFolder

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
    return f"{table(rows[0], rows[1:], left=0)}\n\nreconstruction reference {reference}, {counts}"


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


@pytest.mark.parametrize(("name", "seed"), [("labels", 0), ("labels-1", 1), ("labels-2", 2), ("weak", 0)])
def test_the_page_of_mnist_shows_what_the_default_recipe_reaches(name, seed):
    """Catches a table or a number of the README that was edited by hand, and a run without its command and commit."""
    folder, page = RESULTS / "mnist" / name, (RESULTS / "mnist.md").read_text()
    evaluation = json.loads((folder / "evaluation.json").read_text())
    result, facts = evaluation["result"], evaluation["provenance"]
    errors = {
        key: EquivarianceError(**error | {"output_interval": tuple(error["output_interval"])})
        for key, error in result["errors"].items()
    }
    text = block(page, name)
    assert equivariance_table(Equivariance(errors, **{k: v for k, v in result.items() if k != "errors"})) in text
    assert transport_table({key: Optimality(**entry) for key, entry in evaluation["transport"].items()}) in text
    (session,) = facts["training"]
    for value in (session["command"], session["commit"], facts["commit"], f"{facts['steps']:,} steps", f"seed {seed}"):
        assert value in text
        assert "dirty" not in value
    row = " | ".join(f"{error.output:.2f}" for error in errors.values())
    assert f"| {row} |" in page
    if seed:
        return
    readme = (RESULTS.parents[1] / "README.md").read_text()
    if name == "weak":
        recovery = evaluation["recovery"]
        assert recovery["accuracy"] > 0.99
        share = f"{100 * recovery['accuracy']:.1f} %"
        assert share in text
        assert f"correctly for {share} of {recovery['sequences']:,} test sequences" in " ".join(readme.split())
        return
    assert "{:.0f} for scaling, {:.0f} for rotation and {:.0f} for coloring".format(
        *(error.output for error in errors.values())
    ) in " ".join(readme.split())


ABLATION = (
    *("default", "gated", "mlp", "variants", "bernoulli", "frames", "penalty", "marginal", "narrow", "latents"),
    *("unclipped", "rate", "plain", "poflow", "vae"),
)


def test_the_ablation_shows_what_the_runs_logged():
    """Catches a row that was edited by hand or left out, runs of unequal budgets, and one of changed code."""
    folders = [RunFolder(RESULTS / "mnist" / "ablation" / name) for name in ABLATION]
    assert {folder.path.name for folder in folders} == {
        path.name for path in (RESULTS / "mnist" / "ablation").iterdir()
    }
    assert validation_table(folders) in block((RESULTS / "mnist.md").read_text(), "ablation")
    for folder in folders:
        (session,) = json.loads(folder.environment.read_text())["sessions"]
        assert "--cpu-minutes 5 --threads 1" in session["command"]
        assert "dirty" not in session["commit"]


DIGITS = {
    "joint": ("hj", "exact", "convex", "forced", "none", "heat", "fp", "wave", "telegraph"),
    "marginal": ("hj", "exact"),
}


@pytest.mark.parametrize("bound", DIGITS)
def test_the_comparison_shows_what_the_runs_measured(bound):
    """Catches a row that was edited by hand or left out, and a result without command, seed, commit and data."""
    page = (RESULTS / "digits.md").read_text()
    folders = [RunFolder(RESULTS / "digits" / f"{bound}-{pde}") for pde in DIGITS[bound]]
    assert sorted(folder.path.name for folder in folders) == sorted(
        path.name for path in (RESULTS / "digits").glob(f"{bound}-*")
    )
    assert compare(folders) in block(page, bound)
    for folder in folders:
        facts = json.loads(folder.evaluation.read_text())["provenance"]
        (session,) = facts["training"]
        assert "train digits" in session["command"]
        assert session["seed"] == 0
        assert not session["commit"].endswith("dirty")
        assert len(facts["data"]["sha256"]) == 64
        assert f"`{session['commit']}`" in page


def commands(value):
    """The commands in a record."""
    if isinstance(value, dict):
        own = [value["command"]] if isinstance(value.get("command"), str) else []
        return own + [command for part in value.values() for command in commands(part)]
    return [command for part in value for command in commands(part)] if isinstance(value, list) else []


def test_no_record_names_a_place_on_a_machine():
    """Catches a path of one machine in a command that others are to repeat."""
    found = [command for path in RESULTS.parent.rglob("*.json") for command in commands(json.loads(path.read_text()))]
    assert len(found) > 50
    words = [word.rpartition("=")[2] for command in found for word in shlex.split(command)]
    assert [word for word in words if os.path.isabs(word)] == []


def test_a_command_is_noted_with_relative_paths(tmp_path, monkeypatch):
    """Catches a record that names where the folder of a run was on the machine."""
    monkeypatch.chdir(tmp_path)
    outside = str(tmp_path.parent / "data")
    monkeypatch.setattr(
        sys, "argv", ["latentflow", "train", "--out", str(tmp_path / "runs"), f"--data={outside}", "-h"]
    )
    assert provenance()["command"] == "latentflow train --out runs --data=../data -h"


def test_a_module_that_runs_is_noted_by_its_name(tmp_path):
    """Catches a command that nobody can repeat: the file of a module without its package."""
    package = tmp_path / "trials"
    package.mkdir()
    said = "from latentflow_experiments.records import provenance; print(provenance()['command'])"
    for name in ("__main__", "rates"):
        (package / f"{name}.py").write_text(said)
    for module, expected in (
        ("trials", "python -m trials --out x"),
        ("trials.rates", "python -m trials.rates --out x"),
    ):
        arguments = [sys.executable, "-m", module, "--out", "x"]
        done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def block(page, name):
    """What stands between the marks of a block."""
    begin = page.index(f"<!-- begin {name} -->")
    return page[begin : page.index("<!-- end -->", begin)]


REPRODUCTION = RESULTS / "reproduction"
ORIGINS = {"mnist": (5, "6d87418db22c"), "shapes3d (synthetic)": (15, "0dc3f1499415")}
"""The minutes of a run and the SHA-256 of its images, by data set."""


REPORTS = {"": 0, "second": 1}
"""The first seed of each report, by its folder in that of the reproduction."""


def reproduced(report=""):
    """What a reproduction has found."""
    return json.loads((REPRODUCTION / report / "results.json").read_text())


@pytest.mark.parametrize(
    ("report", "name"), [(report, name) for report in REPORTS for name in reproduced(report)["tables"]]
)
def test_the_report_of_the_reproduction_shows_what_the_runs_measured(report, name):
    """Catches a number that was edited by hand, and one whose run had changed code, another budget or other data."""
    result, page = reproduced(report)["tables"][name], (REPRODUCTION / report / "report.md").read_text()
    begin = page.index(f"## Table {name.removeprefix('table')}: ")
    end = page.find("\n## ", begin)
    lines = page[begin : None if end < 0 else end].splitlines()
    shown = [tuple(cell.strip("*") for cell in cells(line)) for line in lines if line.startswith("|")]
    for row, numbers in result["cells"].items():
        marked = f"{row} (synthetic)" if any(run["synthetic"] for run in result["runs"].get(row, ())) else row
        texts = {text for line in shown if line[1] == marked for text in line}
        for column in TABLES[name].all_columns:
            if column.name in numbers:
                assert Cell(tuple(numbers[column.name])).text(column.digits) in texts
    for row, runs in result["runs"].items():
        assert [run["seed"] for run in runs] == list(range(REPORTS[report], REPORTS[report] + len(runs)))
        for run in runs:
            assert not run["commit"].endswith("dirty")
            assert not run["trained at"].endswith("dirty")
            minutes, data = ORIGINS[run["data"]]
            assert f"--cpu-minutes {minutes} --threads 1" in run["command"]
            assert run["sha256"] == data
            assert any(line[1] == row and f"`{run['command']}`" in line for line in shown)


ERROR, COST = "error / still picture", "cost / W2²"


def two_machines():
    """The rows that both reports have, with their steps, errors and costs, each a mean over the seeds of a report."""
    reports = [reproduced(report)["tables"] for report in REPORTS]
    rows = []
    for name in reports[1]:
        for row, runs in reports[1][name]["runs"].items():
            text = [name.removeprefix("table"), row, ", ".join(str(run["seed"]) for run in runs)]
            for tables in reports:
                steps = statistics.mean(run["steps"] for run in tables[name]["runs"][row])
                numbers = tables[name]["cells"][row]
                found = [numbers.get(column) for column in (ERROR, COST)]
                text += [f"{steps:,.0f}", *("" if values is None else Cell(tuple(values)).text(3) for values in found)]
            if ERROR in numbers:  # table 5 has scores of runs that table 1 has
                rows.append(text)
    heads = [f"{name}, {report} report" for report in ("first", "second") for name in ("steps", "error", "cost")]
    return table(["table", "row", "seeds, second report", *heads], rows, left=3)


def test_the_page_shows_both_machines_beside_each_other():
    """Catches a number of the second report that was edited by hand."""
    assert two_machines() in block((RESULTS / "reproduction.md").read_text(), "second report")


def test_pages_include_the_report_with_its_pictures():
    """Catches a picture that is not there, and a report that no page shows."""
    page = (RESULTS / "reproduction.md").read_text()
    assert "reproduction/report.md" in page
    pictures = re.findall(r"\]\((pictures/[^)]+)\)", (REPRODUCTION / "report.md").read_text())
    assert pictures
    assert {Path(picture).name for picture in pictures} == {path.name for path in (REPRODUCTION / "pictures").iterdir()}


def test_every_bound_stays_below_its_ceiling():
    """Catches a published likelihood that no model can have."""
    for numbers in reproduced()["tables"]["table1"]["cells"].values():
        assert all(bound < -3 * 28 * 28 / 2 * math.log(2 * math.pi) for bound in numbers.get(LIKELIHOOD, ()))
