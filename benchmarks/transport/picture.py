"""The picture of a map in the plane."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from benchmarks.transport.pairs import KnownPair
from latentflow.calculus.files import replacing
from latentflow.transport import TransportMap

POINTS, LINES = 4000, 120
TIMES = (0.0, 1 / 3, 2 / 3, 1.0)


def draw(transport: TransportMap, pair: KnownPair, path: Path) -> None:
    """Draw the points of the source on their way to the target, and the target."""
    generator = torch.Generator().manual_seed(20_000)
    x = pair.source(POINTS, generator)
    truth = pair.map(x)
    with torch.no_grad():
        moved = [transport.interpolate(x, t) for t in TIMES]
    panels = [*moved, truth]
    titles = ["t = 0, the source", *(f"t = {round(3 * t)}/3" for t in TIMES[1:-1]), "t = 1, our map", "the optimal map"]
    low = float(torch.cat(panels).quantile(0.001)) - 0.3
    high = float(torch.cat(panels).quantile(0.999)) + 0.3
    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "latentflow"}):
        figure = Figure(figsize=(13, 2.9), layout="constrained")
        for axes, points, title in zip(figure.subplots(1, len(panels)), panels, titles, strict=True):
            axes.scatter(*points.T, s=2, c=x[:, 0], cmap="viridis", linewidths=0, alpha=0.7, rasterized=True)
            if title == titles[0]:
                for start, end in zip(x[:LINES], moved[-1][:LINES], strict=True):
                    axes.plot(*torch.stack([start, end]).T, color="0.3", linewidth=0.4)
            axes.set(title=title, xlim=(low, high), ylim=(low, high), xticks=[], yticks=[], aspect="equal")
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=110)
