"""A few cases of each campaign of faults from outside: nothing is lost, silent, half said, or waits for ever."""

import sys

import pytest

pytest.importorskip("resource", reason="limits the memory of a process")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

from robustness import disk_full, kills, owners, run_folders, workers  # noqa: E402 - not on every system
from robustness.commands import campaigns_of  # noqa: E402

SAMPLE = {
    kills: {"kills": 1, "signals": 1, "twice": 1, "seed": 0},
    run_folders: {"cases": 2, "seed": 2},
    disk_full: {"seed": 0, "limits": 1, "mounts": 0, "calls": 1},
    owners: {"cases": 2, "seed": 0},
}


def bad(module, outcomes):
    assert outcomes
    assert {one.outcome for one in outcomes} <= set(module.OUTCOMES)
    return [one for one in outcomes if one.outcome in module.BAD]


def test_a_sample_of_each_campaign_holds():
    """Catches what is lost, silent, half said or left behind by a kill, damage, a full disk or a second command."""
    found = campaigns_of({module.__name__: arguments for module, arguments in SAMPLE.items()})
    assert len(found["robustness.kills"]) == 3
    assert {one.kind for one in found["robustness.disk_full"]} > {"a limit of file size", "fsync", "replace"}
    for module in (run_folders, owners):
        assert len({one.kind for one in found[module.__name__]}) >= 2
    faults = [one for module in SAMPLE for one in bad(module, found[module.__name__])]
    assert faults == [], "\n".join(map(str, faults))


def test_two_processes_train_and_end():
    """Catches a default of several devices that nobody ran, and a job that hangs or leaves processes behind after one
    of them was killed or told to stop."""
    assert bad(workers, workers.campaign(cases=3)) == []
