r"""What the potentials that were assigned make of the sequences of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution


@dataclass(frozen=True)
class Explanation:
    r"""The terms of every sequence, before they are averaged.

    Attributes:
        reconstruction: :math:`-\log p(x_t | z_t)`, of shape ``(T+1, *batch)``, in nats.
        kl: The divergence at each time, of shape ``(T+1, *batch)``, in nats.
        residual: The mean squared residual of the PDE, of shape ``()``.
        initial_condition: The mean of the initial condition, of shape ``()``.
        action: :math:`\int |\nabla u|^2 dt` along the path, of shape ``(*batch,)``.
        folded: Whether a step folds, 0 or 1, of shape ``(*batch,)``.
    """

    reconstruction: Tensor
    kl: Tensor
    residual: Tensor
    initial_condition: Tensor
    action: Tensor
    folded: Tensor


def reconstruct(
    decode: Callable[[Tensor], Distribution],
    z: Tensor,
    x: Tensor,
    count: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Compute the negative log-likelihood of frames, from all of them or from some that are drawn by lot.

    Every sequence draws its own frames without replacement, and they are scaled up, so that the sum over the times is
    unbiased.

    Args:
        decode: Maps latents to the distribution of images.
        z: The latents, of shape ``(T+1, *batch, dim)``.
        x: The frames, of a shape that broadcasts to ``(T+1, *batch, channels, height, width)``.
        count: How many frames of each sequence to decode; None for all.
        generator: The source of randomness, or None for torch's global one.

    Returns:
        The negative log-likelihood, of shape ``(T+1, *batch)``, in nats; zero where a frame was not drawn.
    """
    if count is None or count >= len(z):
        return -decode(z).log_prob(x)
    lots = torch.rand(z.shape[:-1], generator=generator, device=z.device)  # of every sequence its own
    chosen = lots.argsort(0)[:count]
    some_x = x.expand(*z.shape[:-1], *x.shape[-3:]).take_along_dim(chosen[..., None, None, None], 0)
    some = -decode(z.take_along_dim(chosen[..., None], 0)).log_prob(some_x) * (len(z) / count)
    return some.new_zeros(z.shape[:-1]).scatter(0, chosen, some)
