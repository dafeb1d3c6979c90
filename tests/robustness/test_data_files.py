"""Damaged data files: never wrong pixels without a word, a traceback, a hang, or a gibibyte."""

import sys

import pytest

pytest.importorskip("resource", reason="limits the memory of a process")
data_files = pytest.importorskip("robustness.data_files")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_short_campaign_finds_nothing_bad():
    """Catches a reader that believes a size, waits for a pipe, or lets an exception through."""
    outcomes = data_files.campaign(cases=40, seed=1)
    assert [outcome for outcome in outcomes if outcome.outcome in data_files.BAD] == []
    assert {"refused", "harmless"} <= {outcome.outcome for outcome in outcomes}
    assert len({outcome.format for outcome in outcomes}) > 6
    assert f"{len(outcomes)}" not in data_files.summary([])
    assert data_files.summary(outcomes).splitlines()[0].split() == [
        *("format", "refused", "harmless", "detectable", "unchecked", "silent", "traceback", "hang", "memory"),
    ]
