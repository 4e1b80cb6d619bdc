"""How loud a clip is over its time: for tables and timelines."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

STEP_S = 0.25
SILENCE_DB = -120.0  # the least that is told; digital silence has no level


def sound_levels_db(
    samples: npt.NDArray[np.float32], valid: tuple[int, int], rate_hz: int, length_s: float
) -> list[float | None]:
    """The root mean square of each quarter of a second, in dB of a full-scale square wave.

    Args:
        samples: (S,) mono in −1..1, from the clip's start on; what is no number is left out.
        valid: the first and the last+1 sample that the file has. Holes between are zeros, so silence here.
        length_s: of the clip; the last step may be shorter.

    Returns:
        One level a step, None where the file has no sample in it.
    """
    n_samples = min(len(samples), round(length_s * rate_hz))
    n_steps = math.ceil(round(n_samples / rate_hz / STEP_S, 6))
    first, end = np.clip(valid, 0, n_samples)
    edges = np.clip(np.round(np.arange(n_steps + 1) * STEP_S * rate_hz), first, max(first, end))
    squares = np.square(samples[:n_samples], dtype=np.float64)
    is_known = np.isfinite(squares)
    sums, counts = (
        np.diff(np.concatenate([[0], np.cumsum(values)])[edges.astype(np.int64)])
        for values in (np.where(is_known, squares, 0.0), is_known)
    )
    least = 10 ** (SILENCE_DB / 10)
    return [
        round(10 * math.log10(max(s / n, least)), 2) if n else None
        for s, n in zip(sums.tolist(), counts.tolist(), strict=True)
    ]
