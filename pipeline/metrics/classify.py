"""How good scores over classes are: top-k, average precision, precision and recall, confusion.

Scores are (N, C) float, higher is surer; NaN is refused. Equal scores are never put in a lucky order: a class
counts as above another only where its score is higher; examples with one score are told or left out together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Curve:
    """Precision and recall of what is told at each threshold, the highest first."""

    threshold: npt.NDArray[np.float64]  # (K,) distinct scores
    precision: npt.NDArray[np.float64]  # (K,) of what is told, the share that is true
    recall: npt.NDArray[np.float64]  # (K,) of what is true, the share that is told


def ranks(scores: Array, truth: Array) -> npt.NDArray[np.int64]:
    """Place of the best true class of each example, (N,); 1 is best, ties count against it.

    Args:
        scores: (N, C).
        truth: (N,) class, or (N, C) bool where an example may have several.

    Raises:
        ValueError: shapes do not fit, a score is NaN, or an example has no true class.
    """
    scores = _finite(scores)
    is_true = _one_hot(truth, scores.shape[1]) if np.ndim(truth) == 1 else np.asarray(truth, bool)
    if is_true.shape != scores.shape:
        raise ValueError(f"truth is {is_true.shape}, scores are {scores.shape}")
    if not is_true.any(1).all():
        raise ValueError(f"example {int(np.argmin(is_true.any(1)))} has no true class")
    best = np.where(is_true, scores, -np.inf).max(1, keepdims=True)
    return 1 + ((scores >= best) & ~is_true).sum(1)


def top_k(scores: Array, truth: Array, k: int) -> float:
    """Share of examples with a true class among the `k` best."""
    return float((ranks(scores, truth) <= k).mean())


def precision_recall(scores: Array, is_true: Array) -> Curve:
    """Over one class: scores (N,) and whether it is there (N,).

    Raises:
        ValueError: it is never there.
    """
    scores, is_true = _finite(scores), np.asarray(is_true, bool)
    if not is_true.any():
        raise ValueError("no example is true: there is no recall to measure")
    order = np.argsort(-scores, kind="stable")
    scores, is_true = scores[order], is_true[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of each run of equal scores
    right = np.cumsum(is_true)[last]
    return Curve(scores[last].astype(np.float64), right / (last + 1), right / right[-1])


def average_precision(scores: Array, is_true: Array) -> float:
    """The precision at each threshold, weighted by the recall that it adds."""
    curve = precision_recall(scores, is_true)
    return float(np.sum(np.diff(curve.recall, prepend=0.0) * curve.precision))


def mean_average_precision(scores: Array, is_true: Array) -> float:
    """Mean over the classes that are there at least once. scores (N, C), is_true (N, C)."""
    there = np.flatnonzero(np.any(is_true, axis=0))
    return float(np.mean([average_precision(scores[:, c], is_true[:, c]) for c in there]))


def confusion(truth: Array, answer: Array, n_classes: int) -> npt.NDArray[np.int64]:
    """How often (row) was answered by (column), (C, C)."""
    counts = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(counts, (np.asarray(truth), np.asarray(answer)), 1)
    return counts


def _one_hot(truth: Array, n_classes: int) -> npt.NDArray[np.bool_]:
    return np.asarray(truth)[:, None] == np.arange(n_classes)


def _finite(scores: Array) -> Array:
    scores = np.asarray(scores)
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    return scores
