"""What moves the latents of a composition: potentials that act at once, after one another or backwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from latentflow import FlowVAE
from latentflow_experiments.data.composed import turning_point

__all__ = ["Backwards", "Drive", "Switched", "Together"]


class Drive(Protocol):
    """What moves the latents of a composition."""

    def path(self, model: FlowVAE, z0: Tensor, steps: int) -> Tensor:
        """Move latents.

        Args:
            model: The model.
            z0: The latents of the first images, of shape ``(batch, dim)``.
            steps: The number of steps ``T``.

        Returns:
            The latents at all times, of shape ``(T+1, batch, dim)``.

        Raises:
            InversionError: If a flow by construction cannot be continued, as its paths have met.
        """


@dataclass(frozen=True)
class Together:
    r"""Potentials that act at once: :math:`z_{t+1} = z_t + \sum_i w_i \nabla u_i(z_t, t)`.

    Attributes:
        terms: The index in the bank and the weight of each potential; weights of the same one add.

    Example:
        >>> from latentflow import GaussianPrior, PotentialBank, QuadraticPotential
        >>> right, up = (QuadraticPotential(2, vector=direction) for direction in torch.eye(2))
        >>> bank = PotentialBank([right, up])
        >>> model = FlowVAE(torch.nn.Identity(), torch.nn.Identity(), bank, GaussianPrior(2), residual=None)
        >>> path = Together(((0, 1.0), (1, 0.5))).path(model, torch.zeros(1, 2), steps=2)
        >>> assert path[:, 0].tolist() == [[0, 0], [1, 0.5], [2, 1]]
    """

    terms: tuple[tuple[int, float], ...]

    def path(self, model: FlowVAE, z0: Tensor, steps: int) -> Tensor:
        """Follow the flow of the mixed potential."""
        weights = z0.new_zeros(len(model.bank))
        for index, weight in self.terms:
            weights[index] += weight
        return model.flow(z0, model.bank.mix(weights), steps).z


@dataclass(frozen=True)
class Switched:
    r"""A potential that acts in the steps from times before :math:`T/2`, and another one that acts from then on.

    Attributes:
        first: The index in the bank of the potential that acts first.
        second: That of the other one.
        restart: Whether the second one reads the time since the switch; otherwise it reads the time as it is.

    Example:
        >>> from latentflow import GaussianPrior, PotentialBank, QuadraticPotential
        >>> right, up = (QuadraticPotential(2, vector=direction) for direction in torch.eye(2))
        >>> bank = PotentialBank([right, up])
        >>> model = FlowVAE(torch.nn.Identity(), torch.nn.Identity(), bank, GaussianPrior(2), residual=None)
        >>> path = Switched(0, 1, restart=False).path(model, torch.zeros(1, 2), steps=3)
        >>> assert path[:, 0].tolist() == [[0, 0], [1, 0], [2, 0], [2, 1]]
    """

    first: int
    second: int
    restart: bool

    def path(self, model: FlowVAE, z0: Tensor, steps: int) -> Tensor:
        """Follow one flow and then the other from where it ended."""
        turn = turning_point(steps)
        before = model.flow(z0, self.first, turn).z
        after = _roll(model, before[-1], self.second, steps - turn, start=0 if self.restart else turn)
        return torch.cat([before, after[1:]])


@dataclass(frozen=True)
class Backwards:
    r"""The way back from the end :math:`z_T` of a flow: :math:`z_{t-1} = z_t - \nabla u(z_t, t)` for ``t = T, ..., 1``.

    This is Euler's scheme for the flow that runs back in time, not the inverse of the steps that led to :math:`z_T`, so
    that it ends at :math:`z_0` only where velocities do not change along a path.

    Attributes:
        potential: The index of the potential in the bank.

    Example:
        >>> from latentflow import GaussianPrior, PotentialBank, QuadraticPotential
        >>> right, up = (QuadraticPotential(2, vector=direction) for direction in torch.eye(2))
        >>> bank = PotentialBank([right, up])
        >>> model = FlowVAE(torch.nn.Identity(), torch.nn.Identity(), bank, GaussianPrior(2), residual=None)
        >>> path = Backwards(1).path(model, torch.zeros(1, 2), steps=2)
        >>> assert path[:, 0].tolist() == [[0, 2], [0, 1], [0, 0]]
    """

    potential: int

    def path(self, model: FlowVAE, z0: Tensor, steps: int) -> Tensor:
        """Follow the flow to its end, and give the way back."""
        end = model.flow(z0, self.potential, steps).z[-1]
        return _roll(model, end, self.potential, steps, start=steps, dt=-1.0)


def _roll(model: FlowVAE, z: Tensor, index: int, steps: int, start: float, dt: float = 1.0) -> Tensor:
    """Follow a flow from a point at another time than 0."""
    with torch.autocast(z.device.type, enabled=False):
        return model.dynamics(model.potential(index)).rollout(z, steps, start=start, dt=dt, volume=None).z
