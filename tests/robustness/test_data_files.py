"""Damaged data files: never wrong pixels without a word, a traceback, a hang, or a gibibyte."""

import sys

import pytest

from robustness.data_files import BAD, campaign, summary

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_short_campaign_finds_nothing_bad():
    """Catches a reader that believes a size, waits for a pipe, or lets an exception through."""
    outcomes = campaign(cases=40, seed=1)
    assert [outcome for outcome in outcomes if outcome.outcome in BAD] == []
    assert {"refused", "harmless"} <= {outcome.outcome for outcome in outcomes}
    assert len({outcome.format for outcome in outcomes}) > 6
    assert f"{len(outcomes)}" not in summary([])
    assert summary(outcomes).splitlines()[0].split() == [
        *("format", "refused", "harmless", "detectable", "unchecked", "silent", "traceback", "hang", "memory"),
    ]
