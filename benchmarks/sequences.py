"""What reading a batch of image sequences costs, beside the training step that it is for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.record import Aim, Comparison, Part
from benchmarks.text import duration
from benchmarks.timing import Plan, measure
from latentflow_experiments.configuration import ModelConfig
from latentflow_experiments.data import FAMILIES, DatasetName, SequenceDataset, Source, open_sequences
from latentflow_experiments.data.render.make import make
from latentflow_experiments.reports.tables import table

BATCH = 128
LIMIT = 0.1
IMAGES: dict[DatasetName, int] = {"dsprites": 20_000, "shapes3d": 6_000, "falcor3d": 1_500}
"""How many images of each family are rendered to read from."""
FILES, CACHE, STEP = "from the files", "from the cache", "training step"
TASK = f"{BATCH} sequences"
GIBIBYTES = 4.0


class Batches:
    """Reads one batch after the other, each of other sequences, the transformations in turn.

    Args:
        data: The sequences.
    """

    def __init__(self, data: SequenceDataset) -> None:
        self.data = data
        self.starts = [data.starts(k) for k in range(len(data.names))]
        self.generator = torch.Generator().manual_seed(0)
        self.count = 0

    def __call__(self) -> Tensor:
        """Read a batch."""
        k = self.count % len(self.starts)
        self.count += 1
        places = torch.randint(len(self.starts[k]), (BATCH,), generator=self.generator)
        return self.data.sequence(self.starts[k][places], k)


class Step:
    """Makes training steps of the default model on one batch that is there already.

    Args:
        data: The sequences.
    """

    def __init__(self, data: SequenceDataset) -> None:
        torch.manual_seed(0)
        self.model = ModelConfig().build(data)
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        self.frames = Batches(data)()
        self.k = torch.zeros(BATCH, dtype=torch.int64)
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self) -> None:
        """Make a step, in single precision."""
        self.optimizer.zero_grad()
        self.model(self.frames, self.k, self.generator)["total"].backward()
        self.optimizer.step()


def run(plan: Plan) -> Iterator[Comparison]:
    """Render images, and read them from their files and from the cache."""
    with tempfile.TemporaryDirectory() as folder:
        digits = open_sequences("digits", "train")
        runs = {FILES: Batches(digits), STEP: Step(digits)}
        yield Comparison(describe(digits), TASK, measure(runs, plan))
        for name, images in IMAGES.items():
            made = Path(folder, name)
            make(FAMILIES[name], made, size=images)
            direct = open_sequences(name, "train", source=Source(made))
            runs = {FILES: Batches(direct), STEP: Step(direct)}
            if name != "dsprites":  # whose index is as fast as a cache
                cached = open_sequences(name, "train", source=Source(made, cache_gib=GIBIBYTES))
                for k, starts in enumerate(Batches(cached).starts):  # fill it
                    list(map(partial(cached.sequence, k=k), torch.split(starts, BATCH)))
                runs[CACHE] = Batches(cached)
            yield Comparison(describe(direct), TASK, measure(runs, plan))


def describe(data: SequenceDataset) -> str:
    """Say what a sequence is."""
    return f"{data.name}, {data.steps + 1} x {' x '.join(map(str, data.shape))}"


def tables(comparisons: list[Comparison]) -> str:
    """Write the table."""
    rows = []
    for c in comparisons:
        cells = [f"{duration(c.timings[name].median)}" if name in c.timings else "" for name in (FILES, CACHE, STEP)]
        shares = [f"{c.ratio(name, STEP):.1%}" if name in c.timings else "" for name in (FILES, CACHE)]
        rows.append([c.case, *cells, *shares])
    header = ["sequence", "128 from the files", "from the cache", "training step", "files / step", "cache / step"]
    return table(header, rows, left=1)


def aims(comparisons: list[Comparison]) -> list[Aim]:
    """Compare with the aim."""
    shares = {c.case: c.ratio(CACHE if CACHE in c.timings else FILES, STEP) for c in comparisons}
    case = max(shares, key=lambda case: shares[case])
    reason = "the pixels of a batch are turned into floating point numbers on the same two cores"
    text = f"a batch of {BATCH} sequences at most {LIMIT:.0%} of a training step, from the cache where there is one"
    return [Aim(text, f"{shares[case]:.1%} at {case}", shares[case] <= LIMIT, reason)]


PART = Part("sequences", run, tables, aims)
