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
PAIR_BLOCK, PAIR_SAMPLES = 2**19, 2**9
"""The same for pairs of units times samples or outputs, and the samples of such a block on a CPU, as measured."""
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
    if plain_operations():
        return _rows_times(directions * slopes.unsqueeze(-2), weight.mT).square().sum(-2)
    differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in (directions, slopes, weight))
    keep = differentiated and fits(slopes, directions.shape[-2], weight)
    stacked = _in_one_stack(directions, slopes, weight)
    sums: Tensor = _SquaredDirections.apply(*stacked, keep)[0]  # type: ignore[no-untyped-call]  # torch has no types for it
    return sums.reshape(*slopes.shape[:-1], weight.shape[-2])


def squared_gram(slopes: Tensor, weight: Tensor, gram: Tensor) -> Tensor:
    r"""Compute :math:`q_k = (W D G D W^\top)_{kk}` with :math:`D = \operatorname{diag}(s)` for each sample.

    It equals :func:`squared_directions` where :math:`G = J^\top J` of directions that all samples share. Written over
    pairs of units,

    .. math:: q_k = \sum_{i \le j} (2 - \delta_{ij})\, s_i s_j \; W_{ki} W_{kj} G_{ij} ,

    it is one product of the matrix of all :math:`s_i s_j` with one that no sample changes. That takes
    :math:`m n^2 / 2` multiplications for each sample, where directions take :math:`m n` for each of them.

    Args:
        slopes: The factors :math:`s`, of shape ``(*stack, samples, n)``.
        weight: The matrix :math:`W`, of shape ``(*stack, m, n)``.
        gram: The symmetric matrix :math:`G`, of shape ``(*stack, n, n)``.

    Returns:
        The sums, of shape ``(*stack, samples, m)``, differentiable to any order.
    """
    if plain_operations():
        scaled = slopes.unsqueeze(-2) * weight.unsqueeze(-3)
        return (_rows_times(scaled, gram) * scaled).sum(-1)
    sums: Tensor = _SquaredGram.apply(*_in_one_stack(slopes, weight, gram))  # type: ignore[no-untyped-call]  # torch has no types for it
    return sums.reshape(*slopes.shape[:-1], weight.shape[-2])


def fits(slopes: Tensor, rows: int, weight: Tensor) -> bool:
    """Return whether the product of so many directions for each sample is small enough to be kept."""
    return slopes.shape[:-1].numel() * rows * weight.shape[-2] <= KEPT


def _rows_times(x: Tensor, matrix: Tensor) -> Tensor:
    """Multiply rows ``(*stack, samples, rows, n)`` by a matrix ``(*stack, n, m)``."""
    flat = _flat(x) @ matrix
    return flat.reshape(*flat.shape[:-2], *x.shape[-3:-1], matrix.shape[-1])


def _flat(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:-3], -1, x.shape[-1])


def _in_one_stack(*tensors: Tensor) -> list[Tensor]:
    """Join the dimensions of a stack, those before the last two of the tensor that has fewest, to one."""
    depth = min(x.ndim for x in tensors) - 2
    return [x.reshape(x.shape[:depth].numel(), *x.shape[depth:]) for x in tensors]


def _plain_backward(grad: Tensor) -> bool:
    """Whether a gradient is to be differentiated again, or is one of many at once, which plain operations serve."""
    return torch.is_grad_enabled() or transformed() or torch._C._functorch.is_legacy_batchedtensor(grad)


def plain_operations() -> bool:
    """Return whether plain operations serve better: the compiler plans memory, and transforms nest in any order."""
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
        if _plain_backward(grad):
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


class _Pairs(NamedTuple):
    """Some units with all units from the first of them on, for some samples.

    Attributes:
        samples: The first of the samples, and their number.
        units: The first of the units, and their number.
        slopes: The factors of the samples, of shape ``(stack, samples, n)``.
        gram: The part ``(stack, units, rest)`` of the matrix, with what lies off the diagonal block twice.
    """

    samples: tuple[int, int]
    units: tuple[int, int]
    slopes: Tensor
    gram: Tensor

    def parts(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns of a matrix for some units, and for the units from the first of them on."""
        first, count = self.units
        return matrix.narrow(2, first, count), matrix[..., first:]

    def products(self) -> Tensor:
        """Compute the products of factors, of shape ``(stack, samples, units * rest)``."""
        some, rest = self.parts(self.slopes)
        return (some.unsqueeze(-1) * rest.unsqueeze(-2)).flatten(2)

    def kernel(self, weight: Tensor) -> Tensor:
        """Compute what the products are multiplied by, of shape ``(stack, m, units * rest)``."""
        some, rest = self.parts(weight)
        return (some.unsqueeze(-1) * self.gram.unsqueeze(1)).mul_(rest.unsqueeze(-2)).flatten(2)


def _pairs(slopes: Tensor, weight: Tensor, gram: Tensor) -> Iterator[_Pairs]:
    (stack, samples, n), m = slopes.shape, weight.shape[1]
    on_cpu = slopes.device.type == "cpu"
    largest = PAIR_BLOCK if on_cpu else DEVICE_BLOCK
    most = PAIR_SAMPLES if on_cpu else max(1, largest // max(stack * n, 1))
    for start in range(0, samples, most):
        own = slopes[:, start : start + most]
        for first, count in _blocks(n, stack * max(own.shape[1], m) * n, largest):
            part = gram[:, first : first + count, first:].clone()
            part[..., count:].mul_(2)
            yield _Pairs((start, own.shape[1]), (first, count), own, part)


class _SquaredGram(torch.autograd.Function):
    """See :func:`squared_gram`, for one dimension of a stack."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ANN401, ARG004 - as torch has it
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def forward(slopes: Tensor, weight: Tensor, gram: Tensor) -> Tensor:
        sums = slopes.new_zeros(*slopes.shape[:2], weight.shape[1])
        for pairs in _pairs(slopes, weight, gram):
            sums.narrow(1, *pairs.samples).baddbmm_(pairs.products(), pairs.kernel(weight).mT)
        return sums

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slopes, weight, gram = ctx.saved_tensors  # type: ignore[attr-defined]  # torch has no types for it
        if _plain_backward(grad):
            return _pull_back_gram(slopes, weight, gram, grad)
        by_slopes, by_weight, by_gram = (torch.zeros_like(x) for x in (slopes, weight, gram))
        for pairs in _pairs(slopes, weight, gram):
            own, of_slopes = (x.narrow(1, *pairs.samples) for x in (grad, by_slopes))
            # by the products, and from there by both of their factors
            pulled = (own @ pairs.kernel(weight)).view(*own.shape[:2], *pairs.gram.shape[1:])
            (some, rest), (of_some, of_rest) = pairs.parts(pairs.slopes), pairs.parts(of_slopes)
            of_some.add_(torch.linalg.vecdot(pulled, rest.unsqueeze(-2)))
            of_rest.add_(_times_rows(some, pulled))
            # by the kernel, and from there by its three factors
            pulled = (own.mT @ pairs.products()).view(*weight.shape[:2], *pairs.gram.shape[1:])
            (some, rest), (of_some, of_rest) = pairs.parts(weight), pairs.parts(by_weight)
            weighted = pulled * pairs.gram.unsqueeze(1)
            of_some.add_(torch.linalg.vecdot(weighted, rest.unsqueeze(-2)))
            of_rest.add_(_times_rows(some, weighted))
            of_gram = pulled.mul_(some.unsqueeze(-1)).mul_(rest.unsqueeze(-2)).sum(1)
            first, count = pairs.units
            of_gram[..., count:].mul_(2)
            by_gram[:, first : first + count, first:].add_(of_gram)
        return by_slopes, by_weight, (by_gram + by_gram.mT) / 2

    @staticmethod
    def jvp(ctx: FunctionCtx, *tangents: Tensor) -> Tensor:
        slopes, weight, gram = ctx.saved_tensors  # type: ignore[attr-defined]  # torch has no types for it
        moved_slopes, moved_weight, moved_gram = tangents
        scaled = slopes.unsqueeze(-2) * weight.unsqueeze(-3)
        moved = moved_slopes.unsqueeze(-2) * weight.unsqueeze(-3) + slopes.unsqueeze(-2) * moved_weight.unsqueeze(-3)
        change = 2 * _rows_times(moved, gram) + _rows_times(scaled, moved_gram)
        result: Tensor = (change * scaled).sum(-1)
        return result


def _times_rows(rows: Tensor, matrices: Tensor) -> Tensor:
    """Multiply a row ``(stack, count, n)`` by a matrix ``(stack, count, n, m)`` of its own, each."""
    product = torch.bmm(rows.flatten(0, 1).unsqueeze(1), matrices.flatten(0, 1))
    return product.view(*matrices.shape[:2], matrices.shape[-1])


def _pull_back_gram(slopes: Tensor, weight: Tensor, gram: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradient of the squares of a gram matrix at once, by operations that torch differentiates."""
    scaled = slopes.unsqueeze(-2) * weight.unsqueeze(-3)
    weighted = scaled * grad.unsqueeze(-1)
    pulled = 2 * _rows_times(weighted, gram)
    by_slopes = (pulled * weight.unsqueeze(-3)).sum(-2)
    by_weight = (pulled * slopes.unsqueeze(-2)).sum(-3)
    return by_slopes, by_weight, _flat(weighted).mT @ _flat(scaled)
