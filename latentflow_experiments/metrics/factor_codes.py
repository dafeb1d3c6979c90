"""Codes of images in independent random states, on which disentanglement is measured."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentflow_experiments.data import SequenceDataset

__all__ = ["draw_codes"]

IMAGES, STATES = 5, 10  # images in a batch, and random states that all of them go through


def draw_codes(
    encode: Callable[[Tensor], Distribution], data: SequenceDataset, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Encode random images, each of them in a random state of every transformation.

    The states are independent of each other and uniform. A model that was trained on sequences of one transformation
    each has not seen most combinations.

    Args:
        encode: Maps images ``(batch, channels, height, width)`` to distributions over codes ``(dim,)``.
        data: The images and transformations, on the device of the model.
        count: The number of codes, rounded up to a multiple of 50.
        generator: The source of randomness, on the CPU.

    Returns:
        The means, of shape ``(count, dim)``, and the state of each transformation, int64 of shape ``(count, K)``, both
        on the CPU.
    """
    kinds = len(data.names)
    starts = data.composed_starts(range(kinds))
    codes, factors = [], []
    with torch.no_grad():
        for _ in range(-(-count // (IMAGES * STATES))):
            indices = starts[torch.randint(len(starts), (IMAGES,), generator=generator)]
            states = torch.randint(data.steps + 1, (STATES, kinds), generator=generator)
            codes.append(encode(data.composed(indices, states).flatten(0, 1)).mean.cpu())
            factors.append(states.repeat(IMAGES, 1))
    return torch.cat(codes), torch.cat(factors)
