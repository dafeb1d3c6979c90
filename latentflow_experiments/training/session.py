"""A session of training: its devices, its clock, its progress bar, its log, and Ctrl-C between two steps."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Literal, Self

import torch
from lightning_fabric import Fabric
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from latentflow_experiments.configuration import Budget
from latentflow_experiments.records import write_text
from latentflow_experiments.runs import RunFolder

STRATEGIES = {"auto": "auto", "ddp": "ddp_find_unused_parameters_true"}  # a batch uses one of the potentials only


@dataclass(frozen=True)
class Hardware:
    """The devices of a session and their precision.

    Attributes:
        device: What to train on; ``auto`` takes an accelerator where there is one.
        devices: How many of them; each draws batches of its own.
        strategy: How several devices work together.
        precision: Precision of encoder and decoder; auto is bf16-mixed where the processor computes in it, else 32.
            The dynamics are always computed in 32 bits.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["auto", "32", "bf16-mixed"] = "auto"

    def launch(self) -> Fabric:
        """Start the processes, one for each device, and give the handle to them."""
        fabric = Fabric(
            accelerator=self.device,
            strategy=STRATEGIES[self.strategy],
            devices=self.devices,
            precision=self.chosen_precision(),
        )
        fabric.launch()
        return fabric

    def chosen_precision(self) -> Literal["32", "bf16-mixed"]:
        """Return the precision, chosen if it was left open: bfloat16 in software takes a hundred times as long."""
        if self.precision != "auto":
            return self.precision
        return "bf16-mixed" if _computes_in_bfloat16(self.device) else "32"


def _computes_in_bfloat16(device: str) -> bool:
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "mps" or (device == "auto" and torch.backends.mps.is_available()):
        return False
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions of torch
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class Interrupt:
    """A handler that notes the first Ctrl-C (or SIGTERM) instead of raising; a second one raises as usual.

    Example:
        >>> with Interrupt() as interrupt:
        ...     signal.raise_signal(signal.SIGINT)
        ...     assert interrupt.requested
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __enter__(self) -> Self:
        for number in self._previous:
            signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()


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


class ProgressBar:
    """Shows how much of a budget is spent, the terms of the loss and the time left.

    Args:
        budget: The budget; the bar counts its steps or its seconds.
        shown: Whether to show the bar.
    """

    def __init__(self, budget: Budget, *, shown: bool) -> None:
        self._seconds = None if budget.seconds is None else round(budget.seconds)
        total, unit = (budget.steps, "step") if self._seconds is None else (self._seconds, "s")
        self._bar = tqdm(total=total, unit=unit, disable=not shown, dynamic_ncols=True, mininterval=0.5)

    def move(self, steps: int, seconds: float) -> None:
        """Move to a position."""
        position = steps if self._seconds is None else min(int(seconds), self._seconds)
        self._bar.update(position - self._bar.n)

    def describe(self, transformation: str, values: dict[str, float]) -> None:
        """Show the terms of the loss at a batch of one transformation."""
        terms = (f"{name} {values[name]:{form}}" for name, form in SHOWN.items() if name in values)
        self._bar.set_postfix_str(f"{transformation}: {' '.join(terms)}", refresh=False)

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
        kept = []
        if folder.metrics.exists():
            lines = folder.metrics.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= steps]
        write_text(folder.metrics, "".join(line + "\n" for line in kept))
        self._file = folder.metrics.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder.path), purge_step=steps + 1)

    def write(self, step: int, **values: float) -> None:
        """Append one record."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()
