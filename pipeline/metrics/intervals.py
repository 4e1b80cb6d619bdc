"""How far a measured figure may be off: 95 % intervals of shares and of means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_Z = 1.959963984540054  # 97.5 % of a normal distribution lie below it
N_RESAMPLED = 2000


def wilson(n_right: int, n: int) -> tuple[float, float]:
    """Wilson's interval of a share (Wilson 1927): right also near 0 and 1 and for few examples.

    Raises:
        ValueError: there are no examples, or more right ones than examples.
    """
    if not 0 <= n_right <= n or n == 0:
        raise ValueError(f"{n_right} of {n}: expected some examples, and no more right ones than these")
    z2, p = _Z * _Z, n_right / n
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * np.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def bootstrap(
    measure: Callable[[npt.NDArray[np.int64]], float],
    n: int,
    *,
    n_resampled: int = N_RESAMPLED,
    seed: int = 0,
    groups: Array | None = None,
) -> tuple[float, float]:
    """Percentile interval of a measure over examples drawn again with replacement (Efron 1979).

    Args:
        measure: from the places (m,) of the examples drawn to the figure.
        groups: (n,) examples of one group, such as a video, are drawn together, as they are no independent
            witnesses.
    """
    random = np.random.default_rng(seed)
    members = [np.array([i]) for i in range(n)]
    if groups is not None:
        members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    found = []
    for _ in range(n_resampled):
        drawn = random.integers(len(members), size=len(members))
        found.append(measure(np.concatenate([members[i] for i in drawn])))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(low), float(high)
