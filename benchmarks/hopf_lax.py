"""Hamilton-Jacobi dynamics by construction, against steps along a potential, with and without a trained residual."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import Aim, Comparison, Part
from benchmarks.text import duration, times
from benchmarks.timing import Plan, check_close, measure
from latentflow import HJResidual, HopfLaxFlow, MLPPotential, PotentialFlow
from latentflow.flow import Flow, HopfLaxPotential
from latentflow_experiments.reports.tables import table

BATCH, DIM, FRAMES, HIDDEN = 64, 32, 8, (128, 128)
CASE = f"{BATCH} x {DIM}, {FRAMES} steps, width {HIDDEN[0]}"
TASK = "points, volumes and parameter gradient"
OURS, STEPS, TRAINED = "HopfLaxFlow", "PotentialFlow", "PotentialFlow + residual"
TOLERANCE = 1e-4


def draw() -> tuple[MLPPotential, Tensor]:
    """Draw a network, mild enough for paths not to meet, and points; the same ones each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MLPPotential(DIM, HIDDEN), torch.randn(BATCH, DIM)


def gradients(u: MLPPotential, objective: Callable[[], Tensor]) -> list[Tensor]:
    """Compute an objective and its gradient in the parameters that it depends on."""
    value = objective()
    parameters = [p for p in u.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return [value.detach(), *slopes]


def follow(flow: Flow, z: Tensor, residual: HJResidual | None = None) -> Tensor:
    """Return a loss of the points and log-determinants of a flow, plus the residual of its potential, if any."""
    trajectory = flow.rollout(z, FRAMES, dt=1 / FRAMES)
    assert trajectory.log_det is not None  # its log-determinant was requested
    total = (trajectory.z.square().sum(-1) + trajectory.log_det).mean()
    return total if residual is None else total + residual.loss(flow.potential, trajectory)


def run(plan: Plan) -> Iterator[Comparison]:
    """Measure the three in turn."""
    u, z = draw()
    runs = {
        OURS: partial(gradients, u, partial(follow, HopfLaxFlow(u), z)),
        STEPS: partial(gradients, u, partial(follow, PotentialFlow(u), z)),
        TRAINED: partial(gradients, u, partial(follow, PotentialFlow(u), z, HJResidual())),
    }

    def check(name: str, result: Any) -> None:  # noqa: ANN401 - of any function
        if name == OURS:  # the steps along the solution are exact
            exact = gradients(u, partial(follow, PotentialFlow(HopfLaxPotential(u)), z))
            check_close(result, exact, TOLERANCE, name)

    yield Comparison(CASE, TASK, measure(runs, plan, check))


def tables(comparisons: list[Comparison]) -> str:
    """Write the table."""
    rows = []
    for comparison in comparisons:
        for name, timing in comparison.timings.items():
            rows.append([comparison.case, name, duration(timing.median), times(comparison.ratio(name, OURS))])
    return table(["points, steps, width", "dynamics", "one training step", f"time / {OURS}"], rows, left=2)


def aims(comparisons: list[Comparison]) -> list[Aim]:
    """Compare with the aim: nothing that trains a residual is quicker than what needs none."""
    result = []
    for comparison in comparisons:
        gain = comparison.ratio(TRAINED, OURS)
        text = f"{OURS} quicker than a rollout with a trained residual"
        reason = "the eigenvalue decomposition takes longer than the determinants and the residual of all steps"
        result.append(Aim(text, f"{times(gain)} at {comparison.case}", gain > 1, reason))
    return result


PART = Part("hopf_lax", run, tables, aims)
