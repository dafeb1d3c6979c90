"""The data sets that the package finds by their modules."""

import sys

import pytest

from latentflow_experiments.data import DATASETS, sets
from latentflow_experiments.data.sets import find_datasets
from latentflow_experiments.errors import UsageError

NOISE = """
import torch

from latentflow_experiments.data.dataset import ImageSet
from latentflow_experiments.data.transformed import LabelledImages


def load(split, folder):
    return LabelledImages(torch.zeros(9, 28, 28, dtype=torch.uint8), torch.arange(9), "black", split)


DATASET = ImageSet("black", "nothing", load=load, count=18, held_out=2, variants=0, steps=100)
"""


def test_a_data_set_of_a_new_file_is_found(tmp_path, monkeypatch):
    """Catches a list of data sets, of their steps or of their held-out images in another place than their module."""
    (tmp_path / "black.py").write_text(NOISE)
    monkeypatch.setattr(sets, "__path__", [*sets.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "latentflow_experiments.data.sets.black", raising=False)
    found = find_datasets()
    assert set(found) - set(DATASETS) == {"black"}
    monkeypatch.setitem(DATASETS, "black", found["black"])
    sizes = {split: len(sets.open_sequences("black", split).starts(0)) for split in ("train", "validation", "test")}
    assert sizes == {"train": 7, "validation": 2, "test": 9}
    assert found["black"].state(None) == "comes with nothing"
    with pytest.raises(UsageError, match=r"^transfer: expected a data set that can be shown as digits, got black"):
        sets.open_transfer("black", "mnist")
    (tmp_path / "black_again.py").write_text(NOISE)
    with pytest.raises(ValueError, match=r"^data sets: expected one of each name, got two of 'black'"):
        find_datasets()


def test_every_data_set_describes_itself():
    """Catches a count, a name of a file or a budget that differs from what the command line showed before."""
    counts = {name: (dataset.count, dataset.steps, dataset.file is None) for name, dataset in DATASETS.items()}
    assert counts == {
        "digits": (1_797, 3_000, True),
        "mnist": (70_000, 20_000, False),
        "dsprites": (737_280, 20_000, False),
        "falcor3d": (233_280, 20_000, False),
        "isaac3d": (737_280, 20_000, False),
        "shapes3d": (480_000, 20_000, False),
    }
