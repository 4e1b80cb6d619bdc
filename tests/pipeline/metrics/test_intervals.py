"""Intervals: pinned values of Wilson's, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.metrics.intervals import bootstrap, wilson


@pytest.mark.parametrize(
    ("n_right", "n", "expected"),
    [  # Newcombe 1998, table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (29, 29, (0.8830, 1.0)),
    ],
)
def test_wilson_is_what_newcombe_printed(n_right, n, expected):
    assert wilson(n_right, n) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("n_right", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_a_share_of_nothing_is_refused(n_right, n):
    with pytest.raises(ValueError, match="expected some examples"):
        wilson(n_right, n)


def test_intervals_hold_the_truth_in_about_19_of_20_cases():
    random = np.random.default_rng(0)
    held = {"wilson": 0, "bootstrap": 0}
    for k in range(300):
        right = random.random(80) < 0.8
        low, high = wilson(int(right.sum()), 80)
        held["wilson"] += low <= 0.8 <= high
        low, high = bootstrap(lambda at, r=right: float(r[at].mean()), 80, n_resampled=200, seed=k)
        held["bootstrap"] += low <= 0.8 <= high
    assert 0.91 < held["wilson"] / 300 < 0.99
    assert 0.88 < held["bootstrap"] / 300 < 0.99


def test_examples_of_one_group_are_no_independent_witnesses():
    values = np.repeat([0.0, 1.0, 0.0, 1.0, 1.0, 0.0], 50)
    groups = np.repeat(np.arange(6), 50)
    alone = bootstrap(lambda at: float(values[at].mean()), 300)
    together = bootstrap(lambda at: float(values[at].mean()), 300, groups=groups)
    assert together[1] - together[0] > 4 * (alone[1] - alone[0])


def test_the_same_seed_gives_the_same_interval():
    values = np.arange(20.0)
    found = [bootstrap(lambda at: float(values[at].mean()), 20) for _ in range(2)]
    assert found[0] == found[1]
