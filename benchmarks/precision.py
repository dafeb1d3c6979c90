"""Errors in single and double precision against closed forms: ``python -m benchmarks.precision``.

The inputs and weights are numbers of float32, so that both precisions are given the same problem. An error is the
largest difference from the closed form, in float64, divided by one plus the size of what is computed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal

from benchmarks.oracles import EQUATIONS_AND_TRANSPORT, Answer, Case, answered, draw, symmetric
from benchmarks.record import ROOT
from latentflow import (
    ODE,
    DiffusionPrior,
    Euler,
    FunctionPotential,
    HJResidual,
    MLPPotential,
    PotentialFlow,
    QuadraticPotential,
    SlogDet,
    gradient,
    hessian,
    laplacian,
)
from latentflow.flow import FirstOrder
from latentflow_experiments.records import provenance, write_text
from latentflow_experiments.reports.tables import table, write_block

NUMBERS, PAGE = ROOT / "docs" / "precision.json", ROOT / "docs" / "verification.md"
DTYPES = (torch.float64, torch.float32)


def network(dim: int, width: int) -> MLPPotential:
    """Build a network whose weights are numbers of float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MLPPotential(dim, (width, width)).double()


def solution(matrix: Tensor, vector: Tensor) -> FunctionPotential:
    """The solution of the Hamilton-Jacobi equation that starts from z'Az/2 + b.z."""

    def u(z: Tensor, t: Tensor) -> Tensor:
        A, b = matrix.to(z), vector.to(z)
        eye = torch.eye(len(b), dtype=z.dtype)
        left = eye + t[..., None, None] * A
        y = torch.linalg.solve(left, (z - t.unsqueeze(-1) * b).unsqueeze(-1)).squeeze(
            -1
        )  # where the straight line began
        return ((y @ A / 2 + b) * y).sum(-1) + t / 2 * (y @ A + b).square().sum(-1)

    return FunctionPotential(u)


def derivative(name: str, dim: int, width: int) -> Callable[[torch.dtype], Answer]:
    """A derivative of a network by its rule, against nested automatic differentiation in float64."""

    def run(dtype: torch.dtype) -> Answer:
        u, z = network(dim, width), draw(8, dim, seed=1)
        time = torch.tensor(0.5).double()
        single = torch.func.vmap(
            {
                "gradient": torch.func.grad(lambda z: u(z, time)),
                "Hessian": torch.func.hessian(lambda z: u(z, time)),
                "Laplacian": lambda z: torch.func.hessian(lambda z: u(z, time))(z).trace(),
            }[name]
        )
        expected = single(z)
        operator = {"gradient": gradient, "Hessian": hessian, "Laplacian": laplacian}[name]
        return answered(operator(u.to(dtype), z.to(dtype), 0.5), expected)

    return run


def by_differences(dtype: torch.dtype) -> Answer:
    """The Laplacian of a network by central differences of its gradient, at the step that balances both errors."""
    u, z = network(64, 64), draw(8, 64, seed=1)
    expected = laplacian(u, z, 0.5)
    u, z = u.to(dtype), z.to(dtype)
    step = torch.finfo(dtype).eps ** (1 / 3)
    total = torch.zeros(8, dtype=dtype)
    for i in range(64):
        shift = torch.zeros(64, dtype=dtype)
        shift[i] = step
        total += (gradient(u, z + shift, 0.5) - gradient(u, z - shift, 0.5))[:, i] / (2 * step)
    return answered(total, expected)


def determinant(dim: int) -> Callable[[torch.dtype], Answer]:
    """The exact determinant of one step along a quadratic, by the eigenvalues."""

    def run(dtype: torch.dtype) -> Answer:
        matrix = symmetric(dim, 2)
        u = QuadraticPotential(dim, matrix).to(dtype)
        actual = PotentialFlow(u).rollout(draw(8, dim, seed=1).to(dtype), 1, log_det=SlogDet()).log_det
        assert actual is not None
        return answered(actual[-1], torch.linalg.eigvalsh(matrix).log1p().sum().expand(8))

    return run


def surrogate(dtype: torch.dtype) -> Answer:
    """The first order where it is tiny, relative to itself."""
    size = float(torch.tensor(1e-6))
    u = QuadraticPotential(1, torch.tensor([[size]]).double()).to(dtype)
    actual = PotentialFlow(u).rollout(torch.zeros(1, 1, dtype=dtype), 1, log_det=FirstOrder()).log_det
    assert actual is not None
    return actual[-1] / size, torch.tensor([math.log1p(size) / size], dtype=torch.float64), 0.0


def euler(what: str) -> Callable[[torch.dtype], Answer]:
    """Ten Euler steps along a solution of the Hamilton-Jacobi equation, which they follow exactly."""

    def run(dtype: torch.dtype) -> Answer:
        A, b, z = symmetric(8, 3), draw(8, seed=4), draw(8, 8, seed=1)
        trajectory = PotentialFlow(solution(A, b)).rollout(z.to(dtype), 10, dt=0.1)
        assert trajectory.log_det is not None
        if what == "points":
            return answered(trajectory.z[-1], z + z @ A + b)
        if what == "action":
            return answered(trajectory.action[-1], (z @ A + b).square().sum(-1))
        return answered(trajectory.log_det[-1], torch.linalg.eigvalsh(A).log1p().sum().expand(8))

    return run


def residual(dtype: torch.dtype) -> Answer:
    """The residual of a solution of the Hamilton-Jacobi equation: zero."""
    A, b, z = symmetric(8, 3), draw(8, seed=4), draw(8, 8, seed=1)
    zero = torch.zeros(8).double()
    size = (z @ A + b).square().sum(-1).max() / 2
    return HJResidual()(solution(A, b), z.to(dtype), 0.5), zero, float(size)


def linear(ode: ODE) -> Callable[[torch.dtype], Answer]:
    """The log-density at the end of a linear flow, of which the points are the hard part."""

    def run(dtype: torch.dtype) -> Answer:
        A, b, z = symmetric(8, 3), draw(8, seed=4), draw(8, 8, seed=1)
        both = torch.zeros(9, 9).double()
        both[:8, :8], both[:8, 8] = A, b
        whole = torch.linalg.matrix_exp(both)
        F, c = whole[:8, :8], whole[:8, 8]
        base = Independent(Normal(torch.zeros(8, dtype=dtype), torch.ones(8, dtype=dtype)), 1)
        flow = PotentialFlow(QuadraticPotential(8, A, b).to(dtype))
        actual = flow.push_forward(base, [0.0, 1.0], ode).log_prob(z.to(dtype))
        return answered(actual, MultivariateNormal(c, F @ F.mT).log_prob(z))

    return run


def inverted(dtype: torch.dtype) -> Answer:
    """The point from which three steps along a convex network lead to a given one."""
    A, b, z = symmetric(8, 3), draw(8, seed=4), draw(8, 8, seed=1)
    flow = PotentialFlow(QuadraticPotential(8, A, b).to(dtype))
    y = z
    for _ in range(3):
        y = y + y @ A + b
    y = y.float().double()
    expected = y
    for _ in range(3):
        expected = torch.linalg.solve(torch.eye(8).double() + A, (expected - b).mT).mT
    return answered(flow.inverse(y.to(dtype), [0.0, 1.0, 2.0, 3.0], Euler()).z[-1], expected)


def prior(dtype: torch.dtype) -> Answer:
    """The log-density of the diffusing prior in 64 dimensions."""
    module, z = DiffusionPrior(64, diffusivity=0.3), draw(8, 64, seed=1)
    raw = module.raw.detach().double()
    kappa = 1 + 2 * nn.functional.softplus(raw) * 2.0
    expected = -32 * (2 * math.pi * kappa).log() - z.square().sum(-1) / (2 * kappa)
    return answered(module.to(dtype)(2.0).log_prob(z.to(dtype)), expected)


CASES = (
    Case("gradient of a network, 64 coordinates, width 64", derivative("gradient", 64, 64)),
    Case("Laplacian of a network, 64 coordinates, width 64", derivative("Laplacian", 64, 64)),
    Case("Laplacian of a network, 324 coordinates, width 324", derivative("Laplacian", 324, 324)),
    Case("the same in 64, by differences of the gradient", by_differences),
    Case("Hessian of a network, 64 coordinates, width 64", derivative("Hessian", 64, 64)),
    Case("log-determinant of a step, 8 coordinates", determinant(8)),
    Case("log-determinant of a step, 324 coordinates", determinant(324)),
    Case("first-order log-determinant of 1e-6, relative to it", surrogate),
    Case("Hamilton-Jacobi residual of a solution", residual),
    Case("ten exact Euler steps: points", euler("points")),
    Case("ten exact Euler steps: log-determinant", euler("log_det")),
    Case("ten exact Euler steps: action", euler("action")),
    Case("three steps undone by Newton's method", inverted),
    Case("log-density by dopri5 as it comes", linear(ODE())),
    Case("log-density by rk4, 20 steps", linear(ODE("rk4", options={"step_size": 0.05}))),
    Case("log-density by dopri5, tolerance 1e-9", linear(ODE(rtol=1e-9, atol=1e-9))),
    Case("log-density of the diffusing prior, 64 coordinates", prior),
    *EQUATIONS_AND_TRANSPORT,
)


def error(answer: Answer) -> float:
    """Return the largest error of an answer, divided by one plus the size."""
    actual, expected, size = answer
    return float((actual.detach().double() - expected.detach()).abs().max()) / (1 + size)


def measure() -> dict[str, dict[str, float]]:
    """Return the error of every case in every precision."""
    return {case.name: {str(dtype)[6:]: error(case.run(dtype)) for dtype in DTYPES} for case in CASES}


def block(record: Mapping[str, Any]) -> str:
    """Write the table of a record, and where it comes from."""
    rows = [
        [name, *(f"{errors[str(dtype)[6:]]:.0e}" for dtype in DTYPES)] for name, errors in record["results"].items()
    ]
    facts = record["provenance"]
    line = (
        f"`python -m benchmarks.precision` on {facts['date'][:10]}, commit `{facts['commit']}`, Python "
        f"{facts['python']}, torch {facts['packages']['torch']}, {facts['platform']}."
    )
    return f"{table(['', 'float64', 'float32'], rows)}\n\n{line}"


def main() -> None:
    """Measure, write the numbers, and from these the table of the page."""
    record = {"provenance": provenance(), "results": measure()}
    write_text(NUMBERS, json.dumps(record, indent=1, allow_nan=False) + "\n")
    write_text(PAGE, write_block(PAGE.read_text(encoding="utf-8"), "precision", block(record)))


if __name__ == "__main__":
    main()
