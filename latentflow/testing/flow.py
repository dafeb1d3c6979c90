"""Checks of flows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from latentflow.calculus.checks import check_methods
from latentflow.flow import ODE, Euler, Flow, PotentialFlow, Trajectory
from latentflow.potentials.bank import has_samples
from latentflow.testing.cases import (
    check_case,
    converted,
    derivative,
    explained,
    require_close,
    require_finite,
    weighted_slopes,
)

PRECISE = ODE(rtol=1e-7, atol=1e-8)


CONTINUOUS = 1e-5


def check_flow(
    flow: Flow,
    dim: int,
    batch: Sequence[int] = (4,),
    seed: int = 0,
    tolerance: float | None = None,
) -> None:
    r"""Check a flow against its own velocity.

    Points, log-determinants and actions of a trajectory are computed anew from ``flow.velocity``, by Euler's scheme
    and by the scheme of Runge and Kutta, with the determinant of the Jacobian by automatic differentiation. Checked are

    - that the velocity is the gradient of ``flow.potential``, if there is one;
    - points, ``log_det``, ``action`` and times of ``step``, ``rollout`` and ``integrate``, and the gradients of the
      first two in the start and in the parameters;
    - that a trajectory continues from its middle, in both directions of time, and leaves ``log_det`` out if told to;
    - that ``inverse`` leads back, for both schemes, with gradients that undo those of the way forth;
    - that ``push_forward`` has the density of the change of variables, where it samples and where it is asked;
    - that no sample depends on another one; that the batch shapes ``()``, ``(0,)`` and one more dimension,
      ``torch.no_grad``, ``torch.inference_mode`` and a second call change nothing; that dtypes follow the points.

    The points are normal; the paths go from time 0.125 to 0.875, in three steps. The flow should not fold there. A
    module is copied and converted to float64 and to float32. Where its potential holds data of each sample, such as
    ``bank.select(k)``, only the given batch shape is tried.

    Args:
        flow: The flow.
        dim: The number of coordinates.
        batch: The batch shape, of at least two samples.
        seed: The seed of the points.
        tolerance: How far a tensor of the discrete flow may be off, relative to one plus its largest entry; None for
            the square root of the machine epsilon. The continuous flow is held to 1e-5, both to 1e-3 in float32.

    Raises:
        AssertionError: If the contract is broken; the message names what differs, and where.
        ValueError: If the batch shape has fewer than two samples.

    Example:
        >>> from latentflow import MLPPotential
        >>> check_flow(PotentialFlow(MLPPotential(2, (8,))), dim=2)
        >>> class Surrogate(PotentialFlow):
        ...     def rollout(self, *args, **kwargs):
        ...         found = super().rollout(*args, **kwargs)
        ...         return found if found.log_det is None else dataclasses.replace(found, log_det=0.9 * found.log_det)
        >>> import dataclasses
        >>> try:
        ...     check_flow(Surrogate(MLPPotential(2, (8,), output_scale=3.0)), dim=2)
        ... except AssertionError as error:
        ...     assert "log_det, rollout" in str(error)
    """
    check_methods("flow", flow, ("follow", "inverse"), "a Flow")
    check_case(dim, batch, seed, tolerance)
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(*batch, dim, generator=generator, dtype=torch.float64)
    limit = math.sqrt(torch.finfo(torch.float64).eps) if tolerance is None else tolerance
    case = _Case(converted(flow, torch.float64, "flow"), z, limit)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _check_velocity(case)
        _check_rollout(case)
        _check_continuation(case)
        _check_integrate(case)
        _check_inverse(case)
        _check_push_forward(case)
        _check_samples(case)
        _check_other_dtype(case, flow)


@dataclass(frozen=True)
class _Case:
    flow: Flow
    z: Tensor
    tolerance: float

    def rollout(self, where: str, z: Tensor, density: bool = True) -> Trajectory:
        with explained("rollout", where):
            if density:
                return self.flow.rollout(z, STEPS, START, DT)
            return self.flow.rollout(z, STEPS, START, DT, log_det=None)

    def require(self, name: str, actual: Tensor | None, expected: Tensor, where: str, what: str) -> None:
        if actual is None:
            raise AssertionError(f"{name}, {where}: expected {what}, got None")
        require_close(name, actual, expected, self.tolerance, where, what)


FIELDS = ("times", "z", "log_det", "action")


def _fields(trajectory: Trajectory) -> dict[str, Tensor]:
    if trajectory.log_det is None:
        raise AssertionError("log_det, rollout: expected what was asked for, got None")
    return {"times": trajectory.times, "z": trajectory.z, "log_det": trajectory.log_det, "action": trajectory.action}


def _compare(case: _Case, actual: Trajectory, expected: Trajectory, where: str, what: str) -> None:
    for name in FIELDS:
        case.require(name, getattr(actual, name), getattr(expected, name), where, what)


def _check_velocity(case: _Case) -> None:
    t = torch.linspace(0.1, 0.9, case.z[..., 0].numel(), dtype=torch.float64).reshape(case.z.shape[:-1])
    with explained("velocity", "for times of each sample's own"):
        velocity = case.flow.velocity(case.z, t)
    require_finite("velocity", velocity, "for times of each sample's own")
    require_close("velocity", velocity, torch.zeros_like(case.z), math.inf, "for a batch", "")  # its shape and dtype
    potential = getattr(case.flow, "potential", None)
    if potential is not None:
        z = case.z.clone().requires_grad_()
        slope = derivative(potential(z, t), z)
        case.require("velocity", velocity, slope, "against flow.potential", "its gradient")


def _check_rollout(case: _Case) -> None:
    z = case.z.clone().requires_grad_()
    trajectory = case.rollout("for a batch", z)
    bare = case.rollout("with log_det=None", z, density=False)
    points, action = euler(case.flow, z)
    volumes = volumes_of(points, z)
    times = torch.tensor(TIMES, dtype=torch.float64)
    found, wanted = _fields(trajectory), {"times": times, "z": points, "log_det": volumes, "action": action}
    for name, what in (("times", "start + n * dt"), ("z", "the points of Euler's scheme")):
        case.require(name, found[name], wanted[name], "rollout", what)
    case.require("z", bare.z, trajectory.z, "rollout with log_det=None", "the same points")
    if bare.log_det is not None:
        raise AssertionError("log_det, rollout with log_det=None: expected None, got a tensor")
    case.require("log_det", found["log_det"], volumes, "rollout", "log|det| of the Jacobian of the points")
    case.require("action", found["action"], action, "rollout", "the sum of dt * |velocity|^2")
    with explained("follow", "with Euler()"):
        followed = case.flow.follow(z, TIMES, Euler())
    _compare(case, followed, trajectory, "follow with Euler()", "those of rollout")
    with explained("step", "for a batch"):
        step = case.flow.step(z, START, DT) if isinstance(case.flow, PotentialFlow) else None
    if step is not None:
        case.require("z", step.z, trajectory.z[1], "step", "the first step of rollout")
        case.require("action", step.action, trajectory.action[1], "step", "the action of the first step of rollout")
    sources = _sources(case, z)
    for name in ("z", "log_det", "action"):
        _compare_slopes(case, f"{name} of rollout", found[name], wanted[name], sources)
    _compare(case, case.rollout("in a second call", case.z), trajectory, "in a second call of rollout", "the same")
    modes: list[tuple[str, Callable[[], torch.no_grad | torch.inference_mode]]] = [
        ("under torch.no_grad", torch.no_grad),
        ("under torch.inference_mode", torch.inference_mode),
    ]
    for where, mode in modes:
        with mode():
            _compare(case, case.rollout(where, case.z), trajectory, f"rollout {where}", "what it is otherwise")


def _sources(case: _Case, z: Tensor) -> dict[str, Tensor]:
    named = case.flow.named_parameters() if isinstance(case.flow, nn.Module) else ()
    return {"z0": z, **{f"parameter {name}": p for name, p in named if p.requires_grad}}


def _compare_slopes(case: _Case, name: str, actual: Tensor, expected: Tensor, sources: dict[str, Tensor]) -> None:
    with explained(f"gradient of {name}", "by reverse mode"):
        found = weighted_slopes(actual, sources)
    for source, other in weighted_slopes(expected, sources).items():
        what = "that of the same by velocity"
        case.require(f"gradient of {name} in {source}", found[source], other, "by reverse mode", what)


def _check_continuation(case: _Case) -> None:
    whole = case.rollout("for a batch", case.z)
    with explained("rollout", "from the middle of a trajectory"):
        first, rest = case.flow.rollout(case.z, 1, START, DT), case.flow.rollout(whole.z[1], STEPS - 1, START + DT, DT)
    one, two, all_ = _fields(first), _fields(rest), _fields(whole)
    case.require("z", two["z"], all_["z"][1:], "rollout from the middle of a trajectory", "the rest of the trajectory")
    for name in ("log_det", "action"):
        total = one[name][-1] + two[name][-1]
        case.require(name, total, all_[name][-1], "rollout in two parts", "the sum of the parts")
    middle = [TIMES[0], (TIMES[0] + TIMES[-1]) / 2, TIMES[-1]]
    with explained("integrate", "in two parts"):
        there = case.flow.integrate(case.z, middle, PRECISE)
        again = case.flow.integrate(there.z[1], middle[1:], PRECISE)
        back = case.flow.integrate(there.z[-1], middle[::-1], PRECISE)
    near = _Case(case.flow, case.z, CONTINUOUS)
    near.require(
        "z", again.z[-1], there.z[-1], "integrate from the middle of a trajectory", "the end of the trajectory"
    )
    near.require("z", back.z, there.z.flip(0), "integrate backwards in time", "the trajectory in reverse")
    near.require("action", back.action[-1], -there.action[-1], "integrate backwards in time", "minus that of the way")


def _check_integrate(case: _Case) -> None:
    near, z = _Case(case.flow, case.z, CONTINUOUS), case.z.clone().requires_grad_()
    with explained("integrate", "for a batch"):
        trajectory = case.flow.integrate(case.z, TIMES, PRECISE)
        bare = case.flow.integrate(case.z, TIMES, PRECISE.without_density())
    points, action = runge_kutta(case.flow, z)
    near.require(
        "times", trajectory.times, torch.tensor(TIMES, dtype=torch.float64), "integrate", "the times asked for"
    )
    near.require("z", trajectory.z, points, "integrate", "the solution of dz/dt = velocity")
    what = "log|det| of the Jacobian of the solution"
    near.require("log_det", trajectory.log_det, volumes_of(points, z), "integrate", what)
    near.require("action", trajectory.action, action, "integrate", "the integral of |velocity|^2")
    near.require("z", bare.z, trajectory.z, "integrate with divergence=None", "the same points")
    if bare.log_det is not None:
        raise AssertionError("log_det, integrate with divergence=None: expected None, got a tensor")


def _check_inverse(case: _Case) -> None:
    near, z = _Case(case.flow, case.z, CONTINUOUS), case.z.clone().requires_grad_()
    with explained("inverse", "of integrate"):
        there = case.flow.integrate(case.z, TIMES, PRECISE)
        back = case.flow.inverse(there.z[-1], TIMES, PRECISE)
    _require_way_back(near, there, back, "inverse of integrate")
    with explained("inverse", "of rollout, with Euler()"):
        steps = case.rollout("for a batch", z)
        back = case.flow.inverse(steps.z[-1], TIMES, Euler())
    _require_way_back(case, steps, back, "inverse of rollout, with Euler()")
    for where, forth in (("of a rollout", steps), ("of an integrated trajectory", there)):
        with explained("inverse", where):
            undone = case.flow.inverse(forth)
        _require_way_back(near, forth, undone, f"inverse {where}")
    _compare_slopes(near, "the start that inverse finds", back.z[-1], z, _sources(case, z))


def _require_way_back(case: _Case, there: Trajectory, back: Trajectory, where: str) -> None:
    volumes = _fields(there)["log_det"]
    expected = {
        "times": there.times.flip(0),
        "z": there.z.flip(0),
        "log_det": volumes.flip(0) - volumes[-1],
        "action": there.action.flip(0) - there.action[-1],
    }
    for name, wanted in expected.items():
        case.require(name, getattr(back, name), wanted, where, "the way forth in reverse")


def _check_push_forward(case: _Case) -> None:
    dim = case.z.shape[-1]
    base = Independent(Normal(case.z.new_zeros(dim), 1.5 * case.z.new_ones(dim)), 1)
    for scheme in (Euler(), PRECISE):
        where, limit = f"push_forward with {type(scheme).__name__}", _Case(case.flow, case.z, CONTINUOUS)
        with explained("log_prob", where):
            law = case.flow.push_forward(base, TIMES, scheme)
            sample, log_prob = law.rsample_and_log_prob(case.z.shape[:-1])
            asked = law.log_prob(sample)
            start = case.flow.inverse(sample, TIMES, scheme).z[-1].detach().requires_grad_()
        move = euler if isinstance(scheme, Euler) else runge_kutta
        at_start: Tensor = base.log_prob(start)  # type: ignore[no-untyped-call]  # torch has no types for it
        density = at_start - volumes_of(move(case.flow, start)[0][-1:], start)[0]
        limit.require("log_prob", log_prob, density, f"{where}, where it samples", "the change of variables")
        limit.require("log_prob", asked, density, f"{where}, where it is asked", "the change of variables")
        with explained("transform", where):
            map_ = case.flow.transform(TIMES, scheme)
            end = map_(start)
            log_det = map_.log_abs_det_jacobian(start, end)
        limit.require("z", map_.inv(sample), start, f"transform with {type(scheme).__name__}", "the start of the flow")
        limit.require("z", end, sample, f"transform with {type(scheme).__name__}", "the end of the flow")
        limit.require("log_det", log_det, at_start - density, "transform", "log|det| of the Jacobian")


def _check_samples(case: _Case) -> None:
    full = case.rollout("for a batch", case.z)
    moved = case.z.clone()
    moved.view(-1, moved.shape[-1])[0] += 1
    other = case.rollout("after a sample was moved", moved)
    depth = case.z.ndim - 1
    for name in ("z", "log_det", "action"):
        one, two = (_fields(trajectory)[name].flatten(1, depth)[:, 1:] for trajectory in (other, full))
        case.require(name, one, two, "rollout, of the other samples, after the first was moved", "no change")
    if has_samples(getattr(case.flow, "potential", nn.Identity())):
        return
    picks: dict[str, Callable[[Tensor], Tensor]] = {
        "for the batch shape ()": lambda x: x[0],
        "for the batch shape (0,)": lambda x: x[:0],
        "for a batch shape of two dimensions": lambda x: torch.stack([x, x]),
    }
    flat = case.z.reshape(-1, case.z.shape[-1])
    with explained("integrate", "for a batch"):
        solved = case.flow.integrate(case.z, TIMES, PRECISE)
    for where, pick in picks.items():
        paths = {"rollout": (case.rollout(where, pick(flat)), full, case.tolerance)}
        with explained("integrate", where):
            paths["integrate"] = (case.flow.integrate(pick(flat), TIMES, PRECISE), solved, CONTINUOUS)
        for method, (actual, expected, limit) in paths.items():
            for name in ("z", "log_det", "action"):
                wanted = torch.stack([pick(x) for x in _fields(expected)[name].flatten(1, depth)])
                near = _Case(case.flow, case.z, limit)
                near.require(name, _fields(actual)[name], wanted, f"{method} {where}", "what it is in a batch")


def _check_other_dtype(case: _Case, flow: Flow) -> None:
    here = _Case(converted(flow, torch.float32, "flow"), case.z.float(), 1e-3)
    loose = ODE(rtol=1e-6, atol=1e-6)
    with explained("integrate", "in float32"):
        solved = here.flow.integrate(here.z, TIMES, loose)
    pairs = [
        ("rollout", here.rollout("in float32", here.z), case.rollout("in float64", case.z)),
        ("integrate", solved, case.flow.integrate(case.z, TIMES, PRECISE)),
    ]
    for method, actual, expected in pairs:
        for name, wanted in _fields(expected).items():
            where = f"{method} in float32"
            kept = wanted if name == "times" else wanted.float()  # times keep their precision
            here.require(name, _fields(actual)[name], kept, where, "what it is in float64")


START, STEPS, DT = 0.125, 3, 0.25


TIMES = [START + n * DT for n in range(STEPS + 1)]


SUBSTEPS = 4


def euler(flow: Flow, z: Tensor) -> tuple[Tensor, Tensor]:
    """Make the steps with the velocity alone."""
    points, action = [z], [z.new_zeros(z.shape[:-1])]
    for t in TIMES[:-1]:
        velocity = flow.velocity(points[-1], t)
        points.append(points[-1] + DT * velocity)
        action.append(action[-1] + DT * velocity.square().sum(-1))
    return torch.stack(points), torch.stack(action)


def runge_kutta(flow: Flow, z: Tensor) -> tuple[Tensor, Tensor]:
    """Solve the equation of the velocity with many small steps."""
    points, action, h = [z], [z.new_zeros(z.shape[:-1])], DT / SUBSTEPS
    for start in TIMES[:-1]:
        here, spent = points[-1], action[-1]
        for i in range(SUBSTEPS):
            t = start + i * h
            one = flow.velocity(here, t)
            two = flow.velocity(here + h / 2 * one, t + h / 2)
            three = flow.velocity(here + h / 2 * two, t + h / 2)
            four = flow.velocity(here + h * three, t + h)
            here = here + h / 6 * (one + 2 * two + 2 * three + four)
            squares = [v.square().sum(-1) for v in (one, two, three, four)]
            spent = spent + h / 6 * (squares[0] + 2 * squares[1] + 2 * squares[2] + squares[3])
        points.append(here)
        action.append(spent)
    return torch.stack(points), torch.stack(action)


def volumes_of(points: Tensor, z: Tensor) -> Tensor:
    """Return the log-determinants of points ``(T+1, *batch, dim)`` as functions of the start, by reverse mode."""
    volumes = []
    for point in points:
        rows = [derivative(point[..., i], z) for i in range(z.shape[-1])]
        volumes.append(torch.linalg.slogdet(torch.stack(rows, -2)).logabsdet)
    return torch.stack(volumes)
