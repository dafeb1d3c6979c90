r"""Evaluate a different field at each sample of a batch, one group of samples at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from latentflow.calculus import Field, Jet, JetRequest, evaluate_jet

Result = TypeVar("Result", Jet, Tensor)


class Groups:
    r"""The samples of a batch, sorted by the index of the field that each belongs to.

    One gather brings the samples of a group together, so that every field is evaluated once, on a contiguous
    batch, at its own samples only.

    Args:
        index: The index of each sample's field, int64 of shape ``(*batch,)``.
        count: The number of fields.
    """

    def __init__(self, index: Tensor, count: int) -> None:
        flat = index.reshape(-1)
        self.batch = index.shape
        self.sizes: list[int] = torch.bincount(flat, minlength=count).tolist()
        order = torch.argsort(flat, stable=True)
        self.order = order
        self.inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))

    def split(self, x: Tensor) -> Sequence[Tensor]:
        """Split ``x`` of shape ``(*batch, ...)`` into one tensor ``(size, ...)`` for each field."""
        flat = x.reshape(len(self.order), *x.shape[len(self.batch) :])
        if len(self.order) in self.sizes:  # one field only: nothing to sort
            return torch.split(flat, self.sizes)
        return torch.split(flat[self.order], self.sizes)

    def merge(self, *parts: Tensor) -> Tensor:
        """Put the results of the non-empty groups back in the order of the samples."""
        flat = torch.cat(parts)
        if len(parts) > 1:
            flat = flat[self.inverse]
        return flat.reshape(*self.batch, *flat.shape[1:])

    def evaluate(self, fields: Sequence[Field], z: Tensor, t: Tensor) -> Tensor:
        """Evaluate each sample's own field at ``z`` of shape ``(*batch, dim)`` and ``t`` of shape ``(*batch,)``."""
        return self.merge(*self._each(fields, lambda field, z, t: field(z, t), z, t))

    def jet(self, fields: Sequence[Field], z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Compute the jet of each sample's own field."""
        inputs = (z, t) if request.probes is None else (z, t, request.probes)

        def one(field: Field, z: Tensor, t: Tensor, probes: Tensor | None = None) -> Jet:
            return evaluate_jet(field, z, t, replace(request, probes=probes))

        return Jet.combine(self.merge, *self._each(fields, one, *inputs))

    def _each(self, fields: Sequence[Field], function: Callable[..., Result], *inputs: Tensor) -> list[Result]:
        pieces = zip(fields, *(self.split(x) for x in inputs), strict=True)
        occupied = [piece for piece, size in zip(pieces, self.sizes, strict=True) if size > 0]
        if not occupied:  # an empty batch: any field gives the right empty result
            occupied = [(fields[0], *(self.split(x)[0] for x in inputs))]
        return [function(*piece) for piece in occupied]
