"""The values that flow down the line, frozen, with units in their names.

Times called `_s` are seconds on the file's one media clock: 0 is the file's origin (see
`pipeline.media.clock`). A `_pts` is the container's own integer, never rebased.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt


def short_hash(*parts: object) -> str:
    """16 hex digits that name `parts`; the same parts always give the same digits."""
    text = json.dumps([str(p) for p in parts], ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)  # a plan holds a million of them
class Source:
    """One video as the plan found it."""

    uri: str  # canonical: absolute path or URL, no userinfo, no signature
    video_id: str
    version: str  # etag, or size and mtime; "missing" where nothing could be read
    size_bytes: int | None = None
    duration_s: float | None = None  # from the manifest, where it says so
    attributes: dict[str, Any] = field(default_factory=dict)  # other columns of the manifest


@dataclass(frozen=True, slots=True)
class Unit:
    """The piece of work that is done once: a span of one video on the clip grid."""

    unit_id: str
    video_id: str
    uri: str
    version: str
    start_s: float
    end_s: float | None  # None: to the end of the file
    planned_s: float | None = None  # the duration by which the file was cut into units
    attempt: int = 1
    size_bytes: int | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def is_first(self) -> bool:
        return self.start_s == 0.0


@dataclass(frozen=True)
class VideoStream:
    """What the container says of its picture stream."""

    index: int
    codec: str
    width: int  # as shown: after rotation and with square pixels
    height: int
    coded_width: int
    coded_height: int
    rotation_deg: int  # clockwise turn that shows it upright: 0, 90, 180 or 270
    is_mirrored: bool  # left and right are swapped before that turn
    time_base: Fraction
    start_pts: int
    fps: float | None  # average; never used to place a frame
    n_frames: int | None  # by the header, which may be wrong


@dataclass(frozen=True)
class AudioStream:
    """What the container says of its sound stream."""

    index: int
    codec: str
    rate_hz: int
    channels: int
    time_base: Fraction
    start_pts: int


@dataclass(frozen=True)
class MediaInfo:
    """Container facts, read without decoding."""

    container: str
    duration_s: float | None
    origin_s: Fraction  # where 0 of the media clock lies on the container's own time line
    video: VideoStream | None
    audio: AudioStream | None


@dataclass(frozen=True)
class SyncReport:
    """How the two streams of a unit stand to each other."""

    is_vfr: bool | None = None  # frames are not evenly spaced; None without picture
    video_start_s: float | None = None  # first frame on the media clock
    audio_start_s: float | None = None  # first sample on the media clock
    gap_s: float = 0.0  # silence put where the sound has holes
    drift_ppm: float | None = None  # of the sound against its PTS; None where too short to tell
    n_decode_errors: int = 0
    damaged_s: tuple[tuple[float, float], ...] = ()  # where those errors reach, ascending, none touch
    offset_ms: float | None = None  # of the sound behind the picture, by content; None: not told
    offset_confidence: float | None = None


@dataclass(frozen=True)
class MotionPictures:
    """Small grey pictures of the clips at an even rate: what moves in them, not what it is.

    Each is near its instant, of those that are decoded anyway where there is one. One that is not valid
    repeats the valid one before it (the first ones the one behind); a clip without picture has zeros.
    """

    grey: npt.NDArray[np.uint8]  # (N, P, h, w), 4:3 whatever the video's shape
    valid: npt.NDArray[np.bool_]  # (N, P)
    time_s: npt.NDArray[np.float64]  # (N, P) PTS of the picture used, NaN where invalid
    rate_hz: int  # picture p is of the instant (p + ½) / rate after the clip's start


@dataclass(frozen=True)
class ClipBatch:
    """The clips of one unit, N of them, picture and sound on one clock.

    A clip without picture has `frame_valid` all False, and its frames are zeros; a clip without
    sound has `audio_valid` of (0, 0) and zeros.
    """

    start_s: npt.NDArray[np.float64]  # (N,)
    end_s: npt.NDArray[np.float64]  # (N,) of what the file has; start + length unless padded
    start_pts: npt.NDArray[np.int64]  # (N,) clip start in ticks of `time_base`
    time_base: str  # "1/90000"
    is_padded: npt.NDArray[np.bool_]  # (N,)
    is_damaged: npt.NDArray[np.bool_]  # (N,) something in the clip would not decode
    frames: npt.NDArray[np.uint8]  # (N, T, H, W, 3)
    frame_valid: npt.NDArray[np.bool_]  # (N, T)
    frame_time_s: npt.NDArray[np.float64]  # (N, T) PTS of the frame used, NaN where invalid
    frame_error_ms: npt.NDArray[np.float32]  # (N,) largest |PTS − instant asked|, NaN: no picture
    samples: npt.NDArray[np.float32]  # (N, S) mono at `sample_rate_hz`
    sample_rate_hz: int
    audio_valid: npt.NDArray[np.int32]  # (N, 2) first and last+1 sample that the file has
    audio_coverage: npt.NDArray[np.float32]  # (N,) share of the clip with decoded sound
    av_skew_ms: npt.NDArray[np.float32]  # (N,) first sound − first picture, NaN unless both
    cut_s: npt.NDArray[np.float64] | None = (
        None  # (N,) cut at which it begins, NaN: none; None: not asked
    )
    motion: MotionPictures | None = None  # None: not asked

    def __len__(self) -> int:
        return len(self.start_s)

    @property
    def has_video(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.frame_valid.any(axis=1), dtype=np.bool_)

    @property
    def has_audio(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.audio_coverage > 0, dtype=np.bool_)


@dataclass(frozen=True)
class Label:
    """Something said of a clip: in which vocabulary, from which sense, how surely."""

    label: str
    score: float
    space: str
    modality: str  # video, audio, fused


@dataclass(frozen=True)
class Word:
    """A spoken word and its time, in the sound it was heard in or on the file's clock."""

    word: str
    start_s: float
    end_s: float
    score: float | None = None


@dataclass(frozen=True)
class ClipResult:
    """What the model says of one clip."""

    labels: tuple[Label, ...]
    top: Label | None
    caption: str | None
    caption_score: float | None
    embedding: npt.NDArray[np.float32] | None  # (D,) unit length; None where nothing was evident
    video_weight: float | None
    audio_weight: float | None
    caption_problem: str | None = None  # why there is no caption
    words: tuple[Word, ...] | None = None  # None: nobody listened, or there is no sound


@dataclass(frozen=True)
class Failure:
    """Why a unit gave no clips."""

    stage: str  # probe, decode, encode
    code: str
    message: str


class MediaError(Exception):
    """A file that cannot be used, with a code that `failures` carries and a message for a person."""

    def __init__(self, stage: str, code: str, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(stage, code, message)

    def __reduce__(self) -> tuple[Any, ...]:
        f = self.failure
        return (MediaError, (f.stage, f.code, f.message))
