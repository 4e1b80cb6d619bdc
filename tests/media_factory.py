"""Media files that say what time it is: a white flash and a click at every whole second."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 160, 120
CLICK_S = 0.005


def flash_and_click(
    path: Path,
    *,
    seconds: float = 10.0,
    fps: int = 25,
    rate_hz: int = 48_000,
    layout: str = "stereo",
    vcodec: str | None = "libx264",
    acodec: str | None = "aac",
    audio_delay_s: float = 0.0,
    audio_s: float | None = None,
    frame_times: list[float] | None = None,
    rotate: int = 0,
    sound_gap: tuple[float, float] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    drift_ppm: float = 0.0,
    b_frames: int = 2,
    muxer: dict[str, str] | None = None,
) -> Path:
    """Write a file in which picture and sound mark the same instants.

    Args:
        audio_delay_s: when the sound track begins; its clicks stay on whole seconds of the clock.
        audio_s: where the sound track ends, default with the picture.
        frame_times: start of each frame in seconds, for a variable frame rate.
        sound_gap: no sound packets between these times.
        drift_ppm: the sound's own clock is slower by this; its clicks stay on the clock's seconds.
        muxer: options of the container, such as a start of the time stamps.
    """
    with av.open(str(path), "w", options=muxer or {}) as container:
        video = audio = None
        if vcodec:
            video = container.add_stream(vcodec, rate=fps)
            video.width, video.height = size
            video.pix_fmt = "yuv420p"
            ticks = fps if vcodec.startswith("mpeg") else 90_000  # MPEG-1 knows only frame rates
            video.codec_context.time_base = Fraction(1, ticks)
            if vcodec == "libx264":
                video.options = {"preset": "ultrafast", "bf": str(b_frames), "g": "50"}
            if vcodec == "libx265":
                video.options = {"x265-params": "log-level=none"}
            if rotate:
                video.set_display_rotation(rotate)
        if acodec:
            audio = container.add_stream(acodec, rate=rate_hz, layout=layout)
        for packet in _video_packets(video, seconds, fps, frame_times, size) if video else ():
            container.mux(packet)
        end_s = seconds if audio_s is None else audio_s
        for packet in (
            _audio_packets(audio, end_s, audio_delay_s, sound_gap, drift_ppm) if audio else ()
        ):
            container.mux(packet)
    return path


def _video_packets(stream, seconds, fps, frame_times, size):
    times = frame_times or [i / fps for i in range(round(seconds * fps))]
    width, height = size
    for t in times:
        is_flash = t >= 0.5 and abs(t - round(t)) < 0.5 / fps
        picture = np.full((height, width, 3), 255 if is_flash else 16, np.uint8)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        time_base = stream.codec_context.time_base
        frame.pts, frame.time_base = round(t / time_base), time_base
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _audio_packets(stream, end_s, delay_s, gap, drift_ppm):
    rate = stream.rate
    n_channels = stream.codec_context.layout.nb_channels
    size = stream.codec_context.frame_size or 1024
    fmt = stream.codec_context.format.name
    for first in range(round(delay_s * rate), round(end_s * rate), size):
        if gap and gap[0] <= first / rate < gap[1]:
            continue
        sound = click_track(first, min(size, round(end_s * rate) - first), rate, drift_ppm)
        planes = np.repeat(sound[None], n_channels, axis=0)
        values = planes
        if fmt.startswith("s16"):
            values = (planes * (2**15 - 1)).astype(np.int16)
        elif fmt.startswith("s32"):
            values = (planes.astype(np.float64) * (2**31 - 1)).astype(np.int32)
        if not fmt.endswith("p"):
            values = values.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(values), format=fmt, layout=stream.codec_context.layout.name
        )
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = round(first * (1 + drift_ppm * 1e-6))
        yield from stream.encode(frame)
    yield from stream.encode(None)


def click_track(first: int, n: int, rate: int, drift_ppm: float = 0.0) -> np.ndarray:
    """Samples [first, first+n) of a track with a 2 kHz burst at every whole second but the first."""
    index = np.arange(first, first + n) * (1 + drift_ppm * 1e-6)
    since = (index % rate) / rate
    burst = np.sin(2 * np.pi * 2000 * since) * 0.8
    return np.where((since < CLICK_S) & (index >= rate), burst, 0.0).astype(np.float32)


def click_times(samples: np.ndarray, rate: int) -> list[float]:
    """Where clicks begin, in seconds."""
    loud = np.flatnonzero(np.abs(samples) > 0.25)
    if not len(loud):
        return []
    starts = loud[np.flatnonzero(np.diff(loud, prepend=-rate) > rate // 2)]
    return [float(s) / rate for s in starts]
