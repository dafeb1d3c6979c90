r"""A prior transported along a flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from latentflow.calculus import Field, Time
from latentflow.calculus.checks import check_callable, describe
from latentflow.flow import Euler, Flow, FlowTransform, OnFold, PotentialFlow, PushForward, Scheme, Times, Trajectory
from latentflow.flow.trajectory import DensitySource, check_scheme, keep_times, real_times
from latentflow.potentials import PotentialBank
from latentflow.potentials.algebra import as_module
from latentflow.priors.diffusion import Prior, check_elapsed, check_field, common_shape


class TransportedPrior(nn.Module):
    r"""A prior transported by the flow of a potential: :math:`p_t` is the law of :math:`z_t` if :math:`z_0 \sim p_0`.

    .. math:: \log p_t(z) = \log p_0(z_0) - \log|\det \partial z_t / \partial z_0|, \qquad z_0 = \phi_t^{-1}(z)

    The flow is followed back from the point of a density. Points with different times are followed together while all
    of them move, so the cost grows with the number of distinct times. A posterior that flows along the same potentials
    has the same divergence from this prior at every time.

    Args:
        prior: The prior whose distribution at time 0 is the start.
        potential: The field, or a bank of fields with the index ``k``.
        scheme: ``Euler(...)`` for unit steps from time 0, as in :class:`FlowVAE`; ``ODE(...)`` for the continuous flow.
        dynamics: The flow along a potential: :class:`PotentialFlow` or :class:`HopfLaxFlow`.

    Raises:
        TypeError: If ``potential`` is not callable, or ``scheme`` is no scheme; see also :class:`Prior`.
        ValueError: From a call, see :class:`Prior`, or if a time lies between the steps; from a log-density, if the
            scheme has no log-determinant, or a stochastic one in evaluation mode, whose noise biases it upwards.
        FoldError: From a log-density in evaluation mode, if a step folds; in training mode a FoldWarning is given.

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
        scheme: Scheme = Euler(),  # noqa: B008 - frozen
        dynamics: Callable[[Field], Flow] = PotentialFlow,
    ) -> None:
        super().__init__()
        check_callable("prior", prior, "a prior")
        check_scheme(scheme)
        if not callable(dynamics):
            raise TypeError(f"dynamics: expected a class of flows or a function, got {describe(dynamics)}")
        self.prior = prior
        self.potential = as_module(potential)
        self.scheme = scheme
        self.dynamics = dynamics

    def forward(self, t: Time = 0.0, k: int | Tensor | None = None) -> PushForward:
        """Build the distribution; its batch shape is that of ``t``, ``k`` and the start, broadcast.

        Times are whole numbers with ``Euler``, and get no gradient. The distribution has ``rsample`` if the start has.
        """
        start = self.prior(t=0.0, k=k)
        time = check_elapsed(t, None if isinstance(t, Tensor) else torch.float64)
        if not time.is_floating_point():
            time = time.to(torch.float64)
        if isinstance(self.scheme, Euler) and not (time == time.round()).all():
            raise ValueError(f"t: expected whole numbers with Euler steps, got {time.tolist()}")
        index = (
            check_field(k, len(self.potential))
            if isinstance(self.potential, PotentialBank)
            else torch.tensor(0, device="cpu")
        )
        base = start.expand(common_shape(time, index, start.batch_shape))
        return PushForward(base, FlowTransform(_StoppedFlow(self, index), time, self.scheme))

    def flow_of(self, k: Tensor) -> Flow:
        """Return the flow of fields ``k``, ``()`` or ``(*batch,)``, in the training mode of the prior."""
        potential = self.potential.select(k) if isinstance(self.potential, PotentialBank) else self.potential
        flow = self.dynamics(potential)
        flow.training = self.training  # train() would reach into the potential
        return flow


@dataclass(frozen=True, eq=False)
class _StoppedFlow:
    """The flow from time 0 in which every point stops at a time of its own.

    Between two distinct times, all points with a later stop are followed together. A trajectory has the distinct times.
    """

    prior: TransportedPrior
    index: Tensor

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _StoppedFlow):
            return NotImplemented
        ours, theirs = self.prior, other.prior
        same_field = ours.potential is theirs.potential and ours.dynamics is theirs.dynamics
        return same_field and torch.equal(self.index, other.index)

    __hash__ = object.__hash__

    @property
    def training(self) -> bool:
        return self.prior.training

    def density_source(self, scheme: Scheme) -> DensitySource | None:
        """Return the source of log-determinants under a scheme."""
        return self.prior.flow_of(self.index).density_source(scheme)

    def follow(self, z0: Tensor, times: Times, scheme: Scheme, *, on_fold: OnFold | None = None) -> Trajectory:
        """Follow the flow from time 0; ``times`` broadcast to the batch shape of the points."""

        def move(flow: Flow, z: Tensor, grid: list[float]) -> Trajectory:
            return flow.follow(z, grid, scheme, on_fold=on_fold)

        return self._follow_intervals(z0, real_times(times), scheme, move, back=False)

    def inverse(self, z: Tensor, times: Times, scheme: Scheme, on_fold: OnFold | None = None) -> Trajectory:
        """Follow the flow back to time 0."""

        def move(flow: Flow, z: Tensor, grid: list[float]) -> Trajectory:
            return flow.inverse(z, grid, scheme, on_fold)

        return self._follow_intervals(z, real_times(times), scheme, move, back=True)

    def _follow_intervals(
        self,
        z: Tensor,
        time: Tensor,
        scheme: Scheme,
        move: Callable[[Flow, Tensor, list[float]], Trajectory],
        *,
        back: bool,
    ) -> Trajectory:
        batch = z.shape[:-1]
        stop = time.detach().cpu().expand(batch)
        stops: list[float] = torch.unique(stop).tolist()
        stops = stops if 0.0 in stops else [0.0, *stops]
        intervals = list(pairwise(stops))
        points = [z.reshape(-1, z.shape[-1])]
        log_det, action = [points[0].new_zeros(len(points[0]))], [points[0].new_zeros(len(points[0]))]
        for start, end in reversed(intervals) if back else intervals:
            moving = (stop >= end).to(z.device)
            rows = (moving.flatten(),)
            own = self.index if self.index.ndim == 0 else self.index.to(z.device).expand(batch)[moving]
            trajectory = move(self.prior.flow_of(own), points[-1][rows], _grid(start, end, scheme))
            points.append(points[-1].index_put(rows, trajectory.z[-1]))
            action.append(action[-1].index_put(rows, trajectory.action[-1], accumulate=True))
            if trajectory.log_det is not None:
                log_det.append(log_det[-1].index_put(rows, trajectory.log_det[-1], accumulate=True))
        times = keep_times(torch.tensor(stops, dtype=torch.float64, device="cpu"), z)
        return Trajectory(
            times.flip(0) if back else times,
            torch.stack(points).reshape(len(points), *z.shape),
            None if scheme.density is None else torch.stack(log_det).reshape(len(log_det), *batch),
            torch.stack(action).reshape(len(action), *batch),
            scheme=scheme,
        )


def _grid(start: float, end: float, scheme: Scheme) -> list[float]:
    """Return the times from ``start`` to ``end``: those of unit steps for Euler's scheme."""
    return [float(n) for n in range(int(start), int(end) + 1)] if isinstance(scheme, Euler) else [start, end]
