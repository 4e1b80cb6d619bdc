"""Sound placed on the media clock: each sample where its PTS says, holes kept as silence.

Inside a run of frames, samples are counted, because a container's ticks (1 ms in Matroska) are
coarser than a sample. Where the PTS leaves the count by more than a tick or a millisecond, the
count starts again from the PTS: a hole becomes silence and is recorded, an overlap is overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from pipeline.media.clock import pts_to_time, sample_index, time_to_pts
from pipeline.media.probe import decode_tolerantly, open_media, packets_from
from pipeline.records import AudioStream, MediaInfo

_JITTER_S = Fraction(1, 1000)
_PREROLL_S = Fraction(1, 2)  # decoded before a seek target and thrown away: codecs need a run-up
_GROW_S = 10  # the buffer of a span without known end grows in steps of this


@dataclass(frozen=True)
class AudioTrack:
    """Mono sound of a span; sample 0 lies at `start_s` of the media clock."""

    samples: npt.NDArray[np.float32]  # (n,)
    rate_hz: int
    start_s: Fraction
    present: npt.NDArray[np.int64]  # (k, 2) ascending runs [first, last+1) that the file has
    n_errors: int = 0

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


def read_audio(uri: str, info: MediaInfo, start_s: Fraction, end_s: Fraction) -> AudioTrack:
    """All sound in [start, end), mixed down to one channel at the stream's own rate.

    `end_s` may lie beyond the file's end; the track ends where the sound does.
    """
    if info.audio is None:
        raise ValueError(f"{uri}: the file has no audio stream")
    placer = _Placer(info.audio, info.origin_s, start_s, end_s)
    n_errors = 0
    with open_media(uri) as container:
        stream = container.streams[info.audio.index]
        stream.thread_type = "NONE"
        target = None
        if start_s > _PREROLL_S:
            target = time_to_pts(start_s - _PREROLL_S, info.audio.time_base, info.origin_s)
        try:
            for packet in packets_from(container, stream, target):
                frames = decode_tolerantly(packet)
                n_errors += frames is None
                if not all(placer.place(frame) for frame in frames or ()):
                    break
        except av.FFmpegError:
            n_errors += 1
    return placer.track(n_errors)


class _Placer:
    """Writes decoded frames into the span's buffer at their places."""

    def __init__(
        self, stream: AudioStream, origin_s: Fraction, start_s: Fraction, end_s: Fraction
    ) -> None:
        self.stream, self.origin_s = stream, origin_s
        self.start_s, self.end_s = start_s, end_s
        self.rate_hz = 0  # of the decoder, known with the first frame (HE-AAC doubles the header's)
        self.mix: Any = None
        self.buffer = np.zeros(0, np.float32)
        self.runs: list[list[int]] = []
        self.expected: int | None = None  # where the next sample lies if nothing is missing

    def place(self, frame: Any) -> bool:
        """Place a frame; False once it lies behind the span."""
        if not self.rate_hz:
            self.rate_hz = frame.sample_rate
        mono = self._mono(frame)
        at = self._position(frame)
        self.expected = at + len(mono)
        limit = sample_index(self.end_s - self.start_s, self.rate_hz)
        first, last = max(at, 0), min(at + len(mono), limit)
        if first < last:
            self._grow(last, limit)
            self.buffer[first:last] = mono[first - at : last - at]
            self._mark(first, last)
        return at < limit

    def _position(self, frame: Any) -> int:
        """Where the frame's first sample lies, counted from the span's start."""
        if frame.pts is None:
            return self.expected or 0
        time_base = frame.time_base or self.stream.time_base
        time_s = pts_to_time(frame.pts, time_base, self.origin_s) - self.start_s
        by_pts = sample_index(time_s, self.rate_hz)
        slack = self.rate_hz * max(time_base, _JITTER_S)
        if self.expected is not None and abs(by_pts - self.expected) <= slack:
            return self.expected
        return by_pts

    def _mono(self, frame: Any) -> npt.NDArray[np.float32]:
        if self.mix is None:
            self.mix = av.AudioResampler(format="fltp", layout="mono", rate=self.rate_hz)
        try:
            mixed = self.mix.resample(frame)
        except ValueError:  # the stream changed its layout or rate: start a new mixer
            self.mix = av.AudioResampler(format="fltp", layout="mono", rate=self.rate_hz)
            mixed = self.mix.resample(frame)
        return np.concatenate([m.to_ndarray()[0] for m in mixed] or [np.zeros(0, np.float32)])

    def _grow(self, needed: int, limit: int) -> None:
        if needed > len(self.buffer):
            size = min(limit, max(needed, 2 * len(self.buffer), _GROW_S * self.rate_hz))
            self.buffer = np.concatenate([self.buffer, np.zeros(size - len(self.buffer), np.float32)])

    def _mark(self, first: int, last: int) -> None:
        if self.runs and first <= self.runs[-1][1]:
            self.runs[-1][1] = max(self.runs[-1][1], last)
        else:
            self.runs.append([first, last])

    def track(self, n_errors: int) -> AudioTrack:
        end = self.runs[-1][1] if self.runs else 0
        return AudioTrack(
            samples=self.buffer[:end],
            rate_hz=self.rate_hz or self.stream.rate_hz,
            start_s=self.start_s,
            present=np.array(self.runs, dtype=np.int64).reshape(-1, 2),
            n_errors=n_errors,
        )


def resample(track: AudioTrack, rate_hz: int) -> AudioTrack:
    """The same sound at another rate, starting at the same instant."""
    if track.rate_hz == rate_hz or not len(track.samples):
        return AudioTrack(track.samples, rate_hz, track.start_s, track.present, track.n_errors)
    frame = av.AudioFrame.from_ndarray(track.samples[None], format="fltp", layout="mono")
    frame.sample_rate = track.rate_hz
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate_hz)
    pieces = [f.to_ndarray()[0] for f in [*resampler.resample(frame), *resampler.resample(None)]]
    ratio = rate_hz / track.rate_hz
    present = np.round(track.present * ratio).astype(np.int64)
    n_samples = int(present[-1, 1]) if len(present) else 0
    samples = np.concatenate(pieces)[:n_samples]
    samples = np.pad(samples, (0, n_samples - len(samples)))
    return AudioTrack(samples, rate_hz, track.start_s, present, track.n_errors)
