"""The command line: ``latentflow train``, ``evaluate``, ``measure``, ``explore``, ``compare`` and so on."""

from __future__ import annotations

import difflib
import io
import logging
import re
import select
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, TypeAlias

import tyro

from latentflow_experiments.configuration import Budget, TrainConfig, options
from latentflow_experiments.data import DatasetName, Source, check_dataset, default_steps, open_splits
from latentflow_experiments.data.arrays import describe_counts
from latentflow_experiments.data.commands import Data
from latentflow_experiments.data.factors import Split
from latentflow_experiments.data.own import own_stem
from latentflow_experiments.errors import FAILURE, INTERRUPTED, UNREAD, USAGE, ExperimentError, UsageError, printable
from latentflow_experiments.evaluation import MeasureConfig, Part, evaluate, evaluate_transfer, measure
from latentflow_experiments.explorer import explore, serve
from latentflow_experiments.fitting import begin_run, settle_parts
from latentflow_experiments.hub import push
from latentflow_experiments.reports.comparison import compare
from latentflow_experiments.reports.curves import draw_curves, validation_table
from latentflow_experiments.reports.generated import generate
from latentflow_experiments.reproduce.command import Reproduce
from latentflow_experiments.runs import RunFolder, check_run
from latentflow_experiments.training.loop import initial_model, train
from latentflow_experiments.training.session import Hardware

BOX = re.compile(r"[│╭╮╰╯─]|-{3,}|\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Train:
    """Train a model on sequences of images of one change each, then evaluate it.

    Attributes:
        config: The run.
        hardware: Where and how to compute.
        steps: Number of training steps; by default that of the data set, so that a run is reproducible.
        minutes: Instead, minutes of training; what they give depends on the machine.
        cpu_minutes: Instead, minutes of all cores of the CPU together, which other work does not shorten.
        out: Folder of the run; the first free one of runs/DATASET, runs/DATASET-2, ... by default.
        resume: Go on from the checkpoint in --out.
        source: Where the data is.
    """

    config: TrainConfig
    hardware: Hardware = field(default_factory=Hardware)
    source: Source = field(default_factory=Source)
    steps: int | None = None
    minutes: float | None = None
    cpu_minutes: float | None = None
    out: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if self.resume and self.out is None:
            raise UsageError("resume: expected --out with the folder of the run to go on with, got none")
        self.budget()
        if self.hardware.restartable() and self.out is None:
            raise UsageError(
                "out: expected the folder of the run, with which torchrun goes on after a restart, got none"
            )
        check_dataset(self.config.dataset, self.source)

    def budget(self) -> Budget:
        """Return the budget, with the default of the dataset where none was given."""
        if self.steps is None and self.minutes is None and self.cpu_minutes is None:
            return Budget(steps=default_steps(self.config.dataset))
        return Budget(self.steps, self.minutes, self.cpu_minutes)

    def resuming(self, folder: RunFolder) -> list[str]:
        """Return the arguments that go on with this run, with every option that is not the default."""
        dataset = self.config.dataset
        default = asdict(Train(TrainConfig(dataset), out=folder.path, resume=True))
        chosen = asdict(replace(self, out=folder.path, resume=True))
        return ["train", dataset, "--out", str(folder.path), "--resume", *options(chosen, default)]

    def run(self) -> None:
        """Train, evaluate and print the errors."""
        splits: tuple[Split, ...] = ("train", "validation", "test")  # the last so that it fails before, not after
        data, validation, _ = open_splits(self.config.dataset, splits, self.config.sequences, self.source)
        model = initial_model(self.config, data)  # so does a residual that cannot be had
        fabric = self.hardware.launch()
        unused = RunFolder.unused(own_stem(self.config.dataset))
        folder = fabric.broadcast(unused if self.out is None else RunFolder(self.out))
        resume = self.resume or (self.hardware.restarted() and folder.config.exists())
        config = settle_parts(self.config, folder, fabric, resume=resume)
        if self.resume and not folder.config.exists():
            raise ExperimentError(f"{folder.path}: expected a run to go on with, got none; train it without --resume")
        with folder.owned("training") if fabric.is_global_zero else nullcontext():
            if fabric.is_global_zero:
                begin_run(folder, config, data, model, self.hardware, fabric, resume=resume)
                print(f"training on {data.name} (sequences: {describe_counts(data)}) into {folder.path}", flush=True)
            fabric.barrier()
            self.hardware.compile_networks(model)
            try:
                train(config, self.budget(), data, folder, fabric, model, resume=resume, validation=validation)
            except KeyboardInterrupt:
                if fabric.is_global_zero:
                    print(f"stopped; go on with: latentflow {shlex.join(self.resuming(folder))}")
                raise
            if fabric.is_global_zero:
                print(evaluate(folder, self.source, trust=True).table())  # code that this command line has named
                print(f"wrote {folder.evaluation} and {folder.strips}")


@dataclass(frozen=True)
class OfRun:
    """The options of the commands that read the model and the data of a run.

    Attributes:
        folder: Folder of the run.
        source: Where the data is.
        device: Where to compute, as torch names it; auto takes an accelerator where there is one.
        trust: Run the code that the run was made with, of which its folder has a copy.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    source: Source = field(default_factory=Source)
    device: str = "auto"
    trust: bool = False


@dataclass(frozen=True)
class Evaluate(OfRun):
    """Measure the equivariance errors of a run on the test sequences and draw its flows.

    Attributes:
        transfer: Instead, evaluate a run of digits or MNIST on another data set, which it never saw, at the size of the
            digits and in red.
    """

    transfer: DatasetName | None = None

    def run(self) -> None:
        """Evaluate and print the errors."""
        folder = RunFolder(self.folder)
        with folder.measuring():
            if self.transfer is not None:
                print(evaluate_transfer(folder, self.transfer, self.source, self.device, trust=self.trust).table())
                print(f"wrote {folder.transfer} and {folder.transfer_strips}")
            else:
                print(evaluate(folder, self.source, self.device, trust=self.trust).table())
                print(f"wrote {folder.evaluation} and {folder.strips}")


@dataclass(frozen=True)
class Measure(OfRun):
    """Measure more of an evaluated run, and write it into its folder.

    Attributes:
        parts: What to measure: likelihood bounds, predictability of variations, composition of flows, or the
            disentanglement of latents that are coordinates.
        config: How much of it.
    """

    parts: tuple[Part, ...] = ("likelihood", "vp")
    config: MeasureConfig = field(default_factory=MeasureConfig)

    def run(self) -> None:
        """Measure and print the tables."""
        folder = RunFolder(self.folder)
        with folder.measuring():
            for part in self.parts:
                print(measure(folder, part, self.config, self.source, self.device, trust=self.trust))
                print(f"wrote {folder.metric(part)}", flush=True)


@dataclass(frozen=True)
class Generate(OfRun):
    """Transform images by the flows of an evaluated run: frames and a picture.

    Attributes:
        images: Images of your own, npz files with images or PNG files; test images by default.
        count: Test images to take, at most.
    """

    images: tuple[Path, ...] = ()
    count: int = 8

    def run(self) -> None:
        """Generate and name the files."""
        folder = RunFolder(self.folder)
        with folder.measuring():
            files = generate(folder, self.images, self.count, self.source, self.device, trust=self.trust)
            print(f"wrote {files[0]} and {files[1]}")


@dataclass(frozen=True)
class Explore(OfRun):
    """Write one HTML file in which a reader moves the flows of an evaluated run.

    The file needs no server and no network.

    Attributes:
        out: The file; explorer.html in the folder of the run by default.
        images: Test images to start from, at most; fewer where the file would be larger than 5 MB.
        seed: Seed of the draw of the images.
        serve: Instead, serve a page on this machine to which images of your own can be added, until Ctrl-C.
        port: The port to serve on; the first free one from 7860 on by default.
    """

    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    images: int = 6
    seed: int = 0
    serve: bool = False
    port: int | None = None

    def __post_init__(self) -> None:
        if self.serve and self.out is not None:
            raise UsageError("out: expected none with --serve, which writes no file, got one")
        if self.port is not None and not self.serve:
            raise UsageError("port: expected --serve with it, got none")

    def run(self) -> None:
        """Write the file and name it, or serve."""
        folder = RunFolder(self.folder)
        if self.serve:
            serve(folder, self.images, self.seed, self.port, self.source, self.device, trust=self.trust)
            return
        out = folder.path / "explorer.html" if self.out is None else self.out
        with folder.measuring():
            size = explore(folder, out, self.images, self.seed, self.source, self.device, trust=self.trust)
        print(f"wrote {out} ({size / 1e6:.1f} MB)")


@dataclass(frozen=True)
class Compare:
    """Print the errors of several evaluated runs and the transport of their flows as one table.

    Attributes:
        folders: Folders of the runs.
        curves: Also print their last errors on validation sequences, and draw them against the time of training into
            this PNG file.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    curves: Path | None = None

    def __post_init__(self) -> None:
        if not self.folders:
            raise UsageError("folders: expected the folders of one or more runs, got none")

    def run(self) -> None:
        """Print the table."""
        folders = [RunFolder(path) for path in self.folders]
        print(compare(folders))
        if self.curves is not None:
            print(f"\n{validation_table(folders)}")
            draw_curves(folders, self.curves)
            print(f"wrote {self.curves}")


@dataclass(frozen=True)
class Push:
    """Share the model of an evaluated run on the Hugging Face hub, with a card.

    Attributes:
        folder: Folder of the run.
        repository: Name of the model on the hub; it is made if it is not there.
        private: Make a new model private.
        dry_run: Write the model and its card into this folder, and upload nothing.
        source: Where the data is.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")]
    private: bool = False
    dry_run: Path | None = None
    source: Source = field(default_factory=Source)

    def run(self) -> None:
        """Write or upload the model, and say where it is."""
        folder = RunFolder(self.folder)
        with folder.measuring():
            place = push(folder, self.repository, self.source, private=self.private, dry_run=self.dry_run)
        print(f"wrote {place}" if self.dry_run is not None else f"pushed to {place}")


@dataclass(frozen=True)
class Check:
    """Read every file of a run and say what is damaged.

    Attributes:
        folder: Folder of the run.
    """

    folder: Annotated[Path, tyro.conf.Positional]

    def run(self) -> None:
        """Print a line for each file."""
        states = check_run(RunFolder(self.folder))
        for state in states:
            print(f"{state.path}: {state.fault or 'as it was written'}")
        damaged = sum(state.fault is not None for state in states)
        if damaged:
            files = "file that is" if damaged == 1 else "files that are"
            raise ExperimentError(f"{self.folder}: expected a run without faults, got {damaged} {files} damaged")


def main(arguments: Sequence[str] | None = None, *, debug: bool = False) -> int:
    """Run the command line.

    Args:
        arguments: The arguments, or None for those of the process.
        debug: Whether to raise an error instead of printing one line.

    Returns:
        The exit code: 0, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C, 141 if the reader of the output has
        left.
    """
    for name in ("lightning_fabric", "lightning_utilities", "pooch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        _parse(arguments).run()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # the last line of defence: one line for whatever it is
        if isinstance(error, BrokenPipeError) and _unread():
            return UNREAD
        if debug:
            raise
        return _complain(error)
    return 0


def _unread() -> bool:
    """Return whether the reader of the output has left, as ``head`` does after its lines."""
    try:
        poll = select.poll()
        poll.register(sys.stdout, 0)
    except (AttributeError, OSError, TypeError, ValueError):  # no such function on this system, or no file
        return False
    return any(events & select.POLLERR for _, events in poll.poll(0))


Command: TypeAlias = Train | Evaluate | Measure | Generate | Explore | Compare | Push | Check | Data | Reproduce


def _parse(arguments: Sequence[str] | None) -> Command:
    """Read the arguments; what is wrong with them becomes one line instead of a box of several."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(
                Annotated[Train, tyro.conf.subcommand("train")]
                | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
                | Annotated[Measure, tyro.conf.subcommand("measure")]
                | Annotated[Generate, tyro.conf.subcommand("generate")]
                | Annotated[Explore, tyro.conf.subcommand("explore")]
                | Annotated[Compare, tyro.conf.subcommand("compare")]
                | Annotated[Push, tyro.conf.subcommand("push")]
                | Annotated[Check, tyro.conf.subcommand("check")]
                | Annotated[Data, tyro.conf.subcommand("data")]
                | Annotated[Reproduce, tyro.conf.subcommand("reproduce")],
                prog="latentflow",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_in_one_line(said.getvalue())) from None


def _in_one_line(said: str) -> str:
    """Write what tyro says about wrong arguments in one line, with the nearest word for one that is not known."""
    text = " ".join(BOX.sub(" ", said).split())
    text = re.sub(r"^(Unrecognized options|Invalid choice|Parsing error) (?=\1)", "", text, flags=re.IGNORECASE)
    unknown = re.search(r"invalid choice '([^']*)'[^(]*\(([^)]*)\)", text)
    near = difflib.get_close_matches(unknown[1], re.findall(r"'([^']*)'", unknown[2]), 1) if unknown else []
    return f"did you mean {near[0]!r}? {text}" if near else text


EXPECTED = (ExperimentError, OSError, FloatingPointError, ValueError)
"""Errors whose text says what to do; others are faults of the program, or of what it stands on."""

LOST_WORKER = re.compile(r"gloo|nccl|c10d|Connection (closed|reset)|Broken pipe", re.IGNORECASE)


def _complain(error: Exception) -> int:
    """Print one line for an error, and return the exit code."""
    text = printable(" ".join(str(error).split()), 2000)
    if not isinstance(error, EXPECTED):
        if LOST_WORKER.search(text):
            text = "another process of the job has died; go on with --resume"
        elif isinstance(error, MemoryError) or "out of memory" in text:
            text = f"the memory is not enough ({text or 'MemoryError'}); use a smaller --batch-size or --width"
        else:
            text = f"unexpected {type(error).__name__}: {text}; add --debug for the whole traceback"
    print(f"latentflow: error: {text}", file=sys.stderr)
    return USAGE if isinstance(error, UsageError) else FAILURE
