"""What it costs to render the synthetic stand-ins."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.record import Aim, Comparison, Part
from benchmarks.text import duration
from benchmarks.timing import Plan, measure
from latentflow_experiments.data import FAMILIES
from latentflow_experiments.data.render.make import render_images
from latentflow_experiments.reports.tables import table

COUNT = 16
RENDER = "render"


def run(plan: Plan) -> Iterator[Comparison]:
    """Render random images of every family, in one process."""
    for family in FAMILIES.values():
        generator = np.random.default_rng(0)
        digits = generator.integers(0, family.grid.sizes, (COUNT, len(family.factors)))
        channels, height, width = family.shape
        case = f"{family.name}, {channels} x {height} x {width}"
        timings = measure({RENDER: partial(render_images, family, digits)}, plan)
        yield Comparison(case, f"{COUNT} images", timings, {"images": len(family.grid)})


def tables(comparisons: list[Comparison]) -> str:
    """Write the table."""
    rows = []
    for c in comparisons:
        seconds = c.timings[RENDER].median / COUNT
        every = c.facts["images"]
        rows.append([c.case, duration(seconds), f"{every:,}", f"{every * seconds / 60:.1f} min"])
    return table(["family", "an image", "all images", "all of them, in one process"], rows, left=1)


def aims(comparisons: list[Comparison]) -> list[Aim]:  # noqa: ARG001 - nothing was to be reached
    """Return none."""
    return []


PART = Part("rendering", run, tables, aims)
