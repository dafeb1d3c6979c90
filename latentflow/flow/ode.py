"""The continuous flow by a solver of ordinary differential equations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint
from torchdiffeq._impl.fixed_adams import AdamsBashforthMoulton
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.rk_common import RKAdaptiveStepsizeODESolver

from latentflow.calculus import Estimator, Exact, JetRequest, evaluate_jet
from latentflow.calculus.checks import MAX_STEPS, check_flag, check_instance, check_positive, describe, expand_time
from latentflow.calculus.jets import NONE, check_requires, outside_autocast
from latentflow.calculus.operators import check_estimator
from latentflow.flow.trajectory import (
    RunningCost,
    Times,
    Trajectory,
    check_finite,
    check_numbers,
    check_times,
    evaluate_cost,
)

State: TypeAlias = tuple[Tensor, ...]
"""The parts of the state of an equation: the points first, then one number or more for each of them."""


SCIPY = "scipy_solver"


LANDINGS = {"jump_t", "step_t"}


LONG_STEP_ORDER = 5
"""The highest order of a method that may start with a long step: the error estimate of dopri8 is too small for it."""


PROBES = 128
"""In how many parts a look ahead divides the time."""

MAX_ADAPTIVE_STEPS = 10_000
"""After how many steps an adaptive method gives up in an interval, unless ``max_num_steps`` says otherwise."""


FEWEST_PROBES = 8
"""In how many parts it is divided at least, where a potential holds data of each sample."""

PROBED_POINTS = 8
"""How many of the points a look ahead follows, where it does not."""

NOISE = 512
"""The least fourth difference that is no rounding error, in units of it."""

RESOLVED = 3.0
"""The longest step, in units of the length on which the velocity changes."""


class SolverError(RuntimeError):
    """The ODE solver gave up: its steps became too small or too many, or its state left the finite numbers."""


@dataclass(frozen=True)
class ODE:
    r"""A solver of the continuous flow: the arguments of torchdiffeq's ``odeint``, and the way to the divergence.

    **Which method.** ``"dopri5"`` for most flows; ``"dopri8"`` for tolerances below 1e-8; ``"bosh3"`` or
    ``"adaptive_heun"`` where 1e-2 is enough. Fixed-grid methods (``"euler"``, ``"midpoint"``, ``"rk4"``, ...) take one
    step from each requested time to the next, or equal steps of at most ``h`` with ``options={"step_size": h}``. All of
    these step on every requested time: what torchdiffeq interpolates is less accurate than what it steps on. The Adams
    methods need equal steps throughout, so let ``h`` divide the intervals. ``"scipy_solver"`` with
    ``options={"solver": "LSODA"}`` (or ``"BDF"``, ``"Radau"``) is for stiff potentials; it runs in numpy, and has
    gradients with ``adjoint=True`` only.

    **Steps.** Adaptive methods up to order 5 first try the whole of the first interval, which is enough along straight
    paths, and cut it down where the error is too large; ``options={"first_step": h}`` starts any of them at ``h``.
    An error estimate sees nothing of a pulse between its own few times. So one evaluation of the velocity, without its
    divergence, looks ahead first, at 129 times and up to 8 of the points, each on a straight line; where the velocity
    changes quickly, the solver has to step on times that are as close. What is shorter than 1/128 of the whole time, or
    is off these lines, may still be missed: bound the steps by ``options={"max_step": h}``, with which nothing looks
    ahead. A potential with data of each sample is looked at for all samples, at fewer times, 8 or more.

    An adaptive method gives up after 10,000 steps in one interval (``options={"max_num_steps": n}``), equal steps are
    at most a million in all.

    **Tolerances.** The defaults suit float32, whose error does not fall below about 4e-7 whatever is asked for. In
    float64 use ``rtol=1e-7, atol=1e-9``. The points, the log-determinant, the action and a running cost are each held
    to them; a log-determinant by random probes, whose own error is far larger, to ``dim`` times as much. Adaptive
    methods choose one step for the whole batch from the root mean square of the errors, so a sample alone and the same
    sample in a batch agree to about the tolerance, not to the last digit; fixed-grid methods treat each sample alone.

    **Stiffness.** The Jacobian of the velocity is the symmetric Hessian, and a step ``h`` along an eigenvalue
    :math:`\lambda < 0` is stable for :math:`h|\lambda| < 2` (Euler, midpoint), 2.8 (``rk4``), 3.3 (``dopri5``).
    Adaptive methods find that step and become slow.

    **Jumps in time**, as of a ``SwitchedPotential``: give ``options={"jump_t": [4.0]}`` to an adaptive method. On a
    fixed grid let the switch be a grid point and give ``options={"perturb": True}``, so that a step reads the potential
    of its own side.

    **Adjoint.** ``adjoint=True`` solves a second equation backwards in time instead of keeping the graph: memory does
    not grow with the number of steps. Its gradients carry an error of the size of the tolerance (of the step, on a
    fixed grid), cannot be differentiated again, and reach the starting points, the times, and the registered parameters
    and buffers of the potential and of the running cost; a tensor that a plain function has closed over gets none.
    Where the backward solution fails, the error is torchdiffeq's own AssertionError.

    Args:
        method: The name of a solver of torchdiffeq.
        rtol: The relative tolerance; fixed-grid methods ignore it.
        atol: The absolute tolerance; fixed-grid methods ignore it.
        adjoint: Whether to compute gradients by the adjoint equation.
        options: What else the solver takes: ``step_size``, ``perturb``, ``jump_t``, ``max_num_steps``, ``dtype``, ...
        divergence: How to obtain the divergence :math:`\Delta u` of the velocity, whose integral is the
            log-determinant; None to leave it out. The noise of a stochastic estimator is drawn once for the whole
            trajectory, so that the solver sees a smooth equation.

    Raises:
        ValueError: If the method is unknown, or a tolerance or ``step_size`` is not a positive number.

    References:
        | torchdiffeq (Chen, 2018)
        | https://github.com/rtqichen/torchdiffeq
        | Neural Ordinary Differential Equations (Chen et al., 2018)
        | https://arxiv.org/abs/1806.07366

    Example:
        >>> from latentflow import PotentialFlow, QuadraticPotential
        >>> flow = PotentialFlow(QuadraticPotential(1, torch.eye(1)))
        >>> steps = ODE("rk4", options={"step_size": 0.1})
        >>> trajectory = flow.integrate(torch.ones(3, 1), [0.0, 1.0], steps)
        >>> torch.testing.assert_close(trajectory.z[-1], torch.full((3, 1), math.e), rtol=1e-5, atol=0)
    """

    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    adjoint: bool = False
    options: Mapping[str, object] | None = field(default=None, hash=False)
    divergence: Estimator | None = Exact()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        if not isinstance(self.method, str) or self.method not in SOLVERS:
            raise ValueError(f"method: expected one of {', '.join(map(repr, SOLVERS))}, got {describe(self.method)}")
        check_flag("adjoint", self.adjoint)
        if self.options is not None:
            check_instance("options", self.options, Mapping, "a dictionary or None")
        if self.divergence is not None:
            check_estimator("divergence", self.divergence)
        step_size = (self.options or {}).get("step_size", 1.0)
        for name, number in (("rtol", self.rtol), ("atol", self.atol), ("step_size", step_size)):
            check_positive(name, cast("float", number))

    @property
    def density(self) -> Estimator | None:
        """The source of the log-determinant, or None."""
        return self.divergence

    def without_density(self) -> ODE:
        """Return the scheme without a log-determinant."""
        return replace(self, divergence=None)

    def follow(self, potential: nn.Module, z0: Tensor, times: Times, cost: RunningCost | None = None) -> Trajectory:
        """Follow the continuous flow of a potential from ``z0``; see :meth:`Flow.follow`."""
        return ode_trajectory(potential, z0, check_times(times, z0), self, cost)

    def invert(self, potential: nn.Module, z: Tensor, times: Times) -> Trajectory:
        """Follow the continuous flow of a potential back from its end; errors grow where the flow contracts."""
        return ode_trajectory(potential, z, check_times(times, z).flip(0), self)


class _Watch:
    """The right-hand side, which remembers where the solver called it last."""

    def __init__(self, rates: Callable[[Tensor, State], State], scales: Sequence[float]) -> None:
        self.rates = rates
        self.scales = scales
        self.time = torch.tensor(math.nan)
        self.last: State = ()
        self.broken = False
        self.busy = False

    def __call__(self, t: Tensor, state: State) -> State:
        self.time = t.detach()
        self.busy = True
        self.last = self.rates(t, state)
        self.busy = False
        return self.last

    def where(self) -> str:
        return f"near t = {float(self.time):g}"

    def largest_error(self, errors: State) -> Tensor:
        """Return the largest root mean square of the parts; infinite, so that the step is cut down, where it is NaN."""
        scaled = [part.square().mean().sqrt() / scale for part, scale in zip(errors, self.scales, strict=True)]
        worst = torch.stack(scaled).max()
        self.broken = not bool(torch.isfinite(worst))
        return worst.nan_to_num(nan=math.inf, posinf=math.inf)


def solve(
    rates: Callable[[Tensor, State], State],
    start: State,
    times: Tensor,
    ode: ODE,
    scales: Sequence[float],
    parameters: Sequence[Tensor] = (),
    stops: Tensor | None = None,
) -> State:
    """Solve an equation for the parts of a state, of shape ``(T+1, *shape)`` each.

    The error of a part is weighed by its scale, and the largest one decides over a step; the adjoint equation
    differentiates with respect to the parameters. Adaptive methods step on the ``stops`` as well. A SolverError says
    that the solver gives up.
    """
    method, options = ode.method, dict[str, Any](ode.options or {})
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in (*start, times, *parameters))
    if method == SCIPY and tracked and not ode.adjoint:
        raise ValueError(
            "ode: expected adjoint=True with 'scipy_solver', which keeps no graph, or no gradients (torch.no_grad), "
            "got adjoint=False"
        )
    if start[0].numel() == 0:  # the error norms of adaptive methods are NaN for no samples; nothing moves anyway
        method, options = "euler", {}
    watch = _Watch(rates, scales)
    landings: dict[str, Tensor] = {}
    if issubclass(SOLVERS[method], RKAdaptiveStepsizeODESolver):
        landings = _landings(options, times.detach(), stops)
        options.setdefault("dtype", times.dtype)
        options.setdefault("norm", watch.largest_error)
        options.setdefault("max_num_steps", MAX_ADAPTIVE_STEPS)
        if len(times) > 1 and SOLVERS[method].order <= LONG_STEP_ORDER:
            options.setdefault("first_step", 1.001 * (times[1] - times[0]).detach().abs())  # it is cut down to the time
    elif "step_size" in options:
        length = options["step_size"]
        steps = sum(math.ceil(abs(after - before) / length - 1e-6) for before, after in pairwise(times.tolist()))
        if steps > MAX_STEPS:
            raise ValueError(
                f"step_size: expected at most {MAX_STEPS:,} steps, got {steps:,}; use a larger one than {length:g}, an "
                "adaptive method, or several calls"
            )
        if "grid_constructor" not in options and not _is_adams(method):
            options["grid_constructor"] = partial(_subdivide, options.pop("step_size"))
    options |= landings
    arguments = {"rtol": ode.rtol, "atol": ode.atol, "method": method, "options": options}
    try:
        if ode.adjoint and tracked:
            back = {name: option for name, option in options.items() if name not in ("norm", "first_step")}
            if len(times) > 1 and times[0] > times[1]:  # torchdiffeq solves in negated time and does not negate these
                back |= {name: -option for name, option in landings.items()}
            extra = {"adjoint_params": tuple(parameters), "adjoint_options": back}
            solution = odeint_adjoint(watch, start, times, **arguments, **extra)
        else:
            solution = odeint(watch, start, times, **arguments)
    except (AssertionError, RuntimeError, ValueError) as error:
        explained = None if watch.busy else _explain(error, watch, method)
        if explained is None:
            raise
        raise explained from error
    return tuple(solution)


def _landings(options: Mapping[str, object], times: Tensor, stops: Tensor | None) -> dict[str, Tensor]:
    """Make the solver step on the requested times: what it interpolates is less accurate than its tolerance says."""
    given = {
        name: torch.as_tensor(options[name], dtype=times.dtype, device=times.device)
        for name in LANDINGS & options.keys()  # a list would keep its sign when time runs backwards
    }
    own = [times[1:], given.get("step_t", times[:0]), times[:0] if stops is None else stops]
    steps: Tensor = torch.cat(own).unique()  # type: ignore[no-untyped-call]  # torch has no types for it
    if "jump_t" in given:
        steps = steps[~torch.isin(steps, given["jump_t"])]
    return given | {"step_t": steps}


@torch.no_grad()
def quick_changes(potential: nn.Module, z0: Tensor, times: Tensor, ode: ODE) -> Tensor | None:
    r"""Look ahead along straight lines, and return times close enough together where the velocity changes quickly.

    At even times :math:`t_j` a fourth difference of the velocity ``v`` shows the length on which it changes,

    .. math:: \ell_j = (t_{j+1} - t_j)\,(\max_i |v_i - v_0| / |\delta^4 v_j|)^{1/4} ,

    and the times divide :math:`\int dt / \ell` into equal parts, none where ``v`` is a cubic of the time. Points whose
    velocity does not change by more than the tolerance do not count. The result is None if the look ahead fails.
    """
    flat = z0.detach().reshape(-1, z0.shape[-1])
    if len(times) < 2 or flat.numel() == 0:
        return None
    few = flat[:: -(-len(flat) // PROBED_POINTS)] if len(flat) > PROBED_POINTS else z0.detach()
    tries = [(few, PROBES)]
    if len(flat) > PROBED_POINTS:  # for a potential with data of each sample
        tries.append((z0.detach(), min(PROBES, max(FEWEST_PROBES, PROBED_POINTS * PROBES // len(flat)))))
    for z, parts in tries:
        fractions = torch.linspace(0, 1, parts + 1, dtype=times.dtype, device=times.device)
        t = times[0].detach() + (times[-1] - times[0]).detach() * fractions
        try:
            velocity = _velocity_ahead(potential, z, t)
        except Exception:  # what is wrong with the potential, the solver meets and names
            continue
        return _times_between(velocity, t, z.norm(dim=-1) * ode.rtol + ode.atol, times.detach())
    return None


def _velocity_ahead(potential: nn.Module, z: Tensor, t: Tensor) -> Tensor:
    """Compute the velocity at times ``(J,)`` on the straight lines from ``z``, of shape ``(J, *batch, dim)``."""
    first = evaluate_jet(potential, z, t[0], JetRequest()).gradient
    lines = z + (t - t[0]).to(z).reshape(-1, *(1,) * z.ndim) * first
    clock = t.to(z).reshape(-1, *(1,) * (z.ndim - 1)).expand(lines.shape[:-1])
    return evaluate_jet(potential, lines, clock, JetRequest()).gradient


def _times_between(velocity: Tensor, t: Tensor, tolerance: Tensor, times: Tensor) -> Tensor:
    """Divide the times ``t`` ``(J,)`` by the lengths on which the velocity changes, apart from the requested times."""
    change = (velocity - velocity[0]).norm(dim=-1).amax(0)
    sharp = velocity.diff(n=4, dim=0).norm(dim=-1)
    noise = NOISE * torch.finfo(velocity.dtype).eps * velocity.norm(dim=-1).amax(0)
    counts = (change * (t[-1] - t[0]).abs().to(change) > tolerance) & (sharp > noise)
    rate = (
        torch.where(counts, sharp / change, 0.0).nan_to_num(0.0, 0.0).reshape(len(sharp), -1).amax(1).pow(0.25)
        / RESOLVED
    )
    passed = torch.cat([rate[:1], rate[:1], rate, rate[-1:], rate[-1:]]).double().cumsum(0)
    whole = torch.arange(1, int(passed[-1]) + 1, dtype=passed.dtype, device=passed.device)
    found = t[torch.searchsorted(passed, whole).clamp(max=len(t) - 1)].unique()  # type: ignore[no-untyped-call]  # torch has no types for it
    apart = (found.unsqueeze(-1) - times).abs().amin(-1) > (t[1] - t[0]).abs() / 2
    stops: Tensor = found[apart]
    return stops


def _is_adams(method: str) -> bool:
    return issubclass(SOLVERS[method], AdamsBashforthMoulton)


def _subdivide(step_size: float, rates: object, start: Tensor, times: Tensor) -> Tensor:  # noqa: ARG001 - its signature
    """Divide each interval between requested times into equal steps."""
    grid = []
    for before, after in pairwise(times):
        count = max(1, math.ceil(abs(float((after - before).detach())) / step_size - 1e-6))
        fractions = torch.arange(count, dtype=times.dtype, device=times.device) / count
        grid.append(before + (after - before) * fractions)
    return torch.cat([*grid, times[-1:]])


def _explain(error: Exception, watch: _Watch, method: str) -> SolverError | None:
    text = str(error)
    if method == SCIPY and "invalid for input of size" in text:  # a solution of fewer times than asked for
        return SolverError(f"scipy's solver stopped {watch.where()}; loosen rtol and atol, or use a smoother potential")
    if text.startswith(("underflow in dt", "non-finite values in state", "array must not contain infs or NaNs")):
        if watch.broken or not all(bool(torch.isfinite(part).all()) for part in watch.last):
            return SolverError(
                f"the velocity or its divergence is not finite {watch.where()}; use a smoother potential, "
                "or start from points where it is finite"
            )
        return SolverError(
            f"the step became too small {watch.where()}; loosen rtol and atol, use a fixed step such as "
            'ODE("rk4", options={"step_size": 0.05}), or a smoother potential'
        )
    if text.startswith("max_num_steps"):
        return SolverError(
            f"the solver used up max_num_steps {watch.where()}; raise it, loosen rtol and atol, "
            "or use a smoother potential"
        )
    return None


class _Rates:
    """The derivative of (z, [log_det,] action[, cost]) from one jet."""

    def __init__(self, potential: nn.Module, divergence: Estimator | None, cost: RunningCost | None) -> None:
        self.potential = potential
        self.divergence = divergence
        self.cost = cost
        self.requires = NONE if cost is None else check_requires(cost.requires)

    def __call__(self, t: Tensor, state: State) -> State:
        z = state[0]
        request = JetRequest() if self.divergence is None else self.divergence.request(self.potential, z, t)
        jet = evaluate_jet(self.potential, z, t, request.including(self.requires))
        rates = [jet.gradient]
        if self.divergence is not None:
            rates.append(self.divergence.laplacian(jet))
        rates.append(jet.gradient.square().sum(-1))
        if self.cost is not None:
            rates.append(evaluate_cost(self.cost, jet, z, expand_time(t, z)))
        return tuple(rates)


def _learnable(module: object) -> list[Tensor]:
    if not isinstance(module, nn.Module):
        return []
    return [*module.parameters(), *(buffer for buffer in module.buffers() if buffer.requires_grad)]


@outside_autocast
def ode_trajectory(
    potential: nn.Module, z0: Tensor, times: Tensor, scheme: ODE, cost: RunningCost | None = None
) -> Trajectory:
    r"""Follow the continuous flow: solve for points, log-determinant, action and cost together.

    .. math::
        \dot z = \nabla u, \quad \tfrac{d}{dt} \log|\det \partial z_t / \partial z_0| = \Delta u, \quad
        \tfrac{d}{dt}\,\mathrm{action} = |\nabla u|^2, \quad \tfrac{d}{dt}\,\mathrm{cost} = c(z, t)
    """
    divergence = None if scheme.divergence is None else scheme.divergence.fixed(z0)
    check_finite(z0.unsqueeze(0), times)
    zero = z0.new_zeros(z0.shape[:-1])
    start = (z0, *(zero for part in (divergence, True, cost) if part is not None))
    rates = _Rates(potential, divergence, cost)
    scales = [1.0] * len(start)
    if divergence is not None and divergence.stochastic:
        scales[1] = max(z0.shape[-1], 1)  # the noise of the probes is far larger
    stops = None
    if issubclass(SOLVERS[scheme.method], RKAdaptiveStepsizeODESolver) and "max_step" not in (scheme.options or {}):
        stops = quick_changes(potential, z0, times, scheme)
    learnable = [*_learnable(potential), *_learnable(cost)]
    points, *rest = solve(rates, start, times, scheme, scales, learnable, stops)
    check_finite(points, times)
    log_det = None if divergence is None else rest.pop(0)
    action = rest.pop(0)
    total = None if cost is None else rest.pop(0)
    for name, values in (("log_det", log_det), ("cost", total)):
        if values is not None:
            check_numbers(name, values)
    return Trajectory(times, points, log_det, action, cost=total, scheme=scheme)
