r"""What moves the latents of a model along a potential."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from latentflow.flow import OnFold, Path, Volume


class Dynamics(Protocol):
    """A flow along a potential, as :class:`PotentialFlow` and :class:`HopfLaxFlow` are.

    Attributes:
        on_fold: What to do where the flow folds; None where the model may decide.
    """

    on_fold: OnFold | None

    @property
    def potential(self) -> nn.Module:
        """The potential ``u(z, t)`` whose gradient is the velocity, on which a residual is evaluated."""

    def rollout(
        self, z0: Tensor, steps: int = 8, start: float = 0.0, dt: float = 1.0, volume: Volume | None = None
    ) -> Path:
        """Follow the flow from ``z0`` of shape ``(*batch, dim)`` for so many steps; see :class:`PotentialFlow`."""
