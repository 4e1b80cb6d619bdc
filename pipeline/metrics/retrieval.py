"""How often the right one is among the nearest: R@k, and the median place."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.metrics.classify import ranks

Array = npt.NDArray[Any]


def places(similarity: Array, right: Array | None = None) -> npt.NDArray[np.int64]:
    """Place of each query's nearest right one, (Q,); 1 is first, and equally near wrong ones stand before it.

    Args:
        similarity: (Q, M), of each query to each candidate.
        right: (Q,) the candidate that is meant, or (Q, M) bool; the diagonal where it is not given.

    Raises:
        ValueError: shapes do not fit, a similarity is NaN, or a query has no right one.
    """
    return ranks(similarity, np.arange(len(similarity)) if right is None else right)


def recall_at(similarity: Array, k: int, right: Array | None = None) -> float:
    """R@k: the share of queries with a right one among the `k` nearest."""
    return float((places(similarity, right) <= k).mean())


def median_place(similarity: Array, right: Array | None = None) -> float:
    """Half of the queries find theirs at this place or before."""
    return float(np.median(places(similarity, right)))
