"""The explorer of a run: one HTML file of limited size, which needs neither a server nor a network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from latentflow_experiments.data import SequenceDataset, Source
from latentflow_experiments.data.sequences import turning_point
from latentflow_experiments.errors import ExperimentError, UsageError, printable
from latentflow_experiments.explorer.grid import Grid, grids
from latentflow_experiments.explorer.rendering import MAP_SIZE, Rendered, as_bytes, encoded_size, map_times, render
from latentflow_experiments.methods.method import Choice, FlowMotion
from latentflow_experiments.metrics.transport import certificate_in_words
from latentflow_experiments.records import provenance, write_text
from latentflow_experiments.runs import RunFolder, open_run, read_evaluation

__all__ = ["LIMIT", "Explorable", "build_page", "draw_starts", "explore", "flow_in_words", "open_explorable"]

LIMIT = 5_000_000
"""The largest size of the file, in bytes."""

FEW = 3  # start images that a rich grid should leave room for, if so many are wanted
CODE = 40_000  # bytes of the page without pictures and numbers, at most
NUMBERS = 60  # bytes of JSON for a path and a time, about
NAME = 60  # the longest name of a flow, in characters


@dataclass(frozen=True)
class Explorable:
    """The flows of an evaluated run, and what was found of them.

    Attributes:
        flows: The flows, in the order of the transformations.
        data: The test sequences.
        evaluation: What was found when the run was evaluated.
        origin: What made the run, for the foot of the page.
    """

    flows: FlowMotion
    data: SequenceDataset
    evaluation: Mapping[str, Any]
    origin: str

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.flows.model.parameters()).device


def open_explorable(
    folder: RunFolder, source: Source | None = None, device: str = "cpu", *, trust: bool = False
) -> Explorable:
    """Open an evaluated run whose flows can be superposed and switched.

    Args:
        folder: The run.
        source: Where the data files are.
        device: Where to compute.
        trust: See :func:`open_run`.

    Returns:
        Its flows.

    Raises:
        ExperimentError: If the run or its data cannot be read, or it was not evaluated.
        UsageError: If the method of the run has no flows that are superposed.
    """
    run = open_run(folder, source, device, trust=trust)
    evaluation = read_evaluation(folder)
    choice, method = Choice.from_values(evaluation["choice"]), run.config.model.described
    flows = method.flows(run.model, choice)
    if flows is None or not method.composes:
        raise UsageError(f"explore: expected a run of the method flow, got one of {run.config.model.method}")
    data = method.labelled(run.model, run.data)
    facts = provenance()
    commit = f", commit {facts['commit']}" if facts["commit"] else ""
    settings = run.config.model
    equation = settings.pde.replace("\\", "/").rpartition("/")[2]  # of a file of the user's without its folder
    origin = (
        f"{settings.method}, {settings.supervision}, --pde {equation}, {run.progress.steps:,} steps, seed "
        f"{run.config.seed}; drawn by latentflow {facts['latentflow']}{commit}, {facts['date'][:10]}"
    )
    return Explorable(flows, data, evaluation, printable(origin))


def draw_starts(data: SequenceDataset, count: int, seed: int) -> Tensor:
    """Draw first images of test sequences, of each transformation in turn.

    Args:
        data: The sequences.
        count: The number of images, at most.
        seed: The seed of the draw.

    Returns:
        The images, of shape ``(n, channels, height, width)``, in [0, 1].

    Example:
        >>> from latentflow_experiments.data import open_sequences
        >>> data = open_sequences("digits", "test")
        >>> assert draw_starts(data, 4, seed=0).shape == (4, 3, 28, 28)
        >>> assert torch.equal(draw_starts(data, 4, seed=0)[:2], draw_starts(data, 2, seed=0))
    """
    generator = torch.Generator().manual_seed(seed)
    lots = [
        (starts := data.starts(k))[torch.randperm(len(starts), generator=generator)] for k in range(len(data.names))
    ]
    chosen: list[tuple[int, int]] = []
    for rank in range(max(map(len, lots))):
        for k, lot in enumerate(lots):
            if rank < len(lot) and len(chosen) < count and int(lot[rank]) not in {index for index, _ in chosen}:
                chosen.append((int(lot[rank]), k))
    return torch.cat([data.sequence(torch.tensor([index]), k)[:, 0] for index, k in chosen])


def build_page(
    run: Explorable,
    images: Tensor,
    limit: int = LIMIT,
    progress: Callable[[int], tqdm[Any]] | None = None,
    note: str = "",
) -> str:
    """Render a grid of flows from images, and write the page.

    The richest grid is taken under which a few images fit by an estimate, and images are added as long as the page is
    not too large. Where not even one fits, a poorer grid is taken.

    Args:
        run: The flows.
        images: The start images, of shape ``(n, channels, height, width)``, in [0, 1].
        limit: The largest size of the page, in bytes.
        progress: Makes a progress bar of so many paths; None for no bar.
        note: What to say of the images, after the description of the grid.

    Returns:
        The page, of at most ``limit`` bytes in UTF-8.

    Raises:
        ExperimentError: If not even the poorest grid of one image fits.
    """
    with torch.inference_mode():
        every = grids(run.flows.order, run.data.steps)
        cell, maps = _estimate_costs(run, images[0])
        costs = [maps + len(grid.paths()) * (run.data.steps + 1) * cell for grid in every]  # of an image
        room = [int((limit - CODE) / cost) for cost in costs]
        first = next((n for n, count in enumerate(room) if count >= min(FEW, len(images))), len(every) - 1)
        for grid in every[first:]:
            page, rendered = "", list[Rendered]()
            with tqdm(disable=True) if progress is None else progress(len(images) * len(grid.paths())) as bar:
                for image in images:
                    rendered.append(render(run.flows.model, image, grid, bar.update))
                    longer = assemble(run, grid, rendered, note)
                    if len(longer.encode()) > limit:
                        break
                    page = longer
            if page:
                return page
    raise ExperimentError(f"images: expected pictures that fit into {limit:,} bytes, got {tuple(images.shape[1:])}")


def _estimate_costs(run: Explorable, image: Tensor) -> tuple[float, float]:
    """Estimate the bytes of one time of a path in the page, from the flows of one image, and those of its maps."""
    z0, flows = run.flows.start(image[None, None]), range(len(run.data.names))
    every = torch.cat([run.flows.follow(z0, k, run.data.steps)[:, 0] for k in flows])
    cells = as_bytes(run.flows.decode(every).mean)
    maps = len(flows) * map_times(run.flows.model, run.data.steps) * MAP_SIZE
    return encoded_size(cells) / len(cells) + NUMBERS, maps


def assemble(run: Explorable, grid: Grid, rendered: Sequence[Rendered], note: str = "") -> str:
    """Write the page of rendered images; every text of the run is escaped.

    Args:
        run: The flows.
        grid: The paths.
        rendered: The images.
        note: What else to say of the grid.

    Returns:
        The page.
    """
    names = [printable(name, NAME) for name in run.data.names]
    values = {
        "names": names,
        "steps": run.data.steps,
        "turn": turning_point(run.data.steps),
        "shape": list(run.data.shape),
        "alone": grid.alone,
        "together": grid.together,
        "most": grid.most if grid.together else 1,
        "switches": grid.switches and len(names) > 1 and run.data.steps > 1,
        "solved": map_times(run.flows.model, run.data.steps) == 1,
        "certificates": [flow_in_words(run.evaluation, name) for name in run.data.names],
        "images": [one.values for one in rendered],
    }
    title = printable(f"{run.data.name}, {run.data.split}", 2 * NAME)
    sheets = "\n".join(f'<script type="text/plain" class="sheet">{one.sheet}</script>' for one in rendered)
    style, script = _part("page.css"), _part("page.js")
    return _fill(
        _part("page.html"),
        {
            "TITLE": escape(title),
            "GRID": escape(f"{grid.described(names, len(rendered))} {note}".strip()),
            "ORIGIN": escape(run.origin),
            "STYLE_HASH": _hash(style),
            "SCRIPT_HASH": _hash(script),
            "STYLE": style,
            "SCRIPT": script,
            "SHEETS": sheets,
            "VALUES": as_json(values),
        },
    )


def as_json(values: object) -> str:
    r"""Write JSON that can stand inside an HTML element: no ``<``, ``>`` or ``&``, and no line ends of JavaScript.

    Example:
        >>> print(as_json("</script>"))
        "\u003c/script\u003e"
    """
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)  # ASCII only
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _part(name: str) -> str:
    return files("latentflow_experiments.explorer").joinpath(name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    """Name the only style or script that the page may use, for its Content-Security-Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _fill(template: str, parts: Mapping[str, str]) -> str:
    """Replace the places ``{{NAME}}`` of a template in one pass, so that no part is read as a template."""
    return re.sub(r"\{\{([A-Z_]+)\}\}", lambda match: parts[match[1]], template)


def flow_in_words(evaluation: Mapping[str, Any], name: str) -> str:
    """Say in words how far a flow is from optimal transport and from the images.

    Args:
        evaluation: What was found when the run was evaluated.
        name: The transformation.

    Returns:
        A few sentences.

    Example:
        >>> evaluation = {"result": {"errors": {"hue": {"output": 2.0, "static": 8.0}}}, "transport": {}}
        >>> print(flow_in_words(evaluation, "hue"))
        This flow was not certified. Its frames differ from the transformed images by 2.0, summed over all pixels and \
times; the first picture held still differs by 8.0.
    """
    certificate, error = evaluation["transport"].get(name), evaluation["result"]["errors"].get(name)
    known = "This flow was not certified."
    text = [known if certificate is None else f"Certificate: {certificate_in_words(certificate)}"]
    if error is not None:
        text.append(
            f"Its frames differ from the transformed images by {error['output']:.1f}, summed over all pixels and "
            f"times; the first picture held still differs by {error['static']:.1f}."
        )
    return " ".join(text)


def explore(
    folder: RunFolder,
    out: Path,
    images: int = 6,
    seed: int = 0,
    source: Source | None = None,
    device: str = "cpu",
    *,
    trust: bool = False,
) -> int:
    """Write the explorer of an evaluated run.

    Args:
        folder: The run.
        out: The HTML file.
        images: The number of test images to start from, at most; fewer where the file would become too large.
        seed: The seed of the draw of the images.
        source: Where the data files are.
        device: Where to compute.
        trust: See :func:`open_run`.

    Returns:
        The size of the file in bytes.

    Raises:
        ExperimentError: If the run or its data cannot be read, it was not evaluated, or its images are too large.
        UsageError: If the method of the run has no flows that are superposed, ``images`` is not positive, or ``out``
            is a folder or lies in none.
    """
    if images < 1:
        raise UsageError(f"images: expected a positive integer, got {images}")
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"out: expected a file in a folder that is there, got {out}")
    run = open_explorable(folder, source, device, trust=trust)
    starts = draw_starts(run.data, images, seed).to(run.device)
    page = build_page(run, starts, progress=lambda total: tqdm(total=total, unit="path", desc="explorer"))
    write_text(out, page)
    return len(page.encode())
