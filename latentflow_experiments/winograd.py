r"""Convolutions of stride two with fewer products, after Winograd.

A transposed convolution of :math:`4 \times 4` pixels with stride 2 gives each fine pixel two coarse ones along each
axis, with two weights :math:`g`. Three fine pixels :math:`y_i = x_i g_0 + x_{i+1} g_1` of four coarse ones take four
products instead of six:

.. math:: y = A^\top \bigl( (G g) \odot (B^\top x) \bigr).

On a grid of :math:`3 m + 1` coarse pixels, all fine pixels but the first and the last are in groups of six, three of
them at odd and three at even places, which see the same four coarse pixels. The first and the last see one coarse pixel
each. So along an axis there are three bands, and the nine pairs of them are the regions of a grid. In a region,
:math:`B`, :math:`G` and :math:`A` are products of those of its bands, and between them stands one product of matrices
for each pair of positions. Of the multiplications of :mod:`latentflow_experiments.convolutions`, 41 % are left for
grids of 7 x 7 pixels. In bfloat16 the parts are rounded too: the results have 1.4 times the error, the gradients 1.5 to
1.9 times.

References:
    | Fast Algorithms for Convolutional Neural Networks (Lavin and Gray, 2016)
    | https://arxiv.org/abs/1509.09308
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

# the first is the transposed B of the formula, the last the transposed A
B = torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]])
G = torch.tensor([[1.0, 0], [0.5, 0.5], [0.5, -0.5], [0, 1]])
A = torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, 0], [0, 1, 1, 1]])
TAPS = torch.eye(4)
"""A coarse pixel ``i`` has the fine pixels ``2 i - 1`` to ``2 i + 2``, with the weights 0 to 3."""


@dataclass(frozen=True)
class Band:
    """The fine pixels of an axis that are computed alike.

    Attributes:
        sees: What is multiplied, of the coarse pixels, ``(positions, tiles, side)``.
        weighs: By what, of the four weights, ``(positions, parities, 4)``.
        gives: The groups of fine pixels, of the products, ``(groups, positions, tiles)``.
        pixels: The fine pixels, ``parities`` in each group.
    """

    sees: Tensor
    weighs: Tensor
    gives: Tensor
    pixels: slice


def bands(side: int) -> tuple[Band, Band, Band]:
    """Build the bands of an axis.

    Args:
        side: The coarse pixels of the axis, ``3 m + 1``.

    Returns:
        The first fine pixel, the last, and those between.

    Example:
        >>> first, last, between = bands(7)
        >>> assert first.pixels == slice(0, 1) and between.pixels == slice(1, 13) and last.pixels == slice(13, 14)
    """
    tiles = (side - 1) // 3
    sees, gives = torch.zeros(4, tiles, side), torch.zeros(tiles, 3, 4, tiles)
    for tile in range(tiles):
        sees[:, tile, 3 * tile : 3 * tile + 4] = B
        gives[tile, :, :, tile] = A
    odd, even = TAPS[[2, 0]], TAPS[[3, 1]]
    weighs = torch.stack([G @ odd, G @ even], 1)
    one, pixels = torch.ones(1, 1, 1), torch.eye(side)
    return (
        Band(pixels[:1, None], TAPS[1].view(1, 1, 4), one, slice(0, 1)),
        Band(pixels[-1:, None], TAPS[2].view(1, 1, 4), one, slice(2 * side - 1, 2 * side)),
        Band(sees, weighs, gives.flatten(0, 1), slice(1, 2 * side - 1)),
    )


@dataclass(frozen=True)
class Region:
    """The fine pixels of a grid that are computed alike: a band of rows and one of columns.

    Attributes:
        rows: The band of rows.
        columns: The band of columns.
        sees: What is multiplied, of the coarse pixels, ``(positions * tiles, height * width)``.
        weighs: By what, of the sixteen weights, ``(positions * parities, 16)``.
        gives: The groups of fine pixels, of the products, ``(groups, positions * tiles)``.
    """

    rows: Band
    columns: Band
    sees: Tensor
    weighs: Tensor
    gives: Tensor

    @classmethod
    def of(cls, rows: Band, columns: Band) -> Region:
        """Multiply the matrices of two bands."""
        sees = torch.einsum("iax,jby->ijabxy", rows.sees, columns.sees)
        weighs = torch.einsum("ipa,jqb->ijpqab", rows.weighs, columns.weighs)
        gives = torch.einsum("gia,hjb->ghijab", rows.gives, columns.gives)
        return cls(
            rows,
            columns,
            sees.flatten(0, 3).flatten(1),
            weighs.flatten(0, 3).flatten(1),
            gives.flatten(2).flatten(0, 1),
        )

    @property
    def positions(self) -> int:
        """The number of matrices that are multiplied."""
        return len(self.rows.weighs) * len(self.columns.weighs)

    def place(self, fine: Tensor) -> Tensor:
        """View the pixels of fine grids as ``(rows, columns, batch, parities, parities, channels)``."""
        pixels = fine[:, self.rows.pixels, self.columns.pixels]
        parities = self.rows.weighs.shape[1], self.columns.weighs.shape[1]
        shape = (len(fine), -1, parities[0], pixels.shape[2] // parities[1], parities[1], fine.shape[-1])
        return pixels.view(shape).permute(1, 3, 0, 2, 4, 5)


@lru_cache(maxsize=16)
def regions(height: int, width: int, dtype: torch.dtype) -> tuple[Region, ...]:
    """Build the nine regions of grids of ``height * width`` coarse pixels, with matrices of a precision."""
    found = [Region.of(rows, columns) for rows in bands(height) for columns in bands(width)]
    return tuple(replace(r, sees=r.sees.to(dtype), weighs=r.weighs.to(dtype), gives=r.gives.to(dtype)) for r in found)


class Winograd:
    """The products between coarse and fine grids and weights, with less than half of the multiplications.

    Args:
        weight: The weights, ``(coarse channels, 16 * fine channels)``.
        sides: The height and width of the coarse grids, both ``3 m + 1``.
    """

    LARGEST = 100
    """The most coarse pixels of a grid; with more, the matrices that choose pixels cost more than is saved."""

    def __init__(self, weight: Tensor, sides: Sequence[int]) -> None:
        self.regions = regions(sides[0], sides[1], weight.dtype)
        self.sees = torch.cat([region.sees for region in self.regions])
        self.dtype, self.channels, self.outputs = weight.dtype, len(weight), weight.shape[1] // 16
        taps = weight.view(self.channels, 16, self.outputs).transpose(0, 1).reshape(16, -1)
        self.weights = []
        for region in self.regions:
            parts = (region.weighs @ taps).view(region.positions, -1, self.channels, self.outputs)
            self.weights.append(parts.transpose(1, 2).reshape(region.positions, self.channels, -1))
        self.sums: list[Tensor] = []

    @classmethod
    def fits(cls, sides: Sequence[int]) -> bool:
        """Return whether it computes grids of these sides, and with profit.

        Example:
            >>> assert Winograd.fits((7, 7)) and not Winograd.fits((8, 7)) and not Winograd.fits((16, 16))
        """
        return all(side > 1 and side % 3 == 1 for side in sides) and math.prod(sides) <= cls.LARGEST

    def numbers(self) -> int:
        """Count the numbers that are held for an image."""
        products = sum(len(r.sees) * w.shape[2] for r, w in zip(self.regions, self.weights, strict=True))
        return len(self.sees) * self.channels + products

    def coarse(self, grids: Tensor) -> list[Tensor]:
        """Compute what is multiplied of coarse grids, ``(positions, tiles * batch, channels)`` for each region."""
        pixels = grids.flatten(1, 2).transpose(0, 1).reshape(self.sees.shape[1], -1)
        return self._by_region(self.sees @ pixels)

    def fine(self, grids: Tensor) -> list[Tensor]:
        """Compute what is multiplied of fine grids, ``(positions, tiles * batch, parities * channels)`` for each."""
        lifted = []
        for region, weights in zip(self.regions, self.weights, strict=True):
            pixels = region.place(grids).reshape(len(region.gives), -1)
            lifted.append((region.gives.mT @ pixels).view(region.positions, -1, weights.shape[2]))
        return lifted

    def spread(self, coarse: list[Tensor], bias: Tensor, out: Tensor, *, rectify: bool) -> None:
        """Compute fine grids, with biases and optionally their positive part."""
        for region, seen, weights in zip(self.regions, coarse, self.weights, strict=True):
            products = torch.bmm(seen, weights).view(len(region.sees), -1)
            pixels = torch.addmm(bias.repeat(products.shape[1] // len(bias)), region.gives, products)
            if rectify:
                pixels.clamp_(min=0)
            place = region.place(out)
            place.copy_(pixels.view(place.shape))

    def collect(self, fine: list[Tensor], bias: Tensor, out: Tensor) -> None:
        """Compute coarse grids, with biases."""
        batch, height, width, channels = out.shape
        seen = fine[0].new_empty(len(self.sees), batch * channels)
        for place, lifted, weights in zip(self._by_region(seen), fine, self.weights, strict=True):
            torch.bmm(lifted, weights.mT, out=place)
        pixels = (self.sees.mT @ seen).view(height, width, batch, channels).permute(2, 0, 1, 3)
        torch.add(pixels, bias, out=out)

    def weigh(self, coarse: list[Tensor], fine: list[Tensor]) -> None:
        """Add the gradient of the weights, in float32 at least."""
        products = [torch.bmm(seen.mT, lifted) for seen, lifted in zip(coarse, fine, strict=True)]
        if not self.sums:
            dtype = torch.promote_types(self.dtype, torch.float32)
            self.sums = [product.to(dtype) for product in products]
        else:
            for total, product in zip(self.sums, products, strict=True):
                total.add_(product)

    def of_weight(self) -> Tensor:
        """Return the gradient of the weights."""
        taps = torch.zeros(16, self.channels * self.outputs, dtype=self.sums[0].dtype)
        for region, total in zip(self.regions, self.sums, strict=True):
            parts = total.view(region.positions, self.channels, -1, self.outputs).transpose(1, 2)
            taps += region.weighs.to(taps.dtype).mT @ parts.reshape(len(region.weighs), -1)
        return taps.view(16, self.channels, self.outputs).transpose(0, 1).flatten(1).to(self.dtype)

    def _by_region(self, seen: Tensor) -> list[Tensor]:
        """View rows of positions and tiles as matrices of pixels and channels, ``positions`` for each region."""
        parts = torch.split(seen, [len(region.sees) for region in self.regions])
        return [x.view(region.positions, -1, self.channels) for region, x in zip(self.regions, parts, strict=True)]
