"""Memory that a process keeps: pages that the kernel has to clear again, counted by the kernel."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LOOP = """
import resource, sys
from latentflow_experiments.memory import keep_memory

kept = keep_memory() if sys.argv[1] == "keep" else False
blocks = []
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(64 << 20)
    block[::4096] = bytes(len(block) // 4096)
    del block
    blocks.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(kept), sorted(blocks)[5])
"""


def faults(word, **variables):
    """Return whether memory is kept, and the median of the page faults of a block that is taken, filled and freed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    command = [sys.executable, "-c", LOOP, word]
    words = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    return bool(int(words[0])), int(words[1])


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is one of the GNU C library")
def test_a_block_is_taken_from_the_kernel_once():
    """Catches a parameter of mallopt with the number of another, and a setting that the library refuses."""
    _, before = faults("give back")
    kept, after = faults("keep")
    assert kept
    assert before > 20, "the kernel gives pages of 2 MB at most"
    assert after == 0


@pytest.mark.parametrize("name", ["MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"])
def test_the_environment_comes_first(name):
    """Catches a setting of the user that is replaced."""
    assert not faults("keep", **{name: "65536"})[0]
