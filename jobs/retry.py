"""Doing a thing again after a pause, where what went wrong may pass."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 600.0


def pause_s(attempt: int, rng: random.Random | None = None) -> float:
    """Seconds to wait after the `attempt`-th failure, 1 being the first: doubling up to ten minutes, and of
    that a random half to all, so that jobs that failed together do not come back together."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1))
    return longest * (rng or random.Random()).uniform(0.5, 1.0)


def with_retries(
    work: Callable[[], T],
    n_retries: int,
    on_retry: Callable[[Exception, float], None],
    is_final: Callable[[Exception], bool] = lambda _: False,
) -> T:
    """What `work` gives, in at most `n_retries` tries more than one.

    Args:
        on_retry: is told what went wrong and how many seconds are waited.
        is_final: whether an error would come again, such as bad usage; it is raised at once.

    Raises:
        Exception: what the last try raised.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return work()
        except Exception as e:
            if attempt > n_retries or is_final(e):
                raise
            seconds = pause_s(attempt)
            on_retry(e, seconds)
            time.sleep(seconds)
