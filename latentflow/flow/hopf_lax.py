"""The flow that solves the Hamilton-Jacobi equation by construction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor, nn
from torch.distributions import Distribution

from latentflow.calculus import (
    Estimator,
    Exact,
    Field,
    Jet,
    JetRequest,
    Time,
    check_points,
    evaluate_jet,
    expand_time,
    outside_autocast,
    transformed,
)
from latentflow.flow.euler import Discrete, stack_known
from latentflow.flow.flow import PotentialFlow, ScheduledFlow, Scheme, check_scheme, grid
from latentflow.flow.inverse import InversionError, Newton, StepSolver
from latentflow.flow.log_det import SlogDet, Volume, VolumeChange
from latentflow.flow.ode import ODEOptions, RunningCost, evaluate_cost
from latentflow.flow.push_forward import PushForward
from latentflow.flow.trajectory import (
    PATHS_MEET,
    OnFold,
    Path,
    check_finite,
    check_numbers,
    check_steps,
    check_times,
    report_fold,
)
from latentflow.potentials.algebra import Potential, ScaledPotential, as_module


class HopfLaxFlow(PotentialFlow):
    r"""The flow along the solution of the Hamilton-Jacobi equation that starts from a potential :math:`u_0`.

    .. math::
        z_t = z_0 + t \nabla u_0(z_0), \qquad
        \log|\det \partial z_t / \partial z_0| = \log|\det(I + t \nabla^2 u_0(z_0))|

    Every point moves in a straight line at constant speed, so no residual has to be trained: the equation
    :math:`\partial_t u + \tfrac12 |\nabla u|^2 = 0` holds for whatever :math:`u_0` is. One gradient of :math:`u_0`, and
    one Hessian where a volume is wanted, serve all times of a path.

    It is called as :class:`PotentialFlow` is, and gives what that flow gives along :class:`HopfLaxPotential`, in closed
    form: Euler steps and the solution of the ODE agree here. So a choice of ODE solver changes nothing, and a
    log-determinant of :meth:`integrate` is exact even where probes are asked for.

    While :math:`\tfrac12 |z|^2 + t u_0(z)` is convex, the flow up to ``t`` is the optimal transport between its ends
    (Brenier). For an :class:`ICNNPotential` this is so at all :math:`t \ge 0`. Any other :math:`u_0` may have a shock,
    where paths meet; from then on ``path.folded`` holds, and ``on_fold`` says what happens. On this flow, ``folded``
    and ``smallest_eigenvalue`` of a step are those of :math:`I + t \nabla^2 u_0`, the map from time 0, at whichever end
    of the step they are worse. ``SlogDet()`` takes all volumes from one eigenvalue decomposition, which makes the
    smallest eigenvalue known, without a gradient.

    Sums of potentials, ``bank.select(k)`` and any other expression may be :math:`u_0`; the sum of two solutions is not
    a solution, but the solution from a sum is. To let one flow follow another, roll out the second from the end of the
    first.

    Args:
        u0: The potential to start from: a :class:`Potential` or any callable ``u(z, t)``. It is evaluated at ``t = 0``
            only.
        on_fold: What to do from a shock on: ``"raise"``, ``"warn"`` or ``"ignore"``. None means ``"warn"`` in training
            mode and ``"raise"`` in evaluation mode.
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
        >>> from latentflow import QuadraticPotential
        >>> u0 = QuadraticPotential(2, matrix=torch.diag(torch.tensor([1.0, -0.25])))
        >>> path = HopfLaxFlow(u0).rollout(torch.ones(4, 2), steps=3)
        >>> torch.testing.assert_close(path.z[-1], torch.tensor([4.0, 0.25]).expand(4, 2))
        >>> torch.testing.assert_close(path.log_det[-1], torch.zeros(4))
    """

    potential: HopfLaxPotential

    def __init__(
        self,
        u0: Field,
        on_fold: OnFold | None = None,
        solver: StepSolver = Newton(order=2),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(HopfLaxPotential(u0, solver), on_fold)

    @property
    def u0(self) -> nn.Module:
        """The potential to start from."""
        return self.potential.u0

    def rollout(
        self,
        z0: Tensor,
        steps: int = 8,
        start: float = 0.0,
        dt: float = 1.0,
        volume: Volume | None = SlogDet(),  # noqa: B008 - frozen
    ) -> Path:
        r"""Follow the flow from ``z0`` on an even grid of times.

        Args:
            z0: The points to start from, of shape ``(*batch, dim)``.
            steps: The number ``T`` of steps, zero or more.
            start: The time :math:`t_0` of ``z0``; if it is not 0, a solver finds where the points were at time 0.
            dt: The length of a step, of either sign.
            volume: ``SlogDet()`` (exact), another volume, or None to leave it out. A volume is computed for the map
                from time 0 to each time, so ``FirstOrder()`` is :math:`\log|1 + t \Delta u_0|`.

        Returns:
            The path, with ``T+1`` points.

        Raises:
            TypeError: If ``z0`` is not a floating-point tensor.
            ValueError: If ``steps`` is negative or not an integer, or a shape does not fit.
            FloatingPointError: If the path or a volume leaves the finite numbers.
            FoldError: If paths have met and the policy is ``"raise"``.
            InversionError: If no point at time 0 is found from which the path comes.
        """
        check_points(z0)
        check_steps(steps)
        times = torch.tensor([start + n * dt for n in range(steps + 1)], dtype=torch.float64)
        path = travel(self.potential, z0, times, volume)
        self._report(path)
        return path

    def integrate(
        self,
        z0: Tensor,
        times: Tensor | Sequence[float],
        ode: ODEOptions = ODEOptions(),  # noqa: ARG002, B008 - for any flow; frozen
        divergence: Estimator | None = Exact(),  # noqa: B008 - frozen
        running_cost: RunningCost | None = None,
    ) -> Path:
        r"""Follow the flow from ``z0`` through any times, in closed form.

        Args:
            z0: The points at ``times[0]``, of shape ``(*batch, dim)``.
            times: The times of the path, of shape ``(T+1,)``, in strictly increasing or decreasing order. Gradients
                flow to a tensor of times.
            ode: Not used: there is no equation left to solve.
            divergence: None to leave ``log_det`` out. Any estimator asks for it, and gets the exact one.
            running_cost: A rate to integrate along the path, by Gauss's quadrature with 8 points in each interval of
                the times. The squared residual of the Hamilton-Jacobi equation integrates to zero.

        Returns:
            The path. Backwards in time its action and cost are negative: they are signed integrals.

        Raises:
            TypeError: If ``z0`` is not a floating-point tensor.
            ValueError: If the times, the points or the running cost do not fit.
            FloatingPointError: If the path or a volume leaves the finite numbers.
            FoldError: If paths have met and the policy is ``"raise"``.
            InversionError: If no point at time 0 is found from which the path comes.

        Example:
            >>> from latentflow import HJResidual, ICNNPotential
            >>> flow, z0 = HopfLaxFlow(ICNNPotential(3)), torch.randn(4, 3)
            >>> path = flow.integrate(z0, [0.0, 0.5, 2.0], running_cost=HJResidual())
            >>> torch.testing.assert_close(path.z[-1], z0 + 2 * flow.velocity(z0, 0.0))
            >>> torch.testing.assert_close(path.cost, torch.zeros(3, 4))
        """
        check_points(z0)
        volume = None if divergence is None else SlogDet()
        path = travel(self.potential, z0, check_times(times, z0), volume, running_cost)
        self._report(path)
        return path

    def inverse(
        self,
        z: Tensor,
        times: Tensor | Sequence[float],
        scheme: Scheme = ODEOptions(),  # noqa: B008 - frozen
        divergence: Estimator | None = Exact(),  # noqa: B008 - frozen
    ) -> Path:
        r"""Follow the flow back from its end: find the start at time 0 by one solve, and draw the straight path.

        Args:
            z: The points at ``times[-1]``, of shape ``(*batch, dim)``.
            times: The times of the flow, from its start to its end.
            scheme: ``Discrete(volume, solver)`` for a volume and a solver of its choice; with ``ODEOptions(...)``,
                those of the flow.
            divergence: See :meth:`integrate`; a discrete scheme has a volume of its own.

        Returns:
            The path back: ``path.times`` is ``times`` reversed, ``path.z[0]`` is ``z``, ``path.z[-1]`` the start, and
            ``path.log_det`` is :math:`\log|\det \partial z_t / \partial z_T|`, minus that of the way forth.

        Raises:
            InversionError: If the start is not found.
            FoldError: If paths have met and the policy is ``"raise"``.
            ValueError: See :meth:`integrate`.
            TypeError: If ``scheme`` is neither ``ODEOptions`` nor ``Discrete``.

        Example:
            >>> from latentflow import ICNNPotential
            >>> flow, z0 = HopfLaxFlow(ICNNPotential(3).double()), torch.randn(4, 3, dtype=torch.float64)
            >>> path = flow.rollout(z0, steps=3)
            >>> back = flow.inverse(path.z[-1], path.times)
            >>> torch.testing.assert_close(back.z, path.z.flip(0))
        """
        check_points(z)
        check_scheme(scheme, divergence)
        volume: Volume | None = None if divergence is None else SlogDet()
        solver = None
        if isinstance(scheme, Discrete):
            volume, solver = scheme.volume, scheme.solver
        path = travel(self.potential, z, check_times(times, z).flip(0), volume, solver=solver)
        self._report(path, backwards=True)
        return path

    def push_forward(
        self,
        base: Distribution,
        times: Tensor | Sequence[float],
        scheme: Scheme = ODEOptions(),  # noqa: B008 - frozen
        divergence: Estimator | None = Exact(),  # noqa: B008 - frozen
        validate_args: bool | None = None,
    ) -> PushForward:
        """Transport a distribution: give that of the end of the flow when its start has the distribution ``base``.

        Args:
            base: The distribution at ``times[0]``, with events of shape ``(dim,)``.
            times: The times of the flow, from its start to its end.
            scheme: See :meth:`inverse`.
            divergence: See :meth:`integrate`.
            validate_args: Whether to check the points at which the density is asked; None for torch's default.

        Returns:
            The distribution. Its methods raise what :meth:`integrate` and :meth:`inverse` raise.

        Raises:
            TypeError: If ``base`` is not a distribution, or ``scheme`` no scheme.
            ValueError: If the events of ``base`` are not vectors; later, from the log-densities, if there is no volume,
                or the stochastic one of a discrete scheme in evaluation mode.

        Example:
            >>> from torch.distributions import Independent, Normal
            >>> from latentflow import QuadraticPotential
            >>> base = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
            >>> spread = HopfLaxFlow(QuadraticPotential(2, torch.eye(2))).push_forward(base, [0.0, 2.0])  # z -> 3 z
            >>> z = torch.randn(5, 2)
            >>> expected = Independent(Normal(torch.zeros(2), 3 * torch.ones(2)), 1)
            >>> torch.testing.assert_close(spread.log_prob(z), expected.log_prob(z))
        """
        check_scheme(scheme, divergence)
        exact = None if divergence is None else Exact()
        return PushForward(base, _Characteristics(self, times, scheme, exact), validate_args)

    def _report(self, path: Path, *, backwards: bool = False) -> None:
        if path.folded is not None:
            folded, times = (x.flip(0) if backwards else x for x in (path.folded, path.times))
            report_fold(folded, times.detach(), self.fold_policy, PATHS_MEET)


class _Characteristics(ScheduledFlow):
    """The map of a flow along straight paths from the first to the last of its times."""

    flow: HopfLaxFlow

    def walk(self, z: Tensor, volume: Volume | None) -> Path:
        """Follow the flow from its start on the grid of a discrete scheme."""
        times = torch.tensor(grid(self.times, z), dtype=torch.float64)
        path = travel(self.flow.potential, z, times, volume)
        self.flow._report(path)
        return path


class HopfLaxPotential(Potential):
    r"""The potential that solves :math:`\partial_t u + \tfrac12 |\nabla u|^2 = 0` from :math:`u(\cdot, 0) = u_0`.

    .. math:: u(z, t) = u_0(y) + \frac{|z - y|^2}{2t}, \qquad z = y + t \nabla u_0(y)

    The velocity is constant along straight characteristics, so all derivatives are known at the start ``y``:

    .. math::
        \nabla u = v = \nabla u_0(y), \quad \partial_t u = -\tfrac12 |v|^2, \quad
        H = \nabla^2 u = H_0 (I + t H_0)^{-1}, \quad \partial_t v = -H v, \quad \partial_t^2 u = v^\top H v .

    A solver finds ``y``. It exists, and is the only one, as long as :math:`|y|^2/2 + t u_0(y)` is strongly convex: at
    all :math:`t \ge 0` for a convex :math:`u_0`, otherwise until the first shock, where characteristics meet. There a
    smooth solution ends. What the solver may still find afterwards lies on one of several characteristics.

    Derivatives reach the point, the time and the parameters of :math:`u_0` by the implicit function theorem. Each field
    of the jet can be differentiated as many times more as ``order`` of the solver says; the value that ``forward``
    gives is stationary in ``y``, and its derivatives are right up to the order ``2 * order + 1``.

    Args:
        u0: The potential to start from: any callable ``u(z, t)``. It is evaluated at ``t = 0`` only.
        solver: How to find the start of a characteristic.

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
        >>> torch.testing.assert_close(u(z, torch.zeros_like(t)), u.u0(z, torch.zeros_like(t)))
    """

    def __init__(self, u0: Field, solver: StepSolver = Newton(order=2)) -> None:  # noqa: B008 - frozen
        super().__init__()
        if not callable(u0):
            raise TypeError(f"u0: expected a callable u(z, t), got {type(u0).__name__}")
        self.u0 = as_module(u0)
        self.solver = solver

    def start(self, z: Tensor, t: Time, solver: StepSolver | None = None) -> Tensor:
        r"""Find the point ``y`` at time 0 whose characteristic :math:`y + t \nabla u_0(y)` passes through ``z``.

        Args:
            z: The points, of shape ``(*batch, dim)``.
            t: Their times: a number, ``()`` or ``(*batch,)``, of either sign.
            solver: How to find it, or None for the solver of the potential.

        Returns:
            The starts, of shape ``(*batch, dim)``.

        Raises:
            InversionError: If some are not found.
        """
        check_points(z)
        solver = self.solver if solver is None else solver
        try:
            return solver.solve(ScaledPotential(self.u0, expand_time(t, z)), z, 0.0, 1.0)
        except InversionError as error:
            raise InversionError(f"the start of a characteristic: {error}") from error

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the solution at ``z`` of shape ``(*batch, dim)`` and ``t``; the result is ``(*batch,)``."""
        return self.jet_rule(z, expand_time(t, z), JetRequest()).value

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Return the derivatives in closed form from one jet of ``u0`` at the start."""
        y = self.start(z, t)
        second = second_derivatives(request)
        return carried_jet(evaluate_jet(self.u0, y, 0.0, JetRequest(hessian=second)), t, z - y, request)


def second_derivatives(request: JetRequest) -> bool:
    """Say whether a request asks for more than value, gradient and time derivative."""
    return request != JetRequest()


def carried_jet(initial: Jet, t: Tensor, displacement: Tensor, request: JetRequest) -> Jet:
    r"""Carry a jet along its characteristic.

    Args:
        initial: The jet of :math:`u_0` at the start, with the Hessian if any second derivative is wanted.
        t: The times, of shape ``(*batch,)``.
        displacement: How far the points are from the start, of shape ``(*batch, dim)``: :math:`t \nabla u_0` up to the
            error of the solver, to which the value is insensitive.
        request: The second derivatives wanted.

    Returns:
        The jet of the solution.
    """
    velocity = initial.gradient
    square = velocity.square().sum(-1)
    # u0(y) + v.(z - y) - t |v|^2 / 2 needs no division by t, and its derivative in y vanishes at the root
    value = initial.value + (velocity * displacement).sum(-1) - t / 2 * square
    if not second_derivatives(request):
        return Jet(value, velocity, -square / 2)
    if initial.hessian is None:
        raise ValueError("u0: expected its jet_rule to return the Hessian that was asked for, got None")
    eye = torch.eye(velocity.shape[-1], dtype=velocity.dtype, device=velocity.device)
    hessian: Tensor = torch.linalg.solve(eye + t[..., None, None] * initial.hessian, initial.hessian)
    along = (hessian @ velocity.unsqueeze(-1)).squeeze(-1)
    probes = request.probes
    products = None if probes is None else probes @ hessian.mT
    return Jet(
        value,
        velocity,
        -square / 2,
        laplacian=hessian.diagonal(dim1=-2, dim2=-1).sum(-1) if request.laplacian else None,
        hessian=hessian if request.hessian else None,
        quadratic=None if probes is None or products is None else (probes * products).sum(-1),
        products=products if request.products else None,
        second_time_derivative=(velocity * along).sum(-1) if request.second_time_derivative else None,
        gradient_time_derivative=-along if request.gradient_time_derivative else None,
    )


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


def log_dets(hessian: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    r"""Compute :math:`\log|\det(I + tH)| = \sum_i \log|1 + t \lambda_i|` at all times.

    Gradients, to the matrix and the times, are those of the determinant, :math:`t (I + tH)^{-1}`, so that equal
    eigenvalues do no harm, in second derivatives either.

    Args:
        hessian: Symmetric matrices, of shape ``(*batch, dim, dim)``.
        times: The times, of shape ``(T,)``.

    Returns:
        The log-determinants, of shape ``(T, *batch)``, and without a graph the factors :math:`1 + t \lambda_i` by
        increasing :math:`\lambda_i`, of shape ``(T, *batch, dim)``.
    """
    log_det, factors = _LogDets.apply(hessian, times)  # type: ignore[no-untyped-call]
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
