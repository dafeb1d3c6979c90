"""Pictures of flows: ground truth above the decoded path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from latentflow import FlowVAE
from latentflow.calculus.files import replacing
from latentflow.flow import InversionError
from latentflow_experiments.data import SequenceDataset
from latentflow_experiments.methods.method import Motion
from latentflow_experiments.metrics.composition import Composition, evaluating, superpositions, switchings


def strips(motion: Motion, data: SequenceDataset, k: int, count: int = 5) -> Tensor:
    """Draw the frames of a few sequences above the decoded frames of the flow.

    Args:
        motion: The motion of a model in evaluation mode.
        data: The sequences.
        k: The transformation.
        count: The number of sequences, at most.

    Returns:
        One picture, of shape ``(2 n height, (T+1) width, channels)``, in [0, 1]: for each sequence a row of ground
        truth above a row of ``Dec(z_t)``, with time running to the right.
    """
    with torch.inference_mode():
        truth = data.sequence(data.examples(k, count), k)
        flow = motion.decode(motion.follow(motion.start(truth), k, data.steps)).mean.transpose(0, 1)
    return arrange(torch.stack([truth, flow], dim=1))


def arrange(rows: Tensor) -> Tensor:
    """Put frames into one picture, with time running to the right.

    Args:
        rows: Frames, of shape ``(n, m, T+1, channels, height, width)``: for each of ``n`` images ``m`` rows.

    Returns:
        The picture, of shape ``(n m height, (T+1) width, channels)``, in [0, 1].

    Example:
        >>> assert arrange(torch.zeros(3, 2, 5, 1, 8, 9)).shape == (3 * 2 * 8, 5 * 9, 1)
    """
    n, each, frames, channels, height, width = rows.shape
    picture = rows.permute(0, 1, 4, 2, 5, 3).reshape(n * each * height, frames * width, channels)
    return picture.clamp(0, 1).cpu()


def draw_strips(motion: Motion, data: SequenceDataset, path: Path, count: int = 5) -> None:
    """Draw the strips of every transformation, for a few sequences.

    Args:
        motion: The motion of a model in evaluation mode.
        data: The sequences; their name stands above the picture.
        path: The PNG file.
        count: The number of sequences of each transformation, at most.
    """
    panels = [strips(motion, data, k, count) for k in range(len(data.names))]
    draw_panels(panels, data.names, ("data", "flow"), data.shape, f"{data.name}, {data.split}", path)


def draw_panels(
    panels: Sequence[Tensor],
    names: Sequence[str],
    labels: Sequence[str],
    shape: tuple[int, int, int],
    title: str,
    path: Path,
) -> None:
    """Draw pictures of frames side by side.

    Args:
        panels: The pictures, each of shape ``(rows height, frames width, channels)``.
        names: The title of each.
        labels: The labels of the rows of an image, which repeat.
        shape: The shape of a frame, ``(channels, height, width)``.
        title: What stands above all.
        path: The PNG file.
    """
    _, height, width = shape
    columns = min(COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    ratio = max(panel.shape[0] / panel.shape[1] for panel in panels)
    inches = _inches(panels[0].shape[1] // width)
    figure = Figure(figsize=(inches * columns, lines * (inches * ratio + 0.3) + 0.3), dpi=200)
    figure.set_layout_engine("constrained")
    figure.suptitle(title, fontsize=9)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, panel, name in zip(grid, panels, names, strict=False):
        _draw_panel(axes, panel, name, labels, height, width)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _inches(frames: int) -> float:
    """Choose the width of a picture: that of its frames, within what the title needs and four columns allow."""
    return min(3.6, max(2.2, 0.5 * frames))


def _draw_panel(axes: Axes, panel: Tensor, name: str, labels: Sequence[str], height: int, width: int) -> None:
    rows, frames = panel.shape[0] // height, panel.shape[1] // width
    axes.set_axis_on()
    axes.imshow(panel.expand(-1, -1, 3).numpy(), interpolation="nearest")
    axes.set_title(name, fontsize=9)
    axes.set_xticks([width * (t + 0.5) for t in range(frames)], [str(t) for t in range(frames)], fontsize=6)
    axes.set_yticks([height * (row + 0.5) for row in range(rows)], [*labels] * (rows // len(labels)), fontsize=6)
    axes.tick_params(length=0)
    for row in range(1, rows):
        color, thickness = ("0.35", 0.3) if row % len(labels) else ("white", 0.8)
        axes.axhline(height * row - 0.5, color=color, linewidth=thickness)


COLUMNS = 4  # panels side by side
MOST_SWITCHES, MOST_SUPERPOSITIONS = 12, 8  # those of four transformations, and one more


def composition_strips(model: FlowVAE, data: SequenceDataset, drawn: Sequence[Composition], count: int = 3) -> Tensor:
    """Draw the frames of compositions above the decoded frames of the flows, for a few images.

    Args:
        model: The model, in evaluation mode.
        data: The sequences.
        drawn: Compositions with one truth, which starts in state 0, such as one switch with its two clocks.
        count: The number of images, at most.

    Returns:
        One picture, of shape ``(n (1 + m) height, frames width, channels)``, in [0, 1], for ``n`` images and ``m``
        compositions: for each image a row of ground truth above a row of ``Dec(z_t)`` for each composition. A row
        whose flow cannot be continued, as paths have met, is grey.

    Raises:
        ValueError: If there are no compositions, or they differ in their states or do not start in state 0.
    """
    if not drawn or any(not torch.equal(c.states, drawn[0].states) for c in drawn) or drawn[0].states[0].any():
        raise ValueError(f"drawn: expected compositions of the same states from 0, got {[c.name for c in drawn]}")
    data = data.to(next(model.parameters()).device)
    with torch.no_grad():
        truth = data.composed(data.examples(drawn[0].kinds[0], count), drawn[0].states)
        z0 = model.encode(truth[:, 0]).mean
        rows = torch.stack([truth, *(_decoded(model, c, z0, truth, data.steps) for c in drawn)], dim=1)
    n, pair, frames, channels, height, width = rows.shape
    return rows.permute(0, 1, 4, 2, 5, 3).reshape(n * pair * height, frames * width, channels).clamp(0, 1).cpu()


def draw_composition_strips(
    model: FlowVAE, order: tuple[int, ...], data: SequenceDataset, path: Path, count: int = 3
) -> None:
    """Draw switches, with both clocks, and superpositions of two and of all transformations.

    All are drawn of up to four transformations; of more, the first twelve switches, the first seven superpositions of
    two, and that of all.

    Args:
        model: The model; it is used in evaluation mode and left in the mode that it was in.
        order: The index in the bank of the potential of each transformation.
        data: The sequences, at least two transformations; their name stands above the picture.
        path: The PNG file.
        count: The number of images in a panel, at most.

    Raises:
        ValueError: If there are less than two transformations or ``order`` has another length.
    """
    names, steps = data.names, data.steps
    if len(names) < 2 or len(order) != len(names):
        raise ValueError(f"order: expected at least 2 indices, one for each of {', '.join(names)}, got {order}")
    switched = switchings(names, order, steps)
    clocks = [switched[i : i + 2] for i in range(0, len(switched), 2)]  # each switch with both of them
    *pairs, last = ([c] for c in superpositions(names, order, steps) if len(c.kinds) in (2, len(names)))
    lines = [*_lines(clocks[:MOST_SWITCHES]), *_lines([*pairs[: MOST_SUPERPOSITIONS - 1], last])]
    with evaluating(model):
        pictures = [[composition_strips(model, data, panel, count) for panel in line] for line in lines]
    figure, grid = _figure(pictures, _inches(steps + 1), f"{data.name}, {data.split}")
    for row, line, panels in zip(grid, pictures, lines, strict=True):
        for axes, picture, panel in zip(row, line, panels, strict=False):
            _draw_composition_panel(axes, picture, panel, *data.shape[1:])
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _lines(panels: list[list[Composition]]) -> list[list[list[Composition]]]:
    return [panels[i : i + COLUMNS] for i in range(0, len(panels), COLUMNS)]


def _decoded(model: FlowVAE, composition: Composition, z0: Tensor, truth: Tensor, steps: int) -> Tensor:
    try:
        latents = composition.flow.follow(model, z0, steps)
    except InversionError:
        return torch.full_like(truth, 0.5)
    return model.decode(latents[list(composition.times)]).mean.transpose(0, 1)


def _figure(lines: Sequence[Sequence[Tensor]], inches: float, title: str) -> tuple[Figure, list[list[Axes]]]:
    """Build a figure with lines of pictures of one width, each line as high as its highest picture."""
    columns = max(map(len, lines))
    ratios = [max(picture.shape[0] / picture.shape[1] for picture in line) for line in lines]
    heights = [(inches - 0.5) * ratio + 0.4 for ratio in ratios]
    figure = Figure(figsize=(inches * columns, sum(heights) + 0.3), dpi=200)
    figure.set_layout_engine("constrained")
    figure.suptitle(title, fontsize=9)
    grid = figure.subplots(len(lines), columns, squeeze=False, height_ratios=heights)
    for axes in grid.ravel():
        axes.set_axis_off()
    return figure, grid.tolist()


def _draw_composition_panel(axes: Axes, picture: Tensor, panel: Sequence[Composition], height: int, width: int) -> None:
    rows, frames, each = picture.shape[0] // height, picture.shape[1] // width, 1 + len(panel)
    labels = ["data", "flow"] if len(panel) == 1 else ["data", "continue", "restart"]
    axes.set_axis_on()
    axes.imshow(picture.expand(-1, -1, 3).numpy(), interpolation="nearest")
    axes.set_title(panel[0].name.removesuffix(", continue"), fontsize=2.5 * _inches(frames))
    axes.set_xticks([width * (t + 0.5) for t in range(frames)], [str(t) for t in range(frames)], fontsize=6)
    axes.set_yticks([height * (row + 0.5) for row in range(rows)], labels * (rows // each), fontsize=6)
    axes.tick_params(length=0)
    for row in range(1, rows):
        color, thickness = ("0.35", 0.3) if row % each else ("white", 0.8)
        axes.axhline(height * row - 0.5, color=color, linewidth=thickness)
