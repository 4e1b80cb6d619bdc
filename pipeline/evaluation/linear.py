"""Linear classifiers over features that stay as they are: what features are worth, by scikit-learn.

Every figure is of examples left out: each fold is answered by a fit to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import ConfigError

Array = npt.NDArray[Any]
_MOST_STEPS = 1000


@dataclass(frozen=True)
class LeftOut:
    """Answers of fits to the other folds."""

    probabilities: npt.NDArray[np.float64]  # (N, C)
    strengths: dict[int, float]  # by fold, of the fit to the data against its penalty


def nested_softmax(x: Array, y: Array, folds: Array, strengths: Sequence[float]) -> LeftOut:
    """Logistic regression of several classes, its strength chosen on the other folds alone.

    Args:
        x: (N, D) features. y: (N,) classes from 0 on, each of them in every fold. folds: (N,).
    """
    n_classes = int(y.max()) + 1
    found, chosen = np.zeros((len(y), n_classes)), {}
    for fold in np.unique(folds):
        apart = folds == fold
        rest = np.flatnonzero(~apart)
        chosen[int(fold)] = _best(x[rest], y[rest], folds[rest], strengths)
        found[apart] = _fit(x[rest], y[rest], chosen[int(fold)]).predict_proba(x[apart])
    return LeftOut(found, chosen)


def _best(x: Array, y: Array, folds: Array, strengths: Sequence[float]) -> float:
    """The strength that is right most often on folds left out in turn; of equals the weakest."""

    def n_right(strength: float) -> int:
        total = 0
        for fold in np.unique(folds):
            apart = folds == fold
            total += int((_fit(x[~apart], y[~apart], strength).predict(x[apart]) == y[apart]).sum())
        return total

    return max(strengths, key=lambda s: (n_right(s), -s))


def binary_scores(
    x: Array, is_true: Array, folds: Array, strength: float, instead: Sequence[Array] = ()
) -> list[npt.NDArray[np.float64]]:
    """Chances of one class, (N,), by fits of a given strength to the other folds, over standardised features.

    Args:
        x: (N, D). is_true: (N,) bool. folds: (N,).
        instead: other features (N, D) that the same fits are given. NaN is a feature that is not there, and
            counts as its mean.

    Returns:
        Of `x`, and of each of `instead`.
    """
    given = [x, *instead]
    found = [np.zeros(len(is_true)) for _ in given]
    for fold in np.unique(folds):
        apart = folds == fold
        learned = is_true[~apart]
        mean, spread = np.nanmean(x[~apart], 0), np.nanstd(x[~apart], 0) + 1e-9
        scaled = [np.nan_to_num((of - mean) / spread) for of in given]
        if learned.all() or not learned.any():  # nothing to tell apart: what is known is how often
            for scores in found:
                scores[apart] = float(learned.mean())
            continue
        fitted = _fit(scaled[0][~apart], learned, strength)
        for scores, of in zip(found, scaled, strict=True):
            scores[apart] = fitted.predict_proba(of[apart])[:, 1]
    return found


def _fit(x: Array, y: Array, strength: float) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as e:
        raise ConfigError("scikit-learn is not installed: pip install 'reeltable[eval]'") from e
    return LogisticRegression(C=strength, max_iter=_MOST_STEPS).fit(x, y)
