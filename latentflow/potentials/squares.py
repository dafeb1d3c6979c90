"""Sums of squares of directions behind a layer, with backward passes that work in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from latentflow.calculus.jets import transformed

CPU_BLOCK, DEVICE_BLOCK = 2**17, 2**24
"""The largest number of entries of a block of directions: on a CPU as measured (2**16 to 2**18 are within 4 %), on
other devices enough for large products (not measured)."""
GRAM_BLOCK = 2**19
"""The same for gram matrices, as measured on a CPU."""
KEPT = 2**23
"""The largest number of entries of a product that is kept for the backward pass: 32 MiB in float32."""


def squared_directions(directions: Tensor, slopes: Tensor, weight: Tensor) -> Tensor:
    r"""Compute :math:`q_k = \sum_r \left(\sum_i W_{ki} s_i J_{ri}\right)^2`.

    With its backward pass it takes three products of matrices; four if the one of the forward pass is too large to be
    kept, see ``KEPT``.

    Args:
        directions: The rows :math:`J_r`, of shape ``(*stack, samples or 1, rows, n)``.
        slopes: The factors :math:`s`, of shape ``(*stack, samples, n)``.
        weight: The matrix :math:`W`, of shape ``(*stack, m, n)``.

    Returns:
        The sums, of shape ``(*stack, samples, m)``, differentiable to any order.
    """
    if _plain():
        return _rows_times(directions * slopes.unsqueeze(-2), weight.mT).square().sum(-2)
    differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in (directions, slopes, weight))
    keep = differentiated and fits(slopes, directions.shape[-2], weight)
    stack = weight.shape[:-2].numel()
    stacked = (x.reshape(stack, *x.shape[weight.ndim - 2 :]) for x in (directions, slopes, weight))
    sums: Tensor = _SquaredDirections.apply(*stacked, keep)[0]  # type: ignore[no-untyped-call]  # torch has no types for it
    return sums.reshape(*slopes.shape[:-1], weight.shape[-2])


def squared_gram(slopes: Tensor, weight: Tensor, gram: Tensor) -> Tensor:
    r"""Compute :math:`q_k = (W D G D W^\top)_{kk}` with :math:`D = \operatorname{diag}(s)` for each sample.

    It equals :func:`squared_directions` where :math:`G = J^\top J`, and is quicker for few columns and many rows.
    """
    if _plain():
        scaled = slopes.unsqueeze(-2) * weight.unsqueeze(-3)
        return (_rows_times(scaled, gram) * scaled).sum(-1)
    result: Tensor = _SquaredGram.apply(slopes, weight, gram)  # type: ignore[no-untyped-call]  # torch has no types for it
    return result


def fits(slopes: Tensor, rows: int, weight: Tensor) -> bool:
    """Return whether the product of so many directions for each sample is small enough to be kept."""
    return slopes.shape[:-1].numel() * rows * weight.shape[-2] <= KEPT


def _rows_times(x: Tensor, matrix: Tensor) -> Tensor:
    """Multiply rows ``(*stack, samples, rows, n)`` by a matrix ``(*stack, n, m)``."""
    flat = _flat(x) @ matrix
    return flat.reshape(*flat.shape[:-2], *x.shape[-3:-1], matrix.shape[-1])


def _flat(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:-3], -1, x.shape[-1])


def _plain() -> bool:
    """Whether plain operations serve better: the compiler plans memory itself, and transforms nest in any order."""
    return torch.compiler.is_compiling() or transformed()


def _blocks(samples: int, entries: int, largest: int) -> Iterator[tuple[int, int]]:
    size = max(1, largest // max(entries, 1))
    for start in range(0, samples, size):
        yield start, min(size, samples - start)


class _Block(NamedTuple):
    """Some rows of some samples, of all networks of a stack.

    Rows that all samples share lie before the samples, ``(stack, rows, samples, n)``, so that their sums add up long
    contiguous parts. Rows of each sample lie behind it, ``(stack, samples, rows, n)``.
    """

    samples: tuple[int, int]
    rows: tuple[int, int]
    axis: int
    directions: Tensor
    slopes: Tensor

    def size(self) -> tuple[int, int, int]:
        stack, one, two = (max(pair) for pair in zip(self.slopes.shape[:3], self.directions.shape[:3], strict=True))
        return stack, one, two

    def own(self, x: Tensor) -> Tensor:
        """Return the part ``(stack, samples, m)`` of its samples in a tensor."""
        return x.narrow(1, *self.samples)


def _each_block(directions: Tensor, slopes: Tensor, weight: Tensor) -> Iterator[_Block]:
    largest = CPU_BLOCK if slopes.device.type == "cpu" else DEVICE_BLOCK
    row = weight.shape[0] * max(weight.shape[-2:])
    shared = directions.shape[1] == 1
    for rows in _blocks(directions.shape[2], row, largest):
        some = directions.narrow(2, *rows)
        for samples in _blocks(slopes.shape[1], row * rows[1], largest):
            slope = slopes.narrow(1, *samples)
            if shared:
                yield _Block(samples, rows, 1, some.transpose(1, 2), slope.unsqueeze(1))
            else:
                yield _Block(samples, rows, 2, some.narrow(1, *samples), slope.unsqueeze(2))


class _Memory:
    """Memory that the blocks of a product use one after the other."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._taken: dict[str, Tensor] = {}

    def take(self, name: str, size: tuple[int, int, int], last: int) -> Tensor:
        """Return memory of a shape, with what was in it before."""
        entries = size[0] * size[1] * size[2] * last
        found = self._taken.get(name)
        if found is None or len(found) < entries:
            found = self._taken[name] = self._like.new_empty(entries)
        return found[:entries].view(*size, last)


def _as_rows(x: Tensor) -> Tensor:
    return x.view(x.shape[0], -1, x.shape[-1])


class _SquaredDirections(torch.autograd.Function):
    """See :func:`squared_directions`, for one dimension of a stack; the second result is the product if it is kept."""

    @staticmethod
    def forward(directions: Tensor, slopes: Tensor, weight: Tensor, keep: bool) -> tuple[Tensor, Tensor | None]:
        (stack, samples, n), m, rows = slopes.shape, weight.shape[-2], directions.shape[-2]
        sums, memory = slopes.new_zeros(stack, samples, m), _Memory(slopes)
        kept, written = slopes.new_empty(stack * samples * rows * m) if keep else None, 0
        for block in _each_block(directions, slopes, weight):
            size = block.size()
            scaled = torch.mul(block.directions, block.slopes, out=memory.take("scaled", size, n))
            product = memory.take("product", size, m) if kept is None else _read(kept, written, size, m)
            torch.bmm(_as_rows(scaled), weight.mT, out=_as_rows(product))
            squares = torch.mul(product, product, out=memory.take("squares", size, m))
            block.own(sums).add_(squares.sum(block.axis))
            written += product.numel()
        return sums, kept

    @staticmethod
    def setup_context(
        ctx: Any,  # noqa: ANN401 - as torch has it
        inputs: tuple[Tensor, Tensor, Tensor, bool],
        output: tuple[Tensor, Tensor | None],
    ) -> None:
        ctx.save_for_backward(*inputs[:3], output[1])
        ctx.save_for_forward(*inputs[:3])
        if output[1] is not None:
            ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor, Tensor, None]:
        directions, slopes, weight, kept = ctx.saved_tensors  # type: ignore[attr-defined]  # torch has no types for it
        twice = 2 * grad
        batched = transformed() or torch._C._functorch.is_legacy_batchedtensor(grad)
        if torch.is_grad_enabled() or batched:  # to be differentiated again, or many at once
            return *_pull_back(directions, slopes, weight, twice), None
        by_directions, by_slopes, by_weight = (torch.zeros_like(x) for x in (directions, slopes, weight))
        n, m, memory, read = weight.shape[-1], weight.shape[-2], _Memory(slopes), 0
        for block in _each_block(directions, slopes, weight):
            size = block.size()
            scaled = torch.mul(block.directions, block.slopes, out=memory.take("scaled", size, n))
            adjoint = memory.take("adjoint", size, m)
            if kept is None:
                product = torch.bmm(_as_rows(scaled), weight.mT, out=_as_rows(adjoint)).view_as(adjoint)
            else:
                product = _read(kept, read, size, m)
            torch.mul(product, block.own(twice).unsqueeze(block.axis), out=adjoint)
            read += adjoint.numel()
            by_weight.baddbmm_(_as_rows(adjoint).mT, _as_rows(scaled))
            back = memory.take("back", size, n)
            torch.bmm(_as_rows(adjoint), weight, out=_as_rows(back))
            block.own(by_slopes).add_(torch.mul(back, block.directions, out=scaled).sum(block.axis))
            by_own = by_directions.narrow(2, *block.rows)
            if block.axis == 1:
                by_own.add_(torch.mul(back, block.slopes, out=scaled).sum(2).unsqueeze(1))
            else:
                torch.mul(back, block.slopes, out=block.own(by_own))
        return by_directions, by_slopes, by_weight, None

    @staticmethod
    def jvp(ctx: FunctionCtx, *tangents: Tensor) -> tuple[Tensor, None]:
        directions, slopes, weight = ctx.saved_tensors  # type: ignore[attr-defined]  # torch has no types for it
        moved_directions, moved_slopes, moved_weight, _ = tangents
        scaled = directions * slopes.unsqueeze(-2)
        moved = moved_directions * slopes.unsqueeze(-2) + directions * moved_slopes.unsqueeze(-2)
        change = _rows_times(moved, weight.mT) + _rows_times(scaled, moved_weight.mT)
        return 2 * (_rows_times(scaled, weight.mT) * change).sum(-2), None


def _read(kept: Tensor, start: int, size: tuple[int, int, int], last: int) -> Tensor:
    return kept.narrow(0, start, size[0] * size[1] * size[2] * last).view(*size, last)


def _pull_back(directions: Tensor, slopes: Tensor, weight: Tensor, twice: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradient of the squared directions at once, by operations that torch differentiates."""
    scaled = directions * slopes.unsqueeze(-2)
    adjoint = _rows_times(scaled, weight.mT) * twice.unsqueeze(-2)
    back = _rows_times(adjoint, weight)
    by_directions = back * slopes.unsqueeze(-2)
    if directions.shape[-3] != slopes.shape[-2]:
        by_directions = by_directions.sum(-3, keepdim=True)
    return by_directions, (back * directions).sum(-2), _flat(adjoint).mT @ _flat(scaled)


class _SquaredGram(torch.autograd.Function):
    """See :func:`squared_gram`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ANN401, ARG004 - as torch has it
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def forward(slopes: Tensor, weight: Tensor, gram: Tensor) -> Tensor:
        sums = []
        for start, size in _blocks(slopes.shape[-2], weight.numel(), GRAM_BLOCK):
            scaled = slopes.narrow(-2, start, size).unsqueeze(-2) * weight.unsqueeze(-3)
            sums.append(torch.linalg.vecdot(_rows_times(scaled, gram), scaled))
        return torch.cat(sums, dim=-2) if sums else slopes.new_zeros((*slopes.shape[:-1], weight.shape[-2]))

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slopes, weight, gram = ctx.saved_tensors  # type: ignore[attr-defined]  # torch has no types for it
        by_slopes, by_weight, by_gram = [], torch.zeros_like(weight), torch.zeros_like(gram)
        for start, size in _blocks(slopes.shape[-2], weight.numel(), GRAM_BLOCK):
            slope, adjoint = slopes.narrow(-2, start, size).unsqueeze(-2), grad.narrow(-2, start, size).unsqueeze(-1)
            scaled = slope * weight.unsqueeze(-3)
            weighted = scaled * adjoint
            by_gram = by_gram + _flat(weighted).mT @ _flat(scaled)
            pulled = 2 * adjoint * _rows_times(scaled, gram)
            by_slopes.append(torch.linalg.vecdot(pulled, weight.unsqueeze(-3), dim=-2))
            by_weight = by_weight + torch.linalg.vecdot(pulled, slope, dim=-3)
        if not by_slopes:
            return torch.zeros_like(slopes), by_weight, by_gram
        return torch.cat(by_slopes, dim=-2), by_weight, by_gram

    @staticmethod
    def jvp(ctx: FunctionCtx, *tangents: Tensor) -> Tensor:
        slopes, weight, gram = ctx.saved_tensors  # type: ignore[attr-defined]  # torch has no types for it
        moved_slopes, moved_weight, moved_gram = tangents
        scaled = slopes.unsqueeze(-2) * weight.unsqueeze(-3)
        moved = moved_slopes.unsqueeze(-2) * weight.unsqueeze(-3) + slopes.unsqueeze(-2) * moved_weight.unsqueeze(-3)
        change = 2 * _rows_times(moved, gram) + _rows_times(scaled, moved_gram)
        result: Tensor = (change * scaled).sum(-1)
        return result
