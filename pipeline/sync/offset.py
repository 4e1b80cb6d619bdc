"""By how much sound and picture are apart, by what is seen and heard; nothing where that tells nothing.

Two witnesses, each with a curve over offsets: lips against speech (`pipeline.sync.lips`), and sudden
changes of the picture against onsets of sound (a flash and its bang, a cut on the beat). The surer one
is believed. Both are measured on sound and pictures that do not belong together
(`make bench-offset`), so that a confidence is the share of such answers that are right.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from pipeline.media.audio import AudioTrack, resample
from pipeline.media.clock import sample_index
from pipeline.media.video import Motion
from pipeline.sync.lips import COLUMNS_HZ, OFFSETS_MS, RATE_HZ, lip_curve, log_mel

Array = npt.NDArray[np.float32]

MARGIN_S = Fraction(9, 10)  # of sound around the pictures, for the largest offset asked about
_MIN_PICTURES = 50
_MIN_FPS = 18.0  # below, a mouth's movements are lost between pictures
_NEAR_MS = 40
_STEP_MS = int(OFFSETS_MS[1] - OFFSETS_MS[0])
# Of sound and pictures that do not belong together the best offset stands out from all others by
# more than x in a share of exp(−x / 0.139): measured on 1,000 pairs. One in twenty spans is taken to
# hold an impact that tells.
_CHANCE_SCALE, _PRIOR_ODDS = 0.139, 1 / 20
_SLOW_PICTURES, _SLOW_COLUMNS = 12, 40
_OTHER_PEAK_MS = 100
_ONSET_COLUMNS = 3
_ONSET_EARLY_S = 0.020  # a click's columns rise before it: windows reach ahead, and so does smoothing


@dataclass(frozen=True)
class Offset:
    """How far the sound lies behind the picture."""

    offset_ms: float  # positive: the sound is late
    confidence: float  # 0 to 1


def loudest_span(
    track: AudioTrack, start_s: Fraction, end_s: Fraction, length_s: Fraction
) -> tuple[Fraction, Fraction]:
    """The part of [start, end), `length_s` long or all of it, in which the sound changes most."""
    steps = int((end_s - start_s - length_s) * 2) + 1
    if steps <= 1:
        return start_s, end_s
    loud, rate = np.abs(track.samples), track.rate_hz
    best, best_value = start_s, -1.0
    for k in range(steps):
        first_s = start_s + Fraction(k, 2)
        first = sample_index(first_s - track.start_s, rate)
        piece = loud[max(0, first) : max(0, first + sample_index(length_s, rate))]
        hop = max(1, rate // 50)
        energy = piece[: len(piece) // hop * hop].reshape(-1, hop).mean(axis=1)
        value = float(np.abs(np.diff(energy)).sum())
        if value > best_value:
            best, best_value = first_s, value
    return best, best + length_s


def estimate_offset(motion: Motion, track: AudioTrack) -> Offset | None:
    """The offset of `track` against the pictures; None where they are too few to say anything.

    Args:
        motion: pictures of some seconds.
        track: sound that covers them, better with `MARGIN_S` around.
    """
    if len(motion.grey) < _MIN_PICTURES or not len(track.present):
        return None
    if 1 / float(np.median(np.diff(motion.times_s))) < _MIN_FPS:
        return None
    sound, start_s = _sound_around(motion, track)
    if len(sound) < RATE_HZ:
        return None
    lips = lip_curve(motion.grey, motion.times_s, sound, start_s)
    answers = [
        _peak_of_probabilities(lips.p_offset),
        _peak_of_impacts(impact_curve(motion, log_mel(sound), start_s)),
    ]
    return max(answers, key=lambda answer: answer.confidence)


def _sound_around(motion: Motion, track: AudioTrack) -> tuple[Array, float]:
    """Sound at `RATE_HZ` that the file has within `MARGIN_S` of the pictures, and where it begins."""
    first_s, last_s = float(track.present[0, 0]), float(track.present[-1, 1])
    begin = motion.times_s[0] - float(MARGIN_S + track.start_s)
    end = motion.times_s[-1] + float(MARGIN_S - track.start_s)
    first = round(max(first_s, begin * track.rate_hz))
    last = round(min(last_s, end * track.rate_hz))
    piece = AudioTrack(
        track.samples[first : max(first, last)],
        track.rate_hz,
        track.start_s + Fraction(first, track.rate_hz),
        np.array([[0, max(0, last - first)]], np.int64),
    )
    return resample(piece, RATE_HZ).samples, float(piece.start_s)


def _peak_of_probabilities(p_offset: Array) -> Offset:
    """The likeliest offset; how likely it or one that is indistinguishable from it is."""
    best = int(p_offset.argmax())
    near = np.abs(OFFSETS_MS - OFFSETS_MS[best]) <= _NEAR_MS
    share = float(p_offset[near].sum())
    return Offset(float((p_offset[near] * OFFSETS_MS[near]).sum() / max(share, 1e-12)), share)


def impact_curve(motion: Motion, columns: Array, start_s: float) -> Array:
    """How well sudden changes of the picture lie on onsets of the sound, at each of `OFFSETS_MS`.

    Args:
        columns: (n, bands) of `log_mel`, the first centred on `start_s`.
    """
    seen = _changes(motion.grey)
    heard = _onsets(columns)
    times = motion.times_s[:, None] - start_s + OFFSETS_MS / 1000 - _ONSET_EARLY_S
    at = np.round(times * COLUMNS_HZ).astype(int)
    inside = (at >= 0) & (at < len(heard))
    values = heard[np.clip(at, 0, len(heard) - 1)] * inside
    n_met = inside.sum(axis=0)
    mean = values.sum(axis=0) / np.maximum(1, n_met)
    spread = np.sqrt((((values - mean) * inside) ** 2).sum(axis=0) / np.maximum(1, n_met))
    strength = (seen[:, None] * (values - mean) * inside).sum(axis=0) / np.maximum(1, n_met)
    strength /= spread + 0.2 * heard.std() + 1e-6  # where little is heard, little is proven
    return np.asarray(np.where(n_met >= _MIN_PICTURES, strength, 0), np.float32)


def _changes(grey: npt.NDArray[np.uint8]) -> Array:
    """How suddenly each picture differs from the one before it, of mean 0 and spread 1."""
    x = grey.astype(np.float32)
    differs = np.abs(np.diff(x, axis=0, prepend=x[:1])).mean(axis=(1, 2))
    sudden = _above_its_median(np.log(differs + 0.5), _SLOW_PICTURES)
    return np.asarray((sudden - sudden.mean()) / (sudden.std() + 1e-6), np.float32)


def _onsets(columns: Array) -> Array:
    """Onset strength of each column, smoothed over a picture's time. Source: spectral flux."""
    floored = np.maximum(columns, columns.max() - 9)  # 40 dB below the loudest
    rise = np.maximum(0, floored[_ONSET_COLUMNS:] - floored[:-_ONSET_COLUMNS]).mean(axis=1)
    flux = np.concatenate([np.zeros(_ONSET_COLUMNS), rise])
    bell = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    sharp = _above_its_median(flux, _SLOW_COLUMNS)
    return np.asarray(np.convolve(sharp, bell / bell.sum(), "same"), np.float32)


def _above_its_median(x: npt.NDArray[np.floating], reach: int) -> npt.NDArray[np.floating]:
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, reach, mode="edge"), 2 * reach + 1)
    return np.maximum(0, x - np.median(windows, axis=1))


def _peak_of_impacts(curve: Array) -> Offset:
    """The best offset, refined between its neighbours; surer the more it stands out from all others."""
    best = int(curve.argmax())
    others = curve[np.abs(OFFSETS_MS - OFFSETS_MS[best]) > _OTHER_PEAK_MS]
    margin = float(curve[best] - others.max())
    chance = np.exp(-max(0.0, margin) / _CHANCE_SCALE)
    shift = 0.0
    if 0 < best < len(curve) - 1:
        before, here, after = (float(v) for v in curve[best - 1 : best + 2])
        bend = before - 2 * here + after
        shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
    offset_ms = float(OFFSETS_MS[best]) + shift * _STEP_MS
    return Offset(offset_ms, float(1 / (1 + chance / _PRIOR_ODDS)))
