"""Log-densities of a continuous flow at equal tolerance."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.competitors import (
    TOLERANCE,
    Calls,
    LogDensity,
    by_autograd,
    by_flow_matching,
    by_func,
    by_latentflow,
    by_rule,
    by_torchcfm,
    by_zuko,
)
from benchmarks.record import Aim, Comparison, Part
from benchmarks.text import duration, significant, times
from benchmarks.timing import Plan, check_close, measure
from latentflow import ODE, MLPPotential
from latentflow_experiments.reports.tables import table

BATCH, DIM, HIDDEN, SCALE = 512, 43, (64, 64), 10.0
STEEP = "steep"
FIELDS = {"smooth": 1.0, STEEP: 2.0}
OURS, COMPILED = "latentflow", "latentflow, compiled"
EXACT, PROBE = "exact divergence", "one probe"
FORWARD, GRADIENT = "log-density", "log-density and parameter gradient"
AIMS = {EXACT: 4.0, PROBE: 1.5}


def draw(steepness: float) -> tuple[MLPPotential, Tensor]:
    """Draw a potential, its inner weights multiplied by a factor, and points; the same ones each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        u = MLPPotential(DIM, HIDDEN, output_scale=SCALE)
    with torch.no_grad():
        for name, parameter in u.named_parameters():
            if name.endswith("weight") and not name.startswith(("time", "output")):
                parameter.mul_(steepness)
    return u, torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(0))


def contenders(u: nn.Module, exact: bool, train: bool) -> dict[str, tuple[LogDensity, Calls]]:
    """Return every way to compute the log-density of the flow of ``u``, each with its counter.

    Args:
        u: The potential.
        exact: Whether the divergence is exact; otherwise one probe estimates it.
        train: Whether the parameters need a gradient, which leaves out what cannot give it.

    Returns:
        The ways, by name.
    """
    parameters = list(u.parameters())
    rule, autograd, func = by_rule(u), by_autograd(u), by_func(u)
    plain = ODE(rtol=TOLERANCE, atol=TOLERANCE)
    builders: dict[str, Callable[[Calls], LogDensity]] = {
        OURS: partial(by_latentflow, copy.copy(u), plain, exact),  # a copy counts, with the same parameters
        "zuko, gradient by latentflow": partial(by_zuko, rule, parameters, exact),
        "zuko, gradient by hand": partial(by_zuko, autograd, parameters, exact),
        "torchcfm with torchdyn, gradient by latentflow": partial(by_torchcfm, rule, exact),
        "torchcfm with torchdyn, gradient by hand": partial(by_torchcfm, func, exact),
    }
    if not exact:  # the exact trace is not compiled
        builders[COMPILED] = partial(by_latentflow, copy.copy(u), plain, exact, compiled=True)
    if not train:
        builders["flow_matching, gradient by latentflow"] = partial(by_flow_matching, rule, exact)
        builders["flow_matching, gradient by hand"] = partial(by_flow_matching, autograd, exact)
    result = {}
    for name, build in builders.items():
        calls = Calls()
        result[name] = build(calls), calls
    return result


def forward(log_density: LogDensity, z: Tensor) -> tuple[Tensor, ...]:
    """Compute the log-density without a graph."""
    with torch.no_grad():
        return (log_density(z),)


def with_gradient(log_density: LogDensity, parameters: list[nn.Parameter], z: Tensor) -> tuple[Tensor, ...]:
    """Compute the gradient of the mean log-density with respect to the parameters."""
    return torch.autograd.grad(log_density(z).mean(), parameters)


def check_unbiased(actual: Tensor, expected: Tensor, name: str) -> None:
    """Check that log-densities by one random probe for each point are right on average.

    Args:
        actual: What the probes gave, of shape ``(batch,)``.
        expected: The exact log-densities, of shape ``(batch,)``.
        name: Whom the message names.

    Raises:
        AssertionError: If the mean error is more than six times its standard error.
    """
    error = (actual - expected).double()
    bound = 6 * float(error.std()) / len(error) ** 0.5
    assert abs(float(error.mean())) <= bound, f"{name}: expected a mean error below {bound}, got {float(error.mean())}"


def check_aligned(actual: Sequence[Tensor], expected: Sequence[Tensor], name: str) -> None:
    """Check that a gradient by one random probe for each point is the exact one but for noise.

    Args:
        actual: The gradient by probes.
        expected: The exact gradient.
        name: Whom the message names.

    Raises:
        AssertionError: If it differs by more than 0.6 of the exact gradient's norm.
    """
    one, other = (torch.cat([part.flatten() for part in parts]) for parts in (actual, expected))
    error = float((one - other).norm() / other.norm())
    assert error <= 0.6, f"{name}: expected a relative error below 0.6, got {error}"


def reference(u: nn.Module, z: Tensor) -> Tensor:
    """Compute the log-density in float64 at a tolerance of 1e-10, where every solver agrees."""
    ode = ODE(rtol=1e-10, atol=1e-10)
    return forward(by_latentflow(copy.deepcopy(u).double(), ode, True, Calls()), z.double())[0]


def compare(field: str, exact: bool, train: bool, plan: Plan) -> Comparison:
    """Time every way to compute the log-density."""
    u, z = draw(FIELDS[field])
    parameters = [parameter for parameter in u.parameters() if parameter.requires_grad]
    precise = reference(u, z)
    ways = contenders(u, exact, train)
    if field == STEEP:
        ways = {name: way for name, way in ways.items() if name.startswith((OURS, "zuko"))}
    expected = with_gradient(contenders(u, True, True)[OURS][0], parameters, z) if train else ()
    evaluations, errors = {}, {}

    def check(name: str, result: Any) -> None:  # noqa: ANN401 - of any function
        evaluations[name] = ways[name][1].count
        if train and exact:
            check_close(result, expected, 1e-2, name)
        elif train:
            check_aligned(result, expected, name)
        elif exact:
            check_close([result[0].double()], [precise], 1e-4, name)
            errors[name] = float((result[0] - precise).abs().max())
        else:
            check_unbiased(result[0], precise, name)

    runs: dict[str, Callable[[], Any]] = {}
    for name, (log_density, _) in ways.items():
        runs[name] = partial(with_gradient, log_density, parameters, z) if train else partial(forward, log_density, z)
    timings = measure(runs, plan, check)
    facts = {
        "divergence": EXACT if exact else PROBE,
        "field": field,
        "evaluations": evaluations,
        "errors": errors,
        "batch": BATCH,
        "dim": DIM,
        "hidden": HIDDEN,
        "tolerance": TOLERANCE,
    }
    return Comparison(f"{facts['divergence']}, {field} field", GRADIENT if train else FORWARD, timings, facts)


def run(plan: Plan) -> Iterator[Comparison]:
    """Measure exact and estimated divergences, without and with the gradient; on the steep field without alone."""
    for exact in (True, False):
        for train in (False, True):
            for field in FIELDS:
                if field != STEEP or not train:
                    yield compare(field, exact, train, plan)


def tables(comparisons: list[Comparison]) -> str:
    """Write a table for each task and field."""
    facts = comparisons[0].facts
    widths = " and ".join(map(str, facts["hidden"]))
    parts = [
        f"{facts['batch']} points in {facts['dim']} dimensions, hidden widths {widths}, absolute and relative "
        f"tolerance {facts['tolerance']:g}."
    ]
    for comparison in comparisons:
        errors = comparison.facts["errors"]
        rows = []
        for name, timing in comparison.timings.items():
            count = comparison.facts["evaluations"][name]
            gain = times(comparison.ratio(name, OURS))
            row = [name, duration(timing.median), gain, str(count), duration(timing.median / count)]
            rows.append([*row, f"{errors[name]:.0e}"] if errors else row)
        header = ["", "time", f"time / {OURS}", "evaluations", "time / evaluations"]
        text = table([*header, "largest error"] if errors else header, rows)
        parts.append(f"**{comparison.task.capitalize()}, {comparison.case}**\n\n{text}")
    return "\n\n".join(parts)


def aims(comparisons: list[Comparison]) -> list[Aim]:
    """Compare with the aims for densities: the closest competitor on either field."""
    result = []
    for divergence, least in AIMS.items():
        for task in (FORWARD, GRADIENT):
            gains = [
                (comparison.ratio(name, OURS), name, comparison)
                for comparison in comparisons
                if (comparison.facts["divergence"], comparison.task) == (divergence, task)
                for name in comparison.timings
                if name not in (OURS, COMPILED)
            ]
            gain, name, comparison = min(gains, key=lambda item: item[0])
            evaluations = comparison.facts["evaluations"]
            each = gain * evaluations[OURS] / evaluations[name]
            reason = (
                f"there the closest one makes {evaluations[name]} evaluations and the library {evaluations[OURS]}; one "
                f"of the former takes {significant(each, 2)} times as long as one of the latter, with the solver; "
                "what an evaluation is made of is listed below"
            )
            text = f"at least {least:g} x faster than each of them: {task}, {divergence}"
            measured = f"{times(gain)} against {name}, {comparison.facts['field']} field"
            result.append(Aim(text, measured, gain >= least, reason))
    return result


PART = Part("densities", run, tables, aims)
