"""What the page on verification says: its tests exist, its table of precision is the one that was measured."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch

from benchmarks import precision
from latentflow_experiments.reports.tables import write_block

TESTS = Path(__file__).parent
PAGE = precision.PAGE.read_text(encoding="utf-8")
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if re.match(r"\| +\d+ \|", line)]


@cache
def names(file):
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("place", sorted(set(re.findall(r"`([\w/]+\.py::\w+)`", PAGE))))
def test_every_test_that_the_page_names_exists(place):
    """Catches a promise of a test that was renamed or removed."""
    file, name = place.split("::")
    assert name in names(TESTS / file)


def test_every_statement_has_its_line():
    """Catches a statement that was dropped from the page, and one without a test that does not say why."""
    assert [int(row[0]) for row in ROWS] == list(range(1, 59))
    assert all(len(row) == 5 for row in ROWS)
    for row in ROWS:
        assert "::" in row[3] or "not built yet" in row[3], row[0]


def test_precision_as_measured():
    """Catches a table edited by hand, and a library that is less precise than the page says."""
    record = json.loads(precision.NUMBERS.read_text(encoding="utf-8"))
    assert write_block(PAGE, "precision", precision.block(record)) == PAGE
    assert list(record["results"]) == [case.name for case in precision.CASES]
    for name, errors in record["results"].items():
        approximate = "dopri5" in name or "rk4" in name or "differences" in name
        assert errors["float64"] < (1e-6 if approximate else 1e-13), name
        assert errors["float32"] < 2e-5, name


@pytest.mark.parametrize("case", precision.CASES, ids=lambda case: case.name)
def test_cases_of_precision(case):
    """Catches a closed form that is not what is computed; the larger network is left to the script."""
    if "324" in case.name:
        assert case.run is not None
        return
    for dtype, accuracy in ((torch.float64, 1e-6), (torch.float32, 2e-5)):
        answer = case.run(dtype)
        assert answer[0].dtype == dtype
        assert precision.error(answer) < accuracy


def test_errors_are_relative_to_one_plus_the_size():
    """Catches an error divided by something else."""
    assert precision.error((torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]).double(), 4.0)) == 0.1
