"""The data sets of the experiments: a module for each, found by its ``DATASET``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from latentflow_experiments.data.arrays import ArraySequences
from latentflow_experiments.data.dataset import DataSet, FactorSet, ImageSet, SequenceConfig, Source, transform
from latentflow_experiments.data.factors import Split
from latentflow_experiments.data.own import STEPS, check_place, read_own
from latentflow_experiments.data.sequences import SequenceDataset
from latentflow_experiments.data.transformed import TransformedImages
from latentflow_experiments.errors import UsageError

__all__ = [
    "DATASETS",
    "FAMILIES",
    "DatasetName",
    "FamilyName",
    "FetchedName",
    "check_dataset",
    "default_steps",
    "fetch",
    "find_datasets",
    "open_sequences",
    "open_splits",
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


def check_dataset(name: str, source: Source | None = None) -> None:
    """Check that a data set is known, or that there is a file or folder of the user's own.

    Raises:
        UsageError: If it is neither; it names the nearest one.
    """
    if name not in DATASETS:
        check_place(name, source or Source(), tuple(DATASETS))


def default_steps(name: str) -> int:
    """Return the steps of training on a data set, if the user names no budget."""
    return DATASETS[name].steps if name in DATASETS else STEPS


def open_splits(
    name: str, splits: Sequence[Split], config: SequenceConfig | None = None, source: Source | None = None
) -> tuple[SequenceDataset, ...]:
    """Open several splits of a data set; files of the user's own are read once.

    Args:
        name: The data set, or the path of sequences of the user's own.
        splits: The splits.
        config: Which sequences to take.
        source: Where its files are; for a path, where it is now.

    Returns:
        The sequences of each split.

    Raises:
        DataError: See :func:`open_sequences`.
        UsageError: See :func:`open_sequences`.
    """
    if name in DATASETS:
        return tuple(open_sequences(name, split, config, source) for split in splits)
    place = check_place(name, source or Source(), tuple(DATASETS))
    try:
        parts = read_own(name, config or SequenceConfig(), place).split_into_parts()
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from error
    by_split: dict[str, ArraySequences] = {part.split: part for part in parts}
    return tuple(by_split[split] for split in splits)


def open_sequences(
    name: str,
    split: Split,
    config: SequenceConfig | None = None,
    source: Source | None = None,
) -> SequenceDataset:
    """Open a split of a data set.

    Args:
        name: The data set, or the path of sequences of the user's own.
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
        return open_splits(name, (split,), config, source)[0]
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
