"""A training objective through ``torch.compile``, by this library and by ``torch.func``."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from benchmarks.automatic import JetFunction, trace_of_jacobian, trace_of_products
from benchmarks.jets import GRADIENT, TOLERANCE, Size
from benchmarks.record import Aim, Comparison, Part
from benchmarks.text import duration, times
from benchmarks.timing import Plan, check_close, measure
from latentflow import HJResidual, PotentialFlow
from latentflow.flow import FirstOrder
from latentflow_experiments.reports.tables import table

Objective: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps points ``(batch, dim)`` and times ``(batch,)`` to a loss ``()``."""

OURS = "latentflow"
OTHERS: dict[str, JetFunction] = {
    "torch.func, jvp of grad": trace_of_products,
    "torch.func, jacrev of grad": trace_of_jacobian,
}
REFUSED = "torch.func, jvp of grad"
"""What the compiler of torch 2.13 refuses, and does not recover from in the same process."""
SIZES = (Size(128, 16, 64), Size(512, 43, 256))
EAGER, COMPILED = "eager", "compiled"


def by_latentflow(u: nn.Module) -> Objective:
    """Return the objective: the Hamilton-Jacobi loss at the points, and the mean log-determinant of one step there."""
    residual, flow = HJResidual(), PotentialFlow(u)

    def objective(z: Tensor, t: Tensor) -> Tensor:
        determinant = flow.step(z, t, log_det=FirstOrder()).determinant
        assert determinant is not None  # as a log_det was given
        return residual.loss(u, (z, t)) + determinant.log_det.mean()

    return objective


def by_func(u: nn.Module, function: JetFunction) -> Objective:
    """Return the same objective from one jet by automatic differentiation."""

    def objective(z: Tensor, t: Tensor) -> Tensor:
        _, gradient, time_derivative, laplacian = function(u, z, t)
        residual = time_derivative + gradient.square().sum(-1) / 2
        return residual.square().mean() + (1 + laplacian).abs().log().mean()

    return objective


def step(objective: Objective, parameters: list[nn.Parameter], z: Tensor, t: Tensor) -> tuple[Tensor, ...]:
    """Compute the objective and its gradient with respect to the parameters."""
    loss = objective(z, t)
    return loss, *torch.autograd.grad(loss, parameters)


@contextmanager
def cold_compiler() -> Iterator[None]:
    """Compile without caches on the disk, and without the compiler's messages."""
    torch._dynamo.reset()
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch._inductor.config.patch(force_disable_caches=True):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def compare(size: Size, plan: Plan) -> Comparison:
    """Time the objectives, eager and compiled, at one size."""
    u, z, t = size.inputs()
    parameters = [parameter for parameter in u.parameters() if parameter.requires_grad]
    objectives = {OURS: by_latentflow(u), **{name: by_func(u, function) for name, function in OTHERS.items()}}
    runs: dict[str, Callable[[], Any]] = {}
    facts: dict[str, Any] = {"seconds to compile": {}, "failed": {}}
    for name, objective in objectives.items():
        runs[f"{name}, {EAGER}"] = partial(step, objective, parameters, z, t)
        if name == REFUSED:
            continue
        compiled = partial(step, torch.compile(objective, dynamic=False), parameters, z, t)
        start = time.perf_counter()
        with cold_compiler():
            compiled()
        facts["seconds to compile"][name] = time.perf_counter() - start
        runs[f"{name}, {COMPILED}"] = compiled
    expected = runs[f"{OURS}, {EAGER}"]()

    def check(name: str, result: Any) -> None:  # noqa: ANN401 - of any function
        check_close(result, expected, TOLERANCE[GRADIENT], f"{size}, {name}")

    return Comparison(str(size), "objective and parameter gradient", measure(runs, plan, check), facts)


def refusal() -> str:
    """Say how the compiler refuses; leaves torch in a state in which nothing else should be measured."""
    u, z, t = SIZES[0].inputs()
    try:
        with cold_compiler():
            step(torch.compile(by_func(u, OTHERS[REFUSED]), dynamic=False), list(u.parameters()), z, t)
    except Exception as error:  # whatever the compiler raises is a finding
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    raise AssertionError(f"{REFUSED}: expected a refusal by the compiler; it compiles now, so time it")


def run(plan: Plan) -> Iterator[Comparison]:
    """Measure both sizes, then see what does not compile."""
    comparisons = [compare(size, plan) for size in SIZES]
    reason = refusal()
    for comparison in comparisons:
        comparison.facts["failed"][REFUSED] = reason
        yield comparison


def tables(comparisons: list[Comparison]) -> str:
    """Write the table."""
    rows = []
    for comparison in comparisons:
        for name in (OURS, *OTHERS):
            eager, compiled = f"{name}, {EAGER}", f"{name}, {COMPILED}"
            row = [comparison.case, name, duration(comparison.timings[eager].median)]
            if compiled in comparison.timings:
                gain, compiling = comparison.ratio(eager, compiled), comparison.facts["seconds to compile"][name]
                row += [duration(comparison.timings[compiled].median), times(gain), duration(compiling)]
            else:
                row += ["does not compile", "", ""]
            rows.append(row)
    text = table(["points, width", "", EAGER, COMPILED, "eager / compiled", "time to compile"], rows, left=2)
    failures = sorted({item for comparison in comparisons for item in comparison.facts["failed"].items()})
    return "\n\n".join([text, *(f"{name} does not compile here: `{why}`" for name, why in failures)])


def aims(comparisons: list[Comparison]) -> list[Aim]:  # noqa: ARG001 - of every part
    """None were set: the numbers say what compiling changes."""
    return []


PART = Part("compiled", run, tables, aims)
