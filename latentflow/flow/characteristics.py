r"""The flow along straight characteristics, :math:`z_t = y + t \nabla u_0(y)`, through all times at once."""

from __future__ import annotations

from itertools import pairwise

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from latentflow.calculus import Jet, JetRequest, check_points, evaluate_jet, outside_autocast, transformed
from latentflow.flow.discrete import stack_known
from latentflow.flow.finite import check_finite, check_numbers
from latentflow.flow.hopf_lax_potential import HopfLaxPotential, carried_jet, second_derivatives
from latentflow.flow.inverse import StepSolver
from latentflow.flow.path import Path
from latentflow.flow.running_cost import RunningCost, evaluate_cost
from latentflow.flow.spectrum import log_dets
from latentflow.flow.volume import SlogDet, Volume, VolumeChange

NODES = 8
"""The points of Gauss's quadrature in each interval."""


@outside_autocast
def travel(
    potential: HopfLaxPotential,
    z0: Tensor,
    times: Tensor,
    volume: Volume | None,
    running_cost: RunningCost | None = None,
    solver: StepSolver | None = None,
) -> Path:
    """Follow characteristics; see :class:`HopfLaxFlow`.

    Args:
        potential: The solution of the Hamilton-Jacobi equation.
        z0: The points at ``times[0]``, of shape ``(*batch, dim)``.
        times: The times, in float64, of shape ``(T+1,)``.
        volume: How to compute the change of volume between time 0 and each time, or None.
        running_cost: A rate to integrate along the path, or None.
        solver: How to find where at time 0 the path comes from, or None for the solver of the potential.

    Returns:
        The path. It is not checked for folds.
    """
    check_points(z0)
    check_finite(z0.unsqueeze(0), times)
    at_zero = not times.requires_grad and float(times[0]) == 0
    y = z0 if at_zero else potential.start(z0, times[0], solver)
    carried = JetRequest().including(frozenset() if running_cost is None else running_cost.requires)
    request = JetRequest() if volume is None else volume.request(potential.u0, y, 0.0)
    jet = evaluate_jet(potential.u0, y, 0.0, request.including({"hessian"} if second_derivatives(carried) else ()))
    elapsed = (times - times[0]).to(z0).reshape(-1, *(1,) * (z0.ndim - 1))
    z = z0 + elapsed.unsqueeze(-1) * jet.gradient
    check_finite(z, times)
    path = Path(times.to(z0), z, None, elapsed * jet.gradient.square().sum(-1))
    cost = None if running_cost is None else _integrate(running_cost, jet, y, times, carried)
    if volume is None:
        return Path(path.times, z, None, path.action, cost=cost)
    change = _changes(volume, jet, times)
    log_det = change.log_det - change.log_det[0]
    check_numbers("log_det", log_det)
    sign, folded, smallest = change.sign, change.folded, change.smallest_eigenvalue
    return Path(
        path.times,
        z,
        log_det,
        path.action,
        sign=None if sign is None else sign[:-1] * sign[1:],
        folded=None if folded is None else folded[:-1] | folded[1:],
        smallest_eigenvalue=None if smallest is None else torch.minimum(smallest[:-1], smallest[1:]),
        cost=cost,
    )


def _changes(volume: Volume, jet: Jet, times: Tensor) -> VolumeChange:
    """Compute the changes of volume from time 0 to each time, every field with the times in front."""
    if volume == SlogDet() and jet.inner_hessian is None and jet.hessian is not None and not transformed():
        check_numbers("log_det", jet.hessian.detach() * 0)  # neither NaN nor infinite
        log_det, factors = log_dets(jet.hessian, times.to(jet.hessian))
        smallest = factors.amin(-1)
        return VolumeChange(log_det, factors.sign().prod(-1), smallest <= 0, smallest)
    if times.requires_grad:  # only with SlogDet, for which the jet of t * u0 will do
        changes = [volume.change(jet.scale(time), 1.0) for time in times]
    else:
        changes = [volume.change(jet, time) for time in times.tolist()]
    return VolumeChange(
        torch.stack([change.log_det for change in changes]),
        stack_known([change.sign for change in changes]),
        stack_known([change.folded for change in changes]),
        stack_known([change.smallest_eigenvalue for change in changes]),
    )


def _integrate(cost: RunningCost, jet: Jet, y: Tensor, times: Tensor, request: JetRequest) -> Tensor:
    """Integrate a rate by Gauss's quadrature in each interval; the result is ``(T+1, *batch)``."""
    nodes, weights = leggauss(NODES)
    total = [y.new_zeros(y.shape[:-1])]
    for before, after in pairwise(times.unbind()):
        half = (after - before) / 2
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            t = (before + half * (1 + node)).to(y).expand(y.shape[:-1])
            moved = t.unsqueeze(-1) * jet.gradient
            rate = evaluate_cost(cost, carried_jet(jet, t, moved, request), y + moved, t)
            total.append((half * weight).to(y) * rate)
    sums = torch.stack(total).cumsum(0)
    result: Tensor = sums[::NODES]
    return result
