r"""Evaluate a different field at each sample of a batch, one group of samples at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor, nn

from latentflow.calculus import Field, Jet, JetRequest, evaluate_jet
from latentflow.potentials.stacking import alike, stacked_jet

WORTH_FILLING = 1.5
"""How much larger a batch may become for all its groups to be evaluated at once."""


LARGE = 2**24
"""How many samples times weights fill the processor without being evaluated together with others."""


def _weights(field: Field) -> int:
    return sum(weight.numel() for weight in field.parameters()) if isinstance(field, nn.Module) else 0


def has_samples(field: Field) -> bool:
    """Whether a field holds data for each sample of one batch, so that it can be evaluated on the whole batch only."""
    modules = field.modules() if isinstance(field, nn.Module) else ()
    return any(getattr(module, "per_sample", False) for module in modules)


class Groups:
    r"""The samples of a batch, sorted by the index of the field that each belongs to.

    Networks of one structure are evaluated side by side, in the same products; any other field once, on a contiguous
    batch of its own samples. Where all samples share a field, the batch is handed over as it is. A field that holds
    data for each sample is evaluated on the whole batch.

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
        self.sizes = sizes
        self.order = torch.argsort(flat, stable=True)

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
        beside = self._jet_side_by_side(fields, z, t, request)
        if beside is not None:
            return beside
        parts = []
        for field, rows in self._occupied(fields):
            if has_samples(field):
                parts.append(evaluate_jet(field, z, t, request).map(partial(self._take, rows=rows)))
            else:
                probes = None if request.probes is None else self._take(request.probes, rows)
                own = replace(request, probes=probes)
                parts.append(evaluate_jet(field, self._take(z, rows), self._take(t, rows), own))
        return Jet.combine(self._merge, *parts)

    def _jet_side_by_side(self, fields: Sequence[Field], z: Tensor, t: Tensor, request: JetRequest) -> Jet | None:
        """Fill every group to the size of the largest, with samples that do not count, and evaluate all at once."""
        kept = [k for k, size in enumerate(self.sizes) if size > 0]
        largest, total = max(self.sizes), sum(self.sizes)
        if len(kept) * largest > WORTH_FILLING * total or total * _weights(fields[kept[0]]) > LARGE:
            return None
        own = [fields[k] for k in kept]
        if alike(own) is None:
            return None
        starts = list(accumulate((self.sizes[k] for k in kept), initial=0))
        shifts = torch.tensor([largest * row - start for row, start in enumerate(starts[:-1])], device=z.device)
        sizes = torch.tensor([self.sizes[k] for k in kept], device=z.device)
        places = torch.arange(total, device=z.device) + torch.repeat_interleave(shifts, sizes, output_size=total)
        places = torch.empty_like(places).scatter_(0, self.order, places)
        filled = torch.zeros(len(kept) * largest, dtype=places.dtype, device=z.device)
        filled.scatter_(0, places, torch.arange(total, device=z.device))

        def spread(x: Tensor) -> Tensor:
            return self._take(x, filled).reshape(len(kept), largest, *x.shape[len(self.batch) :])

        probes = None if request.probes is None else spread(request.probes)
        jet = stacked_jet(own, spread(z), spread(t), replace(request, probes=probes))
        if jet is None:
            return None
        return jet.map(lambda x: x.flatten(0, 1).index_select(0, places).reshape(*self.batch, *x.shape[2:]))

    def _occupied(self, fields: Sequence[Field]) -> Iterator[tuple[Field, Tensor]]:
        rows = torch.split(self.order, self.sizes)
        return ((field, own) for field, own in zip(fields, rows, strict=True) if len(own) > 0)

    def _take(self, x: Tensor, rows: Tensor) -> Tensor:
        return x.reshape(len(self.order), *x.shape[len(self.batch) :]).index_select(0, rows)

    def _merge(self, *parts: Tensor) -> Tensor:
        sorted_samples = torch.cat(parts)
        flat = torch.empty_like(sorted_samples).index_copy(0, self.order, sorted_samples)
        return flat.reshape(*self.batch, *flat.shape[1:])
