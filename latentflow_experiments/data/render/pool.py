"""Work in several processes, which leave Ctrl-C to the first one and end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

from latentflow_experiments.signals import handled


def work_in_processes(work: Callable[[int], int], pieces: Sequence[int], workers: int, module: str) -> Generator[int]:
    """Work on pieces in several processes; after Ctrl-C those that were begun are finished and the others left.

    Args:
        work: What to do with a piece, a function that can be pickled.
        pieces: The pieces.
        workers: The number of processes.
        module: The module that the work needs, which is imported once for all processes where the system can.

    Yields:
        What the work returns for each piece, as they are finished.
    """
    todo = iter(pieces)
    with _interrupts_held():
        pool = ProcessPoolExecutor(max(1, min(workers, len(pieces))), _processes(module), _follow_parent)
        pending = {pool.submit(work, piece) for piece in islice(todo, workers)}
    try:
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            pending |= {pool.submit(work, piece) for piece in islice(todo, len(done))}
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait until the end of a block; half of the processes would not find what they need to start."""
    came: list[int] = []
    with handled(lambda number, _: came.append(number), signal.SIGINT):
        yield
    if came:
        signal.raise_signal(signal.SIGINT)


def _processes(module: str) -> BaseContext:
    """Return how to start processes: as forks of one that imports the module once, where the system has them."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    with handled(signal.SIG_IGN, signal.SIGINT):  # inherited: Ctrl-C while it imports is not for it
        forkserver.ensure_running()
    return context


def _follow_parent() -> None:
    """Leave Ctrl-C to the first process, and end when that is gone, even if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
