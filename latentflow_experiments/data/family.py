"""The four families of images that are numbered by factors: what is in them, and in which files."""

from __future__ import annotations

import math
from dataclasses import dataclass

from latentflow_experiments.data.grid import FactorGrid

__all__ = ["FALCOR3D", "FAMILIES", "ISAAC3D", "SHAPES3D", "SPRITES", "Factor", "Family"]


@dataclass(frozen=True)
class Factor:
    """One factor of variation.

    Attributes:
        name: Its name.
        size: The number of its values.
        transforms: Whether it is one of the transformations of the family.
        whole: Whether its sequences go through the whole range in even strides instead of value by value from the
            first.
        shown: The value that contact sheets show while another factor varies.
    """

    name: str
    size: int
    transforms: bool = True
    whole: bool = False
    shown: int = 0


@dataclass(frozen=True)
class Family:
    """A family of images.

    Attributes:
        name: Its name on the command line.
        title: The name of the published data set.
        factors: The factors, in the order of the files; the last runs fastest.
        shape: Shape of an image, ``(channels, height, width)``.
        file: The file, or the folder of PNG files, that holds the images.
        address: Where the original is to be had.
        licence: The licence of the original.
    """

    name: str
    title: str
    factors: tuple[Factor, ...]
    shape: tuple[int, int, int]
    file: str
    address: str
    licence: str

    @property
    def grid(self) -> FactorGrid:
        """The grid of the whole family."""
        return FactorGrid(tuple(factor.name for factor in self.factors), tuple(factor.size for factor in self.factors))

    @property
    def transformations(self) -> tuple[str, ...]:
        """The names of the factors that are transformations."""
        return tuple(factor.name for factor in self.factors if factor.transforms)

    def subset(self, size: int) -> tuple[tuple[int, ...], ...]:
        """Choose at most so many images, evenly over the family.

        Values are left out in even strides: first of factors that are no transformation, while they have more than
        three, then of the transformations, always of the factor with most values left (of several such, the last).

        Args:
            size: The largest number of images.

        Returns:
            The digits of each factor that are kept; their product is the subset.

        Raises:
            ValueError: If ``size`` is smaller than two values of every transformation need.

        Example:
            >>> assert [len(digits) for digits in SHAPES3D.subset(48_000)] == [10, 10, 10, 8, 2, 3]
            >>> assert SHAPES3D.subset(48_000)[5] == (0, 5, 10)
        """
        strides = [1] * len(self.factors)
        counts = [factor.size for factor in self.factors]
        while math.prod(counts) > size:
            still = [j for j, f in enumerate(self.factors) if not f.transforms and counts[j] > 3]
            varied = still or [j for j, f in enumerate(self.factors) if f.transforms and counts[j] > 2]
            if not varied:
                raise ValueError(f"size: expected at least {math.prod(counts)} images for {self.name}, got {size}")
            j = max(varied, key=lambda i: (counts[i], i))
            fewer = counts[j]
            while counts[j] == fewer:
                strides[j] += 1
                counts[j] = -(-self.factors[j].size // strides[j])
        return tuple(tuple(range(0, f.size, stride)) for f, stride in zip(self.factors, strides, strict=True))


SPRITES = Family(
    name="sprites",
    title="dSprites",
    factors=(
        Factor("color", 1, transforms=False),
        Factor("shape", 3, transforms=False, shown=2),
        Factor("scale", 6, shown=5),
        Factor("orientation", 40),
        Factor("posX", 32, whole=True, shown=15),
        Factor("posY", 32, whole=True, shown=15),
    ),
    shape=(1, 64, 64),
    file="dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
    address="https://github.com/google-deepmind/dsprites-dataset",
    licence="Apache-2.0",
)

SHAPES3D = Family(
    name="shapes3d",
    title="3D Shapes",
    factors=(
        Factor("floor_hue", 10, shown=1),
        Factor("wall_hue", 10, shown=5),
        Factor("object_hue", 10),
        Factor("scale", 8, shown=5),
        Factor("shape", 4, transforms=False),
        Factor("orientation", 15, transforms=False, shown=10),
    ),
    shape=(3, 64, 64),
    file="3dshapes.h5",
    address="https://github.com/google-deepmind/3d-shapes",
    licence="Apache-2.0",
)

FALCOR3D = Family(
    name="falcor3d",
    title="Falcor3D",
    factors=(
        Factor("lighting_intensity", 5, shown=3),
        Factor("lighting_x-dir", 6, shown=2),
        Factor("lighting_y-dir", 6, shown=2),
        Factor("lighting_z-dir", 6, shown=2),
        Factor("camera_x-pos", 6, shown=2),
        Factor("camera_y-pos", 6, shown=2),
        Factor("camera_z-pos", 6, shown=2),
    ),
    shape=(3, 128, 128),
    file="images",
    address="https://github.com/NVlabs/High-res-disentanglement-datasets (Falcor3D_128x128, 3.7 GB, on Google Drive)",
    licence="CC BY 4.0",
)

ISAAC3D = Family(
    name="isaac3d",
    title="Isaac3D",
    factors=(
        Factor("object_shape", 3, transforms=False),
        Factor("robot_x-move", 8, shown=3),
        Factor("robot_y-move", 5, shown=2),
        Factor("camera_height", 4, shown=1),
        Factor("object_scale", 4, shown=2),
        Factor("lighting_intensity", 4, shown=2),
        Factor("lighting_y-dir", 6, shown=2),
        Factor("object_color", 4),
        Factor("wall_color", 4, shown=3),
    ),
    shape=(3, 128, 128),
    file="images",
    address="https://github.com/NVlabs/High-res-disentanglement-datasets (Isaac3D_128x128, 13 GB, on Google Drive)",
    licence="CC BY 4.0",
)

FAMILIES = {family.name: family for family in (SPRITES, SHAPES3D, FALCOR3D, ISAAC3D)}
