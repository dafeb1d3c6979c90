"""What a trained flow makes of images: frames as an npz file, and a picture of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from latentflow.calculus.files import replacing
from latentflow_experiments.data import Source
from latentflow_experiments.data.own import read_images
from latentflow_experiments.errors import UsageError
from latentflow_experiments.methods.method import Choice
from latentflow_experiments.reports.strips import arrange, draw_panels
from latentflow_experiments.runs import RunFolder, open_run, read_evaluation

__all__ = ["generate"]


def generate(
    folder: RunFolder,
    images: Sequence[Path] = (),
    count: int = 8,
    source: Source | None = None,
    device: str = "cpu",
    *,
    trust: bool = False,
) -> tuple[Path, Path]:
    """Transform images by every flow of an evaluated run, and write the frames and a picture into its folder.

    The frames have the form in which ``latentflow train`` reads sequences: ``frames`` of shape ``(K n, T+1, C, H, W)``,
    float32 in [0, 1], ``labels`` with the flow of each and ``names`` of the flows; the first frame is the
    reconstruction of the image.

    Args:
        folder: The run.
        images: Files with images of the user's, npz with ``images`` or PNG; none for test images.
        count: The number of test images, at most.
        source: Where the data files are.
        device: Where to compute.
        trust: See :func:`open_run`.

    Returns:
        The npz file and the picture.

    Raises:
        ExperimentError: If the run or an image cannot be read, or the run was not evaluated.
        UsageError: If the method of the run has no flows, or ``count`` is not positive.
    """
    if count < 1:
        raise UsageError(f"count: expected a positive integer, got {count}")
    run = open_run(folder, source, device, trust=trust)
    choice = Choice.from_values(read_evaluation(folder)["choice"])
    method = run.config.model.described
    flows = method.flows(run.model, choice)
    if flows is None:
        raise UsageError(f"generate: expected a run of a method with flows, got one of {run.config.model.method}")
    data = method.labelled(run.model, run.data)
    with torch.inference_mode():
        if images:
            first = torch.from_numpy(read_images(images, data.shape)).to(next(run.model.parameters()).device)
        else:
            first = torch.cat([data.sequence(data.examples(k, count), k)[:, 0] for k in range(len(data.names))])[:count]
        z0 = flows.start(first[:, None])
        every = [
            flows.decode(flows.follow(z0, k, data.steps)).mean.transpose(0, 1).clamp(0, 1).cpu()
            for k in range(len(data.names))
        ]
    labels = np.repeat(np.arange(len(every)), len(first))
    with replacing(folder.generated) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, frames=torch.cat(every).numpy(), labels=labels, names=np.array(data.names))
    panels = [arrange(frames[:count, None]) for frames in every]
    kind = "images of the user's" if images else data.split
    draw_panels(panels, data.names, ("flow",), data.shape, f"{data.name}, {kind}", folder.generated_strips)
    return folder.generated, folder.generated_strips
