"""Images that are rendered when they are asked for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import latentflow
from latentflow_experiments.data.family import Family
from latentflow_experiments.data.frames import Pixels
from latentflow_experiments.data.grid import FactorGrid, Indices
from latentflow_experiments.data.render.images import render_images, renderer_name

__all__ = ["RenderedFrames", "describe"]


@dataclass(frozen=True)
class RenderedFrames:
    """All images of a family without a file, each rendered anew whenever it is read.

    Args:
        family: The family.
    """

    family: Family

    @property
    def path(self) -> Path:
        """Nowhere."""
        return Path()

    @property
    def grid(self) -> FactorGrid:
        """The grid of the family."""
        return self.family.grid

    @property
    def digits(self) -> tuple[tuple[int, ...], ...]:
        """All values of every factor."""
        return tuple(tuple(range(size)) for size in self.grid.sizes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image."""
        return self.family.shape

    @property
    def synthetic(self) -> dict[str, object]:
        """What makes the images."""
        return describe(self.family, self.digits)

    def read(self, indices: Indices) -> Pixels:
        """Render images."""
        return render_images(self.family, self.grid.decode(indices))

    def sha256(self) -> str:
        """Give the SHA-256 of what makes the images."""
        return hashlib.sha256(json.dumps(self.synthetic, sort_keys=True).encode()).hexdigest()


def describe(family: Family, digits: tuple[tuple[int, ...], ...]) -> dict[str, object]:
    """Say what makes a stand-in.

    Args:
        family: The family.
        digits: The values of each factor that it has.

    Returns:
        What is written into its files.
    """
    return {
        "generator": f"latentflow {latentflow.__version__}",
        "renderer": renderer_name(family),
        "family": family.name,
        "digits": [list(kept) for kept in digits],
    }
