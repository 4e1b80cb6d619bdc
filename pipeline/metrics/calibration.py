"""Whether a score of 0.7 is right in seven of ten cases, and how scores are made so.

Expected calibration error: https://arxiv.org/abs/1706.04599. Platt scaling: Platt 1999.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_NEWTON_STEPS = 100


@dataclass(frozen=True)
class Bin:
    """Answers whose score lies in [low, high); the last one holds 1 too."""

    low: float
    high: float
    n: int
    said: float  # their mean score
    right: float  # the share of them that is right


@dataclass(frozen=True)
class Platt:
    """score = sigmoid(slope · x + offset)."""

    slope: float
    offset: float

    def __call__(self, x: Array) -> npt.NDArray[np.float64]:
        return np.asarray(_sigmoid(self.slope * np.asarray(x, np.float64) + self.offset))


@dataclass(frozen=True)
class AtFloor:
    """What is told where only scores of `floor` and more are."""

    floor: float
    told: float  # share of all answers
    precision: float | None  # of what is told, the share that is right; None: nothing is
    recall: float  # of what is true, the share that is told and right


def reliability(scores: Array, is_right: Array, n_bins: int = 10) -> list[Bin]:
    """Equal bins of the score, those that hold an answer. scores (N,) in 0..1, is_right (N,).

    Raises:
        ValueError: a score lies outside 0..1.
    """
    scores, is_right = np.asarray(scores, np.float64), np.asarray(is_right, np.float64)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores must lie in 0..1 to be read as probabilities")
    which = np.minimum((scores * n_bins).astype(int), n_bins - 1)
    bins = []
    for b in np.unique(which):
        mine = which == b
        low, high = b / n_bins, (b + 1) / n_bins
        said, right = float(scores[mine].mean()), float(is_right[mine].mean())
        bins.append(Bin(float(low), float(high), int(mine.sum()), said, right))
    return bins


def expected_calibration_error(scores: Array, is_right: Array, n_bins: int = 10) -> float:
    """Mean distance of what is said from what is right, over the bins, each weighing what it holds."""
    bins = reliability(scores, is_right, n_bins)
    return sum(b.n * abs(b.said - b.right) for b in bins) / sum(b.n for b in bins)


def at_floors(
    scores: Array, is_right: Array, floors: Sequence[float], is_there: Array | None = None
) -> list[AtFloor]:
    """What each floor leaves.

    Args:
        scores: (N,).
        is_right: (N,) whether the answer is right.
        is_there: (N,) where there is something to tell; everywhere if not given.
    """
    scores, is_right = np.asarray(scores), np.asarray(is_right, bool)
    there = np.ones(len(scores), bool) if is_there is None else np.asarray(is_there, bool)
    found = []
    for floor in floors:
        told = scores >= floor
        precision = float(is_right[told].mean()) if told.any() else None
        recall = float((told & is_right)[there].mean())
        found.append(AtFloor(float(floor), float(told.mean()), precision, recall))
    return found


def fit_platt(x: Array, is_right: Array) -> Platt:
    """The logistic regression of `is_right` (N,) on `x` (N,), by Newton's method.

    Raises:
        ValueError: all are right or all wrong, so that nothing can be fitted.
    """
    x, y = np.asarray(x, np.float64), np.asarray(is_right, np.float64)
    if not 0 < y.mean() < 1:
        raise ValueError("expected right and wrong answers to fit a calibration to")
    mean, spread = x.mean(), x.std() or 1.0
    z = np.stack([(x - mean) / spread, np.ones_like(x)], axis=1)
    w = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        p = _sigmoid(z @ w)
        bend = (z.T * (p * (1 - p))) @ z + 1e-9 * np.eye(2)
        step = np.linalg.solve(bend, z.T @ (p - y))
        w -= step
        if np.abs(step).max() < 1e-10:
            break
    slope = float(w[0] / spread)
    return Platt(slope, float(w[1] - slope * mean))


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(x, -700, 700)))
