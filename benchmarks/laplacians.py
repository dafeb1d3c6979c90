"""The Laplacian of a network as its size grows, by this library and by others that carry it forward."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import functional_call, hessian, vmap

from benchmarks.record import Aim, Comparison, Part
from benchmarks.text import duration, times
from benchmarks.timing import Plan, check_close, measure
from latentflow import Exact, MLPPotential, laplacian
from latentflow_experiments.reports.tables import table

RULE, MODULE, PROBE = "latentflow", "latentflow, any module", "latentflow, one probe"
HESSIAN, GEMM = "torch.func.hessian", "floor"
WORKERS = ("jet-for-pytorch", "folx")
BEFORE = "before"
CONTENDERS = (RULE, MODULE, PROBE, BEFORE, *WORKERS, HESSIAN, GEMM)
FORWARD, GRADIENT = "forward", "forward and parameter gradient"
TASKS = (FORWARD, GRADIENT)
PYTHON = "FORWARD_LAPLACIAN_PYTHON"
"""The variable of the environment that names the interpreter of the other libraries."""
CHECKOUT = "LATENTFLOW_BEFORE"
"""The variable of the environment that names a checkout of an earlier commit of this library."""
LARGEST_HESSIAN = 2**27
"""The largest number of entries that ``torch.func.hessian`` may have in each layer."""


@dataclass(frozen=True)
class Size:
    """The size of a problem: points, coordinates, the width of all hidden layers, and their number."""

    batch: int = 512
    dim: int = 43
    width: int = 256
    depth: int = 2

    def __str__(self) -> str:
        return f"{self.batch} x {self.dim}, {self.depth} layers of {self.width}"

    def inputs(self) -> tuple[MLPPotential, Tensor]:
        """Draw a network in which the time has no weight, and points; the same ones for the same size."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            u = MLPPotential(self.dim, (self.width,) * self.depth)
            with torch.no_grad():
                u.time.weight.zero_()
            return u, torch.randn(self.batch, self.dim)

    @property
    def rows(self) -> int:
        """The rows of the products of matrices that bound it: a direction for each coordinate of each point."""
        return self.batch * min(self.dim, self.width)


BASE = Size()
SWEEPS = {
    "coordinates": ("dim", (4, 16, 43, 128, 324)),
    "width": ("width", (32, 64, 128, 256, 512)),
    "points": ("batch", (16, 64, 256, 1024)),
    "layers": ("depth", (2, 3, 4, 6)),
}


def sizes() -> list[Size]:
    """List the sizes of all sweeps, each once, the one they share first."""
    changed = [Size(**{name: value}) for name, values in SWEEPS.values() for value in values]
    return list(dict.fromkeys([BASE, *changed]))


class Plain(nn.Module):
    """The same network as a user writes it, which the library knows nothing about."""

    def __init__(self, u: MLPPotential) -> None:
        super().__init__()
        weights = plain_weights(u)
        linears = [nn.Linear(weight.shape[1], weight.shape[0]) for weight in weights[::2]]
        with torch.no_grad():
            for linear, weight, bias in zip(linears, weights[::2], weights[1::2], strict=True):
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
        layers = [layer for linear in linears for layer in (linear, nn.Tanh())]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002 - a field has a time
        """Evaluate the field."""
        value: Tensor = self.layers(z).squeeze(-1)
        return value


def plain_weights(u: MLPPotential) -> list[Tensor]:
    """List weight and bias of each layer; the last bias is zero."""
    layers = u.layers()
    first = [weight for weight in (layers.input_weights[0], *layers.hidden_weights) if weight is not None]
    pairs = [tensor.detach() for pair in zip(first, layers.biases, strict=True) for tensor in pair]
    return [*pairs, layers.output.detach().unsqueeze(0), torch.zeros(1)]


def by_hessian(u: nn.Module, z: Tensor) -> Tensor:
    """Compute the Laplacian as the trace of ``torch.func.hessian``."""
    parameters: dict[str, Tensor] = dict(u.named_parameters())
    none = torch.zeros(())

    def field(z: Tensor) -> Tensor:
        value: Tensor = functional_call(u, parameters, (z.unsqueeze(0), none.unsqueeze(0)))
        return value.squeeze(0)

    traces: Tensor = vmap(lambda z: hessian(field)(z).trace())(z)
    return traces


def run_task(function: Callable[[nn.Module, Tensor], Tensor], u: nn.Module, z: Tensor, task: str) -> Sequence[Tensor]:
    """Compute Laplacians without a graph, or the gradient of the mean of their squares in the parameters."""
    if task == FORWARD:
        with torch.no_grad():
            return [function(u, z)]
    loss = function(u, z).square().mean()
    return torch.autograd.grad(loss, list(u.parameters()), materialize_grads=True)


class Worker:
    """Another library in an interpreter of its own, with the threads that torch has here.

    Args:
        python: The interpreter.
        name: The library.
        checkout: Where the interpreter looks for modules first; None for where it looks by itself.
    """

    def __init__(self, python: str, name: str, checkout: str | None = None) -> None:
        script = Path(__file__).with_name("laplacian_worker.py")
        command = [python, str(script), name, str(torch.get_num_threads())]
        environment = None if checkout is None else os.environ | {"PYTHONPATH": checkout}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._folder = tempfile.TemporaryDirectory()
        self.versions: dict[str, str] = json.loads(self._read())

    def _read(self) -> str:
        line = "" if self._process.stdout is None else self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args}: expected an answer, got the end of the process")
        return line

    def _ask(self, line: str) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        self._read()

    def first(self, u: MLPPotential, z: Tensor, task: str) -> list[Tensor]:
        """Hand over a case, and return its numbers."""
        folder = Path(self._folder.name)
        arrays = {f"weight{i}": weight.numpy() for i, weight in enumerate(plain_weights(u))}
        np.savez(folder / "case.npz", z=z.numpy(), **arrays)
        result = folder / "result.npz"
        self._ask(json.dumps({"case": str(folder / "case.npz"), "result": str(result), "task": task}))
        with np.load(result) as found:
            return [torch.from_numpy(found[f"arr_{i}"]) for i in range(len(found.files))]

    def again(self) -> None:
        """Compute the case again, and wait for it."""
        self._ask("run")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()
        self._folder.cleanup()


def compare(size: Size, task: str, workers: dict[str, Worker], plan: Plan) -> Comparison:
    """Time one task at one size, and the products of matrices that bound it."""
    u, z = size.inputs()
    module = Plain(u)
    expected = run_task(lambda u, z: laplacian(u, z, 0.0), module, z, task)
    functions: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], nn.Module]] = {
        RULE: (lambda u, z: laplacian(u, z, 0.0), u),
        MODULE: (lambda u, z: laplacian(u, z, 0.0), module),
    }
    if size.rows * size.dim * size.width // min(size.dim, size.width) <= LARGEST_HESSIAN:
        functions[HESSIAN] = (by_hessian, module)
    if task == GRADIENT:
        functions[PROBE] = (lambda u, z: laplacian(u, z, 0.0, Exact("one probe")), u)
    runs: dict[str, Callable[[], Any]] = {
        name: partial(run_task, function, field, z, task) for name, (function, field) in functions.items()
    }
    for name in (MODULE, HESSIAN):
        if name in functions:
            check_close(runs[name](), expected, 1e-3, f"{size}, {task}, {name}")
    check_close(run_task(functions[RULE][0], u, z, FORWARD), run_task(functions[MODULE][0], module, z, FORWARD), 1e-4)
    for name, worker in workers.items():
        check_close(worker.first(u, z, task), expected, 1e-3, f"{size}, {task}, {name}")
        runs[name] = worker.again
    left, right = torch.randn(size.rows, size.width), torch.randn(size.width, size.width)
    out = torch.empty(size.rows, size.width)

    def floor() -> None:
        for _ in range((size.depth - 1) * (1 if task == FORWARD else 3)):
            torch.mm(left, right, out=out)

    runs[GEMM] = floor
    facts: dict[str, Any] = {"versions": {name: worker.versions for name, worker in workers.items()}}
    if task == GRADIENT:
        facts["spread"] = spread_of_probes(u, z)
    return Comparison(str(size), task, measure(runs, plan), facts)


def spread_of_probes(u: nn.Module, z: Tensor, draws: int = 16) -> float:
    """Measure the root mean square of the error of a gradient by one probe, relative to the length of the exact one."""

    def gradient(estimator: Exact) -> Tensor:
        parts = run_task(lambda u, z: laplacian(u, z, 0.0, estimator), u, z, GRADIENT)
        return torch.cat([part.flatten() for part in parts])

    exact = gradient(Exact())
    estimator = Exact("one probe", generator=torch.Generator().manual_seed(0))
    errors = torch.stack([(gradient(estimator) - exact).square().sum() for _ in range(draws)])
    return float(errors.mean().sqrt() / exact.norm())


def run(plan: Plan) -> Iterator[Comparison]:
    """Measure both tasks at all sizes."""
    python, checkout = os.environ.get(PYTHON), os.environ.get(CHECKOUT)
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(python, name)) for name in WORKERS} if python else {}
        if checkout:
            workers[BEFORE] = stack.enter_context(Worker(sys.executable, BEFORE, checkout))
        for task in TASKS:
            for size in sizes():
                yield compare(size, task, workers, plan)


def tables(comparisons: list[Comparison]) -> str:
    """Write a table for each task, and point to the picture."""
    parts = []
    versions = comparisons[0].facts["versions"]
    for task in TASKS:
        own = [comparison for comparison in comparisons if comparison.task == task]
        shown = [name for name in CONTENDERS if any(name in comparison.timings for comparison in own)]
        rows = []
        for comparison in own:
            cells = []
            for name in shown:
                timing = comparison.timings.get(name)
                ratio = "" if name == RULE or timing is None else f" ({times(comparison.ratio(name, RULE))})"
                cells.append("" if timing is None else f"{duration(timing.median)}{ratio}")
            spread = [] if task == FORWARD else [f"{comparison.facts['spread']:.2f}"]
            rows.append([comparison.case, *cells, *spread])
        header = ["points, coordinates, network", *shown, *([] if task == FORWARD else ["spread of one probe"])]
        parts.append(f"**{task.capitalize()}**\n\n{table(header, rows)}")
    parts.append(f"![Time of a Laplacian against the size of the problem, log-log]({PICTURE.name})")
    earlier = versions.get(BEFORE, {}).get(BEFORE)
    others = [found for name, found in versions.items() if name != BEFORE]
    if others:
        named = [f"{library} {number}" for found in others for library, number in found.items()]
        parts.append(f"In an interpreter of their own: {', '.join(dict.fromkeys(named))}.")
    if earlier:
        parts.append(f"*{BEFORE}* is latentflow at `{earlier}`.")
    return "\n\n".join(parts)


STYLES = {
    RULE: ("#0b6e4f", "-", "o"),
    MODULE: ("#08a045", "-", "s"),
    PROBE: ("#6bbf59", ":", "v"),
    BEFORE: ("#0b6e4f", "--", ""),
    "jet-for-pytorch": ("#d1495b", "-", "^"),
    "folx": ("#edae49", "-", "D"),
    HESSIAN: ("#6c757d", "--", "x"),
    GEMM: ("#000000", ":", ""),
}
PICTURE = Path(__file__).parent.parent / "docs" / "benchmarks_laplacians.png"


def draw(comparisons: list[Comparison]) -> None:
    """Draw the time of each contender against each size that grows."""
    found = {(comparison.case, comparison.task): comparison.timings for comparison in comparisons}
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(12, 5.6), layout="constrained")
        axes = figure.subplots(len(TASKS), len(SWEEPS), sharey="row")
        for row, task in zip(axes, TASKS, strict=True):
            for panel, (title, (name, values)) in zip(row, SWEEPS.items(), strict=True):
                for contender, (color, line, marker) in STYLES.items():
                    pairs = [(value, found[str(Size(**{name: value})), task].get(contender)) for value in values]
                    known = [(value, timing.median * 1e3) for value, timing in pairs if timing is not None]
                    if known:
                        panel.plot(*zip(*known, strict=True), line, color=color, marker=marker, ms=4, label=contender)
                panel.set(xscale="log", yscale="log", xlabel=title)
                panel.set_xticks(values, [str(value) for value in values], minor=False)
                panel.minorticks_off()
            row[0].set_ylabel(f"ms, {task}")
        handles, labels = axes[1][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        figure.savefig(PICTURE, dpi=110)


def aims(comparisons: list[Comparison]) -> list[Aim]:
    """Compare with the aims for any module and for the rule."""
    found = {(comparison.case, comparison.task): comparison for comparison in comparisons}
    result = []
    for task in TASKS:
        base = found[str(BASE), task]
        if WORKERS[0] in base.timings:
            ratio = base.ratio(MODULE, WORKERS[0])
            text = f"any module within 1.3 x of jet-for-pytorch at {BASE}, {task}"
            result.append(Aim(text, times(ratio), ratio <= 1.3, "its graph has fewer passes over arrays"))
    ratio = found[str(BASE), GRADIENT].ratio(RULE, GEMM) * 3
    text = f"at most 4 bounding products at {BASE}, {GRADIENT}"
    reason = "three products and the passes over arrays that surround them"
    result.append(Aim(text, f"{ratio:.1f}", ratio <= 4, reason))
    return result


PART = Part("laplacians", run, tables, aims, draw)
