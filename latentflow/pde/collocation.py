"""Collocation points: where a residual is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from latentflow.calculus import check_count
from latentflow.flow import Path


class Collocation(Protocol):
    """A choice of points and times, made from a path.

    Example:
        >>> class Ends:  # no randomness: where each step ends
        ...     def points(self, path, generator=None):
        ...         z = path.z[1:].detach()
        ...         return z, path.times[1:].reshape(-1, *(1,) * (z.ndim - 2)).expand(z.shape[:-1])
        >>> from latentflow import HJResidual, MLPPotential, PotentialFlow
        >>> u = MLPPotential(2)
        >>> path = PotentialFlow(u).rollout(torch.randn(4, 2), steps=3)
        >>> assert HJResidual().loss(u, path, collocation=Ends()).shape == ()
    """

    def points(self, path: Path, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Choose points and times.

        Args:
            path: The path of the latents.
            generator: The source of randomness, or None for torch's global one.

        Returns:
            The points, of shape ``(count, *batch, dim)`` for a path of batch shape ``(*batch,)``, and their times, of
            shape ``(count, *batch)``. The number is free; the batch shape follows, so that a potential with one field
            for each sample, such as ``bank.select(k)``, can be evaluated there.
        """


@dataclass(frozen=True)
class AlongPath:
    """A uniformly random time in each step, and the point of the path there; see :meth:`Path.sample`.

    Attributes:
        detach: Whether to cut the gradient to the path, so that a residual cannot be lowered by moving the points.

    Example:
        >>> z = torch.stack([torch.zeros(4, 2), torch.ones(4, 2)])
        >>> path = Path(times=torch.tensor([0.0, 2.0]), z=z, log_det=None, action=torch.zeros(2, 4))
        >>> z, t = AlongPath().points(path)
        >>> torch.testing.assert_close(z, (t / 2).unsqueeze(-1).expand(1, 4, 2))
    """

    detach: bool = True

    def points(self, path: Path, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw one point in each step, ``(T, *batch, dim)``, and its time, ``(T, *batch)``."""
        return path.sample(generator, detach=self.detach)


@dataclass(frozen=True)
class InBox:
    """Uniformly random points of a box of the latent space, at uniformly random times in the time range of the path.

    Attributes:
        low: The lower corner: a number for all coordinates, or a tensor of shape ``(dim,)``.
        high: The upper corner, above the lower one in every coordinate.
        count: The number of points for each sample of the path.

    Raises:
        ValueError: If the box is empty or not finite, or ``count`` is not a positive integer; later, from
            :meth:`points`, if a corner does not have the number of coordinates of the path.

    Example:
        >>> path = Path(torch.tensor([0.0, 2.0]), torch.zeros(2, 4, 3), log_det=None, action=torch.zeros(2, 4))
        >>> z, t = InBox(-1.0, torch.tensor([1.0, 2.0, 3.0]), count=5).points(path)
        >>> assert z.shape == (5, 4, 3) and t.shape == (5, 4)
    """

    low: float | Tensor
    high: float | Tensor
    count: int

    def __post_init__(self) -> None:
        check_count("count", self.count)
        size = torch.as_tensor(self.high) - torch.as_tensor(self.low)
        if not (torch.isfinite(size) & (size > 0)).all():
            raise ValueError(f"high: expected finite numbers above low = {self.low}, got {self.high}")

    def points(self, path: Path, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw the points, of shape ``(count, *batch, dim)``, and their times, of shape ``(count, *batch)``."""
        z = path.z.new_empty((self.count, *path.z.shape[1:])).uniform_(generator=generator)
        t = path.z.new_empty(z.shape[:-1]).uniform_(generator=generator)
        start, end = path.times.detach()[[0, -1]].to(z)
        return torch.lerp(self._corner("low", z), self._corner("high", z), z), torch.lerp(start, end, t)

    def _corner(self, name: str, z: Tensor) -> Tensor:
        corner = torch.as_tensor(getattr(self, name)).to(z)
        if corner.shape not in ((), z.shape[-1:]):
            raise ValueError(f"{name}: expected a number or shape ({z.shape[-1]},), got {tuple(corner.shape)}")
        return corner.expand(z.shape)


class Together:
    """The points of several choices at once.

    Args:
        *choices: The choices, at least one.

    Raises:
        ValueError: If there are none.

    Example:
        >>> path = Path(torch.tensor([0.0, 2.0]), torch.zeros(2, 4, 3), log_det=None, action=torch.zeros(2, 4))
        >>> z, t = Together(AlongPath(), InBox(-3.0, 3.0, count=5)).points(path)
        >>> assert z.shape == (1 + 5, 4, 3) and t.shape == (1 + 5, 4)
    """

    def __init__(self, *choices: Collocation) -> None:
        if len(choices) == 0:
            raise ValueError("choices: expected at least one, got none")
        self.choices = choices

    def points(self, path: Path, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Join the points of all choices, ``(count, *batch, dim)``, and their times, ``(count, *batch)``."""
        points, times = zip(*(choice.points(path, generator) for choice in self.choices), strict=True)
        return torch.cat(points), torch.cat(times)

    def __repr__(self) -> str:
        return f"Together({', '.join(map(repr, self.choices))})"
