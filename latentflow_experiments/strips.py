"""Pictures of flows: ground truth above the decoded path."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from latentflow_experiments.data import SequenceDataset
from latentflow_experiments.files import replacing
from latentflow_experiments.methods import Method

COLUMNS = 4  # panels side by side


def strips(method: Method, data: SequenceDataset, k: int, count: int = 5) -> Tensor:
    """Put the frames of a few sequences above those that the flow decodes to.

    Args:
        method: The method, in evaluation mode.
        data: The sequences.
        k: The transformation.
        count: The number of sequences, at most.

    Returns:
        One picture, of shape ``(2 n height, (T+1) width, channels)``, in [0, 1]: for each sequence a row of ground
        truth above a row of ``Dec(z_t)``, with time running to the right.
    """
    with torch.inference_mode():
        truth = data.sequence(data.examples(k, count), k)
        flow = method.decode(method.path(method.start(truth), k, data.steps)).mean.transpose(0, 1)
    rows = torch.stack([truth, flow], dim=1)  # (n, 2, T+1, channels, height, width)
    n, pair, frames, channels, height, width = rows.shape
    picture = rows.permute(0, 1, 4, 2, 5, 3).reshape(n * pair * height, frames * width, channels)
    return picture.clamp(0, 1).cpu()


def draw_strips(method: Method, data: SequenceDataset, path: Path, count: int = 5) -> None:
    """Draw the strips of every transformation, for a few sequences.

    Args:
        method: The method, in evaluation mode.
        data: The sequences; their name stands above the picture.
        path: The PNG file.
        count: The number of sequences of each transformation, at most.
    """
    panels = [strips(method, data, k, count) for k in range(len(data.names))]
    _, height, width = data.shape
    columns = min(COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    ratio = max(panel.shape[0] / panel.shape[1] for panel in panels)
    figure = Figure(figsize=(3.6 * columns, lines * (3.6 * ratio + 0.3) + 0.3), dpi=200)
    figure.set_layout_engine("constrained")
    figure.suptitle(f"{data.name}, {data.split}", fontsize=9)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, panel, name in zip(grid, panels, data.names, strict=False):
        _draw_panel(axes, panel, name, height, width)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _draw_panel(axes: Axes, panel: Tensor, name: str, height: int, width: int) -> None:
    rows, frames = panel.shape[0] // height, panel.shape[1] // width
    axes.set_axis_on()
    axes.imshow(panel.expand(-1, -1, 3).numpy(), interpolation="nearest")
    axes.set_title(name, fontsize=9)
    axes.set_xticks([width * (t + 0.5) for t in range(frames)], [str(t) for t in range(frames)], fontsize=6)
    axes.set_yticks([height * (row + 0.5) for row in range(rows)], ["data", "flow"] * (rows // 2), fontsize=6)
    axes.tick_params(length=0)
    for row in range(1, rows):
        colour, thickness = ("0.35", 0.3) if row % 2 else ("white", 0.8)
        axes.axhline(height * row - 0.5, color=colour, linewidth=thickness)
