"""The data sets of the experiments: a module for each, found by its ``DATASET``."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from latentflow_experiments.data.dataset import DataSet, FactorSet, ImageSet, SequenceConfig, Source, transform
from latentflow_experiments.data.factors import Split
from latentflow_experiments.data.sequences import SequenceDataset
from latentflow_experiments.data.transformed import TransformedImages
from latentflow_experiments.errors import UsageError

__all__ = [
    "DATASETS",
    "FAMILIES",
    "DatasetName",
    "FamilyName",
    "FetchedName",
    "fetch",
    "find_datasets",
    "open_sequences",
    "open_transfer",
]


def find_datasets() -> dict[str, DataSet]:
    """Collect the ``DATASET`` of all modules of this package.

    Returns:
        The data sets by their names: images that are transformed first, then images that are numbered by factors.

    Raises:
        ValueError: If two have one name.
    """
    found: dict[str, DataSet] = {}
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    described: list[DataSet] = [importlib.import_module(f"{__name__}.{module}").DATASET for module in modules]
    for dataset in sorted(described, key=lambda dataset: isinstance(dataset, FactorSet)):
        if dataset.name in found:
            raise ValueError(f"data sets: expected one of each name, got two of {dataset.name!r}")
        found[dataset.name] = dataset
    return found


DATASETS = find_datasets()
"""The data sets, by their names on the command line."""

FAMILIES = {name: dataset.family for name, dataset in DATASETS.items() if isinstance(dataset, FactorSet)}
"""The families of images that are numbered by factors."""

if TYPE_CHECKING:
    DatasetName: TypeAlias = str
    FamilyName: TypeAlias = str
    FetchedName: TypeAlias = str
else:  # what the command line reads
    DatasetName = Literal[tuple(DATASETS)]
    FamilyName = Literal[tuple(name for name, family in FAMILIES.items() if family.render is not None)]
    FetchedName = Literal[tuple(name for name, dataset in DATASETS.items() if dataset.file is not None)]


def open_sequences(
    name: DatasetName,
    split: Split,
    config: SequenceConfig | None = None,
    source: Source | None = None,
) -> SequenceDataset:
    """Open a split of a data set.

    Args:
        name: The data set.
        split: The split; of digits and MNIST validation is the last tenth or so of the training images.
        config: Which sequences to take.
        source: Where its files are; the digits have none.

    Returns:
        The sequences.

    Raises:
        DataError: If a file is missing or damaged, or a part of a family is too small to have sequences in the split.
        UsageError: If the data set has no such split, transformations or states, or no such start.
    """
    if name not in DATASETS:
        raise UsageError(f"dataset: expected one of {', '.join(DATASETS)}, got {name!r}")
    try:
        return DATASETS[name].open(split, config or SequenceConfig(), source or Source())
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from error


def open_transfer(
    name: DatasetName, trained: DatasetName, config: SequenceConfig | None = None, source: Source | None = None
) -> TransformedImages:
    """Open a data set as a model of digits or MNIST can read it: 28 x 28 pixels, in the red channel.

    Args:
        name: The data set to show.
        trained: The data set that the model was trained on.
        config: Which sequences it was trained on.
        source: Where the files of the data set to show are.

    Returns:
        The sequences that the transformations of digits and MNIST make of the images.

    Raises:
        DataError: If a file is missing or damaged.
        UsageError: If the model was trained on something else, or the data set has no such form.
    """
    able = [known for known, dataset in DATASETS.items() if isinstance(dataset, ImageSet)]
    if trained not in able:
        raise UsageError(f"transfer: expected a run of {' or '.join(able)}, got one of {trained}")
    images = DATASETS[name].as_digits(source or Source())
    if images is None:
        raise UsageError(f"transfer: expected a data set that can be shown as digits, got {name}")
    return transform(images, config or SequenceConfig())


def fetch(name: FetchedName, folder: Path | None = None) -> tuple[Path, ...]:
    """Download the published files of a data set; see :meth:`DataSet.fetch`.

    Raises:
        ValueError: If there is no such data set, or it has no files.
    """
    known = [known for known, dataset in DATASETS.items() if dataset.file is not None]
    if name not in known:
        raise ValueError(f"name: expected one of {', '.join(known)}, got {name!r}")
    return DATASETS[name].fetch(folder)
