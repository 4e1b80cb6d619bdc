"""What a person is shown of a video: a still (JPEG) and a short excerpt (MP4), on the media clock.

    with Previewer() as previews:
        jpeg = previews.still("a.mkv", 12.0)
        mp4 = previews.excerpt("a.mkv", 12.0, 16.0)

Both are made in a guarded process, of any source that the readers decode: a damaged file costs its preview
and nothing else. An excerpt plays in every browser: H.264 (yuv420p), AAC, its index in front.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.config import AudioConfig, ClipConfig, LimitConfig
from pipeline.media.audio import AudioTrack, read_audio, resample
from pipeline.media.clock import time_to_pts, to_fraction
from pipeline.media.guard import Guard, Limits
from pipeline.media.probe import probe
from pipeline.media.video import Frames, index_packets, read_frames
from pipeline.records import MediaError, MediaInfo

STILL_PX, EXCERPT_PX = 144, 240  # of the short side
MAX_EXCERPT_S = 30.0
_FPS = 15
_RATE_HZ, _AAC_BITS_PER_S = 48_000, 64_000
_JPEG_QUALITY = 75
_PICTURES = ClipConfig(short_side_px=EXCERPT_PX)
_LIMITS = Limits(deadline_s=60.0, memory_mb=2048)
_VIDEO_OPTIONS = {"crf": "30", "preset": "veryfast", "bf": "0", "g": str(2 * _FPS), "threads": "1"}


@dataclass(frozen=True)
class Still:
    """The picture on screen at `at_s`."""

    uri: str
    at_s: float
    short_side_px: int = STILL_PX


@dataclass(frozen=True)
class Excerpt:
    """Picture and sound of [`start_s`, `end_s`), of which at most the first `MAX_EXCERPT_S`."""

    uri: str
    start_s: float
    end_s: float


class Previewer:
    """Makes previews in a process of its own, which is replaced where a file hangs or crashes it."""

    def __init__(
        self,
        limits: Limits = _LIMITS,
        *,
        file_limits: LimitConfig | None = None,
        audio_track: str = "default",
    ) -> None:
        self._guard = Guard("pipeline.media.preview:make", limits)
        self._file_limits, self._track = file_limits or LimitConfig(), audio_track

    def still(self, uri: str, at_s: float, short_side_px: int = STILL_PX) -> bytes:
        """A JPEG, upright and with square pixels.

        Raises:
            MediaError: the file cannot be read, or shows nothing there.
        """
        return self._make(Still(uri, at_s, short_side_px))

    def excerpt(self, uri: str, start_s: float, end_s: float) -> bytes:
        """An MP4 that begins at `start_s`: pictures where there are any, sound where there is any.

        Raises:
            MediaError: the file cannot be read, or has neither there.
        """
        return self._make(Excerpt(uri, start_s, end_s))

    def _make(self, asked: Still | Excerpt) -> bytes:
        _, made = self._guard.call(asked, self._file_limits, self._track)
        assert made is not None  # a preview is never empty
        return bytes(made)

    def close(self) -> None:
        self._guard.close()

    def __enter__(self) -> Previewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make(
    asked: Still | Excerpt, limits: LimitConfig, audio_track: str = AudioConfig().track
) -> tuple[None, list[bytes]]:
    """A preview, as a guard's child calls it."""
    info = probe(asked.uri, audio_track, limits)
    made = _still(asked, info) if isinstance(asked, Still) else _excerpt(asked, info)
    return None, [made]


def _still(asked: Still, info: MediaInfo) -> bytes:
    at_s = to_fraction(asked.at_s)
    frames = _pictures(asked.uri, info, [at_s], at_s + Fraction(1, _FPS))
    if frames is None:
        raise MediaError("preview", "no_picture", f"{asked.uri}: no picture at {asked.at_s:g} s")
    picture = Image.fromarray(frames.rgb[0])
    scale = asked.short_side_px / min(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    made = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS).save(
        made, "JPEG", quality=_JPEG_QUALITY, optimize=True
    )
    return made.getvalue()


def _excerpt(asked: Excerpt, info: MediaInfo) -> bytes:
    start_s = to_fraction(asked.start_s)
    end_s = min(to_fraction(asked.end_s), start_s + to_fraction(MAX_EXCERPT_S))
    if end_s <= start_s:
        raise ValueError(f"[{asked.start_s:g}, {asked.end_s:g}) s: expected an end behind the start")
    instants = [start_s + Fraction(k, _FPS) for k in range(-((start_s - end_s) * _FPS // 1))]
    frames = _pictures(asked.uri, info, instants, end_s)
    sound = _sound(asked.uri, info, start_s, end_s)
    if frames is None and sound is None:
        where = f"between {asked.start_s:g} and {asked.end_s:g} s"
        raise MediaError("preview", "nothing_to_play", f"{asked.uri}: no picture and no sound {where}")
    return _encoded(None if frames is None else frames.rgb, sound)


def _pictures(uri: str, info: MediaInfo, instants: list[Fraction], end_s: Fraction) -> Frames | None:
    """The pictures on screen at `instants`, up to where the file's pictures end; None where there are none."""
    if info.video is None:
        return None
    index = index_packets(uri, info, instants[0], end_s)
    ticks = [time_to_pts(t, info.video.time_base, info.origin_s) for t in instants]
    frames = read_frames(uri, info, index, [t for t in ticks if t < index.end_pts], _PICTURES)
    return frames if len(frames.rgb) else None


def _sound(uri: str, info: MediaInfo, start_s: Fraction, end_s: Fraction) -> AudioTrack | None:
    if info.audio is None:
        return None
    track = read_audio(uri, info, start_s, end_s)
    return resample(track, _RATE_HZ) if len(track.present) else None


def _encoded(rgb: npt.NDArray[np.uint8] | None, sound: AudioTrack | None) -> bytes:
    """An MP4 of pictures (n, H, W, 3), `_FPS` a second, and sound, both from its start on."""
    # A file on disk, because moving the index to the front reads again what was written.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "excerpt.mp4"
        with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
            # Every stream is there before the first packet, which writes the header.
            tracks = []
            if rgb is not None:
                tracks.append((_video_stream(container, rgb), _video_frames(rgb)))
            if sound is not None:
                tracks.append((_audio_stream(container), _audio_frames(sound)))
            for stream, frames in tracks:
                for frame in (*frames, None):
                    container.mux(stream.encode(frame))
        return path.read_bytes()


def _video_stream(container: Any, rgb: npt.NDArray[np.uint8]) -> Any:
    stream = container.add_stream("libx264", rate=_FPS, options=_VIDEO_OPTIONS)
    stream.height, stream.width = rgb.shape[1:3]
    stream.pix_fmt = "yuv420p"
    return stream


def _video_frames(rgb: npt.NDArray[np.uint8]) -> Iterator[Any]:
    for k, picture in enumerate(rgb):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = k, Fraction(1, _FPS)
        yield frame


def _audio_stream(container: Any) -> Any:
    stream = container.add_stream("aac", rate=_RATE_HZ, layout="mono")
    stream.bit_rate = _AAC_BITS_PER_S
    return stream


def _audio_frames(sound: AudioTrack) -> Iterator[Any]:
    frame = av.AudioFrame.from_ndarray(sound.samples[None], format="fltp", layout="mono")
    frame.pts, frame.time_base, frame.sample_rate = 0, Fraction(1, _RATE_HZ), _RATE_HZ
    yield frame
