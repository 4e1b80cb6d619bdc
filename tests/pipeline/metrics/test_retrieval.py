"""R@k: how often the right one is among the nearest."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.metrics.retrieval import median_place, places, recall_at

SIMILARITY = np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.5], [0.5, 0.5, 0.5]])


def test_the_diagonal_is_what_is_meant():
    assert places(SIMILARITY).tolist() == [1, 3, 3]
    assert [recall_at(SIMILARITY, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 1 / 3, 1.0])
    assert median_place(SIMILARITY) == 3


def test_any_of_several_right_ones_will_do():
    right = np.array([[True, False, False], [True, True, False], [False, False, True]])
    assert places(SIMILARITY, right).tolist() == [1, 1, 3]


def test_by_chance_r_at_k_is_k_of_n():
    random = np.random.default_rng(0)
    found = [recall_at(random.random((50, 50)), 10) for _ in range(40)]
    assert np.mean(found) == pytest.approx(0.2, abs=0.03)
