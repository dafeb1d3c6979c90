"""Processes that end with the one that started them, even if it was killed."""

from __future__ import annotations

import os
import signal
import threading
import time

PARENT = "LATENTFLOW_PARENT"
"""The variable of the environment that names the process to end with."""


def end_with_parent(seconds: float = 1.0) -> None:
    """Ask this process to end as TERM does, once the process that the environment names is no longer its parent.

    Args:
        seconds: The time between two looks.
    """
    parent = int(os.environ[PARENT])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
