"""Training metrics as JSON lines and for TensorBoard."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from latentflow_experiments.files import write_text
from latentflow_experiments.run_folder import RunFolder


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
