"""A run of three steps, for the tests of the commands and of run folders."""

import shutil
from pathlib import Path

import pytest
from tiny_run import SMALL

from latentflow_experiments.cli import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of a few steps."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "digits", "--steps", "3", "--out", str(out), *SMALL]) == 0
    return out


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it to spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
