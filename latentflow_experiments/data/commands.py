"""The commands of ``latentflow data``: list, fetch, check, make and show."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from latentflow_experiments.data.check import check_folder
from latentflow_experiments.data.contact_sheet import Row, draw_contact_sheet, factor_rows, sequence_rows
from latentflow_experiments.data.dataset import Source
from latentflow_experiments.data.factors import Family
from latentflow_experiments.data.files import default_folder
from latentflow_experiments.data.frames import FrameStore
from latentflow_experiments.data.render.make import RenderedFrames, make
from latentflow_experiments.data.sets import (
    DATASETS,
    FAMILIES,
    DatasetName,
    FamilyName,
    FetchedName,
    fetch,
    open_sequences,
)
from latentflow_experiments.data.stores import open_frames
from latentflow_experiments.errors import DataError, UsageError, printable
from latentflow_experiments.reports.tables import table

WIDEST = 1024
"""The largest width of an image on a contact sheet, in pixels."""


@dataclass(frozen=True)
class List:
    """List the data sets, what they are made of, and where their files are on this machine.

    Attributes:
        data: Folder to look in; by default that of $LATENTFLOW_DATA, else the user's cache.
    """

    data: Path | None = None

    def run(self) -> None:
        """Print the list."""
        header = ("name", "images", "transformations", "original", "here")
        rows: list[tuple[str, ...]] = []
        for name, dataset in DATASETS.items():
            transformations = ", ".join(dataset.transformations)
            rows.append(
                (name, f"{dataset.count:,}", transformations, dataset.title, printable(dataset.state(self.data)))
            )
        print(table(header, rows, left=0))


@dataclass(frozen=True)
class Fetch:
    """Download a data set that has a public address; what is there already is not downloaded again.

    Attributes:
        name: The data set.
        out: Folder for the files; by default $LATENTFLOW_DATA/NAME, else a folder of the user's cache.
    """

    name: Annotated[FetchedName, tyro.conf.Positional]
    out: Path | None = None

    def run(self) -> None:
        """Download."""
        folder = self.out or default_folder(self.name, synthetic=False)
        fetch(self.name, folder)
        print(printable(f"{self.name} is in {folder}"))


@dataclass(frozen=True)
class Check:
    """Read every image of a data set and name what is wrong with it.

    Attributes:
        path: Folder or file of the data set.
    """

    path: Annotated[Path, tyro.conf.Positional]

    def run(self) -> None:
        """Print the report."""
        report = check_folder(self.path)
        print(report.text())
        if report.faults:
            count = len(report.faults)
            raise DataError(f"{self.path}: expected a data set without faults, got {count} fault{'s' * (count > 1)}")


@dataclass(frozen=True)
class Make:
    """Render a synthetic stand-in in the format of the original; what is there already is not rendered again.

    Attributes:
        name: The family.
        size: Largest number of images, taken evenly from the family; by default all.
        out: Folder for the files; by default $LATENTFLOW_DATA/synthetic/NAME, else a folder of the user's cache.
        workers: Processes to render in.
    """

    name: Annotated[FamilyName, tyro.conf.Positional]
    size: int | None = None
    out: Path | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"workers: expected a positive integer, got {self.workers}")

    def run(self) -> None:
        """Render."""
        folder = self.out or default_folder(self.name, synthetic=True)
        try:
            done = make(FAMILIES[self.name], folder, size=self.size, workers=self.workers)
        except ValueError as error:
            raise UsageError(str(error)) from error
        except KeyboardInterrupt:
            print("stopped; the same command goes on")
            raise
        print(printable(f"{self.name} (synthetic) {'is' if done else 'was already'} in {folder}"))


@dataclass(frozen=True)
class Show:
    """Draw a contact sheet of a data set: a row for every factor or transformation.

    Attributes:
        name: The data set.
        out: The PNG file; by default NAME.png.
        source: Where the data is.
        width: The width of an image on the sheet, in pixels.
        rendered: Show the whole synthetic stand-in, rendered for the sheet, instead of files.
    """

    name: Annotated[DatasetName, tyro.conf.Positional]
    out: Path | None = None
    source: Source = field(default_factory=Source)
    width: int = 64
    rendered: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.width <= WIDEST:
            raise UsageError(f"width: expected from 1 to {WIDEST} pixels, got {self.width}")

    def run(self) -> None:
        """Draw."""
        path = self.out or Path(f"{self.name}.png")
        rows, title = self._rows()
        draw_contact_sheet(rows, title, path, self.width)
        print(printable(f"wrote {path}"))

    def _rows(self) -> tuple[list[Row], str]:
        if self.name not in FAMILIES:
            if self.rendered:
                raise UsageError(f"rendered: expected a family of which there is a stand-in, got {self.name}")
            data = open_sequences(self.name, "test", source=self.source)
            return sequence_rows(data), f"{data.name}, {data.split}"
        family = FAMILIES[self.name]
        frames = RenderedFrames(family) if self.rendered else self._files(family)
        kind = "the original files" if frames.synthetic is None else "synthetic stand-in"
        return factor_rows(frames, family), f"{family.title}: {kind}, {len(frames.grid):,} images"

    def _files(self, family: Family) -> FrameStore:
        return open_frames(family, DATASETS[family.name].locate(self.source.data))


DataCommand = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Fetch, tyro.conf.subcommand("fetch")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Make, tyro.conf.subcommand("make")]
    | Annotated[Show, tyro.conf.subcommand("show")]
)


@dataclass(frozen=True)
class Data:
    """List, download, check, render and show data sets.

    Attributes:
        command: What to do.
    """

    command: DataCommand

    def run(self) -> None:
        """Do it."""
        self.command.run()
