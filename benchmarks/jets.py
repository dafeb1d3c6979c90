"""Exact jets (value, gradient, time derivative, Laplacian) of multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.automatic import JetFunction, Numbers, latentflow_jet, pina_jet, trace_of_hessian, trace_of_products
from benchmarks.record import Aim, Comparison, Part
from benchmarks.text import duration, significant, times
from benchmarks.timing import Plan, check_close, measure
from latentflow import MLPPotential
from latentflow_experiments.reports.tables import table

OURS, PRODUCTS, HESSIAN, PINA, GEMM = "latentflow", "torch.func, jvp of grad", "torch.func.hessian", "PINA", "torch.mm"
FORWARD, GRADIENT = "forward", "forward and parameter gradient"
TASKS = (FORWARD, GRADIENT)
ACROSS = "dimensions"
TOLERANCE = {FORWARD: 1e-4, GRADIENT: 1e-3}
BOUND = {FORWARD: "one", GRADIENT: "three, two of them backward"}


@dataclass(frozen=True)
class Size:
    """The size of a problem: points, coordinates, and the width of both hidden layers."""

    batch: int
    dim: int
    width: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.dim}, width {self.width}"

    def inputs(self, seed: int = 0) -> tuple[MLPPotential, Tensor, Tensor]:
        """Draw a potential, points and times; the same ones for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            u = MLPPotential(self.dim, (self.width, self.width))
        z = torch.randn(self.batch, self.dim, generator=generator)
        return u, z, torch.rand(self.batch, generator=generator)


SIZES = (
    Size(4096, 2, 32),
    Size(128, 16, 64),
    Size(512, 43, 256),
    Size(128, 64, 64),
    Size(128, 324, 64),
    Size(128, 324, 324),
)
NARROW, WIDE = Size(128, 64, 64), Size(128, 324, 64)


def scalar_loss(numbers: Numbers) -> Tensor:
    """Reduce all four outputs to one number."""
    value, gradient, time_derivative, laplacian = numbers
    squares = value.square() + gradient.square().sum(-1) + time_derivative.square() + laplacian.square()
    return squares.mean()


def forward(function: JetFunction, u: nn.Module, z: Tensor, t: Tensor) -> Numbers:
    """Compute a jet without a graph."""
    with torch.no_grad():
        return function(u, z, t)


def with_gradient(function: JetFunction, u: nn.Module, z: Tensor, t: Tensor) -> tuple[Tensor, ...]:
    """Compute a jet and the gradient of the loss of all its outputs with respect to the parameters."""
    parameters = [parameter for parameter in u.parameters() if parameter.requires_grad]
    return torch.autograd.grad(scalar_loss(function(u, z, t)), parameters, allow_unused=True)


STEPS: dict[str, Callable[..., tuple[Tensor, ...]]] = {FORWARD: forward, GRADIENT: with_gradient}


def compare(size: Size, task: str, functions: dict[str, JetFunction], plan: Plan) -> Comparison:
    """Time one task at one size, and the matrix product that bounds it."""
    u, z, t = size.inputs()
    rows, width = size.batch * min(size.dim, size.width), size.width
    left, right, out = torch.randn(rows, width), torch.randn(width, width), torch.empty(rows, width)
    expected = STEPS[task](latentflow_jet, u, z, t)

    def check(name: str, result: Any) -> None:  # noqa: ANN401 - of any function
        if name != GEMM:
            check_close(result, expected, TOLERANCE[task], f"{size}, {task}, {name}")

    runs: dict[str, Callable[[], Any]] = {
        name: partial(STEPS[task], function, u, z, t) for name, function in functions.items()
    }
    runs[GEMM] = partial(torch.mm, left, right, out=out)
    return Comparison(str(size), task, measure(runs, plan, check))


def run(plan: Plan) -> Iterator[Comparison]:
    """Measure both tasks at all sizes."""
    functions: dict[str, JetFunction] = {
        OURS: latentflow_jet,
        PRODUCTS: trace_of_products,
        HESSIAN: trace_of_hessian,
        PINA: pina_jet(),
    }
    for task in TASKS:
        for size in SIZES:
            yield compare(size, task, functions, plan)
        runs = {str(size): partial(STEPS[task], latentflow_jet, *size.inputs()) for size in (NARROW, WIDE)}
        yield Comparison(ACROSS, task, measure(runs, plan))


def tables(comparisons: list[Comparison]) -> str:
    """Write a table for each task."""
    others = (PRODUCTS, HESSIAN, PINA)
    parts = []
    for task in TASKS:
        rows = []
        for comparison in comparisons:
            if comparison.task != task or comparison.case == ACROSS:
                continue
            timings = comparison.timings
            cells = [f"{duration(timings[name].median)} ({times(comparison.ratio(name, OURS))})" for name in others]
            own, product = duration(timings[OURS].median), duration(timings[GEMM].median)
            rows.append([comparison.case, own, *cells, product, times(comparison.ratio(OURS, GEMM))])
        header = ["points, width", OURS, *others, GEMM, f"{OURS} / {GEMM}"]
        parts.append(f"**{task.capitalize()}**\n\n{table(header, rows)}")
    return "\n\n".join(parts)


def aims(comparisons: list[Comparison]) -> list[Aim]:
    """Compare with the aims for exact jets; the closer of the two ways of ``torch.func`` counts."""
    found = {(comparison.case, comparison.task): comparison for comparison in comparisons}
    result = []
    for task in TASKS:
        for least, where, chosen in (
            (5, "43 or more coordinates", [size for size in SIZES if size.dim >= 43]),
            (2, "16 coordinates", [size for size in SIZES if size.dim == 16]),
        ):
            gains = [
                (found[str(size), task].ratio(name, OURS), name, found[str(size), task])
                for size in chosen
                for name in (PRODUCTS, HESSIAN)
            ]
            gain, name, comparison = min(gains, key=lambda item: item[0])
            theirs, own = (significant(comparison.ratio(who, GEMM), 2) for who in (name, OURS))
            reason = (
                f"there the closest one takes as long as {theirs} products of matrices and the library as long as "
                f"{own}; the arithmetic of its rule is that of {BOUND[task]}"
            )
            text = f"at least {least} x faster than `torch.func` at {where}, {task}"
            result.append(Aim(text, f"{times(gain)} against {name} at {comparison.case}", gain >= least, reason))
    bound = found[str(SIZES[-1]), FORWARD].ratio(OURS, GEMM)
    reason = "reading and writing the operands of the product, as large as its result, takes time of its own"
    result.append(Aim(f"at most 1.5 matrix products at {SIZES[-1]}, forward", times(bound), bound <= 1.5, reason))
    chosen = (Size(512, 43, 256), Size(128, 324, 324))
    most, where = max((found[str(size), GRADIENT].ratio(OURS, GEMM), str(size)) for size in chosen)
    reason = "passes over arrays take time beside the three or four products that the rule makes"
    text = f"at most 4 matrix products at {chosen[0]} and at {chosen[1]}, {GRADIENT}"
    result.append(Aim(text, f"{times(most)} at {where}", most <= 4, reason))
    for task in TASKS:
        growth = found[ACROSS, task].ratio(str(WIDE), str(NARROW))
        reason = "the first layer and the gradient do have the larger dimension"
        text = f"{WIDE} no dearer than {NARROW} (within 5 %), {task}"
        result.append(Aim(text, times(growth), growth <= 1.05, reason))
    return result


PART = Part("jets", run, tables, aims)
