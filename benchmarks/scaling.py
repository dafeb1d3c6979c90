"""Measure training in two processes beside one, and draw what a model of the step's time says of more.

``python -m benchmarks.scaling`` measures, on a machine with two free cores; ``--render`` writes the page again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.record import ROOT, describe_run
from benchmarks.text import duration, significant
from latentflow_experiments.records import write_text
from latentflow_experiments.reports.tables import table, write_block

NUMBERS, PAGE = ROOT / "docs" / "scaling.json", ROOT / "docs" / "guide" / "scaling.md"
PICTURE = ROOT / "docs" / "guide" / "scaling.png"
BATCHES = {"mnist": 128, "rooms": 64, "song2023": 64}
"""The sequences of a step of each case."""
PARTS = 4
"""The parts of a batch that a process adds up before it sends a message, where there are several."""
NAMES = {"auto": "1", "apart": "1 of 2 apart", "ddp": "2, ddp", "fsdp": "2, fsdp"}
"""The strategies, as the table has them."""
MEBIBYTE = 2**20
MOST = 512
"""The largest number of processes that is drawn."""


@dataclass(frozen=True)
class Run:
    """The steps of one case in so many processes.

    Attributes:
        case: The case.
        processes: The number of processes, of one thread each.
        batch: The sequences of a step, over all processes.
        strategy: How they share the model; ``auto`` for one process, ``apart`` for one beside another that trains a
            model of its own at the same time, ``ddp`` or ``fsdp``.
        parts: The parts of a batch that each process computes before gradients are added up.
        parameters: The number of weights.
        seconds: The median time of a step.
        all_reduce: The median time in which the processes add up as many numbers as there are weights.
        memory: The largest memory of a process, in MiB.
    """

    case: str
    processes: int
    batch: int
    strategy: str
    parts: int
    parameters: int
    seconds: float
    all_reduce: float
    memory: float


@dataclass(frozen=True)
class StepTime:
    r"""A model of the time of a training step in :math:`P` processes with :math:`b` sequences each.

    .. math:: t(P, b) = a + c b + s \Bigl( 2 \frac{P - 1}{P} \frac{M}{w} + 2 (P - 1) \ell \Bigr)

    The first two terms are the computation; the others a ring that adds up gradients of :math:`M` bytes by messages
    with the bandwidth :math:`w` and the latency :math:`\ell`, of which the share :math:`s` is not hidden behind the
    backward pass.

    Attributes:
        fixed: The time :math:`a`, such as that of the optimizer, in seconds.
        each: The time :math:`c` of a sequence, in seconds.
        message: The bytes :math:`M`.
        bandwidth: The bandwidth :math:`w`, in bytes per second.
        latency: The latency :math:`\ell`, in seconds.
        exposed: The share :math:`s`.

    Example:
        >>> model = StepTime(fixed=0.1, each=0.01, message=1e6, bandwidth=1e7, latency=0.0, exposed=1.0)
        >>> assert abs(model(1, 10) - 0.2) < 1e-12 and abs(model(2, 10) - 0.3) < 1e-12
        >>> assert abs(model.efficiency(2, 10) - 2 / 3) < 1e-12
    """

    fixed: float
    each: float
    message: float
    bandwidth: float
    latency: float
    exposed: float

    def __call__(self, processes: int, local: float) -> float:
        """Return the time of a step of so many processes with so many sequences each."""
        ring = 2 * (processes - 1) * (self.message / processes / self.bandwidth + self.latency)
        return self.fixed + self.each * local + self.exposed * ring

    def efficiency(self, processes: int, local: float) -> float:
        """Return the work of a process in a second, over that of one that trains alone."""
        return self(1, local) / self(processes, local)


def fit(runs: Sequence[Run], case: str, latency: float = 50e-6) -> StepTime:
    """Fit the model to the runs of one and of two processes.

    Args:
        runs: The runs.
        case: The case.
        latency: The latency of a message, in seconds, which two processes do not tell.

    Returns:
        The model.
    """
    batch = BATCHES[case]
    whole, half = (find(runs, case, "auto", size).seconds for size in (batch, batch // 2))
    apart, pair = find(runs, case, "apart", batch), find(runs, case, "ddp", 2 * batch)
    each = max(0.0, (whole - half) / (batch - batch // 2))
    message = 4.0 * pair.parameters
    bandwidth = message / max(1e-9, pair.all_reduce - 2 * latency)
    exposed = max(0.0, (pair.seconds - apart.seconds) / pair.all_reduce)
    return StepTime(max(0.0, whole - each * batch), each, message, bandwidth, latency, exposed)


def find(runs: Iterable[Run], case: str, strategy: str, batch: int, parts: int = 1) -> Run:
    """Find a run."""
    wanted = (case, strategy, batch, parts)
    (found,) = (run for run in runs if (run.case, run.strategy, run.batch, run.parts) == wanted)
    return found


def plan() -> list[tuple[str, int, int, str, int]]:
    """List the runs: a batch and half of it in one process, two apart, two together with one and two batches.

    The last two add up the gradients of several parts before a message is sent, alone and in two processes.
    """
    return [
        (case, *run)
        for case, batch in BATCHES.items()
        for run in (
            (1, batch // 2, "auto", 1),
            (1, batch, "auto", 1),
            (1, batch, "apart", 1),
            (2, batch, "ddp", 1),
            (2, 2 * batch, "ddp", 1),
            (2, 2 * batch, "fsdp", 1),
            (1, PARTS * batch, "apart", PARTS),
            (2, 2 * PARTS * batch, "ddp", PARTS),
        )
    ]


def launch(case: str, processes: int, batch: int, strategy: str, parts: int) -> dict[str, Any]:
    """Make the steps of a run in processes of their own."""
    worker = ["-m", "benchmarks.scaling_worker", case, str(batch), strategy, str(parts)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), *worker]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2 if strategy == "apart" else 1)
    ]
    if strategy == "apart":  # they begin at the same moment
        for process in started:
            assert process.stdout is not None
            while process.stdout.readline().strip() != "ready":
                if process.poll() is not None:
                    raise RuntimeError(f"a worker of {case} ended before it had begun")
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
    outputs = []
    for process in started:
        outputs.append(process.communicate()[0])
        if process.returncode != 0:
            raise RuntimeError(f"a worker of {case} ended with {process.returncode}")
    found: list[dict[str, Any]] = [json.loads(output.splitlines()[-1]) for output in outputs]
    return found[0] | {"seconds": [second for one in found for second in one["seconds"]]}


def measure() -> list[Run]:
    """Measure all runs."""
    runs = []
    for run in plan():
        found = launch(*run)
        seconds, sums = statistics.median(found["seconds"]), statistics.median(found["all_reduce"])
        runs.append(Run(*run, found["parameters"], seconds, sums, found["memory"]))
        print(f"{run}: {duration(seconds)}", flush=True)
    return runs


def measure_losses() -> dict[str, list[list[float]]]:
    """Make the same steps in one process, which has both parts of a batch, and in two; return the losses of both."""
    return {
        case: [launch(case, *run)["losses"] for run in ((1, batch, "auto", 2), (2, batch, "ddp", 1))]
        for case, batch in BATCHES.items()
    }


def table_of_losses(losses: dict[str, list[list[float]]]) -> str:
    """Write the losses of the first and of the last step side by side."""
    rows = [
        [f"`{case}`", *(f"{found[step]:.3f}" for step in (0, -1) for found in both)] for case, both in losses.items()
    ]
    last = len(next(iter(losses.values()))[0])
    header = [f"step {step}, {count} process{'es' * (count > 1)}" for step in (1, last) for count in (1, 2)]
    return table(["case", *header], rows)


def tables(runs: Sequence[Run]) -> str:
    """Write the table of the page."""
    rows = []
    for run in runs:
        batch, together = BATCHES[run.case], run.processes > 1
        alone = find(runs, run.case, "auto", batch)
        apart = find(runs, run.case, "apart", run.parts * batch, run.parts)
        rows.append(
            [
                f"`{run.case}`",
                NAMES[run.strategy],
                f"{run.batch} in {run.parts * run.processes}" if run.parts > 1 else str(run.batch),
                duration(run.seconds),
                f"{run.batch / run.seconds:.0f}",
                *(f"{efficiency(run, other):.2f}" if together else "" for other in (alone, apart)),
                duration(run.all_reduce) if together else "",
                f"{run.memory:.0f}",
            ]
        )
    header = ["case", "processes", "sequences", "step", "sequences / s", "to one", "to two apart", "message", "MiB"]
    return table(header, rows, left=2)


def efficiency(run: Run, other: Run) -> float:
    """Return the sequences of each process in a second, over those of a process of another run."""
    return run.batch / (run.processes * run.seconds) / (other.batch / (other.processes * other.seconds))


def parameters_of(runs: Sequence[Run]) -> str:
    """Write the fitted model of each case."""
    rows = []
    for case, batch in BATCHES.items():
        model = fit(runs, case)
        rows.append(
            [
                f"`{case}`",
                duration(model.fixed),
                duration(model.each),
                f"{model.message / MEBIBYTE:.0f} MiB",
                f"{significant(model.bandwidth / 1e9)} GB/s",
                f"{model.exposed:.2f}",
                *(f"{model.efficiency(count, batch):.2f}" for count in (2, 8, 64)),
            ]
        )
    header = ["case", "fixed", "each sequence", "message", "bandwidth", "not hidden"]
    return table([*header, "2 processes", "8 processes", "64 processes"], rows)


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draw the efficiency against the number of processes: of the measured bandwidth, and of faster ones."""
    mpl.use("agg")
    counts = [2**power for power in range(MOST.bit_length())]
    links = (("as measured, within one machine", None, "-"), ("12.5 GB/s", 12.5e9, "--"), ("50 GB/s", 50e9, ":"))
    figure, axes = plt.subplots(1, len(BATCHES), figsize=(11, 3.4), sharey=True, layout="constrained")
    for axis, (case, batch) in zip(axes, BATCHES.items(), strict=True):
        model = fit(runs, case)
        for label, bandwidth, style in links:
            other = StepTime(**(asdict(model) | ({} if bandwidth is None else {"bandwidth": bandwidth})))
            axis.plot(counts, [other.efficiency(count, batch) for count in counts], style, label=label)
        measured = []
        for parts in (1, PARTS):
            together = find(runs, case, "ddp", 2 * parts * batch, parts)
            measured.append(efficiency(together, find(runs, case, "apart", parts * batch, parts)))
        axis.plot([2], measured[:1], "o", color="black", label="measured")
        axis.plot([2], measured[1:], "o", color="black", fillstyle="none", label=f"measured, {PARTS} parts in each")
        axis.set(xscale="log", title=case, xlabel="processes", ylim=(0, 1.1))
        axis.set_xticks(counts[::3], [str(count) for count in counts[::3]])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("efficiency, equal work each")
    axes[0].legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the numbers, the tables of the page and the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--render", action="store_true", help="measure nothing, write the page and the picture again")
    if not parser.parse_args(arguments).render:
        provenance = describe_run() | {"threads": 1}
        content = {"provenance": provenance, "runs": [asdict(run) for run in measure()], "losses": measure_losses()}
        write_text(NUMBERS, json.dumps(content, indent=1, allow_nan=False) + "\n")
    content = json.loads(NUMBERS.read_text(encoding="utf-8"))
    runs = [Run(**run) for run in content["runs"]]
    page = PAGE.read_text(encoding="utf-8")
    blocks = {"measured": tables(runs), "losses": table_of_losses(content["losses"])}
    for name, text in (blocks | {"model": parameters_of(runs), "machine": where(content)}).items():
        page = write_block(page, name, text)
    write_text(PAGE, page)
    draw(runs, PICTURE)


def where(content: dict[str, Any]) -> str:
    """Say where and when it was measured."""
    facts = content["provenance"]
    return (
        f"{facts['processor']}, {facts['cores']} cores, one thread for each process, torch "
        f"{facts['libraries']['torch']}, {facts['date'][:10]}, commit `{facts['commit']}`."
    )


if __name__ == "__main__":
    main()
