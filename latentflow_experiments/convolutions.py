r"""Convolutions of stride two as products of large matrices.

A convolution of :math:`4 \times 4` pixels with stride 2 and one pixel of padding maps a fine grid :math:`y` to a coarse
one :math:`x` with half the sides, and the transposed convolution maps :math:`x` to :math:`y`. Let :math:`P y` hold for
each coarse pixel the :math:`4 \times 4` fine pixels that it sees, as one row. Then they are

.. math:: x = (P y) W^\top, \qquad y = P^\top (x W),

and the gradient of the weights is :math:`x^\top (P y)` for both. All three are computed for a few images at a time,
since :math:`P y` is four times as large as :math:`y`. Grids of some sizes take less than half of the multiplications,
as :mod:`latentflow_experiments.winograd` has them.

Grids are in channels-last order, ``(batch, height, width, channels)``, and weights are matrices ``(coarse channels,
16 * fine channels)``, with the channels of the sixteen pixels one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from latentflow_experiments.winograd import Winograd

CHUNK_BYTES = 64 << 20
"""The bytes of what stands in the products that are computed at a time."""


def gather_squares(fine: Tensor) -> Tensor:
    r"""Compute :math:`P y`, the squares of fine pixels that coarse pixels see.

    Args:
        fine: Grids, of shape ``(batch, 2 * height, 2 * width, channels)``.

    Returns:
        The squares, of shape ``(batch * height * width, 16 * channels)``; pixels beyond an edge are zero.

    Example:
        >>> squares = gather_squares(torch.arange(16.0).reshape(1, 4, 4, 1))
        >>> assert squares[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 0, 4, 5, 6, 0, 8, 9, 10]
    """
    padded = nn.functional.pad(fine, (0, 0, 1, 1, 1, 1))
    return _view_squares(padded).reshape(-1, 16 * fine.shape[-1])


def scatter_squares(squares: Tensor, padded: Tensor) -> None:
    r"""Add squares of fine pixels, each at the place of its coarse pixel, to grids: :math:`P^\top`.

    Args:
        squares: The squares, of shape ``(batch * height * width, 16 * channels)``.
        padded: The grids with a border, of shape ``(batch, 2 * height + 2, 2 * width + 2, channels)``; changed.

    Example:
        >>> fine, squares, padded = torch.randn(2, 4, 6, 3), torch.randn(2 * 2 * 3, 16 * 3), torch.zeros(2, 6, 8, 3)
        >>> scatter_squares(squares, padded)
        >>> product = (gather_squares(fine) * squares).sum()
        >>> torch.testing.assert_close((padded[:, 1:-1, 1:-1] * fine).sum(), product)
    """
    places = _view_squares(padded)
    parts = squares.view(places.shape)
    for i in (slice(0, 2), slice(2, 4)):  # quarters of squares do not overlap
        for j in (slice(0, 2), slice(2, 4)):
            places[:, :, :, i, j] += parts[:, :, :, i, j]


def _view_squares(padded: Tensor) -> Tensor:
    """View the squares of 4 x 4 pixels at every second pixel, ``(batch, height, width, 4, 4, channels)``."""
    batch, height, width, channels = padded.shape
    image, row, pixel, one = padded.stride()
    shape = (batch, height // 2 - 1, width // 2 - 1, 4, 4, channels)
    return padded.as_strided(shape, (image, 2 * row, 2 * pixel, row, pixel, one), padded.storage_offset())


Parts = TypeVar("Parts")


class Products(Protocol[Parts]):
    """The three products between coarse and fine grids and weights, for a few images at a time.

    The parts of the grids that stand in them are computed once for all of them, by ``coarse`` and ``fine``.
    """

    def numbers(self) -> int:
        """Count the numbers that are held for an image."""
        ...

    def coarse(self, grids: Tensor) -> Parts:
        """Compute what is multiplied of coarse grids."""
        ...

    def fine(self, grids: Tensor) -> Parts:
        """Compute what is multiplied of fine grids."""
        ...

    def spread(self, coarse: Parts, bias: Tensor, out: Tensor, *, rectify: bool) -> None:
        r"""Compute fine grids, :math:`P^\top (x W) + b`, optionally the positive part."""
        ...

    def collect(self, fine: Parts, bias: Tensor, out: Tensor) -> None:
        r"""Compute coarse grids, :math:`(P y) W^\top + b`."""
        ...

    def weigh(self, coarse: Parts, fine: Parts) -> None:
        r"""Add :math:`x^\top (P y)` to the gradient of the weights, in float32 at least."""
        ...

    def of_weight(self) -> Tensor:
        """Return the gradient of the weights."""
        ...


class Squares:
    """The products as they are defined, by the squares of fine pixels.

    Args:
        weight: The weights, ``(coarse channels, 16 * fine channels)``.
        sides: The height and width of the coarse grids.
    """

    def __init__(self, weight: Tensor, sides: Sequence[int]) -> None:
        self.weight, self.sides = weight, sides
        self.sum = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))

    def numbers(self) -> int:
        """Count the numbers that are held for an image."""
        return math.prod(self.sides) * sum(self.weight.shape)

    def coarse(self, grids: Tensor) -> Tensor:
        """View the pixels as rows."""
        return grids.reshape(-1, len(self.weight))

    def fine(self, grids: Tensor) -> Tensor:
        """Gather the squares."""
        return gather_squares(grids)

    def spread(self, coarse: Tensor, bias: Tensor, out: Tensor, *, rectify: bool) -> None:
        """Scatter the squares."""
        batch, height, width, channels = out.shape
        padded = bias.expand(batch, height + 2, width + 2, channels).contiguous()
        scatter_squares(coarse @ self.weight, padded)
        inner = padded[:, 1:-1, 1:-1]
        torch.clamp(inner, min=0, out=out) if rectify else out.copy_(inner)

    def collect(self, fine: Tensor, bias: Tensor, out: Tensor) -> None:
        """Multiply the squares."""
        torch.addmm(bias, fine, self.weight.mT, out=out.view(-1, len(self.weight)))

    def weigh(self, coarse: Tensor, fine: Tensor) -> None:
        """Add to the gradient of the weights."""
        self.sum += coarse.mT @ fine

    def of_weight(self) -> Tensor:
        """Return the gradient of the weights."""
        return self.sum.to(self.weight.dtype)


def _products(weight: Tensor, sides: Sequence[int]) -> Products[Any]:
    """Choose how grids of these sides are multiplied."""
    return Winograd(weight, sides) if Winograd.fits(sides) else Squares(weight, sides)


def _chunks(products: Products[Any], *grids: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Divide the images evenly, so that the numbers of a chunk take no more than the bytes that are held."""
    most = max(1, CHUNK_BYTES // (products.numbers() * grids[0].itemsize))
    count = max(1, math.ceil(len(grids[0]) / most))
    return zip(*(torch.chunk(grid, count) for grid in grids), strict=True)


class Refine(torch.autograd.Function):
    r"""The map :math:`(x, W, b) \mapsto P^\top (x W) + b`, optionally with the positive part of the result."""

    @staticmethod
    def forward(ctx: Any, coarse: Tensor, weight: Tensor, bias: Tensor, rectify: bool) -> Tensor:  # noqa: ANN401 - as torch has it
        """Map ``(batch, height, width, inputs)``, ``(inputs, 16 * outputs)`` and ``(outputs,)`` to the fine grids."""
        batch, height, width, _ = coarse.shape
        fine = coarse.new_empty(batch, 2 * height, 2 * width, len(bias))
        products = _products(weight, (height, width))
        for x, y in _chunks(products, coarse, fine):
            products.spread(products.coarse(x), bias, y, rectify=rectify)
        ctx.rectify = rectify
        ctx.save_for_backward(coarse, weight, *[fine] * rectify)
        return fine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # noqa: ANN401 - as torch has it
        """Compute the gradients of grids, weights and biases."""
        coarse, weight, *results = ctx.saved_tensors
        of_coarse = torch.empty_like(coarse, memory_format=torch.contiguous_format)
        of_bias = _zero_sum(weight, grad.shape[-1])
        products, zero = _products(weight, coarse.shape[1:3]), weight.new_zeros(len(weight))
        for x, g, of_x, *y in _chunks(products, coarse, grad, of_coarse, *results):
            of_y = torch.ops.aten.threshold_backward(g, *y, 0) if ctx.rectify else g
            fine = products.fine(of_y)
            products.collect(fine, zero, of_x)
            products.weigh(products.coarse(x), fine)
            of_bias += of_y.sum((0, 1, 2), dtype=of_bias.dtype)
        return of_coarse, products.of_weight(), of_bias.to(weight.dtype), None


class Coarsen(torch.autograd.Function):
    r"""The map :math:`(y, W, b) \mapsto (P y) W^\top + b`."""

    @staticmethod
    def forward(ctx: Any, fine: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN401 - as torch has it
        """Map ``(batch, 2 * height, 2 * width, inputs)``, ``(outputs, 16 * inputs)`` and ``(outputs,)``."""
        ctx.save_for_backward(fine, weight)
        batch, height, width, _ = fine.shape
        coarse = fine.new_empty(batch, height // 2, width // 2, len(bias))
        products = _products(weight, coarse.shape[1:3])
        for x, y in _chunks(products, coarse, fine):
            products.collect(products.fine(y), bias, x)
        return coarse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:  # noqa: ANN401 - as torch has it
        """Compute the gradients of grids, weights and biases."""
        fine, weight = ctx.saved_tensors
        of_fine = torch.empty_like(fine, memory_format=torch.contiguous_format) if ctx.needs_input_grad[0] else None
        of_bias = _zero_sum(weight, len(weight))
        products, zero = _products(weight, grad.shape[1:3]), weight.new_zeros(fine.shape[-1])
        for g, y, *of_y in _chunks(products, grad, fine, *[] if of_fine is None else [of_fine]):
            coarse = products.coarse(g)
            products.weigh(coarse, products.fine(y))
            if of_y:
                products.spread(coarse, zero, *of_y, rectify=False)
            of_bias += g.sum((0, 1, 2), dtype=of_bias.dtype)
        return of_fine, products.of_weight(), of_bias.to(weight.dtype)


def _zero_sum(weight: Tensor, biases: int) -> Tensor:
    """Return zeros to add gradients of biases to, in float32 at least."""
    return weight.new_zeros(biases, dtype=torch.promote_types(weight.dtype, torch.float32))


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch has no types for it
def refine(coarse: Tensor, weight: Tensor, bias: Tensor, *, rectify: bool = False) -> Tensor:
    r"""Compute :math:`P^\top (x W) + b`, a transposed convolution, or its positive part; see :class:`Refine`."""
    fine: Tensor = Refine.apply(coarse, weight, bias, rectify)  # type: ignore[no-untyped-call]  # torch has no types for it
    return fine


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch has no types for it
def coarsen(fine: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    r"""Compute :math:`(P y) W^\top + b`, a convolution; see :class:`Coarsen`."""
    coarse: Tensor = Coarsen.apply(fine, weight, bias)  # type: ignore[no-untyped-call]  # torch has no types for it
    return coarse


class Stride2(nn.Module):
    """The weights of a convolution of 4 x 4 pixels with stride 2, or of a transposed one.

    On a CPU in bfloat16 it is computed as products of matrices, else by torch's own functions, which are faster there.

    Args:
        coarse: The number of channels of the coarse grid.
        fine: The number of channels of the fine grid.
        outputs: The number of channels of the result, one of both.
        inputs: The number of channels that torch counts as inputs of a pixel for the initial weights.
    """

    def __init__(self, coarse: int, fine: int, outputs: int, inputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(16 * inputs)
        self.weight = nn.Parameter(torch.empty(coarse, 16 * fine).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def kernel(self) -> Tensor:
        """View the weights as torch's functions take them, ``(coarse, fine, 4, 4)``."""
        return self.weight.reshape(len(self.weight), 4, 4, -1).permute(0, 3, 1, 2)

    def lowered(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return grids, weights and biases in bfloat16, or None where torch's own functions are to compute."""
        if x.device.type != "cpu":
            return None
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if dtype != torch.bfloat16:
            return None
        return x.to(dtype), self.weight.to(dtype), self.bias.to(dtype)


class HalvingConvolution(Stride2):
    """A convolution of 4 x 4 pixels with stride 2 and a padding of one pixel, in channels-last order.

    Args:
        inputs: The number of channels of the fine grid.
        outputs: The number of channels of the coarse grid.

    Example:
        >>> assert HalvingConvolution(3, 8)(torch.rand(2, 28, 28, 3)).shape == (2, 14, 14, 8)
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(outputs, inputs, outputs, inputs)

    def forward(self, fine: Tensor) -> Tensor:
        """Map ``(batch, 2 * height, 2 * width, inputs)`` to ``(batch, height, width, outputs)``."""
        lowered = self.lowered(fine)
        if lowered is not None:
            grid: Tensor = coarsen(*lowered)
            return grid
        images = fine.permute(0, 3, 1, 2)
        coarse: Tensor = nn.functional.conv2d(images, self.kernel(), self.bias, stride=2, padding=1)
        return coarse.permute(0, 2, 3, 1)


class DoublingConvolution(Stride2):
    """A transposed convolution of 4 x 4 pixels with stride 2 and a padding of one pixel, in channels-last order.

    Args:
        inputs: The number of channels of the coarse grid.
        outputs: The number of channels of the fine grid.
        rectify: Whether a ReLU follows, which is computed with it.

    Example:
        >>> assert DoublingConvolution(8, 3)(torch.rand(2, 14, 14, 8)).shape == (2, 28, 28, 3)
    """

    def __init__(self, inputs: int, outputs: int, *, rectify: bool = False) -> None:
        super().__init__(inputs, outputs, outputs, outputs)  # torch counts the outputs of a transposed one
        self.rectify = rectify

    def forward(self, coarse: Tensor) -> Tensor:
        """Map ``(batch, height, width, inputs)`` to ``(batch, 2 * height, 2 * width, outputs)``."""
        lowered = self.lowered(coarse)
        if lowered is not None:
            grid: Tensor = refine(*lowered, rectify=self.rectify)
            return grid
        images, kernel = coarse.permute(0, 3, 1, 2), self.kernel()
        fine: Tensor = nn.functional.conv_transpose2d(images, kernel, self.bias, stride=2, padding=1)
        return (fine.relu_() if self.rectify else fine).permute(0, 2, 3, 1)
