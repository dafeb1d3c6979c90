"""A few cases of each campaign of faults from outside: nothing is lost, silent, half said, or waits for ever."""

import sys

import pytest

pytest.importorskip("resource", reason="limits the memory of a process")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

from robustness import disk_full, kills, owners, run_folders, workers  # noqa: E402 - not on every system


def bad(module, outcomes):
    assert outcomes
    assert {one.outcome for one in outcomes} <= set(module.OUTCOMES)
    return [one for one in outcomes if one.outcome in module.BAD]


def test_killed_and_stopped_runs_end_as_if_nothing_had_been():
    """Catches a checkpoint that is half written, a run that cannot be resumed, and temporaries that stay."""
    outcomes = kills.campaign(kills=3, signals=2, seed=0)
    assert len(outcomes) == 5
    assert bad(kills, outcomes) == []


def test_damaged_run_folders_are_refused_or_do_no_harm():
    """Catches a reader that believes a file, runs what it names, waits for a pipe, or lets an exception through."""
    outcomes = run_folders.campaign(cases=5, seed=2)
    assert len({one.kind for one in outcomes}) == 5
    assert bad(run_folders, outcomes) == []


def test_a_full_disk_is_one_line_and_the_run_goes_on():
    """Catches a write of which nobody has thought that it may fail."""
    outcomes = disk_full.campaign(seed=0, limits=2, mounts=0, calls=1)
    assert {one.kind for one in outcomes} > {"a limit of file size", "fsync", "replace"}
    assert bad(disk_full, outcomes) == []


def test_one_of_two_commands_owns_a_folder():
    """Catches a configuration of one run beside the weights of another."""
    outcomes = owners.campaign(cases=4, seed=0)
    assert len({one.kind for one in outcomes}) == 4
    assert bad(owners, outcomes) == []


def test_two_processes_train_and_end():
    """Catches a default of several devices that nobody ran, and a job that leaves processes behind."""
    assert bad(workers, workers.campaign(cases=1)) == []
