"""Banks of potentials: selected, mixed, superposed and switched, one field for each sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from latentflow.calculus import Field, Jet, JetRequest, evaluate_jet
from latentflow.calculus.checks import (
    check_choice,
    check_finite_number,
    check_index,
    check_instance,
    check_points,
    check_tensor,
    describe,
    expand_time,
    expand_weight,
)
from latentflow.potentials.algebra import Potential, SumPotential, as_modules, dim_of, gradient_bounds
from latentflow.potentials.features import side_by_side
from latentflow.potentials.layered import LayeredPotential, Layers, layered_jet


class PotentialBank(nn.Module):
    r"""The potentials :math:`u_1, \dots, u_K`, one for each transformation.

    Args:
        potentials: The K fields, at least one.

    Raises:
        TypeError: If a potential is not callable.
        ValueError: If there are no potentials, or they have different numbers of coordinates.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023)
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> from latentflow import gradient
        >>> bank = PotentialBank([lambda z, t: z.sum(-1), lambda z, t: 2 * z.sum(-1)])
        >>> velocity = gradient(bank.select(torch.tensor([0, 1])), torch.zeros(2, 3), 0.0)
        >>> torch.testing.assert_close(velocity, torch.tensor([[1.0] * 3, [2.0] * 3]))
    """

    def __init__(self, potentials: Sequence[Field]) -> None:
        super().__init__()
        self.potentials = as_modules(potentials, "potentials")

    @property
    def dim(self) -> int | None:
        """The number of coordinates, if a potential knows it."""
        return dim_of(*self.potentials)

    def __len__(self) -> int:
        return len(self.potentials)

    def __getitem__(self, k: int) -> nn.Module:
        return self.potentials[k]

    def select(self, k: int | Tensor) -> SelectedPotential:
        """Choose a potential for each sample.

        Args:
            k: The index of the potential: a number, or an int64 tensor of shape ``(*batch,)`` or one that broadcasts
                to the batch shape of the points.

        Returns:
            The potential :math:`u_{k}(z, t)`.

        Raises:
            TypeError: If ``k`` is not of dtype int64.
            ValueError: If an index lies outside ``0..K-1``.
        """
        return SelectedPotential(self, k)

    def mix(self, weights: Tensor) -> MixedPotential:
        r"""Weigh the potentials.

        Args:
            weights: The weights, of shape ``(K,)``, or ``(*batch, K)`` for weights of each sample's own.

        Returns:
            The potential :math:`\sum_k w_k u_k(z, t)`.

        Raises:
            ValueError: If the last dimension of ``weights`` is not K.
        """
        return MixedPotential(self, weights)

    def superpose(self) -> SumPotential:
        r"""Add all potentials.

        Returns:
            The potential :math:`\sum_k u_k(z, t)`.
        """
        return SumPotential(list(self.potentials))


class SelectedPotential(Potential):
    r"""The potential :math:`u_{k}(z, t)` of a bank, with an index ``k`` for each sample.

    Mixed indices are evaluated in groups: each field sees its own samples only, in one batch. Which those are depends
    on the values of ``k``, so ``torch.func.vmap`` can map over points and times but not over ``k``.

    Args:
        bank: The potentials.
        k: The index: a number, or an int64 tensor of shape ``(*batch,)`` or one that broadcasts to it.

    Raises:
        TypeError: If ``k`` is not of dtype int64.
        ValueError: If an index lies outside ``0..K-1``.
    """

    k: Tensor

    def __init__(self, bank: PotentialBank, k: int | Tensor) -> None:
        super().__init__()
        check_instance("bank", bank, PotentialBank, "a PotentialBank")
        index = check_index(k, len(bank))
        self.bank = bank
        self.shared = int(k) if index.ndim == 0 else None
        self.register_buffer("k", index, persistent=False)

    @property
    def dim(self) -> int | None:
        """The number of coordinates, if a potential of the bank knows it."""
        return self.bank.dim

    @property
    def per_sample(self) -> bool:
        """Whether every sample has an index of its own."""
        return self.shared is None

    @property
    def inner_width(self) -> int | None:
        """That of the selected potential, if all samples share it."""
        return None if self.shared is None else getattr(self.bank[self.shared], "inner_width", None)

    def lipschitz_gradient(self) -> Tensor | None:
        """Bound the Hessian by the largest of the selected potentials' bounds.

        Returns:
            The bound, of shape ``()``, see :meth:`Potential.lipschitz_gradient`; None if one of them has none.
        """
        fields = self.bank.potentials if self.shared is None else [self.bank[self.shared]]
        bounds = gradient_bounds(fields)
        return None if bounds is None else bounds.amax(0)

    def _groups(self, z: Tensor) -> SamplesByField:
        try:
            index = self.k.to(z.device).expand(z.shape[:-1])
        except RuntimeError:
            raise ValueError(
                f"z: expected a batch shape to which k of shape {tuple(self.k.shape)} broadcasts, "
                f"got {tuple(z.shape[:-1])}"
            ) from None
        return SamplesByField(index, len(self.bank))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate each sample's potential at ``z`` of shape ``(*batch, dim)`` and ``t``, as ``(*batch,)``."""
        check_points(z)
        if self.shared is not None:
            value: Tensor = self.bank[self.shared](z, expand_time(t, z))
            return value
        return self._groups(z).evaluate(list(self.bank.potentials), z, expand_time(t, z))

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Compute the jet of each sample's potential by that potential's own rule."""
        if self.shared is not None:
            return evaluate_jet(self.bank[self.shared], z, t, request)
        return self._groups(z).jet(list(self.bank.potentials), z, t, request)


class MixedPotential(Potential):
    r"""The potential :math:`\sum_k w_k u_k(z, t)` of a bank.

    Args:
        bank: The potentials.
        weights: The weights, of shape ``(K,)`` or ``(*batch, K)``.

    Raises:
        ValueError: If the last dimension of ``weights`` is not K.
    """

    weights: Tensor

    def __init__(self, bank: PotentialBank, weights: Tensor) -> None:
        super().__init__()
        check_instance("bank", bank, PotentialBank, "a PotentialBank")
        check_tensor("weights", weights, ("*batch", len(bank)))
        self.bank = bank
        if isinstance(weights, nn.Parameter):
            self.weights = weights
        else:
            self.register_buffer("weights", weights, persistent=False)

    @property
    def dim(self) -> int | None:
        """The number of coordinates, if a potential of the bank knows it."""
        return self.bank.dim

    @property
    def per_sample(self) -> bool:
        """Whether every sample has weights of its own."""
        return self.weights.ndim > 1

    def lipschitz_gradient(self) -> Tensor | None:
        """Bound the Hessian by the potentials' bounds under the weights, the largest of all samples.

        Returns:
            The bound, of shape ``()``, see :meth:`Potential.lipschitz_gradient`; None if a potential has none.
        """
        bounds = gradient_bounds(self.bank.potentials)
        if bounds is None or self.weights.numel() == 0:
            return bounds if bounds is None else bounds.new_zeros(())
        return (self.weights.abs() * bounds).sum(-1).amax()

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Mix the values at ``z`` of shape ``(*batch, dim)`` and ``t``; the result is ``(*batch,)``."""
        check_points(z)
        weights = [expand_weight(weight, z.shape[:-1]) for weight in self.weights.unbind(-1)]
        values = [potential(z, t) for potential in self.bank.potentials]
        return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(0)

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Mix the jets of the potentials."""
        weights = self.weights.unbind(-1)
        jets = [evaluate_jet(potential, z, t, request) for potential in self.bank.potentials]
        return Jet.total([jet.scale(weight) for jet, weight in zip(jets, weights, strict=True)])


class SwitchedPotential(Potential):
    r"""Potentials that follow one another: :math:`u_i` acts for :math:`t_{i-1} \le t < t_i`.

    In a discrete flow with unit steps from time 0, ``times=[4]`` gives four steps with the first potential and
    the rest with the second.

    Args:
        potentials: The fields, in their order.
        times: The times of the switches, increasing; one fewer than the potentials.
        clock: Whether a potential reads the time as it is (``"continue"``) or the time since its own switch
            (``"restart"``).

    Raises:
        ValueError: If the number or order of the times, or the clock, does not fit.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), section 5.2
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> from latentflow import gradient
        >>> u = SwitchedPotential([lambda z, t: z.sum(-1), lambda z, t: -z.sum(-1)], times=[4.0])
        >>> z = torch.zeros(2, 1)
        >>> velocity = gradient(u, z, torch.tensor([3.0, 4.0]))
        >>> torch.testing.assert_close(velocity, torch.tensor([[1.0], [-1.0]]))
    """

    times: Tensor

    def __init__(
        self,
        potentials: Sequence[Field],
        times: Sequence[float],
        clock: Literal["continue", "restart"] = "continue",
    ) -> None:
        super().__init__()
        self.potentials = as_modules(potentials, "potentials")
        if isinstance(times, Tensor):
            check_tensor("times", times, ("switches",))
            times = times.tolist()
        if isinstance(times, (str, bytes)) or not isinstance(times, Sequence):
            raise TypeError(f"times: expected a sequence of numbers, got {describe(times)}")
        switches = [check_finite_number("times", time) for time in times]
        if len(switches) != len(potentials) - 1:
            raise ValueError(f"times: expected one fewer than the {len(potentials)} potentials, got {len(switches)}")
        if any(later <= earlier for earlier, later in pairwise(switches)):
            raise ValueError(f"times: expected finite, increasing times, got {switches}")
        check_choice("clock", clock, ("continue", "restart"))
        self.clock = clock
        self.register_buffer("times", torch.tensor(switches, dtype=torch.float64))

    @property
    def dim(self) -> int | None:
        """The number of coordinates, if a potential knows it."""
        return dim_of(*self.potentials)

    def _at(self, t: Tensor) -> tuple[SamplesByField, Tensor]:
        times = self.times.to(t)
        index = torch.bucketize(t.detach().contiguous(), times, right=True)
        if self.clock == "restart":
            t = t - torch.cat([times.new_zeros(1), times])[index]
        return SamplesByField(index, len(self.potentials)), t

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the potential in force at ``z`` of shape ``(*batch, dim)`` and ``t``, as ``(*batch,)``."""
        check_points(z)
        groups, clock = self._at(expand_time(t, z))
        return groups.evaluate(list(self.potentials), z, clock)

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Compute the jet of the potential in force by that potential's own rule."""
        groups, clock = self._at(t)
        return groups.jet(list(self.potentials), z, clock, request)

    def lipschitz_gradient(self) -> Tensor | None:
        """Return the largest bound of the potentials; None if one of them is not known."""
        bounds = gradient_bounds(self.potentials)
        return None if bounds is None else bounds.amax(0)


MAX_PADDING = 1.5
"""How much larger a batch may become for all its groups to be evaluated at once."""


MAX_STACKED_WORK = 2**24
"""How many samples times weights fill the processor without being evaluated together with others."""


def _weights(field: Field) -> int:
    return sum(weight.numel() for weight in field.parameters()) if isinstance(field, nn.Module) else 0


def has_samples(field: Field) -> bool:
    """Whether a field holds data for each sample of one batch, so that it can be evaluated on the whole batch only."""
    modules = field.modules() if isinstance(field, nn.Module) else ()
    return any(getattr(module, "per_sample", False) for module in modules)


class SamplesByField:
    """The samples of a batch, sorted by their fields with the indices ``(*batch,)``.

    Networks of one structure are evaluated side by side, in the same products; any other field once, on a contiguous
    batch of its own samples, or on the whole batch if it holds data for each sample.
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
        answered = self._jet_side_by_side(fields, z, t, request)
        if answered is not None:
            return answered
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
        if len(kept) * largest > MAX_PADDING * total or total * _weights(fields[kept[0]]) > MAX_STACKED_WORK:
            return None
        own = [fields[k] for k in kept]
        if same_architecture(own) is None:
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


def stack_layers(networks: Sequence[Layers]) -> Layers | None:
    """Stack the weights of networks along a leading dimension; return None if the structures differ."""
    first = networks[0]
    if any(_structure(network) != _structure(first) for network in networks[1:]):
        return None

    def stack(columns: Iterable[Sequence[Tensor]]) -> list[Tensor]:
        return [torch.stack(parts) for parts in zip(*columns, strict=True)]

    def stack_known(columns: Iterable[Sequence[Tensor | None]]) -> list[Tensor | None]:
        rows = zip(*columns, strict=True)
        known = [[part for part in parts if part is not None] for parts in rows]
        return [torch.stack(parts) if parts else None for parts in known]

    return Layers(
        input_weights=stack_known(network.input_weights for network in networks),
        time_weights=stack_known(network.time_weights for network in networks),
        hidden_weights=stack(network.hidden_weights for network in networks),
        biases=stack(network.biases for network in networks),
        output=torch.stack([network.output for network in networks]),
        residual=first.residual,
    )


def same_architecture(potentials: Sequence[Field]) -> list[LayeredPotential] | None:
    """Return the potentials back if all are layered networks alone, with one activation; None otherwise."""
    layered = [own for own in potentials if isinstance(own, LayeredPotential) and own.remainder is None]
    same = len(layered) == len(potentials) and all(own.activation is layered[0].activation for own in layered)
    return layered if same else None


def stacked_jet(potentials: Sequence[Field], z: Tensor, t: Tensor, request: JetRequest) -> Jet | None:
    """Compute the jets of K layered potentials, each at points of its own, ``(K, samples, dim)``.

    Return None if the structures differ.
    """
    layered = same_architecture(potentials)
    layers = None if layered is None else stack_layers([own.layers() for own in layered])
    if layered is None or layers is None:
        return None
    first = layered[0]
    return layered_jet(layers, side_by_side([own.embedding for own in layered]), first.rule, z, t, request)


def _structure(layers: Layers) -> tuple[object, ...]:
    parts = (*layers.input_weights, *layers.time_weights, *layers.hidden_weights, *layers.biases, layers.output)
    return (*(None if part is None else part.shape for part in parts), layers.residual)
