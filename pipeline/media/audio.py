"""Sound placed on the media clock: each sample where its PTS says, holes kept as silence.

Frames that follow each other are a run. A run lies where a straight line through its frames' PTS puts
it, because one container tick (1 ms in Matroska) is coarser than a sample. The line's slope is the
drift of the sound's rate against the clock; beyond a bound it is stretched away. Between runs a hole
becomes silence and is recorded, and an overlap is overwritten by what comes later.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from pipeline.config import DEFAULT_MAX_DRIFT_PPM
from pipeline.media.clock import Span, pts_to_time, sample_index, time_to_pts
from pipeline.media.probe import decode_tolerantly, open_media, packets_from, stream_at
from pipeline.records import AudioStream, MediaInfo

_JITTER_S = Fraction(1, 1000)
_PREROLL_S = Fraction(1, 2)  # decoded before a seek target and thrown away: codecs need a run-up
_DRIFT_MIN_S, _DRIFT_MIN_FRAMES = 4.0, 50  # shorter runs do not tell drift from rounding
_DRIFT_MAX_ERROR_PPM = 10.0  # a fitted drift that ticks can bend by more says nothing


@dataclass(frozen=True)
class AudioTrack:
    """Mono sound of a span; sample 0 lies at `start_s` of the media clock."""

    samples: npt.NDArray[np.float32]  # (n,)
    rate_hz: int
    start_s: Fraction
    present: npt.NDArray[np.int64]  # (k, 2) ascending runs [first, last+1) that the file has
    damage: tuple[Span, ...] = ()  # where packets would not decode
    drift_ppm: float | None = None  # sound longer than its rate says; of the longest run

    @property
    def gap_s(self) -> float:
        """Silence put between runs."""
        holes = self.present[1:, 0] - self.present[:-1, 1]
        return float(holes.sum()) / self.rate_hz

    @property
    def end_s(self) -> Fraction:
        """Where the last sample that the file has ends."""
        last = int(self.present[-1, 1]) if len(self.present) else 0
        return self.start_s + Fraction(last, self.rate_hz)


def read_audio(
    uri: str,
    info: MediaInfo,
    start_s: Fraction,
    end_s: Fraction,
    max_drift_ppm: float = DEFAULT_MAX_DRIFT_PPM,
) -> AudioTrack:
    """All sound in [start, end), mixed down to one channel at the stream's own rate.

    `end_s` may lie beyond the file's end; the track ends where the sound does.
    """
    if info.audio is None:
        raise ValueError(f"{uri}: the file has no audio stream")
    placer = _Placer(info.audio, info.origin_s, start_s, end_s)
    damage: list[Span] = []
    with open_media(uri) as container:
        stream = stream_at(uri, container, info.audio.index)
        target = None
        if start_s > _PREROLL_S:
            target = time_to_pts(start_s - _PREROLL_S, info.audio.time_base, info.origin_s)
        try:
            for packet in packets_from(container, stream, target):
                frames = decode_tolerantly(packet)
                if frames is None:
                    damage.append(placer.span_of(packet))
                if not all(placer.place(frame) for frame in frames or ()):
                    break
        except av.FFmpegError:
            damage.append(placer.span_of(None))
    return placer.track(max_drift_ppm, tuple(damage))


class _Run:
    """Frames that follow each other without a hole, with what their PTS say."""

    def __init__(self) -> None:
        self.pieces: list[npt.NDArray[np.float32]] = []
        self.counted: list[int] = []  # samples before each frame
        self.times_s: list[float] = []  # PTS of each frame, on the span's clock
        self.n_samples = 0

    def add(self, mono: npt.NDArray[np.float32], time_s: float) -> None:
        self.counted.append(self.n_samples)
        self.times_s.append(time_s)
        self.pieces.append(mono)
        self.n_samples += len(mono)

    def fit(self, rate_hz: int, tick_s: float) -> tuple[float, float, bool]:
        """A straight line through the PTS of all frames, in which a container's coarse ticks average out.

        Returns:
            Where the first sample lies; by how much the sound is slower than its rate says, in ppm; and
            whether the run is long enough for its ticks to tell.
        """
        counted_s = np.asarray(self.counted) / rate_hz
        times_s = np.asarray(self.times_s)
        span_s = counted_s[-1] - counted_s[0]
        if len(times_s) < _DRIFT_MIN_FRAMES or span_s < _DRIFT_MIN_S:
            return float(np.median(times_s - counted_s)), 0.0, False
        centred = counted_s - counted_s.mean()
        slope = float((centred * (times_s - times_s.mean())).sum() / (centred**2).sum())
        # Where frames are whole ticks long, all are rounded alike: then half a tick stays in the slope.
        is_told = 0.5 * tick_s / span_s * 1e6 <= _DRIFT_MAX_ERROR_PPM
        return float(times_s.mean() - slope * counted_s.mean()), (slope - 1) * 1e6, is_told


class _Placer:
    """Collects decoded frames and writes them into the span's buffer at their places."""

    def __init__(
        self, stream: AudioStream, origin_s: Fraction, start_s: Fraction, end_s: Fraction
    ) -> None:
        self.stream, self.origin_s = stream, origin_s
        self.start_s, self.end_s = start_s, end_s
        self.rate_hz = 0  # of the decoder, known with the first frame (HE-AAC doubles the header's)
        self.mix: Any = None
        self.runs: list[_Run] = []
        self.expected_s: float | None = None  # where the next frame lies if nothing is missing

    def place(self, frame: Any) -> bool:
        """Take a frame; False once it lies behind the span."""
        if not self.rate_hz:
            self.rate_hz = frame.sample_rate
        mono = self._mono(frame)
        time_s = self._time_s(frame)
        slack_s = float(max(2 * (frame.time_base or self.stream.time_base), _JITTER_S))
        if self.expected_s is None or abs(time_s - self.expected_s) > slack_s:
            self.runs.append(_Run())
        self.runs[-1].add(mono, time_s)
        self.expected_s = time_s + len(mono) / self.rate_hz
        return time_s < self.end_s - self.start_s

    def span_of(self, packet: Any) -> Span:
        """When a packet would have been heard; without one, the instant up to which there was sound."""
        if packet is None or packet.pts is None:
            at_s = self.start_s + Fraction(self.expected_s or 0.0)
            return at_s, at_s
        first_s = pts_to_time(packet.pts, packet.time_base, self.origin_s)
        return first_s, first_s + (packet.duration or 0) * packet.time_base

    def _time_s(self, frame: Any) -> float:
        """When the frame's first sample is heard, counted from the span's start."""
        if frame.pts is None:
            return self.expected_s or 0.0
        time_base = frame.time_base or self.stream.time_base
        return float(pts_to_time(frame.pts, time_base, self.origin_s) - self.start_s)

    def _mono(self, frame: Any) -> npt.NDArray[np.float32]:
        if self.mix is None:
            self.mix = av.AudioResampler(format="fltp", layout="mono", rate=self.rate_hz)
        try:
            mixed = self.mix.resample(frame)
        except ValueError:  # the stream changed its layout or rate: start a new mixer
            self.mix = av.AudioResampler(format="fltp", layout="mono", rate=self.rate_hz)
            mixed = self.mix.resample(frame)
        return np.concatenate([m.to_ndarray()[0] for m in mixed] or [np.zeros(0, np.float32)])

    def track(self, max_drift_ppm: float, damage: tuple[Span, ...]) -> AudioTrack:
        """All runs in their places; one that drifts beyond the bound is stretched to its PTS."""
        rate_hz = self.rate_hz or self.stream.rate_hz
        limit = sample_index(self.end_s - self.start_s, rate_hz)
        placed, drift_ppm, longest = [], None, 0
        for run in self.runs:
            first_s, drift, is_told = run.fit(rate_hz, float(self.stream.time_base))
            samples = np.concatenate(run.pieces)
            if is_told and run.n_samples > longest:
                drift_ppm, longest = drift, run.n_samples
            if abs(drift) > max_drift_ppm:
                samples = stretch(samples, 1 + drift * 1e-6)
            placed.append((round(first_s * rate_hz), samples))
        end = max((min(limit, at + len(samples)) for at, samples in placed), default=0)
        buffer = np.zeros(max(0, end), np.float32)
        present: list[list[int]] = []
        for at, samples in placed:
            first, last = max(at, 0), min(at + len(samples), limit)
            if first < last:
                buffer[first:last] = samples[first - at : last - at]
                present.append([first, last])
        return AudioTrack(buffer, rate_hz, self.start_s, _merged(present), damage, drift_ppm=drift_ppm)


def _merged(runs: list[list[int]]) -> npt.NDArray[np.int64]:
    """Runs that touch or overlap as one, ascending."""
    merged: list[list[int]] = []
    for first, last in sorted(runs):
        if merged and first <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    return np.array(merged, dtype=np.int64).reshape(-1, 2)


def stretch(samples: npt.NDArray[np.float32], factor: float) -> npt.NDArray[np.float32]:
    """The same sound made longer by `factor`, for factors near 1.

    Linear interpolation: what it takes from the highest tones lies above what encoders of 16 kHz hear.
    """
    n = round(len(samples) * factor)
    return np.interp(np.arange(n) / factor, np.arange(len(samples)), samples).astype(np.float32)


def resample(track: AudioTrack, rate_hz: int) -> AudioTrack:
    """The same sound at another rate, starting at the same instant."""
    if track.rate_hz == rate_hz or not len(track.samples):
        return dataclasses.replace(track, rate_hz=rate_hz)
    frame = av.AudioFrame.from_ndarray(track.samples[None], format="fltp", layout="mono")
    frame.sample_rate = track.rate_hz
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate_hz)
    pieces = [f.to_ndarray()[0] for f in [*resampler.resample(frame), *resampler.resample(None)]]
    ratio = rate_hz / track.rate_hz
    present = np.round(track.present * ratio).astype(np.int64)
    n_samples = int(present[-1, 1]) if len(present) else 0
    samples = np.concatenate(pieces)[:n_samples]
    samples = np.pad(samples, (0, n_samples - len(samples)))
    return dataclasses.replace(track, samples=samples, rate_hz=rate_hz, present=present)
