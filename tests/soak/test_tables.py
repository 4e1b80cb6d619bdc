"""A slice of `make soak-tables`: four runs killed, each then finished with all its rows."""

from __future__ import annotations

import pytest

from tests.soak.tables import soak


@pytest.mark.timeout(900)
def test_runs_that_were_killed_end_with_the_rows_of_one_that_was_not(tmp_path):
    outcome = soak(tmp_path, 4)
    assert outcome["rounds"] == 4
