"""A session of training: its devices, its clock, its progress bar, its log, and Ctrl-C between two steps."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Literal, Self

import torch
from lightning_fabric import Fabric
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import nn
from tqdm import tqdm

from latentflow_experiments.configuration import Budget
from latentflow_experiments.methods.method import require
from latentflow_experiments.records import write_text
from latentflow_experiments.runs import RunFolder, chosen_device, read_log
from latentflow_experiments.signals import handled
from latentflow_experiments.training.processes import Launcher, MixedNetworks, build_strategy

NETWORKS = ("encoder", "energy_encoder", "decoder")
"""The attributes of a model that hold what ``--compile`` compiles."""


@dataclass(frozen=True)
class Hardware:
    """The devices of a session and their precision.

    Attributes:
        device: What to train on; ``auto`` takes an accelerator where there is one.
        devices: How many of them on each machine; torchrun says it itself.
        nodes: How many machines; they and their processes are started by torchrun, which says it itself, or by SLURM.
        strategy: How several devices share the model: each has all weights (ddp), or a part of the weights, the
            gradients and the state of the optimizer (fsdp); auto is ddp.
        threads: How many threads of the CPU each process has; by default the faster of one and all, by a measured step,
            or an equal share for each of several processes. A resumed run keeps those that it began with: with others
            the last digits differ.
        precision: Precision of encoder and decoder; auto is bf16-mixed where the processor computes in it, else 32.
            The dynamics are always computed in 32 bits.
        compile: Whether to compile the encoder and the decoder, which takes a minute at the start; on a CPU it needs a
            C++ compiler. The dynamics are not compiled.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    threads: int | None = None
    precision: Literal["auto", "32", "bf16-mixed"] = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        require(self.devices >= 1, "devices", "a positive integer", self.devices)
        require(self.nodes >= 1, "nodes", "a positive integer", self.nodes)
        require(self.threads is None or self.threads >= 1, "threads", "a positive integer", self.threads)
        if self.compile and chosen_device(self.device) == "cpu":
            compiler = os.environ.get("CXX", "g++")
            require(shutil.which(compiler) is not None, "compile", "a C++ compiler, g++ or the one of CXX", compiler)

    def compile_networks(self, model: nn.Module) -> None:
        """Compile the encoders and decoders of a model in place if asked to; the names of its weights stay.

        Args:
            model: The model.
        """
        if self.compile:
            for name, module in model.named_modules():
                if name.rpartition(".")[2] in NETWORKS:
                    module.compile()

    def set_threads(self, before: int | None, step: Callable[[], None]) -> None:
        """Set the number of threads: as asked for, as an earlier session had it, or the faster of one and all.

        More threads than free cores are slow out of proportion: at the end of each of the hundreds of parallel loops of
        a step all threads wait for the last, which has to wait for a core. The command lets them sleep meanwhile
        (``OMP_WAIT_POLICY=PASSIVE``), by which a step took 0.3 s instead of 3.6 s beside two busy processes.

        Args:
            before: The threads of the first session of the run; None if there was none.
            step: Makes a step.
        """
        threads = self.threads or before
        most = torch.get_num_threads() if self.placed().devices == 1 else 1
        if threads is None and most > 1 and self.device in ("auto", "cpu") and chosen_device(self.device) == "cpu":
            threads = min((1, most), key=lambda count: _seconds_of(step, count))
        if threads is not None:
            torch.set_num_threads(threads)

    def placed(self) -> Hardware:
        """Return the hardware with the devices and machines on which ``torchrun`` has started processes.

        Raises:
            UsageError: If it was asked for others.
        """
        launcher = Launcher.found()
        if launcher is None:
            return self
        for name, given, found in (
            ("devices", self.devices, launcher.devices),
            ("nodes", self.nodes, launcher.nodes),
        ):
            require(given in (1, found), name, f"{found} as torchrun has started, or none", given)
        return replace(self, devices=launcher.devices, nodes=launcher.nodes)

    def restartable(self) -> bool:
        """Return whether ``torchrun`` starts the processes again if one of them dies."""
        launcher = Launcher.found()
        return launcher is not None and launcher.most_restarts > 0

    def restarted(self) -> bool:
        """Return whether ``torchrun`` has started the processes again."""
        launcher = Launcher.found()
        return launcher is not None and launcher.restarts > 0

    def launch(self) -> Fabric:
        """Start the processes, one for each device, or join those that ``torchrun`` or SLURM has started.

        Returns:
            The handle to them.

        Raises:
            UsageError: See :meth:`placed` and :func:`build_strategy`.
        """
        hardware = self.placed()
        processes = hardware.devices * hardware.nodes
        if hardware.devices > 1:
            torch.set_num_threads(self.threads or max(1, torch.get_num_threads() // hardware.devices))
        precision = self.chosen_precision()
        mixed = None if precision == "32" else MixedNetworks(precision, chosen_device(self.device))
        fabric = Fabric(
            accelerator=self.device,
            strategy=build_strategy(self.strategy, processes),
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            plugins=mixed,
        )
        fabric.launch()
        return fabric

    def chosen_precision(self) -> Literal["32", "bf16-mixed"]:
        """Return the precision, chosen if it was left open: bfloat16 in software takes a hundred times as long."""
        if self.precision != "auto":
            return self.precision
        return "bf16-mixed" if _computes_in_bfloat16(self.device) else "32"


def _seconds_of(step: Callable[[], None], threads: int) -> float:
    """Measure the seconds of a step with so many threads: the middle one of three, after one to warm up."""
    torch.set_num_threads(threads)
    seconds = []
    for _ in range(4):
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    return sorted(seconds[1:])[1]


def _computes_in_bfloat16(device: str) -> bool:
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "mps" or (device == "auto" and torch.backends.mps.is_available()):
        return False
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions of torch
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class Interrupt:
    """A handler that notes the first Ctrl-C (or SIGTERM) instead of raising; a second one acts as without it.

    Only the main thread of a program gets signals. In another one there is no handler, and none is needed.

    Example:
        >>> with Interrupt() as interrupt:
        ...     signal.raise_signal(signal.SIGINT)
        ...     assert interrupt.requested
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._handled = handled(self._answer, *self._previous)

    def _answer(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            # The previous handlers are not restored here: a second signal may already wait for this handler.
            self.requested = True
            return
        previous = self._previous[signal.Signals(number)]
        if callable(previous):
            previous(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
            signal.raise_signal(number)

    def __enter__(self) -> Self:
        self._handled.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._handled.__exit__(kind, error, traceback)


REFRESH = 0.5
"""The seconds between two states of the bar."""

SHOWN = {"reconstruction": ".0f", "kl": ".0f", "residual": ".3f", "folded": ".0%"}


class Clock:
    """Counts the seconds of training, over all sessions of a run.

    Args:
        before: The seconds of the sessions before.
        now: The clock to read: that on the wall, or ``time.process_time`` for the time of the CPU.
    """

    def __init__(self, before: float = 0.0, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._start = now() - before

    @property
    def seconds(self) -> float:
        """The seconds so far."""
        return self._now() - self._start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the seconds of a block, which is no training."""
        begun = self._now()
        try:
            yield
        finally:
            self._start += self._now() - begun


class ProgressBar:
    """Shows how much of a budget is spent, the steps in a second, the time left and the terms of the loss.

    Args:
        budget: The budget; the bar counts its steps or its seconds.
        steps: The number of steps made before.
        shown: Whether to show the bar.
    """

    def __init__(self, budget: Budget, steps: int = 0, *, shown: bool) -> None:
        self._seconds = None if budget.seconds is None else round(budget.seconds)
        total, unit = (budget.steps, "step") if self._seconds is None else (self._seconds, "s")
        self._steps = steps
        self._start = steps
        self._begun = time.perf_counter()
        self._shown = 0.0
        initial = steps if self._seconds is None else 0
        self._bar = tqdm(
            total=total,
            unit=unit,
            initial=initial,
            disable=not shown,
            dynamic_ncols=True,
            mininterval=0,
            smoothing=0.05,
        )

    def due(self) -> bool:
        """Return whether it is time to show the next state: twice a second."""
        return not self._bar.disable and time.perf_counter() - self._shown >= REFRESH

    def move(self, steps: int, seconds: float) -> None:
        """Move to a position; it is shown when :meth:`due`."""
        self._steps = steps
        if self.due() or steps == self._bar.total:
            self._shown = time.perf_counter()
            position = steps if self._seconds is None else min(int(seconds), self._seconds)
            self._bar.update(position - self._bar.n)

    def describe(self, transformation: str, values: dict[str, float]) -> None:
        """Show the terms of the loss at a batch of one transformation."""
        terms = [f"{name} {values[name]:{form}}" for name, form in SHOWN.items() if name in values]
        if self._seconds is not None:  # the bar counts seconds: say how many steps
            made, passed = self._steps - self._start, time.perf_counter() - self._begun
            terms.append(f"step {self._steps}, {made / max(passed, 1e-9):.1f} steps/s")
        self._bar.set_postfix_str(f"{transformation}: {' '.join(terms)}", refresh=False)

    def say(self, line: str | None) -> None:
        """Write a line above the bar, if there is one."""
        if line is not None:
            self._bar.write(line, file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()


class MetricsLog:
    """Appends metrics to a run's ``metrics.jsonl`` and to its TensorBoard events.

    Args:
        folder: The run.
        steps: The number of steps made so far; what was logged after them, by a session that stopped without a
            checkpoint, is dropped.
    """

    def __init__(self, folder: RunFolder, steps: int) -> None:
        kept = [record for step, record in read_log(folder.metrics)[0] if step <= steps]
        write_text(folder.metrics, "".join(line + "\n" for line in kept))
        self._file = folder.metrics.open("a", encoding="utf-8")
        self._events = EventFile(folder.path, steps + 1)

    def write(self, step: int, **values: float) -> None:
        """Append one record; a number that is not finite is written as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
        self._file.flush()
        self._events.write(step, values)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        self._events.close()


class EventFile:
    """Writes numbers as events for TensorBoard, in the thread that calls.

    The ``SummaryWriter`` of torch hands events to a thread of its own. A Ctrl-C while it does so can lose the wake-up
    of that thread, and closing the writer then waits for two minutes.

    Args:
        folder: The folder of the file, which gets a name of its own.
        step: The first step of this session: TensorBoard drops what earlier sessions wrote from this step on.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._records = RecordWriter((folder / f"events.out.tfevents.{time.time_ns()}").open("xb"))
        self._append(Event(file_version="brain.Event:2"))
        self._append(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a step, each under its name."""
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._append(Event(step=step, summary=summary))

    def _append(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._records.close()
