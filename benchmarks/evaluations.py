"""What one evaluation of a continuous flow costs beside its matrix products and activations alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.competitors import by_autograd
from benchmarks.densities import BATCH, EXACT, HIDDEN, PROBE, draw
from benchmarks.record import Aim, Comparison, Part
from benchmarks.text import duration, times
from benchmarks.timing import Plan, check_close, measure
from latentflow import Exact, Hutchinson, MLPPotential, gradient
from latentflow.calculus import Estimator, evaluate_jet
from latentflow_experiments.reports.tables import table

OURS, HAND, FLOOR = "latentflow", "autograd by hand", "products and activations alone"
TIME = 0.5


def rates(u: MLPPotential, z: Tensor, estimator: Estimator) -> tuple[Tensor, ...]:
    """Compute the velocity, its divergence and the rate of the action, as the solver asks for them."""
    t = torch.tensor(TIME)
    jet = evaluate_jet(u, z, t, estimator.request(u, z, t))
    return jet.gradient, estimator.laplacian(jet), jet.gradient.square().sum(-1)


@torch.enable_grad()
def by_hand(u: MLPPotential, z: Tensor, probe: Tensor) -> tuple[Tensor, ...]:
    """Compute the same by two calls of autograd, the second one along the probe."""
    points = z.detach().requires_grad_()
    velocity = by_autograd(u)(points, torch.full(z.shape[:-1], TIME))
    (column,) = torch.autograd.grad(velocity, points, probe)
    return velocity.detach(), (column * probe).sum(-1), velocity.detach().square().sum(-1)


def arithmetic(u: MLPPotential, z: Tensor, probe: Tensor | None) -> Callable[[], None]:
    """Prepare the matrix products and activations that the rates cannot do without, and nothing between them.

    Forward there are two products and two activations, backward two products, and along a probe two more. The exact
    divergence takes one product over the pairs of units of the first layer.
    """
    layers = u.layers()
    (first, *_), (second,) = layers.input_weights, layers.hidden_weights
    assert first is not None, "the point enters the first layer"
    h, back = z.new_empty(BATCH, HIDDEN[0]), z.new_empty(BATCH, HIDDEN[1])
    out, velocity = torch.empty_like(back), torch.empty_like(z)
    pairs = HIDDEN[0] * (HIDDEN[0] + 1) // 2
    of_slopes, of_weights = z.new_ones(BATCH, pairs), z.new_ones(pairs, HIDDEN[1])

    def run() -> None:
        torch.mm(z, first.mT, out=h)
        torch.tanh(h, out=h)
        torch.mm(h, second.mT, out=out)
        torch.tanh(out, out=out)
        torch.mm(out, second, out=back)
        torch.mm(back, first, out=velocity)
        if probe is None:
            torch.mm(of_slopes, of_weights, out=out)
        else:
            torch.mm(probe, first.mT, out=h)
            torch.mm(h, second.mT, out=out)

    return run


@torch.no_grad()
def compare(exact: bool, plan: Plan) -> Comparison:
    """Time one evaluation."""
    u, z = draw(1.0)
    estimator = (Exact() if exact else Hutchinson()).fixed(z)
    probe = None if exact else estimator.request(u, z, TIME).probes
    along = None if probe is None else probe.squeeze(-2)
    runs: dict[str, Callable[[], Any]] = {OURS: lambda: rates(u, z, estimator)}
    if along is not None:
        runs[HAND] = lambda: by_hand(u, z, along)
    runs[FLOOR] = arithmetic(u, z, along)

    def check(name: str, result: Any) -> None:  # noqa: ANN401 - of any function
        if name == OURS:
            check_close(result[:1], [gradient(u, z, TIME)], 1e-5, name)
        elif name == HAND:
            check_close(result, rates(u, z, estimator), 1e-4, name)

    return Comparison(EXACT if exact else PROBE, "one evaluation", measure(runs, plan, check))


def run(plan: Plan) -> Iterator[Comparison]:
    """Measure both divergences."""
    for exact in (True, False):
        yield compare(exact, plan)


def tables(comparisons: list[Comparison]) -> str:
    """Write a row for each divergence."""
    names = (OURS, HAND, FLOOR)
    rows = []
    for comparison in comparisons:
        found = [duration(comparison.timings[name].median) if name in comparison.timings else "" for name in names]
        rows.append([comparison.case, *found, times(comparison.ratio(OURS, FLOOR))])
    return table(["", *names, f"{OURS} / {FLOOR}"], rows)


def aims(comparisons: list[Comparison]) -> list[Aim]:  # noqa: ARG001 - the signature of a part
    """Compare with nothing: the numbers explain those of the densities."""
    return []


PART = Part("evaluations", run, tables, aims)
