"""Memory that a process keeps from one step to the next."""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""The parameters of ``mallopt``, as malloc.h of the GNU C library numbers them."""


def keep_memory() -> bool:
    """Keep freed memory in this process, for the next request instead of for the kernel.

    By default the GNU C library takes each large block from the kernel and gives it back when it is freed. A training
    step frees what the next one asks for, and the kernel clears every page of it again: with the networks of the paper
    1.1 GB in a step, a fifth of its time. Afterwards all blocks come from one heap that only grows: until it ends, the
    process holds the most memory that it has ever used. The command ``latentflow`` calls this; a program of your own
    calls it before its first step. Variables of the environment come first: where there is one of ``mallopt``, such as
    ``MALLOC_MMAP_MAX_`` or ``MALLOC_TRIM_THRESHOLD_``, nothing is changed.

    Returns:
        Whether this has changed the setting; other C libraries have none.

    References:
        | mallopt(3), Linux manual page
        | https://man7.org/linux/man-pages/man3/mallopt.3.html

    Example:
        >>> kept = keep_memory()
        >>> assert kept == keep_memory()
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, -1))
