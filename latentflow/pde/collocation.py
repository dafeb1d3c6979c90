"""Collocation points: where a residual is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from latentflow.calculus.checks import (
    check_count,
    check_finite_number,
    check_finite_tensor,
    check_flag,
    check_generator,
    check_instance,
    check_methods,
    check_tensor,
)
from latentflow.flow import Trajectory


class Collocation(Protocol):
    """A choice of collocation points and times, made from a trajectory of batch shape ``(*batch,)``."""

    def points(self, trajectory: Trajectory, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Choose points, of shape ``(count, *batch, dim)``, and times, of shape ``(count, *batch)``."""


def check_trajectory(trajectory: Trajectory, generator: torch.Generator | None) -> None:
    """Check the arguments of :meth:`Collocation.points`; raise a TypeError if they are of another kind."""
    check_instance("trajectory", trajectory, Trajectory, "a Trajectory")
    check_generator(generator)


@dataclass(frozen=True)
class AlongPath:
    """A uniformly random time in each step, and the point of the trajectory there; see :meth:`Trajectory.sample`.

    Attributes:
        detach: Whether to cut the gradient to the trajectory, so that training does not move the points.

    Example:
        >>> z = torch.stack([torch.zeros(4, 2), torch.ones(4, 2)])
        >>> trajectory = Trajectory(times=torch.tensor([0.0, 2.0]), z=z, log_det=None, action=torch.zeros(2, 4))
        >>> z, t = AlongPath().points(trajectory)
        >>> torch.testing.assert_close(z, (t / 2).unsqueeze(-1).expand(1, 4, 2))
    """

    detach: bool = True

    def __post_init__(self) -> None:
        check_flag("detach", self.detach)

    def points(self, trajectory: Trajectory, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw one point in each step, ``(T, *batch, dim)``, and its time, ``(T, *batch)``."""
        check_trajectory(trajectory, generator)
        return trajectory.sample(generator, detach=self.detach)


@dataclass(frozen=True)
class InBox:
    """Uniformly random points of a box, at uniformly random times in the time range of the trajectory.

    Attributes:
        low: The lower corner: a number for all coordinates, or a tensor of shape ``(dim,)``.
        high: The upper corner, in the same form.
        count: The number of points for each sample of the trajectory.

    Raises:
        ValueError: If the box is empty or not finite, or ``count`` is not a positive integer; from :meth:`points`, if
            a corner does not have ``dim`` coordinates.

    Example:
        >>> times, z, action = torch.tensor([0.0, 2.0]), torch.zeros(2, 4, 3), torch.zeros(2, 4)
        >>> trajectory = Trajectory(times, z, log_det=None, action=action)
        >>> z, t = InBox(-1.0, torch.tensor([1.0, 2.0, 3.0]), count=5).points(trajectory)
        >>> assert z.shape == (5, 4, 3) and t.shape == (5, 4)
    """

    low: float | Tensor
    high: float | Tensor
    count: int

    def __post_init__(self) -> None:
        check_count("count", self.count)
        for name, corner in (("low", self.low), ("high", self.high)):
            if isinstance(corner, Tensor):
                check_tensor(name, corner)
                check_finite_tensor(name, corner)
            else:
                check_finite_number(name, corner)
        low, high = (
            corner if isinstance(corner, Tensor) else torch.tensor(corner, device="cpu")
            for corner in (self.low, self.high)
        )
        for name, bound, other in (("low", low, high), ("high", high, low)):
            if bound.ndim > 1 or (bound.ndim == other.ndim == 1 and len(bound) != len(other)) or bound.numel() == 0:
                raise ValueError(f"{name}: expected a number or shape (dim,), got {tuple(bound.shape)}")
        size = high - low
        if not (torch.isfinite(size) & (size > 0)).all():
            raise ValueError(f"high: expected finite numbers above low = {self.low}, got {self.high}")

    def points(self, trajectory: Trajectory, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw the points, of shape ``(count, *batch, dim)``, and their times, of shape ``(count, *batch)``."""
        check_trajectory(trajectory, generator)
        z = trajectory.z.new_empty((self.count, *trajectory.z.shape[1:])).uniform_(generator=generator)
        t = trajectory.z.new_empty(z.shape[:-1]).uniform_(generator=generator)
        start, end = trajectory.times.detach()[[0, -1]].to(z)
        return torch.lerp(self._corner("low", z), self._corner("high", z), z), torch.lerp(start, end, t)

    def _corner(self, name: str, z: Tensor) -> Tensor:
        corner = torch.as_tensor(getattr(self, name), dtype=z.dtype, device=z.device)
        if corner.shape not in ((), z.shape[-1:]):
            raise ValueError(f"{name}: expected a number or shape ({z.shape[-1]},), got {tuple(corner.shape)}")
        return corner.expand(z.shape)


class Together:
    """The points of several choices, joined.

    Args:
        *choices: The choices, at least one.

    Raises:
        ValueError: If there is no choice.

    Example:
        >>> times, z, action = torch.tensor([0.0, 2.0]), torch.zeros(2, 4, 3), torch.zeros(2, 4)
        >>> trajectory = Trajectory(times, z, log_det=None, action=action)
        >>> z, t = Together(AlongPath(), InBox(-3.0, 3.0, count=5)).points(trajectory)
        >>> assert z.shape == (1 + 5, 4, 3) and t.shape == (1 + 5, 4)
    """

    def __init__(self, *choices: Collocation) -> None:
        if len(choices) == 0:
            raise ValueError("choices: expected at least one, got none")
        for choice in choices:
            check_methods("choices", choice, ("points",), "choices of points such as AlongPath()")
        self.choices = choices

    def points(self, trajectory: Trajectory, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Join the points of all choices, ``(count, *batch, dim)``, and their times, ``(count, *batch)``."""
        points, times = zip(*(choice.points(trajectory, generator) for choice in self.choices), strict=True)
        return torch.cat(points), torch.cat(times)

    def __repr__(self) -> str:
        return f"Together({', '.join(map(repr, self.choices))})"
