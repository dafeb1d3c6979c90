"""Euler's scheme: the discrete flow, forwards and backwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from latentflow.calculus import JetRequest, Time, check_points, evaluate_jet, outside_autocast
from latentflow.flow.inverse import InversionError, Newton, StepSolver
from latentflow.flow.log_det import SlogDet, Volume, VolumeChange
from latentflow.flow.trajectory import OnFold, Path, check_finite, check_numbers, report_fold


@dataclass(frozen=True)
class Step:
    r"""One discrete step.

    Attributes:
        z: The point after the step, of shape ``(*batch, dim)``.
        action: :math:`h |\nabla u|^2`, of shape ``(*batch,)``.
        volume: The change of volume, or None if it was not asked for.
    """

    z: Tensor
    action: Tensor
    volume: VolumeChange | None


@dataclass(frozen=True)
class Discrete:
    r"""The discrete flow as a scheme: one step :math:`z + h \nabla u(z, t)` from each time to the next.

    The times are the grid, in either direction; no gradient flows to them. On a solution of the Hamilton-Jacobi
    equation it agrees with the continuous flow on every grid.

    Args:
        volume: How to compute the change of volume of a step, or None to leave it out.
        solver: How to invert a step.

    Example:
        >>> from latentflow import PotentialFlow, QuadraticPotential
        >>> flow = PotentialFlow(QuadraticPotential(2, torch.diag(torch.tensor([1.0, -0.5]))))
        >>> back = flow.inverse(torch.tensor([8.0, 0.125]), [0.0, 1.0, 2.0, 3.0], Discrete())
        >>> torch.testing.assert_close(back.z[-1], torch.ones(2))
    """

    volume: Volume | None = SlogDet()  # noqa: RUF009 - frozen
    solver: StepSolver = Newton()  # noqa: RUF009 - frozen


@outside_autocast
def make_step(potential: nn.Module, z: Tensor, t: Time, dt: float, volume: Volume | None) -> Step:
    """Make one step; see :meth:`PotentialFlow.step`."""
    request = JetRequest() if volume is None else volume.request(potential, z, t)
    jet = evaluate_jet(potential, z, t, request)
    action = dt * jet.gradient.square().sum(-1)
    return Step(z + dt * jet.gradient, action, None if volume is None else volume.change(jet, dt))


def walk(
    potential: nn.Module,
    z0: Tensor,
    times: Sequence[float],
    volume: Volume | None,
    on_fold: OnFold,
    dt: float | None = None,
) -> Path:
    """Follow the discrete flow along a grid.

    Args:
        potential: The field.
        z0: The points at ``times[0]``, of shape ``(*batch, dim)``.
        times: The grid.
        volume: How to compute the change of volume, or None.
        on_fold: What to do where a step folds.
        dt: The length of every step, where it is known better than as a difference of times.

    Returns:
        The path, see :meth:`PotentialFlow.rollout`.
    """
    check_points(z0)
    points, steps = [z0], []
    for before, after in pairwise(times):
        steps.append(make_step(potential, points[-1], before, after - before if dt is None else dt, volume))
        points.append(steps[-1].z)
    grid = torch.tensor(times, dtype=torch.float64)
    path = _account(points, grid, steps, forward=True, density=volume is not None)
    if path.folded is not None:
        report_fold(path.folded, grid, on_fold)
    return path


def walk_back(potential: nn.Module, z: Tensor, times: Sequence[float], scheme: Discrete, on_fold: OnFold) -> Path:
    """Undo the discrete flow along a grid, step by step.

    Args:
        potential: The field.
        z: The points at ``times[-1]``, of shape ``(*batch, dim)``.
        times: The grid of the flow that is undone.
        scheme: The volume of a step and the solver that inverts it.
        on_fold: What to do where a step folds.

    Returns:
        The path from ``times[-1]`` to ``times[0]``.

    Raises:
        InversionError: If a step cannot be inverted; the message names it.
    """
    check_points(z)
    grid = torch.tensor(times, dtype=torch.float64).flip(0)
    check_finite(z.unsqueeze(0), grid)
    points, steps = [z], []
    for number in reversed(range(len(times) - 1)):
        before, dt = times[number], times[number + 1] - times[number]
        try:
            points.append(scheme.solver.solve(potential, points[-1], before, dt))
        except InversionError as error:
            raise InversionError(f"step {number} (t = {before:g}): {error}") from error
        steps.append(make_step(potential, points[-1], before, dt, scheme.volume))
    path = _account(points, grid, steps, forward=False, density=scheme.volume is not None)
    if path.folded is not None:
        report_fold(path.folded.flip(0), grid.flip(0), on_fold)
    return path


def _account(points: list[Tensor], times: Tensor, steps: list[Step], *, forward: bool, density: bool) -> Path:
    z = torch.stack(points)
    check_finite(z, times)
    times = times.to(z)
    action = _accumulate(z, [step.action for step in steps], forward=forward)
    if not density:
        return Path(times, z, None, action)
    changes = [step.volume for step in steps if step.volume is not None]
    log_det = _accumulate(z, [change.log_det for change in changes], forward=forward)
    check_numbers("log_det", log_det)
    sign = stack_known([change.sign for change in changes])
    folded = stack_known([change.folded for change in changes])
    return Path(
        times, z, log_det, action, sign, folded, stack_known([change.smallest_eigenvalue for change in changes])
    )


def _accumulate(z: Tensor, increments: list[Tensor], *, forward: bool) -> Tensor:
    total = torch.stack([z.new_zeros(z.shape[1:-1]), *increments]).cumsum(0)
    return total if forward else -total


def stack_known(values: Sequence[Tensor | None]) -> Tensor | None:
    """Stack what is known at every step; None where it is not, or where there is no step."""
    known = [value for value in values if value is not None]
    return torch.stack(known) if 0 < len(known) == len(values) else None
