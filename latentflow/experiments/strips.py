"""Pictures of flows: ground truth above the decoded path."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from latentflow import FlowVAE
from latentflow.experiments.data import LabelledImages, TransformationSequences
from latentflow.experiments.files import replacing


def strips(model: FlowVAE, images: Tensor, sequences: TransformationSequences, k: int) -> Tensor:
    """Put the frames of each image above those that the flow decodes to.

    Args:
        model: The model.
        images: Grey images, of shape ``(n, height, width)``.
        sequences: The transformations.
        k: The transformation.

    Returns:
        One picture, of shape ``(2 n height, (T+1) width, 3)``, in [0, 1]: for each image a row of ground truth above
        a row of ``Dec(z_t)``, with time running to the right.
    """
    with torch.inference_mode():
        truth = sequences(images.to(next(model.parameters()).device), k)
        flow = model.generate(truth[:, 0], k, sequences.steps)
    rows = torch.stack([truth, flow], dim=1)  # (n, 2, T+1, 3, height, width)
    n, pair, frames, channels, height, width = rows.shape
    picture = rows.permute(0, 1, 4, 2, 5, 3).reshape(n * pair * height, frames * width, channels)
    return picture.clamp(0, 1).cpu()


def draw_strips(
    model: FlowVAE, data: LabelledImages, sequences: TransformationSequences, path: Path, digits: tuple[int, ...]
) -> None:
    """Draw the strips of every transformation, for the first image of each of several digits.

    Args:
        model: The model; it is used in evaluation mode and left in the mode that it was in.
        data: The images.
        sequences: The transformations.
        path: The PNG file.
        digits: The labels to show.
    """
    training = model.training
    model.eval()
    first = [int((data.labels == digit).nonzero()[0]) for digit in digits]
    images = data.images[torch.tensor(first)]
    height, width = images.shape[1:]
    panels = [strips(model, images, sequences, k) for k in range(len(sequences.names))]
    figure = Figure(figsize=(3.6 * len(panels), 3.6 * panels[0].shape[0] / panels[0].shape[1] + 0.4), dpi=200)
    figure.set_layout_engine("constrained")
    for axes, panel, name in zip(figure.subplots(1, len(panels)), panels, sequences.names, strict=True):
        axes.imshow(panel.numpy(), interpolation="nearest")
        axes.set_title(name, fontsize=9)
        axes.set_xticks([width * (t + 0.5) for t in range(sequences.steps + 1)], range(sequences.steps + 1), fontsize=6)
        axes.set_yticks(
            [height * (row + 0.5) for row in range(2 * len(digits))], ["data", "flow"] * len(digits), fontsize=6
        )
        axes.tick_params(length=0)
        for row in range(1, 2 * len(digits)):
            colour, thickness = ("0.35", 0.3) if row % 2 else ("white", 0.8)
            axes.axhline(height * row - 0.5, color=colour, linewidth=thickness)
    model.train(training)
    with replacing(path) as temporary:
        figure.savefig(temporary)
