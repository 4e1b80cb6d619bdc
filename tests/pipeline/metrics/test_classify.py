"""Top-k, average precision and confusion, against scikit-learn and against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from pipeline.metrics.classify import (
    average_precision,
    confusion,
    mean_average_precision,
    precision_recall,
    ranks,
    top_k,
)


def drawn(seed, n=40, c=6, levels=None):
    """Scores, with ties where there are few levels, and truth in which every class is there."""
    random = np.random.default_rng(seed)
    scores = random.random((n, c)) if levels is None else random.integers(levels, size=(n, c)) / levels
    return scores, np.concatenate([np.arange(c), random.integers(c, size=n - c)])


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_is_scikit_learns_where_no_scores_are_equal(k):
    scores, truth = drawn(k)
    expected = reference.top_k_accuracy_score(truth, scores, k=k, labels=np.arange(6))
    assert top_k(scores, truth, k) == pytest.approx(expected)


def test_a_network_that_says_the_same_of_everything_is_not_right():
    assert top_k(np.zeros((4, 3)), np.array([0, 1, 2, 0]), 1) == 0.0
    assert ranks(np.zeros((1, 3)), np.array([0])).tolist() == [3]


def test_of_several_true_classes_the_best_placed_counts():
    scores = np.array([[0.9, 0.5, 0.7], [0.1, 0.2, 0.3]])
    truth = np.array([[False, True, True], [True, False, False]])
    assert ranks(scores, truth).tolist() == [2, 3]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([None, 3, 8]))
def test_average_precision_is_scikit_learns_with_ties_too(seed, levels):
    scores, truth = drawn(seed, levels=levels)
    is_true = truth[:, None] == np.arange(6)
    for c in range(6):
        expected = reference.average_precision_score(is_true[:, c], scores[:, c])
        assert average_precision(scores[:, c], is_true[:, c]) == pytest.approx(expected)
    expected = reference.average_precision_score(is_true, scores, average="macro")
    assert mean_average_precision(scores, is_true) == pytest.approx(expected)


def test_the_curve_ends_where_all_is_told():
    curve = precision_recall(np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, False, True, False]))
    assert curve.threshold.tolist() == [0.9, 0.8, 0.1]
    assert curve.precision.tolist() == pytest.approx([1.0, 2 / 3, 0.5])
    assert curve.recall.tolist() == [0.5, 1.0, 1.0]


def test_confusion_has_truth_in_rows():
    assert confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 3).tolist() == [
        [1, 1, 0],
        [0, 1, 0],
        [0, 0, 0],
    ]


@pytest.mark.parametrize(
    ("scores", "truth", "said"),
    [
        ([[np.nan, 0.0]], [0], "a score is NaN"),
        ([[0.1, 0.2]], [[False, False]], "example 0 has no true class"),
        ([[0.1, 0.2]], [[False, True, True]], "truth is"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores, truth, said):
    with pytest.raises(ValueError, match=said):
        ranks(np.array(scores), np.array(truth))


def test_a_class_that_is_never_there_has_no_curve_and_no_part_in_the_mean():
    with pytest.raises(ValueError, match="no example is true"):
        precision_recall(np.array([0.5]), np.array([False]))
    scores = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert mean_average_precision(scores, np.array([[True, False], [False, False]])) == 1.0
