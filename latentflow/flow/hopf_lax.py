r"""The flow that solves the Hamilton-Jacobi equation by construction: its potential, characteristics and spectrum."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor, nn

from latentflow.calculus import Derivative, Field, Jet, JetRequest, Time, evaluate_jet
from latentflow.calculus.checks import check_methods, check_points, expand_time
from latentflow.calculus.jets import NONE, check_requires, outside_autocast, transformed
from latentflow.flow.euler import Euler, stack_known
from latentflow.flow.flow import Flow
from latentflow.flow.inverse import InversionError, Newton, StepSolver
from latentflow.flow.log_det import LogDet, SlogDet, StepDeterminant
from latentflow.flow.trajectory import (
    PATHS_MEET,
    OnFold,
    RunningCost,
    Scheme,
    Times,
    Trajectory,
    check_finite,
    check_numbers,
    evaluate_cost,
    report_folds,
)
from latentflow.potentials.algebra import Potential, ScaledPotential, as_module, dim_of


class HopfLaxFlow(Flow):
    r"""The flow along the solution of the Hamilton-Jacobi equation that starts from a potential :math:`u_0`.

    .. math::
        z_t = z_0 + t \nabla u_0(z_0), \qquad
        \log|\det \partial z_t / \partial z_0| = \log|\det(I + t \nabla^2 u_0(z_0))|

    Every point moves in a straight line at constant speed, so no residual has to be trained: the equation
    :math:`\partial_t u + \tfrac12 |\nabla u|^2 = 0` holds for whatever :math:`u_0` is. One gradient of :math:`u_0`, and
    one Hessian where a log-determinant is wanted, serve all times of a trajectory.

    Euler steps and the solution of the ODE agree here, so all schemes give the same points, in closed form. ``Euler``
    gives its log-determinant of the map from time 0 to each time (``FirstOrder()`` is
    :math:`\log|1 + t \Delta u_0|`) and its solver; ``ODE`` gives the exact log-determinant, whatever its divergence,
    and a running cost by Gauss's quadrature with 8 points in each interval.

    While :math:`\tfrac12 |z|^2 + t u_0(z)` is convex, the flow up to ``t`` is the optimal transport between its ends
    (Brenier). For an :class:`ICNNPotential` this is so at all :math:`t \ge 0`. Any other :math:`u_0` may have a shock,
    where paths meet; from then on ``trajectory.folded`` holds. Here ``folded`` and ``smallest_eigenvalue`` of a step
    are those of :math:`I + t \nabla^2 u_0`, the map from time 0, at whichever end of the step they are worse.
    ``SlogDet()`` takes all log-determinants from one eigenvalue decomposition, which makes the smallest eigenvalue
    known, without a gradient.

    Sums of potentials, ``bank.select(k)`` and any other expression may be :math:`u_0`; the sum of two solutions is not
    a solution, but the solution from a sum is.

    Args:
        u0: The potential to start from: a :class:`Potential` or any callable ``u(z, t)``. It is evaluated at ``t = 0``
            only.
        solver: How to find where a point at another time than 0 comes from.

    Attributes:
        potential: The solution :math:`u(z, t)`, a :class:`HopfLaxPotential`.

    Raises:
        TypeError: If ``u0`` is not callable.

    References:
        | Partial Differential Equations (Evans, 2010), section 3.3
        | https://bookstore.ams.org/gsm-19-r
        | Polar factorization and monotone rearrangement of vector-valued functions (Brenier, 1991)
        | https://doi.org/10.1002/cpa.3160440402

    Example:
        >>> from latentflow import HJResidual, ICNNPotential, QuadraticPotential
        >>> u0 = QuadraticPotential(2, matrix=torch.diag(torch.tensor([1.0, -0.25])))
        >>> trajectory = HopfLaxFlow(u0).rollout(torch.ones(4, 2), steps=3)
        >>> torch.testing.assert_close(trajectory.z[-1], torch.tensor([4.0, 0.25]).expand(4, 2))
        >>> torch.testing.assert_close(trajectory.log_det[-1], torch.zeros(4))
        >>> flow, z0 = HopfLaxFlow(ICNNPotential(3).double()), torch.randn(4, 3, dtype=torch.float64)
        >>> trajectory = flow.integrate(z0, [0.0, 0.5, 2.0], running_cost=HJResidual())
        >>> torch.testing.assert_close(trajectory.cost, torch.zeros(3, 4, dtype=torch.float64))
        >>> torch.testing.assert_close(flow.inverse(trajectory).z, trajectory.z.flip(0))
    """

    potential: HopfLaxPotential

    def __init__(self, u0: Field, solver: StepSolver = Newton(order=2)) -> None:  # noqa: B008 - frozen
        super().__init__()
        self.potential = HopfLaxPotential(u0, solver)

    def _compiles(self) -> nn.Module:
        return self.u0

    @property
    def u0(self) -> nn.Module:
        """The potential to start from."""
        return self.potential.u0

    def density_source(self, scheme: Scheme) -> LogDet | None:
        """Return the log-determinant of the map from time 0 under a scheme: exact unless ``Euler`` has another one."""
        if isinstance(scheme, Euler):
            return scheme.log_det
        return None if scheme.density is None else SlogDet()

    def _follow(
        self, z0: Tensor, times: Times, scheme: Scheme, running_cost: RunningCost | None, policy: OnFold
    ) -> Trajectory:
        trajectory = self._characteristics(z0, times, scheme, running_cost)
        report_folds(trajectory, policy, PATHS_MEET)
        return trajectory

    def _rollout(self, z0: Tensor, times: list[float], dt: float, scheme: Euler, policy: OnFold) -> Trajectory:  # noqa: ARG002 - one signature for all flows
        trajectory = self._characteristics(z0, times, scheme)
        report_folds(trajectory, policy, PATHS_MEET)
        return trajectory

    def _invert(self, z: Tensor, times: Tensor, scheme: Scheme, policy: OnFold) -> Trajectory:
        solver = scheme.solver if isinstance(scheme, Euler) else None
        trajectory = self._characteristics(z, times.flip(0), scheme, solver=solver)
        report_folds(trajectory, policy, PATHS_MEET, backwards=True)
        return trajectory

    def _characteristics(
        self,
        z0: Tensor,
        times: Times,
        scheme: Scheme,
        cost: RunningCost | None = None,
        solver: StepSolver | None = None,
    ) -> Trajectory:
        grid = times if isinstance(times, Tensor) else torch.tensor(times, dtype=torch.float64, device="cpu")
        source = self.density_source(scheme)
        found = characteristic_trajectory(self.potential, z0, grid, source, cost, solver)
        return replace(found, scheme=scheme)


class HopfLaxPotential(Potential):
    r"""The potential that solves :math:`\partial_t u + \tfrac12 |\nabla u|^2 = 0` from :math:`u(\cdot, 0) = u_0`.

    .. math:: u(z, t) = u_0(y) + \frac{|z - y|^2}{2t}, \qquad z = y + t \nabla u_0(y)

    The velocity is constant along straight characteristics, so all derivatives are known at the start ``y``:

    .. math::
        \nabla u = v = \nabla u_0(y), \quad \partial_t u = -\tfrac12 |v|^2, \quad
        H = \nabla^2 u = H_0 (I + t H_0)^{-1}, \quad \partial_t v = -H v, \quad \partial_t^2 u = v^\top H v .

    A solver finds ``y``, which exists and is unique as long as :math:`|y|^2/2 + t u_0(y)` is strongly convex: at all
    :math:`t \ge 0` for a convex :math:`u_0`, otherwise until the first shock, where characteristics meet. Derivatives
    to the point, the time and the parameters of :math:`u_0` follow from the implicit function theorem: the fields of a
    jet can be differentiated ``order`` times more, with the ``order`` of the solver, the value ``2 * order + 1`` times.

    Args:
        u0: The potential at time 0: any callable ``u(z, t)``, evaluated at ``t = 0``.
        solver: The solver for the start of a characteristic.

    Raises:
        TypeError: If ``u0`` is not callable.
        InversionError: From every evaluation, if a start is not found.

    References:
        | Partial Differential Equations (Evans, 2010), section 3.3
        | https://bookstore.ams.org/gsm-19-r

    Example:
        >>> from latentflow import HJResidual, ICNNPotential
        >>> u = HopfLaxPotential(ICNNPotential(3, (8,))).double()
        >>> z, t = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
        >>> torch.testing.assert_close(HJResidual()(lambda z, t: u(z, t), z, t), torch.zeros_like(t))  # by autograd
    """

    def __init__(self, u0: Field, solver: StepSolver = Newton(order=2)) -> None:  # noqa: B008 - frozen
        super().__init__()
        self.u0 = as_module(u0, "u0")
        check_methods("solver", solver, ("solve",), "Newton(), FixedPoint() or another StepSolver")
        self.solver = solver

    @property
    def dim(self) -> int | None:
        """The number of coordinates, if the potential to start from knows it."""
        return dim_of(self.u0)

    def start(self, z: Tensor, t: Time, solver: StepSolver | None = None) -> Tensor:
        r"""Find the point ``y`` at time 0 whose characteristic :math:`y + t \nabla u_0(y)` passes through ``z``.

        Args:
            z: The points, of shape ``(*batch, dim)``.
            t: Their times: a number, ``()`` or ``(*batch,)``, of either sign.
            solver: The solver, or None for the solver of the potential.

        Returns:
            The starts, of shape ``(*batch, dim)``.

        Raises:
            InversionError: If some are not found, or a point is not finite.
        """
        check_points(z, self.dim)
        solver = self.solver if solver is None else solver
        check_methods("solver", solver, ("solve",), "Newton(), FixedPoint(), another StepSolver or None")
        try:
            return solver.solve(ScaledPotential(self.u0, expand_time(t, z)), z, 0.0, 1.0)
        except InversionError as error:
            raise InversionError(f"the start of a characteristic: {error}") from error

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the solution at ``z`` of shape ``(*batch, dim)`` and ``t``; the result is ``(*batch,)``."""
        check_points(z, self.dim)
        return self.jet_rule(z, expand_time(t, z), JetRequest()).value

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Return the derivatives in closed form from one jet of ``u0`` at the start."""
        y = self.start(z, t)
        initial = JetRequest(Derivative.HESSIAN if request.derivatives else NONE)
        return carried_jet(evaluate_jet(self.u0, y, 0.0, initial), t, z - y, request)


def carried_jet(initial: Jet, t: Tensor, displacement: Tensor, request: JetRequest) -> Jet:
    r"""Compute the jet of the solution at time ``t`` from the jet of :math:`u_0` at the start of the characteristic.

    The ``displacement`` ``(*batch, dim)`` of the points is :math:`t \nabla u_0` up to the error of the solver.
    """
    velocity = initial.gradient
    square = velocity.square().sum(-1)
    # u0(y) + v.(z - y) - t |v|^2 / 2 needs no division by t, and its derivative in y vanishes at the root
    value = initial.value + (velocity * displacement).sum(-1) - t / 2 * square
    if not request.derivatives:
        return Jet(value, velocity, -square / 2)
    eye = torch.eye(velocity.shape[-1], dtype=velocity.dtype, device=velocity.device)
    hessian: Tensor = torch.linalg.solve(eye + t[..., None, None] * initial.hessian, initial.hessian)
    along = (hessian @ velocity.unsqueeze(-1)).squeeze(-1)
    return Jet.answer(
        request,
        value,
        velocity,
        -square / 2,
        hessian=lambda: hessian,
        products=lambda probes: probes @ hessian.mT,
        second_time_derivative=lambda: (velocity * along).sum(-1),
        gradient_time_derivative=lambda: -along,
    )


NODES = 8
"""The points of Gauss's quadrature in each interval."""


@outside_autocast
def characteristic_trajectory(
    potential: HopfLaxPotential,
    z0: Tensor,
    times: Tensor,
    log_det: LogDet | None,
    cost: RunningCost | None = None,
    solver: StepSolver | None = None,
) -> Trajectory:
    """Follow straight characteristics through all ``times`` ``(T+1,)`` at once, without a check for folds.

    The log-determinant belongs to the map from time 0 to each time; the solver finds the start at time 0.
    """
    check_finite(z0.unsqueeze(0), times)
    at_zero = not times.requires_grad and float(times[0]) == 0
    y = z0 if at_zero else potential.start(z0, times[0], solver)
    carried = JetRequest(NONE if cost is None else check_requires(cost.requires))
    request = JetRequest() if log_det is None else log_det.request(potential.u0, y, 0.0)
    jet = evaluate_jet(potential.u0, y, 0.0, request.including(Derivative.HESSIAN if carried.derivatives else NONE))
    elapsed = (times - times[0]).to(z0).reshape(-1, *(1,) * (z0.ndim - 1))
    z = z0 + elapsed.unsqueeze(-1) * jet.gradient
    check_finite(z, times)
    trajectory = Trajectory(times, z, None, elapsed * jet.gradient.square().sum(-1))
    if cost is not None:
        trajectory = replace(trajectory, cost=_integrate(cost, jet, y, times, carried))
    if log_det is None:
        return trajectory
    found = _determinants(log_det, jet, times)
    total = found.log_det - found.log_det[0]
    check_numbers("log_det", total)
    sign, folded, smallest = found.sign, found.folded, found.smallest_eigenvalue
    return replace(
        trajectory,
        log_det=total,
        sign=None if sign is None else sign[:-1] * sign[1:],
        folded=None if folded is None else folded[:-1] | folded[1:],
        smallest_eigenvalue=None if smallest is None else torch.minimum(smallest[:-1], smallest[1:]),
    )


def _determinants(log_det: LogDet, jet: Jet, times: Tensor) -> StepDeterminant:
    """Compute the determinants of the maps from time 0 to each time, every field with the times in front."""
    if log_det == SlogDet() and Derivative.HESSIAN in jet.second and jet.factors is None and not transformed():
        check_numbers("log_det", jet.hessian.detach() * 0)  # neither NaN nor infinite
        logarithm, factors = log_dets(jet.hessian, times.to(jet.hessian))
        smallest = factors.amin(-1)
        return StepDeterminant(logarithm, factors.sign().prod(-1), smallest <= 0, smallest)
    if times.requires_grad:  # only with SlogDet, for which the jet of t * u0 will do
        found = [log_det.determinant(jet.scale(time), 1.0) for time in times]
    else:
        found = [log_det.determinant(jet, time) for time in times.tolist()]
    return StepDeterminant(
        torch.stack([own.log_det for own in found]),
        stack_known([own.sign for own in found]),
        stack_known([own.folded for own in found]),
        stack_known([own.smallest_eigenvalue for own in found]),
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


def log_dets(hessian: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    r"""Compute :math:`\log|\det(I + tH)| = \sum_i \log|1 + t \lambda_i|` at all times.

    The gradient to the matrix is :math:`t (I + tH)^{-1}`, also for equal eigenvalues. The results are the
    log-determinants ``(T, *batch)``, and without a graph the factors :math:`1 + t \lambda_i` ``(T, *batch, dim)``.
    """
    log_det, factors = _LogDets.apply(hessian, times)  # type: ignore[no-untyped-call]  # torch has no types for it
    return log_det, factors


class _LogDets(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hessian: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - the context
        values, vectors = torch.linalg.eigh(hessian)
        factors = 1 + _broadcast_times(times, values.ndim) * values
        ctx.save_for_backward(hessian, times, values, vectors, factors)
        ctx.mark_non_differentiable(factors)
        return factors.abs().log().sum(-1), factors

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor | None]:  # noqa: ANN401 - the context
        hessian, times, values, vectors, factors = ctx.saved_tensors
        slope = slopes[0].unsqueeze(-1)
        to_hessian = to_times = None
        if torch.is_grad_enabled():  # it will be differentiated again
            inverses = torch.linalg.inv(_identity_plus_at(times, hessian))
            if ctx.needs_input_grad[0]:
                to_hessian = (slope.unsqueeze(-1) * _broadcast_times(times, hessian.ndim) * inverses).sum(0)
            if ctx.needs_input_grad[1]:
                traces = (inverses * hessian.mT).sum((-2, -1))
                to_times = (slope.squeeze(-1) * traces).flatten(1).sum(1)
            return to_hessian, to_times
        if ctx.needs_input_grad[0]:
            weights = (slope * _broadcast_times(times, values.ndim) / factors).sum(0)
            to_hessian = (vectors * weights.unsqueeze(-2)) @ vectors.mT
        if ctx.needs_input_grad[1]:
            to_times = (slope * values / factors).flatten(1).sum(1)
        return to_hessian, to_times


def _broadcast_times(times: Tensor, ndim: int) -> Tensor:
    return times.reshape(-1, *(1,) * ndim)


def _identity_plus_at(times: Tensor, hessian: Tensor) -> Tensor:
    eye = torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device)
    return eye + _broadcast_times(times, hessian.ndim) * hessian
