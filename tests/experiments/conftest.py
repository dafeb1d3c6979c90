"""A run of three steps, for the tests of the commands and of run folders."""

import shutil
from pathlib import Path

import pytest
from tiny_run import SMALL

from latentflow_experiments.cli import main
from latentflow_experiments.data import LabelledImages
from latentflow_experiments.data.sets import digits


@pytest.fixture(scope="module")
def few_digits():
    """Evaluate on 60 of the 360 test digits, for tests of what a command does and not of its numbers."""
    whole = digits.load_digits

    def load(split):
        images = whole(split)
        return images if split == "train" else LabelledImages(images.images[:60], images.labels[:60], "digits", split)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "load_digits", load)
        yield


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
