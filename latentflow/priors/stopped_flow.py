r"""A flow in which every point has a time of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from latentflow.calculus import Estimator
from latentflow.flow import Discrete, Path, PotentialFlow, Scheme
from latentflow.flow.scheme import ScheduledFlow


@dataclass(frozen=True, eq=False)
class StoppedFlow:
    """The map of a flow from time 0 to a time of each point's own, at which the point stops.

    All points that still move are followed together, from each of the times to the next; on the way back, every point
    starts when the clock passes its own time. The path is that of the clock: its times are the distinct ones.

    Attributes:
        flow: Gives the flow of some of the points from a mask of them, of the points' batch shape.
        time: The times, at least 0, of a shape that broadcasts to the batch shape of the points.
        scheme: How to follow the flow.
        divergence: How to obtain the divergence of the continuous flow.
    """

    flow: Callable[[Tensor], PotentialFlow]
    time: Tensor
    scheme: Scheme
    divergence: Estimator | None

    def forward(self, z: Tensor, *, density: bool) -> Path:
        """Follow the flow from time 0, with or without ``log_det``."""

        def move(leg: ScheduledFlow, points: Tensor) -> Path:
            return leg.forward(points, density=density)

        return self._follow(z, move, density=density, back=False)

    def inverse(self, z: Tensor) -> Path:
        """Follow the flow back to time 0, with ``log_det``."""
        return self._follow(z, ScheduledFlow.inverse, density=True, back=True)

    def _follow(self, z: Tensor, move: Callable[[ScheduledFlow, Tensor], Path], *, density: bool, back: bool) -> Path:
        batch = z.shape[:-1]
        stop = self.time.detach().cpu().expand(batch)
        clock: list[float] = torch.unique(stop).tolist()
        clock = clock if 0.0 in clock else [0.0, *clock]
        legs = list(pairwise(clock))
        points = [z.reshape(-1, z.shape[-1])]
        log_det, action = [points[0].new_zeros(len(points[0]))], [points[0].new_zeros(len(points[0]))]
        for start, end in reversed(legs) if back else legs:
            moving = (stop >= end).to(z.device)
            leg = ScheduledFlow(self.flow(moving), self._grid(start, end), self.scheme, self.divergence)
            rows = (moving.flatten(),)
            path = move(leg, points[-1][rows])
            points.append(points[-1].index_put(rows, path.z[-1]))
            action.append(action[-1].index_put(rows, path.action[-1], accumulate=True))
            if path.log_det is not None:
                log_det.append(log_det[-1].index_put(rows, path.log_det[-1], accumulate=True))
        times = torch.tensor(clock, dtype=z.dtype, device=z.device)
        return Path(
            times.flip(0) if back else times,
            torch.stack(points).reshape(len(points), *z.shape),
            torch.stack(log_det).reshape(len(log_det), *batch) if density else None,
            torch.stack(action).reshape(len(action), *batch),
        )

    def _grid(self, start: float, end: float) -> list[float]:
        """The times from ``start`` to ``end``: those of the unit steps where the flow is discrete."""
        if isinstance(self.scheme, Discrete):
            return [float(n) for n in range(int(start), int(end) + 1)]
        return [start, end]
