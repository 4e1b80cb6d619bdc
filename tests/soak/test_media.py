"""A slice of `make soak-media`."""

from __future__ import annotations

from tests.soak.media import soak


def test_three_hundred_damaged_files_are_all_accounted_for(tmp_path):
    outcome = soak(tmp_path, 300, seed=7)
    assert sum(outcome.counts.values()) == 300
    assert (
        outcome.counts.get("ok", 0) + outcome.counts.get("partial", 0) > 100
    )  # most can be read in part
    assert outcome.counts.get("unexpected", 0) == 0, outcome.counts
