"""Reliability, expected calibration error and Platt scaling."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from pipeline.metrics.calibration import (
    Platt,
    at_floors,
    expected_calibration_error,
    fit_platt,
    reliability,
)


def test_scores_that_are_chances_are_calibrated_and_doubled_ones_are_not():
    random = np.random.default_rng(0)
    p = random.random(20_000)
    is_right = random.random(20_000) < p
    assert expected_calibration_error(p, is_right) < 0.01
    assert expected_calibration_error(np.minimum(1, 2 * p), is_right) > 0.2


def test_the_error_of_two_bins_by_hand():
    scores, right = np.array([0.9, 0.9, 0.2, 0.2]), np.array([True, False, False, False])
    assert expected_calibration_error(scores, right) == pytest.approx(0.5 * 0.4 + 0.5 * 0.2)


def test_bins_are_scikit_learns_and_1_is_in_the_last():
    random = np.random.default_rng(1)
    p = np.append(random.random(500), [0.0, 1.0])
    is_right = random.random(len(p)) < p
    bins = reliability(p, is_right)
    right, said = calibration_curve(is_right, p, n_bins=10)
    assert [b.right for b in bins] == pytest.approx(right)
    assert [b.said for b in bins] == pytest.approx(said)
    assert bins[-1].high == 1.0
    assert sum(b.n for b in bins) == len(p)


def test_scores_outside_0_and_1_are_no_probabilities():
    with pytest.raises(ValueError, match="must lie in"):
        reliability(np.array([1.2]), np.array([True]))


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_platt_is_logistic_regression_without_a_penalty(scale):
    random = np.random.default_rng(2)
    x = scale * (random.standard_normal(400) + 3)
    is_right = random.random(400) < 1 / (1 + np.exp(-(1.5 * x / scale - 4)))
    ours = fit_platt(x, is_right)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(x[:, None] / scale, is_right)
    assert ours.slope * scale == pytest.approx(theirs.coef_[0, 0], rel=1e-3)
    assert ours.offset == pytest.approx(theirs.intercept_[0], rel=1e-3)
    assert ours(np.array([x[0]]))[0] == pytest.approx(
        theirs.predict_proba(x[:1, None] / scale)[0, 1], abs=1e-4
    )


def test_a_calibration_needs_right_and_wrong_answers():
    with pytest.raises(ValueError, match="right and wrong"):
        fit_platt(np.array([0.1, 0.2]), np.array([True, True]))
    assert Platt(1.0, 0.0)(np.array([0.0, 1e9, -1e9])).tolist() == [0.5, 1.0, pytest.approx(0.0)]


def test_a_floor_trades_recall_for_precision():
    found = at_floors(np.array([0.9, 0.6, 0.3]), np.array([True, False, True]), [0.0, 0.5, 0.95])
    assert [f.told for f in found] == pytest.approx([1.0, 2 / 3, 0.0])
    assert [f.precision for f in found] == [pytest.approx(2 / 3), 0.5, None]
    assert [f.recall for f in found] == pytest.approx([2 / 3, 1 / 3, 0.0])
