"""PTS arithmetic: integer ticks and exact fractions, half-open spans, one origin for the file.

    container's own line   ──┬────────────┬──────────────────────▶  pts · time_base
                          origin      origin + t
    media clock              0            t                          seconds, both streams

Frames and samples sit where their PTS says. Neither stream is ever rebased by its own start: that
is how players' sound and picture agree, and how readers that count frames or samples lose it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction

Span = tuple[Fraction, Fraction]  # seconds on the media clock, half-open


def pts_to_time(pts: int, time_base: Fraction, origin_s: Fraction) -> Fraction:
    """Seconds on the media clock, exact."""
    return pts * time_base - origin_s


def time_to_pts(time_s: Fraction, time_base: Fraction, origin_s: Fraction) -> int:
    """The last tick at or before `time_s`."""
    return (time_s + origin_s) // time_base


def sample_index(time_s: Fraction, rate_hz: int) -> int:
    """Which sample of a `rate_hz` track, counted from time 0, is nearest to `time_s`."""
    return round(time_s * rate_hz)


def file_origin(starts_s: Sequence[Fraction], *, hides_negative: bool = True) -> Fraction:
    """Where the media clock's 0 lies: the earliest stream start.

    Args:
        hides_negative: what this container puts before 0 is not presented (mp4, Matroska: priming of
            an audio codec, pictures that an edit list cuts away). In an MPEG-TS whose time stamps
            wrap, it is the part before the wrap, and presented.
    """
    earliest = min(starts_s, default=Fraction(0))
    return max(Fraction(0), earliest) if hides_negative else earliest


def on_screen(ascending_pts: Sequence[int], pts: int) -> int:
    """Index of the frame that is on screen at `pts`: the last that began at or before it.

    Before the first frame it is the first, as a player holds it.
    """
    if not ascending_pts:
        raise ValueError("there are no frames")
    return max(0, bisect_right(ascending_pts, pts) - 1)


def to_fraction(seconds: float) -> Fraction:
    """A float of the config or the plan as the decimal a person wrote: 0.1 is 1/10."""
    return Fraction(repr(float(seconds)))
