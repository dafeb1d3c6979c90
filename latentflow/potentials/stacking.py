r"""Evaluate several networks of one structure side by side, as one network with a leading dimension."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from latentflow.calculus import Field, Jet, JetRequest
from latentflow.potentials.layered import LayeredPotential, Layers, layered_jet
from latentflow.potentials.time_embedding import side_by_side


def stack_layers(networks: Sequence[Layers]) -> Layers | None:
    """Put the weights of networks side by side.

    Args:
        networks: The weights of each.

    Returns:
        The weights with a leading dimension, of the size of ``networks``; None if the structures differ.
    """
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
        entries=stack_known(network.entries for network in networks),
        clocks=stack_known(network.clocks for network in networks),
        links=stack(network.links for network in networks),
        biases=stack(network.biases for network in networks),
        output=torch.stack([network.output for network in networks]),
        residual=first.residual,
    )


def alike(potentials: Sequence[Field]) -> list[LayeredPotential] | None:
    """Give the potentials back if all are layered networks alone, with one activation; None otherwise."""
    layered = [own for own in potentials if isinstance(own, LayeredPotential) and own.remainder is None]
    same = len(layered) == len(potentials) and all(own.activation is layered[0].activation for own in layered)
    return layered if same else None


def stacked_jet(potentials: Sequence[Field], z: Tensor, t: Tensor, request: JetRequest) -> Jet | None:
    """Compute the jets of layered potentials of one structure, each at points of its own.

    Args:
        potentials: The K fields.
        z: The points, of shape ``(K, samples, dim)``.
        t: The times, of shape ``(K, samples)``.
        request: The second derivatives wanted; its probes are of shape ``(K, samples, probes, dim)``.

    Returns:
        The jet, every field of which leads with ``(K, samples)``; None if the fields cannot be put side by side.
    """
    layered = alike(potentials)
    layers = None if layered is None else stack_layers([own.layers() for own in layered])
    if layered is None or layers is None:
        return None
    first = layered[0]
    return layered_jet(layers, side_by_side([own.embedding for own in layered]), first.rule, z, t, request)


def _structure(layers: Layers) -> tuple[object, ...]:
    parts = (*layers.entries, *layers.clocks, *layers.links, *layers.biases, layers.output)
    return (*(None if part is None else part.shape for part in parts), layers.residual)
