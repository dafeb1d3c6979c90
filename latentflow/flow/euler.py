r"""Euler's scheme: the discrete flow on any grid of times, forwards and backwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from latentflow.calculus import JetRequest, Time, evaluate_jet
from latentflow.calculus.checks import check_methods, expand_time
from latentflow.calculus.jets import outside_autocast
from latentflow.flow.inverse import InversionError, Newton, StepSolver
from latentflow.flow.log_det import LogDet, SlogDet, StepDeterminant, check_log_det
from latentflow.flow.trajectory import (
    RunningCost,
    Times,
    Trajectory,
    check_finite,
    check_numbers,
    evaluate_cost,
    keep_times,
)

NEWTON = Newton()
"""The solver that inverts a step where a scheme names none."""


@dataclass(frozen=True)
class Step:
    r"""One discrete step.

    Attributes:
        z: The point after the step, of shape ``(*batch, dim)``.
        action: :math:`h |\nabla u|^2`, of shape ``(*batch,)``.
        determinant: The determinant of the step, or None if it was not requested.
        cost: The rate of a running cost before the step times :math:`h`, of shape ``(*batch,)``; None without one.
    """

    z: Tensor
    action: Tensor
    determinant: StepDeterminant | None = None
    cost: Tensor | None = None


@dataclass(frozen=True)
class Euler:
    r"""Euler's scheme: one step :math:`z + h \nabla u(z, t)` from each time to the next.

    The times are the grid, in either direction; no gradient flows to them. On a solution of the Hamilton-Jacobi
    equation the scheme agrees with the continuous flow on every grid.

    Args:
        log_det: How to compute the log-determinant of a step: ``SlogDet()`` (exact), ``FirstOrder()`` (the paper's
            surrogate), ``LogDetSeries()``, or None to leave it out.
        solver: How to invert a step; None for ``Newton()``, or for the flow's own solver on a :class:`HopfLaxFlow`.

    Example:
        >>> from latentflow import PotentialFlow, QuadraticPotential
        >>> flow = PotentialFlow(QuadraticPotential(2, torch.diag(torch.tensor([1.0, -0.5]))))
        >>> trajectory = flow.follow(torch.ones(2), [0.0, 1.0, 2.0, 3.0], Euler())
        >>> torch.testing.assert_close(trajectory.z[-1], torch.tensor([8.0, 0.125]))
        >>> torch.testing.assert_close(flow.inverse(trajectory).z[-1], torch.ones(2))
    """

    log_det: LogDet | None = SlogDet()  # noqa: RUF009 - frozen
    solver: StepSolver | None = None

    def __post_init__(self) -> None:
        check_log_det(self.log_det)
        if self.solver is not None:
            check_methods("solver", self.solver, ("solve",), "Newton(), FixedPoint() or another StepSolver, or None")

    @property
    def density(self) -> LogDet | None:
        """The source of the log-determinant, or None."""
        return self.log_det

    def without_density(self) -> Euler:
        """Return the scheme without a log-determinant."""
        return replace(self, log_det=None)

    def follow(self, potential: nn.Module, z0: Tensor, times: Times, cost: RunningCost | None = None) -> Trajectory:
        """Follow the discrete flow of a potential from ``z0`` along a grid; see :meth:`Flow.follow`."""
        return euler_trajectory(potential, z0, _numbers(times), self, cost)

    def invert(self, potential: nn.Module, z: Tensor, times: Times) -> Trajectory:
        """Undo the discrete flow of a potential from its end, step by step; see :meth:`Flow.inverse`."""
        return invert_euler(potential, z, _numbers(times), self)


def _numbers(times: Times) -> list[float]:
    return times.tolist() if isinstance(times, Tensor) else list(times)


@outside_autocast
def euler_step(
    potential: nn.Module, z: Tensor, t: Time, dt: float, log_det: LogDet | None, cost: RunningCost | None = None
) -> Step:
    """Make one step; see :meth:`PotentialFlow.step`."""
    request = JetRequest() if log_det is None else log_det.request(potential, z, t)
    if cost is not None:
        request = request.including(cost.requires)
    jet = evaluate_jet(potential, z, t, request)
    return Step(
        z + dt * jet.gradient,
        dt * jet.gradient.square().sum(-1),
        None if log_det is None else log_det.determinant(jet, dt),
        None if cost is None else dt * evaluate_cost(cost, jet, z, expand_time(t, z)),
    )


def euler_trajectory(
    potential: nn.Module,
    z0: Tensor,
    times: Sequence[float],
    scheme: Euler,
    cost: RunningCost | None = None,
    dt: float | None = None,
) -> Trajectory:
    """Follow the discrete flow along a grid, without a check for folds; raise a FloatingPointError if it overflows.

    A given ``dt`` is the length of every step, more exact than a difference of times.
    """
    points, steps = [z0], []
    for before, after in pairwise(times):
        length = after - before if dt is None else dt
        steps.append(euler_step(potential, points[-1], before, length, scheme.log_det, cost))
        points.append(steps[-1].z)
    return _assemble(points, torch.tensor(times, dtype=torch.float64, device="cpu"), steps, scheme, cost)


def invert_euler(potential: nn.Module, z: Tensor, times: Sequence[float], scheme: Euler) -> Trajectory:
    """Undo the discrete flow along a grid, from ``z`` at ``times[-1]``, without a check for folds.

    An InversionError names the step that cannot be inverted.
    """
    grid = torch.tensor(times, dtype=torch.float64, device="cpu").flip(0)
    check_finite(z.unsqueeze(0), grid)
    solver = NEWTON if scheme.solver is None else scheme.solver
    points, steps = [z], []
    for number in reversed(range(len(times) - 1)):
        before, dt = times[number], times[number + 1] - times[number]
        try:
            points.append(solver.solve(potential, points[-1], before, dt))
        except InversionError as error:
            raise InversionError(f"step {number} (t = {before:g}): {error}") from error
        steps.append(euler_step(potential, points[-1], before, dt, scheme.log_det))
    return _assemble(points, grid, steps, scheme, None, backwards=True)


def _assemble(
    points: list[Tensor],
    times: Tensor,
    steps: list[Step],
    scheme: Euler,
    cost: RunningCost | None,
    *,
    backwards: bool = False,
) -> Trajectory:
    z = torch.stack(points)
    check_finite(z, times)

    def accumulate(name: str, increments: list[Tensor]) -> Tensor:
        total = torch.stack([z.new_zeros(z.shape[1:-1]), *increments]).cumsum(0)
        if name != "action":
            check_numbers(name, total)
        return -total if backwards else total

    determinants = [step.determinant for step in steps if step.determinant is not None]
    costs = [step.cost for step in steps if step.cost is not None]
    return Trajectory(
        keep_times(times, z),
        z,
        None if scheme.log_det is None else accumulate("log_det", [own.log_det for own in determinants]),
        accumulate("action", [step.action for step in steps]),
        stack_known([own.sign for own in determinants]),
        stack_known([own.folded for own in determinants]),
        stack_known([own.smallest_eigenvalue for own in determinants]),
        None if cost is None else accumulate("cost", costs),
        None if backwards else scheme,  # steps undone are no steps of the scheme
    )


def stack_known(values: Sequence[Tensor | None]) -> Tensor | None:
    """Stack what is known at every step; return None where it is not, or where there is no step."""
    known = [value for value in values if value is not None]
    return torch.stack(known) if 0 < len(known) == len(values) else None
