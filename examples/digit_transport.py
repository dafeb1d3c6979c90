"""Handwritten digits of one class carried to another by optimal transport in the latent space of a trained VAE.

    latentflow train mnist --cpu-minutes 120 --out runs/mnist
    python examples/digit_transport.py runs/mnist --digits 3 8 --out runs/digit_transport

The encoder of the run maps the training images of both classes to latents. Nothing says which 8 belongs to which 3:
fit_transport finds the pairing of least cost. Test images of the first class move along straight lines to the second,
and the decoder shows the way. What arrives is compared with what a shift by the difference of the means does.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
from matplotlib.figure import Figure
from record import describe_run, run, write_figure, write_json
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from latentflow import FlowVAE
from latentflow.transport import TransportMap, fit_transport
from latentflow_experiments.data.sets.mnist import load_mnist
from latentflow_experiments.data.transformed import LabelledImages
from latentflow_experiments.runs import RunFolder, open_run

STOPS, ROWS = 9, 6
NEIGHBORS = 10


@torch.inference_mode()
def encode(model: FlowVAE, images: Tensor) -> Tensor:
    """Encode grey images ``(n, 28, 28)`` in red, as the sequences of the run begin; the result is ``(n, dim)``."""
    red = torch.nn.functional.pad(images.unsqueeze(1) / 255, (0, 0, 0, 0, 0, 2))
    return torch.cat([model.encode(part).mean for part in torch.split(red, 500)]).clone()


def of_class(data: LabelledImages, digit: int) -> Tensor:
    """Return the images of one class."""
    return data.images[data.labels == digit]


@torch.inference_mode()
def draw(model: FlowVAE, transport: TransportMap, z: Tensor) -> Figure:
    """Draw digits on their way, one in a row."""
    figure = Figure(figsize=(STOPS, ROWS + 0.4), layout="constrained")
    grid = figure.subplots(ROWS, STOPS)
    for column, t in enumerate(torch.linspace(0, 1, STOPS).tolist()):
        pictures = model.decode(transport.interpolate(z, t)).mean.clamp(0, 1)
        for axes, picture in zip(grid[:, column], pictures[:, 0], strict=True):
            axes.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1)
            axes.axis("off")
        grid[0, column].set_title(f"t = {t:g}", fontsize=9)
    return figure


def main(arguments: list[str]) -> None:
    """Fit the transport of one class to another, and write the picture and the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run on MNIST")
    parser.add_argument("--digits", type=int, nargs=2, default=(3, 8), help="the classes of source and target")
    parser.add_argument("--minutes", type=float, default=2.0, help="the budget, in minutes of the CPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/digit_transport"))
    options = parser.parse_args(arguments)
    begin = time.perf_counter()
    model = open_run(RunFolder(options.run)).model
    if not isinstance(model, FlowVAE):
        raise SystemExit(f"run: expected one of the method flow, got {type(model).__name__}")
    train, test = load_mnist("train"), load_mnist("test")
    first, second = options.digits
    source, target = (encode(model, of_class(train, digit)) for digit in options.digits)
    generator = torch.Generator().manual_seed(options.seed)
    fitted = fit_transport(
        source, target, budget=timedelta(minutes=options.minutes), progress=True, generator=generator
    )
    assert fitted.certificate is not None

    known = KNeighborsClassifier(NEIGHBORS).fit(encode(model, train.images).numpy(), train.labels.numpy())
    z = encode(model, of_class(test, first))
    with torch.inference_mode():
        ends = {"as they are": z, "shift of the means": z + target.mean(0) - source.mean(0), "transport": fitted.map(z)}
    results = {
        name: {
            "arrived": float((known.predict(end.numpy()) == second).mean()),
            "square": float((end - z).square().sum(-1).mean()),
        }
        for name, end in ends.items()
    }
    record = {
        "provenance": describe_run(
            arguments, digits=[first, second], seed=options.seed, seconds=time.perf_counter() - begin
        ),
        "samples": [len(source), len(target)],
        "test images": len(z),
        "certificate": asdict(fitted.certificate),
        "results": results,
    }
    write_figure(options.out / "digits.png", draw(model, fitted, z[:ROWS]))
    write_json(options.out / "digits.json", record)
    for name, result in results.items():
        print(f"{name}: {100 * result['arrived']:.1f} % of {len(z)} test images are classified as {second}")
    print(f"W2^2 between {fitted.certificate.lower:.4g} and {fitted.certificate.upper:.4g}")


if __name__ == "__main__":
    run(main)
