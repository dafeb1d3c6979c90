"""The data sets of the experiments by their names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from latentflow_experiments.data.digits import load_digits
from latentflow_experiments.data.factor_sequences import FactorSequences
from latentflow_experiments.data.family import FAMILIES, SPRITES
from latentflow_experiments.data.files_of import locate
from latentflow_experiments.data.images import LabelledImages
from latentflow_experiments.data.mnist import load_mnist
from latentflow_experiments.data.sequence_dataset import SequenceDataset
from latentflow_experiments.data.sequences import TransformationSequences
from latentflow_experiments.data.splits import SPLITS, Split
from latentflow_experiments.data.sprites_as_digits import sprites_as_digits
from latentflow_experiments.data.stores import CachedFrames, open_frames
from latentflow_experiments.data.transformed_images import TransformedImages
from latentflow_experiments.errors import DataError, UsageError

__all__ = ["DatasetName", "SequenceConfig", "Source", "open_sequences", "open_sprites_as_digits"]

DatasetName = Literal["digits", "mnist", "sprites", "shapes3d", "falcor3d", "isaac3d"]
IMAGES = ("digits", "mnist")
HELD_OUT = {"digits": 144, "mnist": 5000}  # of the training images, for validation
GIBIBYTE = 2**30


@dataclass(frozen=True)
class SequenceConfig:
    """Which sequences to take from a data set.

    Attributes:
        transformations: Names of the transformations, in order; by default all that the data set has.
        states: Frames of a sequence; by default 9 for digits and MNIST, elsewhere as many as the smallest of the
            factors has values.
        start: State of the transformations that do not change, for digits and MNIST: upright, unscaled and red, or
            random. Elsewhere all starts occur.
        last_hue: Hue of the last state of colouring in degrees, for digits and MNIST; by default 20 a state.
    """

    transformations: tuple[str, ...] = ()
    states: int | None = None
    start: Literal["canonical", "random"] = "canonical"
    last_hue: float | None = None


@dataclass(frozen=True)
class Source:
    """Where the files of a data set are.

    Attributes:
        data: Folder of the data files; by default that of $LATENTFLOW_DATA, else that of the user's cache.
        cache_gib: Largest size in GiB of a cache of decoded frames on the disk; 0 for none.
    """

    data: Path | None = None
    cache_gib: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.cache_gib < float("inf"):
            raise UsageError(f"cache-gib: expected a size of at least 0, got {self.cache_gib}")


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
    config, source = config or SequenceConfig(), source or Source()
    if name not in get_args(DatasetName):
        raise UsageError(f"dataset: expected one of {', '.join(get_args(DatasetName))}, got {name!r}")
    try:
        if name in IMAGES:
            return _open_images(name, split, config, source.data)
        return _open_family(name, split, config, source)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from error


def open_sprites_as_digits(
    name: DatasetName, config: SequenceConfig | None = None, source: Source | None = None
) -> TransformedImages:
    """Open sprites as a model of digits or MNIST can read them: 28 x 28 pixels, in the red channel.

    Args:
        name: The data set that the model was trained on.
        config: Which sequences it was trained on.
        source: Where the files of the sprites are.

    Returns:
        The sequences that the transformations of digits and MNIST make of the sprites.

    Raises:
        DataError: If a file is missing or damaged.
        UsageError: If the model was trained on something else.
    """
    config, source = config or SequenceConfig(), source or Source()
    if name not in IMAGES:
        raise UsageError(f"on-sprites: expected a run of {' or '.join(IMAGES)}, got one of {name}")
    frames = open_frames(SPRITES, locate(SPRITES.name, SPRITES.file, source.data))
    return _transformed(sprites_as_digits(frames, SPRITES), config)


def _open_images(name: str, split: Split, config: SequenceConfig, folder: Path | None) -> TransformedImages:
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    official: Literal["train", "test"] = "test" if split == "test" else "train"
    images = load_digits(official) if name == "digits" else load_mnist(official, folder)
    return _transformed(images if split == "test" else _hold_out(images, split), config)


def _hold_out(images: LabelledImages, split: Split) -> LabelledImages:
    """Take the last training images for validation, or the others."""
    count = HELD_OUT[images.name]
    part = slice(-count, None) if split == "validation" else slice(-count)
    return replace(images, images=images.images[part], labels=images.labels[part], split=split)


def _transformed(images: LabelledImages, config: SequenceConfig) -> TransformedImages:
    transformations = TransformationSequences.of(9 if config.states is None else config.states, config.last_hue)
    return TransformedImages(images, transformations, config.transformations, config.start)


def _open_family(name: str, split: Split, config: SequenceConfig, source: Source) -> FactorSequences:
    if config.start != "canonical" or config.last_hue is not None:
        raise ValueError("start, last-hue: expected neither for images that are numbered by factors")
    family = FAMILIES[name]
    frames = open_frames(family, locate(name, family.file, source.data))
    if source.cache_gib > 0:
        frames = CachedFrames(frames, limit_bytes=int(source.cache_gib * GIBIBYTE))
    data = FactorSequences(frames, family, split, config.transformations, config.states or 0)
    for k, transformation in enumerate(data.names):
        if not len(data.starts(k)):
            raise DataError(
                f"{frames.path}: expected {split} sequences of {transformation}, got none among {len(frames.grid):,} "
                f"images; a larger set has some: `latentflow data make {name} --size N`"
            )
    return data
