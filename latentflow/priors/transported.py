"""Priors transported along a flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from latentflow.calculus import Estimator, Exact, Field, Time
from latentflow.flow import Discrete, Path, PotentialFlow, PushForward, Scheme
from latentflow.flow.flow import ScheduledFlow, check_scheme
from latentflow.potentials import PotentialBank
from latentflow.potentials.algebra import as_module
from latentflow.priors.diffusion import Prior, check_elapsed, check_field, common_shape


class TransportedPrior(nn.Module):
    r"""A prior transported by the flow of a potential: :math:`p_t` is the law of :math:`z_t` if :math:`z_0 \sim p_0`.

    .. math:: \log p_t(z) = \log p_0(z_0) - \log|\det \partial z_t / \partial z_0|, \qquad z_0 = \phi_t^{-1}(z)

    The flow is followed back from the point at which the density is asked. Points with different times are followed
    together as long as they all move, so the cost grows with the number of distinct times.

    If the posterior flows along the same potentials, its divergence from this prior is the same at every time.

    Args:
        prior: The prior to start from, taken at time 0.
        potential: The field, or a bank of fields of which ``k`` names one.
        scheme: ``Discrete(...)`` for unit steps from time 0, as those of :class:`FlowVAE`, between which there is no
            distribution; ``ODEOptions(...)`` for the continuous flow.
        divergence: How to obtain the divergence of the continuous flow; a discrete scheme has a volume of its own. A
            stochastic one trains, but in evaluation mode its log-density is refused: noise biases it upwards.
        dynamics: The flow along a potential: :class:`PotentialFlow` or :class:`HopfLaxFlow`.

    Raises:
        TypeError: If ``potential`` is no callable, or ``scheme`` no scheme.
        ValueError: If a divergence is chosen for a discrete scheme.

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> from latentflow import GaussianPrior, QuadraticPotential
        >>> doubling = QuadraticPotential(2, torch.eye(2))  # the step z -> 2 z
        >>> prior = TransportedPrior(GaussianPrior(2), doubling)
        >>> z = torch.randn(5, 2)
        >>> expected = Independent(Normal(torch.zeros(2), 8 * torch.ones(2)), 1)
        >>> torch.testing.assert_close(prior(t=3.0).log_prob(z), expected.log_prob(z))
    """

    def __init__(
        self,
        prior: Prior,
        potential: Field | PotentialBank,
        scheme: Scheme = Discrete(),  # noqa: B008 - frozen
        divergence: Estimator | None = Exact(),  # noqa: B008 - frozen
        dynamics: Callable[[Field], PotentialFlow] = PotentialFlow,
    ) -> None:
        super().__init__()
        if not callable(potential):
            raise TypeError(f"potential: expected a callable u(z, t) or a bank, got {type(potential).__name__}")
        check_scheme(scheme, divergence)
        self.prior = prior
        self.potential = as_module(potential)
        self.scheme = scheme
        self.divergence = divergence
        self.dynamics = dynamics

    def forward(self, t: Time = 0.0, k: int | Tensor | None = None) -> PushForward:
        """Build the distribution.

        Args:
            t: The time, at least 0, a whole number where the flow is discrete: a number or a tensor. No gradient flows
                to it.
            k: The index of the field: a number or an int64 tensor that broadcasts with ``t``. It may be left out
                unless there is a bank of several fields.

        Returns:
            The distribution, with events of shape ``(dim,)`` and the batch shape to which ``t``, ``k`` and the batch
            shape of the start broadcast. It has ``rsample`` if the start has. Its methods raise what
            :meth:`PotentialFlow.push_forward` says. Where a step folds, a density is refused in evaluation mode and
            warned of in training mode.

        Raises:
            TypeError: If ``k`` is not of dtype int64.
            ValueError: If ``k`` is left out although there are several fields or is out of range, if the time is
                negative or lies between the steps, or if the shapes do not broadcast.
        """
        start = self.prior(t=0.0, k=k)
        time = check_elapsed(t, None if isinstance(t, Tensor) else torch.float64)
        if isinstance(self.scheme, Discrete) and not (time == time.round()).all():
            raise ValueError(f"t: expected whole numbers with a discrete scheme, got {time.tolist()}")
        index = check_field(k, len(self.potential)) if isinstance(self.potential, PotentialBank) else torch.tensor(0)
        base = start.expand(common_shape(time, index, start.batch_shape))

        def flow(moving: Tensor) -> PotentialFlow:
            return self._flow(index if index.ndim == 0 else index.to(moving.device).expand(moving.shape)[moving])

        return PushForward(base, StoppedFlow(flow, time, self.scheme, self.divergence))

    def _flow(self, index: Tensor) -> PotentialFlow:
        potential = self.potential.select(index) if isinstance(self.potential, PotentialBank) else self.potential
        flow = self.dynamics(potential)
        flow.training = self.training  # train() would reach into the potential
        return flow


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
