"""The description of a data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from latentflow_experiments.data.factors import SPLITS, FactorSequences, Family, PublicFile, Split
from latentflow_experiments.data.files import DownloadError, default_folder, locate, retrieve
from latentflow_experiments.data.frames import FrameStore
from latentflow_experiments.data.sequences import SequenceDataset
from latentflow_experiments.data.stores import open_frames
from latentflow_experiments.data.stores.cache import CachedFrames
from latentflow_experiments.data.transformed import LabelledImages, TransformationSequences, TransformedImages
from latentflow_experiments.data.variants import draw_variants
from latentflow_experiments.errors import DataError, UsageError
from latentflow_experiments.locks import owned

GIBIBYTE = 2**30
MOST_STATES = 1000
"""The largest number of states of images that are transformed; an image of each is in memory for every sequence."""
MOST_VARIANTS = 100
"""The largest number of variants of an image; all are in memory."""


@dataclass(frozen=True)
class SequenceConfig:
    """The choice of sequences of a data set.

    Attributes:
        transformations: Names of the transformations, in order; by default all that the data set has. For sequences of
            your own without labels, the names of the flows to infer.
        states: Frames of a sequence; by default 9 for digits and MNIST, elsewhere as many as the smallest of the
            factors has values. For sequences of your own, all; or the first so many.
        start: State of the transformations that do not change, for digits and MNIST: upright, unscaled and red, or
            random. Elsewhere all starts occur.
        last_hue: Hue of the last state of coloring in degrees, for digits and MNIST; by default 20 a state.
        variants: Variants of each training image to train on beside it, for digits and MNIST: moved, turned, scaled and
            sheared a little; by default none for digits and 3 for MNIST.
    """

    transformations: tuple[str, ...] = ()
    states: int | None = None
    start: Literal["canonical", "random"] = "canonical"
    last_hue: float | None = None
    variants: int | None = None

    @property
    def of_images(self) -> bool:
        """Whether it says how sequences are made of single images, which sequences that are there already cannot be."""
        return self.start != "canonical" or self.last_hue is not None or bool(self.variants)


@dataclass(frozen=True)
class Source:
    """The place of the files of a data set.

    Attributes:
        data: Folder of the data files; by default that of $LATENTFLOW_DATA, else that of the user's cache. For
            sequences of your own, their path, if they moved since the training.
        cache_gib: Largest size in GiB of a cache of decoded frames on the disk; 0 for none.
    """

    data: Path | None = None
    cache_gib: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.cache_gib <= 2**20:
            raise UsageError(f"cache-gib: expected a size of at least 0 and at most {2**20}, got {self.cache_gib}")


class DataSet(ABC):
    """A data set, described in one module of :mod:`latentflow_experiments.data.sets` as its ``DATASET``.

    The command line, training and the commands of ``latentflow data`` find it there.

    Attributes:
        name: The name on the command line.
        title: The name of the published data set.
        file: The file, or the folder of PNG files, that holds the images; None if a package brings them.
        originals: The published files that can be downloaded.
        steps: The steps of training, if the user names no budget.
    """

    def __init__(
        self,
        name: str,
        title: str,
        file: str | None = None,
        originals: Sequence[PublicFile] = (),
        steps: int = 20_000,
    ) -> None:
        self.name = name
        self.title = title
        self.file = file
        self.originals = tuple(originals)
        self.steps = steps

    @property
    @abstractmethod
    def count(self) -> int:
        """The number of images."""

    @property
    @abstractmethod
    def transformations(self) -> tuple[str, ...]:
        """The names of the transformations."""

    @abstractmethod
    def open(self, split: Split, config: SequenceConfig, source: Source) -> SequenceDataset:
        """Open a split.

        Raises:
            DataError: If a file is missing or damaged, or too few images are there for the split.
            ValueError: If there is no such split, or the configuration does not fit.
        """

    def as_digits(self, source: Source) -> LabelledImages | None:  # noqa: ARG002 - most have no such form
        """Return the images as a model of digits can read them, or None if there is no such form."""
        return None

    @property
    def remedy(self) -> str:
        """How the files are to be had."""
        return f"get the original with `latentflow data fetch {self.name}`"

    def locate(self, folder: Path | None) -> Path:
        """Find the folder of the images; see :func:`latentflow_experiments.data.files.locate`."""
        if self.file is None:
            raise UsageError(f"{self.name}: expected a data set with files, got one that a package brings")
        return locate(self.name, self.file, folder, self.remedy)

    def state(self, folder: Path | None) -> str:
        """Describe where the images are, or whether they are missing."""
        if self.file is None:
            return f"comes with {self.title}"
        try:
            return str(self.locate(folder))
        except DataError:
            return "no"

    def fetch(self, folder: Path | None = None) -> tuple[Path, ...]:
        """Download the published files.

        Args:
            folder: Where to put them; by default ``NAME`` in ``$LATENTFLOW_DATA`` if that is set, else in the cache.

        Returns:
            The files.

        Raises:
            DataError: If they cannot be downloaded; the message says what to put where.
            ExperimentError: If another process is downloading into the folder.
        """
        folder = folder or default_folder(self.name, synthetic=False)
        afterwards = f"and check it with `latentflow data check {folder}`"
        try:
            with owned(folder, f"downloading {self.name}"):
                return tuple(retrieve(file, folder) for file in self.originals)
        except DownloadError as error:
            raise DataError(
                f"{error}: run the same command again, or put the file into {folder} {afterwards}"
            ) from error


class ImageSet(DataSet):
    """Grey images that are scaled, rotated and colored into sequences.

    Args:
        name: See :class:`DataSet`, as for the other arguments without a line here.
        title: The name of the published data set.
        load: Loads the official training or test images from a folder; with None from where they usually are.
        count: The number of images.
        held_out: The number of training images at the end that are held out for validation.
        variants: The number of variants of each training image, where the configuration leaves it open.
    """

    def __init__(
        self,
        name: str,
        title: str,
        load: Callable[[Literal["train", "test"], Path | None], LabelledImages],
        count: int,
        held_out: int,
        variants: int,
        file: str | None = None,
        originals: Sequence[PublicFile] = (),
        steps: int = 20_000,
    ) -> None:
        super().__init__(name, title, file, originals, steps)
        self.load = load
        self._count = count
        self.held_out = held_out
        self.variants = variants

    @property
    def count(self) -> int:
        """The number of images."""
        return self._count

    @property
    def transformations(self) -> tuple[str, ...]:
        """The names of the transformations."""
        return TransformationSequences().names

    def open(self, split: Split, config: SequenceConfig, source: Source) -> TransformedImages:
        """Open a split: of the training images the last ones are for validation, the others have variants."""
        if split not in SPLITS:
            raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
        images = self.load("test" if split == "test" else "train", source.data)
        if split != "test":
            if len(images) <= self.held_out:
                raise DataError(
                    f"{self.name}: expected more than {self.held_out} training images, of which the last are for "
                    f"validation, got {len(images)}"
                )
            part = slice(-self.held_out, None) if split == "validation" else slice(-self.held_out)
            images = replace(images, images=images.images[part], labels=images.labels[part], split=split)
        data = transform(images, config)
        count = self.variants if config.variants is None else config.variants
        if not 0 <= count <= MOST_VARIANTS:
            raise ValueError(f"variants: expected a number from 0 to {MOST_VARIANTS}, got {count}")
        if split != "train" or count == 0:
            return data
        return replace(data, variants=draw_variants(images.images, count))


class FactorSet(DataSet):
    """Images that are numbered by factors, with sequences along one factor.

    Args:
        family: The factors and the files.
        originals: The published files, or none if they are only to be had by hand.
        as_digits: Makes grey images of the size of the digits of the images, or None.
    """

    def __init__(
        self,
        family: Family,
        originals: Sequence[PublicFile] = (),
        as_digits: Callable[[FrameStore, Family], LabelledImages] | None = None,
    ) -> None:
        super().__init__(family.name, family.title, family.file, originals)
        self.family = family
        self._as_digits = as_digits

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.family.grid)

    @property
    def transformations(self) -> tuple[str, ...]:
        """The names of the transformations."""
        return self.family.transformations

    @property
    def remedy(self) -> str:
        """How the files are to be had: from the publisher, or as a stand-in."""
        original = super().remedy
        if not self.originals:
            folder = default_folder(self.name, synthetic=False) / self.family.file
            original = f"get the original from {self.family.address} and put its PNG files into {folder}"
        stand_in = f", or make a synthetic stand-in with `latentflow data make {self.name}`"
        return original if self.family.render is None else original + stand_in

    def open(self, split: Split, config: SequenceConfig, source: Source) -> FactorSequences:
        """Open a split of the sequences."""
        if config.of_images:
            raise ValueError("start, last-hue, variants: expected none of them for images that are numbered by factors")
        frames = open_frames(self.family, self.locate(source.data))
        if source.cache_gib > 0:
            frames = CachedFrames(frames, limit_bytes=int(source.cache_gib * GIBIBYTE))
        data = FactorSequences(frames, self.family, split, config.transformations, config.states or 0)
        for k, transformation in enumerate(data.names):
            if not len(data.starts(k)):
                raise DataError(
                    f"{frames.path}: expected {split} sequences of {transformation}, got none among "
                    f"{len(frames.grid):,} images; a larger set has some: `latentflow data make {self.name} --size N`"
                )
        return data

    def as_digits(self, source: Source) -> LabelledImages | None:
        """Return the images as a model of digits can read them, or None if there is no such form."""
        if self._as_digits is None:
            return None
        return self._as_digits(open_frames(self.family, self.locate(source.data)), self.family)

    def state(self, folder: Path | None) -> str:
        """Describe where the images are, whether they are synthetic, damaged or missing."""
        try:
            place = self.locate(folder)
        except DataError:
            return "no"
        try:
            synthetic = open_frames(self.family, place).synthetic
        except DataError as error:
            return f"damaged: {error}"
        return f"{place}{'' if synthetic is None else ' (synthetic)'}"

    def fetch(self, folder: Path | None = None) -> tuple[Path, ...]:
        """Download the published files, or say where to get them by hand; see :meth:`DataSet.fetch`."""
        if self.originals:
            return super().fetch(folder)
        folder = folder or default_folder(self.name, synthetic=False)
        raise DataError(
            f"{folder}: expected {self.title} to be put there by hand, since it is behind a page that asks for "
            f"confirmation: get it from {self.family.address}, put its PNG files into {folder / self.family.file} and "
            f"check it with `latentflow data check {folder}`"
        )


def transform(images: LabelledImages, config: SequenceConfig) -> TransformedImages:
    """Make sequences of scaled, rotated and colored images."""
    if config.states is not None and config.states > MOST_STATES:
        raise ValueError(f"states: expected at most {MOST_STATES}, got {config.states}")
    transformations = TransformationSequences.of(9 if config.states is None else config.states, config.last_hue)
    return TransformedImages(images, transformations, config.transformations, config.start)
