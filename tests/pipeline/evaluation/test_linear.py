"""Linear heads over frozen features: nothing of the fold that is answered is ever learned from."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.linear import binary_scores, nested_softmax


def blobs(n=120, c=3, d=8, apart=3.0, seed=0):
    random = np.random.default_rng(seed)
    y = np.arange(n) % c
    return apart * np.eye(c, d)[y] + random.standard_normal((n, d)), y, np.arange(n) // c % 5


def test_classes_that_lie_apart_are_told():
    x, y, folds = blobs()
    found = nested_softmax(x, y, folds, (0.1, 1.0))
    assert (found.probabilities.argmax(1) == y).mean() > 0.9
    assert found.probabilities.sum(1) == pytest.approx(1.0)
    assert found.strengths.keys() == {0, 1, 2, 3, 4}


def test_labels_drawn_by_chance_are_told_by_chance():
    """Were the fold that is answered learned from, so many features would tell it."""
    x, y, folds = blobs(d=200, apart=0.0)
    found = nested_softmax(x, y, folds, (0.1, 10.0))
    assert (found.probabilities.argmax(1) == y).mean() < 0.5


def test_of_equal_strengths_the_weakest_is_chosen():
    x, y, folds = blobs(apart=50.0)
    assert set(nested_softmax(x, y, folds, (10.0, 0.1)).strengths.values()) == {0.1}


def test_a_sense_that_is_absent_counts_as_its_mean():
    x, y, folds = blobs(c=2, d=4)
    without = x.copy()
    without[:, 2:] = np.nan
    given, removed = binary_scores(x, y == 1, folds, 1.0, [without])
    assert ((given > 0.5) == (y == 1)).mean() > 0.9
    assert ((removed > 0.5) == (y == 1)).mean() > 0.9  # both classes lie in the first two columns
    nothing = np.full_like(x, np.nan)
    _, blind = binary_scores(x, y == 1, folds, 1.0, [nothing])
    assert len(np.unique(blind.round(9))) <= 5  # one score a fold


def test_what_the_others_never_show_is_told_as_often_as_they_show_it():
    x, _, folds = blobs()
    (scores,) = binary_scores(x, folds == 0, folds, 1.0)
    assert (scores[folds == 0] == 0.0).all()
