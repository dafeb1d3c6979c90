"""Handlers of signals in a block."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def handled(handler: Callable[[int, FrameType | None], object] | signal.Handlers, *numbers: int) -> Iterator[None]:
    """Take signals by a handler in a block, and by the earlier ones after it; only in the main thread, which gets them.

    Args:
        handler: The handler.
        *numbers: The signals.

    Example:
        >>> came = []
        >>> with handled(lambda number, frame: came.append(number), signal.SIGINT):
        ...     signal.raise_signal(signal.SIGINT)
        >>> assert came == [signal.SIGINT]
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
