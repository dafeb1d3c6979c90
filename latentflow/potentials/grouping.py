r"""Evaluate a different field at each sample of a batch, one group of samples at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from latentflow.calculus import Field, Jet, JetRequest, evaluate_jet


def has_samples(field: Field) -> bool:
    """Whether a field holds data for each sample of one batch, so that it can be evaluated on the whole batch only."""
    modules = field.modules() if isinstance(field, nn.Module) else ()
    return any(getattr(module, "per_sample", False) for module in modules)


class Groups:
    r"""The samples of a batch, sorted by the index of the field that each belongs to.

    Each field is evaluated once, on a contiguous batch of its own samples. Where all samples share a field, the batch
    is handed over as it is. A field that holds data for each sample is evaluated on the whole batch.

    Args:
        index: The index of each sample's field, int64 of shape ``(*batch,)``.
        count: The number of fields.
    """

    def __init__(self, index: Tensor, count: int) -> None:
        flat = index.reshape(-1)
        sizes: list[int] = torch.bincount(flat, minlength=count).tolist()
        self.batch = index.shape
        self.shared = sizes.index(len(flat)) if len(flat) in sizes else None
        if self.shared is not None:
            return
        order = torch.argsort(flat, stable=True)
        self.rows = torch.split(order, sizes)
        self.inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))

    def evaluate(self, fields: Sequence[Field], z: Tensor, t: Tensor) -> Tensor:
        """Evaluate each sample's own field at ``z`` of shape ``(*batch, dim)`` and ``t`` of shape ``(*batch,)``."""
        if self.shared is not None:
            return fields[self.shared](z, t)
        parts = []
        for field, rows in self._occupied(fields):
            if has_samples(field):
                parts.append(self._take(field(z, t), rows))
            else:
                parts.append(field(self._take(z, rows), self._take(t, rows)))
        return self._merge(*parts)

    def jet(self, fields: Sequence[Field], z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Compute the jet of each sample's own field."""
        if self.shared is not None:
            return evaluate_jet(fields[self.shared], z, t, request)
        parts = []
        for field, rows in self._occupied(fields):
            if has_samples(field):
                parts.append(evaluate_jet(field, z, t, request).map(partial(self._take, rows=rows)))
            else:
                probes = None if request.probes is None else self._take(request.probes, rows)
                own = replace(request, probes=probes)
                parts.append(evaluate_jet(field, self._take(z, rows), self._take(t, rows), own))
        return Jet.combine(self._merge, *parts)

    def _occupied(self, fields: Sequence[Field]) -> Iterator[tuple[Field, Tensor]]:
        return ((field, rows) for field, rows in zip(fields, self.rows, strict=True) if len(rows) > 0)

    def _take(self, x: Tensor, rows: Tensor) -> Tensor:
        return x.reshape(len(self.inverse), *x.shape[len(self.batch) :])[rows]

    def _merge(self, *parts: Tensor) -> Tensor:
        flat = torch.cat(parts)[self.inverse]
        return flat.reshape(*self.batch, *flat.shape[1:])
