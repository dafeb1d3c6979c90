"""The continuous flow by a solver of ordinary differential equations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint
from torchdiffeq._impl.fixed_adams import AdamsBashforthMoulton
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.rk_common import RKAdaptiveStepsizeODESolver

from latentflow.calculus import Estimator, Jet, JetRequest, check_points, evaluate_jet, expand_time, outside_autocast
from latentflow.flow.trajectory import Path, check_finite, check_numbers, check_times

State: TypeAlias = tuple[Tensor, ...]
"""The parts of the state of an equation: the points first, then one number or more for each of them."""


SCIPY = "scipy_solver"


LANDINGS = {"jump_t", "step_t"}


LONG_STEP_ORDER = 5
"""The highest order of a method that may start with a long step: the error estimate of dopri8 is too small for it."""


class SolverError(RuntimeError):
    """The ODE solver gave up: its steps became too small or too many, or its state left the finite numbers."""


@dataclass(frozen=True)
class ODEOptions:
    r"""How to solve the equation of the continuous flow: the arguments of torchdiffeq's ``odeint``.

    **Which method.** ``"dopri5"`` for most flows; ``"dopri8"`` for tolerances below 1e-8; ``"bosh3"`` or
    ``"adaptive_heun"`` where 1e-2 is enough. Fixed-grid methods (``"euler"``, ``"midpoint"``, ``"rk4"``, ...) take one
    step from each requested time to the next, or equal steps of at most ``h`` with ``options={"step_size": h}``. All of
    these step on every requested time: what torchdiffeq interpolates is less accurate than what it steps on. The Adams
    methods need equal steps throughout, so let ``h`` divide the intervals. ``"scipy_solver"`` with
    ``options={"solver": "LSODA"}`` (or ``"BDF"``, ``"Radau"``) is for stiff potentials; it runs in numpy, and has
    gradients with ``adjoint=True`` only.

    **Steps.** Adaptive methods up to order 5 first try the whole of the first interval, which is enough along straight
    paths, and cut it down where the error is too large; ``options={"first_step": h}`` starts any of them at ``h``.

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
        >>> steps = ODEOptions("rk4", options={"step_size": 0.1})
        >>> path = flow.integrate(torch.ones(3, 1), [0.0, 1.0], steps)
        >>> torch.testing.assert_close(path.z[-1], torch.full((3, 1), math.e), rtol=1e-5, atol=0)
    """

    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    adjoint: bool = False
    options: Mapping[str, object] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if self.method not in SOLVERS:
            raise ValueError(f"method: expected one of {', '.join(map(repr, SOLVERS))}, got {self.method!r}")
        step_size = (self.options or {}).get("step_size", 1.0)
        for name, number in (("rtol", self.rtol), ("atol", self.atol), ("step_size", step_size)):
            if not (isinstance(number, (int, float)) and 0 < number < math.inf):
                raise ValueError(f"{name}: expected a positive number, got {number!r}")


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
        """Give the largest root mean square of the parts; infinite, so that the step is cut down, where it is NaN."""
        scaled = [part.square().mean().sqrt() / scale for part, scale in zip(errors, self.scales, strict=True)]
        worst = torch.stack(scaled).max()
        self.broken = not bool(torch.isfinite(worst))
        return worst.nan_to_num(nan=math.inf, posinf=math.inf)


def solve(
    rates: Callable[[Tensor, State], State],
    start: State,
    times: Tensor,
    ode: ODEOptions,
    scales: Sequence[float],
    parameters: Sequence[Tensor] = (),
) -> State:
    """Solve an equation.

    Args:
        rates: Maps a time ``()`` and a state to the derivative of each part.
        start: The state at the first time; the largest error of its parts decides over a step.
        times: The times, checked, of shape ``(T+1,)``.
        ode: The solver.
        scales: For each part, how many times the tolerance its error may be.
        parameters: What the adjoint equation has to differentiate with respect to.

    Returns:
        The parts of the state at all times, of shape ``(T+1, *shape)``.

    Raises:
        SolverError: If the solver gives up.
        ValueError: If gradients are asked of the solver of scipy without the adjoint equation.
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
        landings = _landings(options, times.detach())
        options.setdefault("dtype", times.dtype)
        options.setdefault("norm", watch.largest_error)
        if len(times) > 1 and SOLVERS[method].order <= LONG_STEP_ORDER:
            options.setdefault("first_step", (times[1] - times[0]).detach().abs())
    elif "step_size" in options and "grid_constructor" not in options and not _is_adams(method):
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


def _landings(options: Mapping[str, object], times: Tensor) -> dict[str, Tensor]:
    """Make the solver step on the requested times: what it interpolates is less accurate than its tolerance says."""
    given = {
        name: torch.as_tensor(options[name], dtype=times.dtype, device=times.device)
        for name in LANDINGS & options.keys()  # a list would keep its sign when time runs backwards
    }
    steps: Tensor = torch.cat([times[1:], given.get("step_t", times[:0])]).unique()  # type: ignore[no-untyped-call]
    if "jump_t" in given:
        steps = steps[~torch.isin(steps, given["jump_t"])]
    return given | {"step_t": steps}


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
            'ODEOptions("rk4", options={"step_size": 0.05}), or a smoother potential'
        )
    if text.startswith("max_num_steps"):
        return SolverError(
            f"the solver used up max_num_steps {watch.where()}; raise it, loosen rtol and atol, "
            "or use a smoother potential"
        )
    return None


class RunningCost(Protocol):
    r"""A rate :math:`c(z, t)` whose integral :math:`\int c(z_t, t)\,dt` along a flow is wanted.

    The flow hands over the jet that it computes anyway for the velocity. Residuals of PDEs are running costs.

    Example:
        >>> import torch
        >>> from latentflow import PotentialFlow, QuadraticPotential
        >>> class Power:  # |grad u|^2 / 2
        ...     requires = frozenset()
        ...     def running_cost(self, jet, z, t):
        ...         return jet.gradient.square().sum(-1) / 2
        >>> flow = PotentialFlow(QuadraticPotential(2, torch.eye(2)))
        >>> path = flow.integrate(torch.randn(4, 2), [0.0, 1.0], running_cost=Power())
        >>> torch.testing.assert_close(path.cost, path.action / 2)
    """

    @property
    def requires(self) -> frozenset[str]:
        """The second derivatives that it reads, see :attr:`PDEResidual.requires`; a Laplacian is the exact one."""

    def running_cost(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the rate.

        Args:
            jet: The jet of the potential.
            z: The points, of shape ``(*batch, dim)``.
            t: The times, of shape ``(*batch,)``.

        Returns:
            The rate, of shape ``(*batch,)``.
        """


def evaluate_cost(cost: RunningCost, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
    """Compute a rate and check its shape.

    Args:
        cost: The running cost.
        jet: The jet of the potential.
        z: The points, of shape ``(*batch, dim)``.
        t: The times, of shape ``(*batch,)``.

    Returns:
        The rate, of shape ``(*batch,)``.

    Raises:
        ValueError: If it has another shape.
    """
    rate = cost.running_cost(jet, z, t)
    if rate.shape != z.shape[:-1]:
        raise ValueError(f"running_cost: expected a rate of shape {tuple(z.shape[:-1])}, got {tuple(rate.shape)}")
    return rate


class _Rates:
    """The derivative of (z, [log_det,] action[, cost]) from one jet."""

    def __init__(self, potential: nn.Module, divergence: Estimator | None, cost: RunningCost | None) -> None:
        self.potential = potential
        self.divergence = divergence
        self.cost = cost
        self.required = frozenset() if cost is None else cost.requires
        JetRequest().including(self.required)  # refuses unknown names before the solver starts

    def __call__(self, t: Tensor, state: State) -> State:
        z = state[0]
        request = JetRequest() if self.divergence is None else self.divergence.request(self.potential, z, t)
        request = request.including(self.required)
        jet = evaluate_jet(self.potential, z, t, request)
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
def integrate(
    potential: nn.Module,
    z0: Tensor,
    times: Tensor | Sequence[float],
    ode: ODEOptions,
    divergence: Estimator | None,
    running_cost: RunningCost | None,
) -> Path:
    """Follow the continuous flow of a potential; see :meth:`PotentialFlow.integrate`."""
    check_points(z0)
    clock = check_times(times, z0)
    divergence = None if divergence is None else divergence.fixed(z0)
    check_finite(z0.unsqueeze(0), clock)
    zero = z0.new_zeros(z0.shape[:-1])
    start = (z0, *(zero for part in (divergence, True, running_cost) if part is not None))
    rates = _Rates(potential, divergence, running_cost)
    parameters = [*_learnable(potential), *_learnable(running_cost)]
    scales = [1.0] * len(start)
    if divergence is not None and divergence.stochastic:
        scales[1] = max(z0.shape[-1], 1)  # the noise of the probes is far larger
    points, *rest = solve(rates, start, clock, ode, scales, parameters)
    check_finite(points, clock)
    log_det = None if divergence is None else rest.pop(0)
    action = rest.pop(0)
    cost = None if running_cost is None else rest.pop(0)
    if log_det is not None:
        check_numbers("log_det", log_det)
    if cost is not None:
        check_numbers("cost", cost)
    return Path(clock.to(z0), points, log_det, action, cost=cost)
