"""Which instants, frames and samples belong to a clip.

clock      0        4        8    9.3
           ├────────┼────────┼────┤
clips      │   0    │   1    │  2 ░░░│   the last is kept, padded and marked
shots      │   0    │1░░░┃  2     │3░░│   with a cut at 5.5: anew from there, and nothing straddles it
instants   · · · · · · · · · · · ·        frames_per_clip a clip, in the middle of equal parts
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline.config import ClipConfig
from pipeline.media.audio import AudioTrack
from pipeline.media.clock import sample_index, to_fraction


@dataclass(frozen=True)
class ClipSpan:
    """A clip's place on the clock, half-open; `end_s` is where the file's content ends, if sooner."""

    start_s: Fraction
    end_s: Fraction
    is_padded: bool


def clip_spans(
    unit_start_s: Fraction,
    unit_end_s: Fraction,
    media_end_s: Fraction,
    clips: ClipConfig,
    cuts_s: Sequence[Fraction] = (),
) -> list[ClipSpan]:
    """The clips that start in a unit.

    They start every stride from the unit's start on, as long as there is something that the clip
    before has not shown. A rest shorter than `min_tail_s` is given to the clip before it, so that
    nothing is dropped and no clip holds less than a frame.

    In the mode `shots` each shot of the unit is cut so, as if it were a file: from `cuts_s`, ascending
    instants within the unit, the clips start anew, and none reaches over the next cut or over the unit.
    """
    if clips.mode == "stride":
        must_start = unit_start_s == 0
        return _strided(unit_start_s, unit_end_s, media_end_s, clips, must_start=must_start)
    end = min(unit_end_s, media_end_s)
    starts = [unit_start_s, *(cut for cut in cuts_s if unit_start_s < cut < end)]
    spans = []
    for start, until in pairwise([*starts, end]):
        spans += _strided(start, until, until, clips, must_start=True)
    return spans


def _strided(
    first_s: Fraction, until_s: Fraction, end_s: Fraction, clips: ClipConfig, *, must_start: bool
) -> list[ClipSpan]:
    """Clips that start in [first, until), of what ends at `end_s`; `must_start`: one, however short."""
    length, stride = to_fraction(clips.length_s), to_fraction(clips.stride_s)
    last_start = end_s - to_fraction(clips.min_tail_s)
    spans: list[ClipSpan] = []
    start = first_s
    while start < until_s and start < end_s:
        is_needed = start < last_start and start - stride + length < last_start
        if not is_needed and (spans or not must_start):
            break
        end = end_s if start + length >= last_start else start + length
        spans.append(ClipSpan(start, end, is_padded=end < start + length))
        start += stride
    return spans


def clip_instants(
    span: ClipSpan, video_start_s: Fraction, video_end_s: Fraction, clips: ClipConfig
) -> list[Fraction | None]:
    """The instants at which a clip is looked at, `frames_per_clip` of them; None: nothing on screen.

    A clip whose picture is too short for any of them is looked at in the picture's middle.
    """
    n = clips.frames_per_clip
    step = to_fraction(clips.length_s) / n
    instants = [span.start_s + (k + Fraction(1, 2)) * step for k in range(n)]
    shown = [t if video_start_s <= t < video_end_s and t < span.end_s else None for t in instants]
    first, last = max(span.start_s, video_start_s), min(span.end_s, video_end_s)
    if first < last and not any(t is not None for t in shown):
        shown[0] = (first + last) / 2
    return shown


def motion_instants(
    span: ClipSpan, video_start_s: Fraction, video_end_s: Fraction, clips: ClipConfig
) -> list[Fraction | None]:
    """The instants of a clip's small grey pictures, evenly at their rate; None: nothing on screen."""
    rate_hz = clips.motion_rate_hz
    n = round(to_fraction(clips.length_s) * rate_hz)
    instants = [span.start_s + Fraction(2 * p + 1, 2 * rate_hz) for p in range(n)]
    return [t if video_start_s <= t < video_end_s and t < span.end_s else None for t in instants]


@dataclass(frozen=True)
class ClipSound:
    """The sound of each clip, cut to one length."""

    samples: npt.NDArray[np.float32]  # (N, S), silence where the file has none
    valid: npt.NDArray[np.int32]  # (N, 2) first and last+1 sample that the file has
    coverage: npt.NDArray[np.float32]  # (N,) share of the clip's span with decoded sound
    first_s: npt.NDArray[np.float64]  # (N,) time of the first sample, NaN where there is none


def cut_sound(
    spans: list[ClipSpan], track: AudioTrack | None, length_s: float, rate_hz: int
) -> ClipSound:
    """Cut `track`, already at `rate_hz`, into clips; without a track every clip is silent."""
    n, size = len(spans), round(length_s * rate_hz)
    samples, valid = np.zeros((n, size), np.float32), np.zeros((n, 2), np.int32)
    coverage, first_s = np.zeros(n, np.float32), np.full(n, np.nan)
    for i, span in enumerate(spans if track is not None else []):
        assert track is not None
        first = sample_index(span.start_s - track.start_s, rate_hz)
        last = max(first + 1, sample_index(span.end_s - track.start_s, rate_hz))
        runs = np.clip(track.present, first, last)
        runs = runs[runs[:, 0] < runs[:, 1]]
        if not len(runs):
            continue
        lead = max(0, -first)  # sound that was moved to later begins within the clip
        piece = track.samples[first + lead : max(0, min(last, first + size))]
        samples[i, lead : lead + len(piece)] = piece
        valid[i] = np.minimum((runs[0, 0] - first, runs[-1, 1] - first), size)
        coverage[i] = min(1.0, (runs[:, 1] - runs[:, 0]).sum() / (last - first))
        first_s[i] = float(track.start_s) + runs[0, 0] / rate_hz
    return ClipSound(samples, valid, coverage, first_s)
