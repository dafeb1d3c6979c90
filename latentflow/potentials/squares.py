r"""Sums of squares behind one large matrix product, with a backward pass that recomputes what it does not keep.

The tensors between the product and the sum are as large as the product itself. They are made a block of samples at a
time, so that each stays in the cache, and none is kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from latentflow.calculus import transformed

DIRECTIONS_BLOCK = 2**17
GRAM_BLOCK = 2**19
"""The largest number of entries of one block of a product; measured, they differ because the sums run differently."""


def rows_times(x: Tensor, matrix: Tensor) -> Tensor:
    """Multiply the rows of many samples by a matrix, as one product of ``samples * rows`` rows.

    Args:
        x: The rows, of shape ``(*stack, samples, rows, n)``, or without the stack.
        matrix: The matrix, of shape ``(*stack, n, m)``.

    Returns:
        The product, of shape ``(*stack, samples, rows, m)``.
    """
    flat = _flat(x) @ matrix
    return flat.reshape(*flat.shape[:-2], *x.shape[-3:-1], matrix.shape[-1])


def squared_directions(directions: Tensor, gains: Tensor, weight: Tensor) -> Tensor:
    r"""Compute :math:`q_k = \sum_r \left(\sum_i W_{ki} s_i J_{ri}\right)^2` for each sample.

    Args:
        directions: The tangents ``J``, of shape ``(*stack, samples or 1, directions, n)``.
        gains: The gains ``s``, of shape ``(*stack, samples, n)``.
        weight: The matrix ``W``, of shape ``(*stack, m, n)``.

    Returns:
        The sums, of shape ``(*stack, samples, m)``.
    """
    if _plain():
        return rows_times(directions * gains.unsqueeze(-2), weight.mT).square().sum(-2)
    result: Tensor = _SquaredDirections.apply(directions, gains, weight)  # type: ignore[no-untyped-call]
    return result


def squared_gram(gains: Tensor, weight: Tensor, gram: Tensor) -> Tensor:
    r"""Compute :math:`q_k = (W D G D W^\top)_{kk}` with :math:`D = \operatorname{diag}(s)` for each sample.

    It equals :func:`squared_directions` where :math:`G = J^\top J`, and costs two thirds of it in training.

    Args:
        gains: The gains ``s``, of shape ``(*stack, samples, n)``.
        weight: The matrix ``W``, of shape ``(*stack, m, n)``.
        gram: The symmetric matrix ``G``, of shape ``(*stack, n, n)``.

    Returns:
        The diagonals, of shape ``(*stack, samples, m)``.
    """
    if _plain():
        scaled = gains.unsqueeze(-2) * weight.unsqueeze(-3)
        return (rows_times(scaled, gram) * scaled).sum(-1)
    result: Tensor = _SquaredGram.apply(gains, weight, gram)  # type: ignore[no-untyped-call]
    return result


def _plain() -> bool:
    """Whether plain operations serve better: the compiler plans memory itself, and transforms nest in any order."""
    return torch.compiler.is_compiling() or transformed()


def _blocks(samples: int, entries: int, largest: int) -> Iterator[tuple[int, int]]:
    size = max(1, largest // max(entries, 1))
    for start in range(0, samples, size):
        yield start, min(size, samples - start)


class _FromInputs(torch.autograd.Function):
    """A function whose derivatives need its inputs, and nothing that it made of them."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ANN401, ARG004
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)


class _SquaredDirections(_FromInputs):
    @staticmethod
    def forward(directions: Tensor, gains: Tensor, weight: Tensor) -> Tensor:
        parts = []
        for samples in _sample_blocks(gains, weight):
            gain, total = gains.narrow(-2, *samples).unsqueeze(-2), None
            for block in _direction_blocks(directions, gain, weight, samples):
                squares = rows_times(block * gain, weight.mT).square()
                own = squares.squeeze(-2) if squares.shape[-2] == 1 else squares.sum(-2)
                total = own if total is None else total + own
            parts.append(total)
        known = [part for part in parts if part is not None]
        return torch.cat(known, dim=-2) if known else gains.new_zeros((*gains.shape[:-1], weight.shape[-2]))

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        directions, gains, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        shared = directions.shape[-3] != gains.shape[-2]
        by_directions, by_gains, by_weight = [], [], torch.zeros_like(weight)
        for samples in _sample_blocks(gains, weight):
            gain, twice = (x.narrow(-2, *samples).unsqueeze(-2) for x in (gains, 2 * grad))
            own_directions, own_gains = [], torch.zeros_like(gain.squeeze(-2))
            for block in _direction_blocks(directions, gain, weight, samples):
                scaled = block * gain
                slope = rows_times(scaled, weight.mT) * twice
                by_weight = by_weight + _flat(slope).mT @ _flat(scaled)
                back = rows_times(slope, weight)
                own_gains = own_gains + (back * block).sum(-2)
                pulled = back * gain
                own_directions.append(pulled.sum(-3, keepdim=True) if shared else pulled)
            by_gains.append(own_gains)
            by_directions.append(torch.cat(own_directions, dim=-2) if own_directions else None)
        known = [part for part in by_directions if part is not None]
        if not known:
            return torch.zeros_like(directions), torch.zeros_like(gains), by_weight
        total = torch.stack(known).sum(0) if shared else torch.cat(known, dim=-3)
        return total, torch.cat(by_gains, dim=-2), by_weight

    @staticmethod
    def jvp(ctx: FunctionCtx, *tangents: Tensor) -> Tensor:
        directions, gains, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        moved_directions, moved_gains, moved_weight = tangents
        scaled = directions * gains.unsqueeze(-2)
        moved = moved_directions * gains.unsqueeze(-2) + directions * moved_gains.unsqueeze(-2)
        change = rows_times(moved, weight.mT) + rows_times(scaled, moved_weight.mT)
        return 2 * (rows_times(scaled, weight.mT) * change).sum(-2)


class _SquaredGram(_FromInputs):
    @staticmethod
    def forward(gains: Tensor, weight: Tensor, gram: Tensor) -> Tensor:
        sums = []
        for start, size in _blocks(gains.shape[-2], weight.numel(), GRAM_BLOCK):
            scaled = gains.narrow(-2, start, size).unsqueeze(-2) * weight.unsqueeze(-3)
            sums.append(torch.linalg.vecdot(rows_times(scaled, gram), scaled))
        return torch.cat(sums, dim=-2) if sums else gains.new_zeros((*gains.shape[:-1], weight.shape[-2]))

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gains, weight, gram = ctx.saved_tensors  # type: ignore[attr-defined]
        by_gains, by_weight, by_gram = [], torch.zeros_like(weight), torch.zeros_like(gram)
        for start, size in _blocks(gains.shape[-2], weight.numel(), GRAM_BLOCK):
            gain, slope = gains.narrow(-2, start, size).unsqueeze(-2), grad.narrow(-2, start, size).unsqueeze(-1)
            scaled = gain * weight.unsqueeze(-3)
            weighted = scaled * slope
            by_gram = by_gram + _flat(weighted).mT @ _flat(scaled)
            pulled = 2 * slope * rows_times(scaled, gram)
            by_gains.append(torch.linalg.vecdot(pulled, weight.unsqueeze(-3), dim=-2))
            by_weight = by_weight + torch.linalg.vecdot(pulled, gain, dim=-3)
        if not by_gains:
            return torch.zeros_like(gains), by_weight, by_gram
        return torch.cat(by_gains, dim=-2), by_weight, by_gram

    @staticmethod
    def jvp(ctx: FunctionCtx, *tangents: Tensor) -> Tensor:
        gains, weight, gram = ctx.saved_tensors  # type: ignore[attr-defined]
        moved_gains, moved_weight, moved_gram = tangents
        scaled = gains.unsqueeze(-2) * weight.unsqueeze(-3)
        moved = moved_gains.unsqueeze(-2) * weight.unsqueeze(-3) + gains.unsqueeze(-2) * moved_weight.unsqueeze(-3)
        change = 2 * rows_times(moved, gram) + rows_times(scaled, moved_gram)
        result: Tensor = (change * scaled).sum(-1)
        return result


def _sample_blocks(gains: Tensor, weight: Tensor) -> Iterator[tuple[int, int]]:
    """Give (start, size) of blocks of samples one direction of which is small enough."""
    return _blocks(gains.shape[-2], gains.shape[:-2].numel() * max(weight.shape[-2:]), DIRECTIONS_BLOCK)


def _direction_blocks(directions: Tensor, gain: Tensor, weight: Tensor, samples: tuple[int, int]) -> Iterator[Tensor]:
    """Give the directions of a block of samples, as many at a time as are small enough."""
    own = directions if directions.shape[-3] == 1 else directions.narrow(-3, *samples)
    for block in _blocks(own.shape[-2], gain.shape[:-2].numel() * max(weight.shape[-2:]), DIRECTIONS_BLOCK):
        yield own.narrow(-2, *block)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:-3], -1, x.shape[-1])
