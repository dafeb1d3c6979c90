"""What methods of transport have in common: their protocol, and descent under a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from latentflow.potentials import Potential
from latentflow.transport.samples import device_of

WARMUP = 100  # steps over which the learning rate rises
MAX_NORM = 10.0  # of the gradient

Draw = Callable[[int], tuple[Tensor, Tensor]]
"""Draws as many points of the source and of the target, in the coordinates of the potential."""


class Training(Protocol):
    """A training in progress."""

    def step(self, progress: float) -> Mapping[str, float]:
        """Make one step.

        Args:
            progress: The share of the budget that is spent, from 0 to 1.

        Returns:
            What was measured on the way, by name.
        """

    def state(self) -> dict[str, Any]:
        """Return all that a later process needs to go on."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""


class TransportMethod(Protocol):
    """A method that trains a potential so that its map is optimal transport."""

    @property
    def share(self) -> float:
        """The share of the budget, relative to that of the other methods of a chain."""

    def begin(self, potential: Potential, draw: Draw, generator: torch.Generator | None) -> Training:
        r"""Begin to train a potential in place.

        Args:
            potential: The potential, whose map is :math:`x + \nabla u(x, 0)`.
            draw: Draws points of both sides.
            generator: The source of randomness, None for torch's own.

        Returns:
            The training.
        """


@dataclass
class Descent:
    """Adam with a warm-up, a learning rate that falls by a cosine, and gradients of limited length.

    A step whose gradient is not finite is left out.

    Attributes:
        parameters: The parameters.
        learning_rate: The peak learning rate.
        steps: How many steps were made.
        left_out: How many steps were left out.
    """

    parameters: list[nn.Parameter]
    learning_rate: float
    steps: int = 0
    left_out: int = 0

    def __post_init__(self) -> None:
        self.adam = torch.optim.Adam(self.parameters, lr=self.learning_rate, betas=(0.9, 0.99))

    @staticmethod
    def of(parameters: Iterable[nn.Parameter], learning_rate: float) -> Descent:
        """Collect the parameters that want a gradient."""
        return Descent([own for own in parameters if own.requires_grad], learning_rate)

    def step(self, loss: Tensor, progress: float) -> None:
        """Make one step down the gradient of a loss."""
        rate = min(1.0, (self.steps + 1) / WARMUP) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate * rate
        self.adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
        norm = nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
        self.steps += 1
        if torch.isfinite(norm):
            self.adam.step()
        else:
            self.left_out += 1

    def state(self) -> dict[str, Any]:
        """Return the state of the optimizer and the counts."""
        return {"adam": self.adam.state_dict(), "steps": self.steps, "left_out": self.left_out}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.adam.load_state_dict(state["adam"])
        self.steps, self.left_out = state["steps"], state["left_out"]


def even_times(points: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw a time from 0 to 1 for each of the points ``(n, dim)``, of shape ``(n,)``."""
    device = device_of(generator, points)
    return torch.rand(len(points), generator=generator, dtype=points.dtype, device=device).to(points.device)
