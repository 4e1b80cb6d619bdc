"""Frame readers: the picture on screen at given instants, scaled, upright, with its PTS.

Two libraries read frames behind one function. decord is asked for local files that it can place
exactly: its own count and times must agree with the packets' PTS. PyAV takes everything else, and
every file that decord refuses.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import av
import numpy as np
import numpy.typing as npt

from pipeline.media.clock import on_screen, time_to_pts
from pipeline.media.probe import decode_tolerantly, is_remote, open_media, packets_from
from pipeline.records import MediaInfo, VideoStream

_MAX_ASPECT = 4  # wider pictures are squeezed to this, so that one file cannot ask for any memory
# decord reads the whole file's index at every opening: worth it only where the unit is most of it.
_DECORD_CONTAINERS = ("mov", "matroska")  # in others it seeks to wrong frames, MPEG-TS measured
_DECORD_MAX_FRAMES = 20_000


@dataclass(frozen=True)
class PacketIndex:
    """Presentation times of the pictures around a span, from packets, nothing decoded."""

    pts: tuple[int, ...]  # ascending, distinct
    end_pts: int  # where the last one leaves the screen
    is_whole_file: bool
    n_errors: int = 0

    @property
    def is_vfr(self) -> bool | None:
        """Whether frames are unevenly spaced by more than a tick's rounding and a tenth."""
        if len(self.pts) < 3:
            return None
        steps = np.diff(np.asarray(self.pts))
        usual = float(np.median(steps))
        return bool((np.abs(steps - usual) > 1 + 0.1 * usual).any())


@dataclass(frozen=True)
class Frames:
    """Pictures for instants, in the instants' order."""

    rgb: npt.NDArray[np.uint8]  # (n, H, W, 3)
    pts: npt.NDArray[np.int64]  # (n,) of each picture
    n_errors: int = 0


class FrameReader(Protocol):
    """Reads the pictures on screen at `instants` (ascending ticks of the stream)."""

    def read(self, instants: Sequence[int], width: int, height: int) -> Frames:
        """Pictures scaled to `width` × `height` as shown, that is after rotation.

        Raises:
            ReaderError: this reader cannot place this file's frames exactly.
        """
        ...


class ReaderError(Exception):
    """The reader leaves this file to another."""


def index_packets(uri: str, info: MediaInfo, start_s: Fraction, end_s: Fraction) -> PacketIndex:
    """Picture times in [start, end) and the one before, by demultiplexing alone.

    `end_s` may lie beyond the file's end.
    """
    stream_info = _video(info)
    start = time_to_pts(start_s, stream_info.time_base, info.origin_s)
    end = time_to_pts(end_s, stream_info.time_base, info.origin_s)
    times: set[int] = set()
    last_duration, reached_eof, n_errors = 0, True, 0
    with open_media(uri) as container:
        stream = container.streams[stream_info.index]
        is_from_start = start_s <= 0
        try:
            for packet in packets_from(container, stream, None if is_from_start else start):
                if packet.dts is not None and packet.dts >= end:
                    reached_eof = False
                    break
                if packet.pts is None or packet.is_discard or packet.size == 0:
                    continue
                times.add(packet.pts)
                last_duration = packet.duration or last_duration
        except av.FFmpegError:
            n_errors += 1  # a torn end: what came before it counts
    pts = sorted(t for t in times if t < end)
    if pts and pts[0] < start:
        pts = pts[on_screen(pts, start) :]
    step = int(np.median(np.diff(pts))) if len(pts) > 1 else last_duration
    ends = pts[-1] + (last_duration or step) if pts else start
    whole = is_from_start and reached_eof and len(pts) == len(times)
    return PacketIndex(tuple(pts), ends, whole, n_errors)


def scaled_size(stream: VideoStream, short_side_px: int) -> tuple[int, int]:
    """Width and height as shown when the short side is `short_side_px`."""
    short, long = sorted((stream.width, stream.height))
    long_px = round(short_side_px * min(_MAX_ASPECT, long / short))
    return (long_px, short_side_px) if stream.width >= stream.height else (short_side_px, long_px)


def read_frames(
    uri: str, info: MediaInfo, index: PacketIndex, instants: Sequence[int], short_side_px: int
) -> Frames:
    """The pictures on screen at `instants` (ascending ticks), by the reader that suits the file."""
    width, height = scaled_size(_video(info), short_side_px)
    readers: list[FrameReader] = [PyAVReader(uri, info)]
    if not is_remote(uri) and index.is_whole_file and len(index.pts) <= _DECORD_MAX_FRAMES:
        readers.insert(0, DecordReader(uri, info, index))
    for reader in readers[:-1]:
        with contextlib.suppress(ReaderError):
            return reader.read(instants, width, height)
    return readers[-1].read(instants, width, height)


class DecordReader:
    """decord, where its frames are the index's frames."""

    def __init__(self, uri: str, info: MediaInfo, index: PacketIndex) -> None:
        self.path = uri.removeprefix("file://")
        self.info, self.index = info, index

    def read(self, instants: Sequence[int], width: int, height: int) -> Frames:
        stream = _video(self.info)
        if not self.info.container.startswith(_DECORD_CONTAINERS):
            raise ReaderError(f"decord may seek to wrong frames in {self.info.container}")
        if stream.rotation_deg or (stream.width, stream.height) != (
            stream.coded_width,
            stream.coded_height,
        ):
            raise ReaderError("turned or anamorphic pictures")
        import decord

        decord.logging.set_level(decord.logging.QUIET)  # what it cannot read, PyAV reports
        try:
            reader = decord.VideoReader(self.path, width=width, height=height, num_threads=1)
            self._check(reader, stream)
            wanted = [on_screen(self.index.pts, t) for t in instants]
            distinct = sorted(set(wanted))
            pictures = reader.get_batch(distinct).asnumpy()
        except (decord.DECORDError, RuntimeError, IndexError, ValueError) as e:
            raise ReaderError(str(e)) from e
        where = {frame: i for i, frame in enumerate(distinct)}
        rgb = pictures[[where[frame] for frame in wanted]]
        return Frames(rgb, np.array([self.index.pts[f] for f in wanted], dtype=np.int64))

    def _check(self, reader: Any, stream: VideoStream) -> None:
        """Raise unless decord counts the same frames at the same times, to half a millisecond."""
        if len(reader) != len(self.index.pts):
            raise ReaderError(f"decord counts {len(reader)} frames of {len(self.index.pts)}")
        theirs = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        pts = np.asarray(self.index.pts)
        ours = (pts - pts[0]) * float(stream.time_base)
        if np.abs(theirs - ours).max() > max(5e-4, 1e-6 * float(ours[-1])):
            raise ReaderError("decord places frames elsewhere than their PTS")


class PyAVReader:
    """PyAV: any container, damaged ones too, local or remote."""

    def __init__(self, uri: str, info: MediaInfo) -> None:
        self.uri, self.info = uri, info

    def read(self, instants: Sequence[int], width: int, height: int) -> Frames:
        stream = _video(self.info)
        pictures: list[npt.NDArray[np.uint8]] = []
        pts: list[int] = []
        with open_media(self.uri) as container:
            decoder = _Decoder(container, stream.index, instants[0] if instants else 0)
            for shown, count in _shown_at(decoder, instants):
                pictures += [_to_rgb(shown, width, height, stream.rotation_deg)] * count
                pts += [_frame_pts(shown)] * count
        rgb = np.stack(pictures) if pictures else np.zeros((0, height, width, 3), np.uint8)
        return Frames(rgb, np.array(pts, dtype=np.int64), decoder.n_errors)


class _Decoder:
    """Frames from the keyframe before `start` on, in order of presentation, damage counted."""

    def __init__(self, container: Any, stream_index: int, start: int) -> None:
        self.container, self.n_errors = container, 0
        self.stream = container.streams[stream_index]
        self.stream.thread_type = "NONE"  # throughput of a core, not latency of a file
        self.start = start if start > (self.stream.start_time or 0) else None

    def __iter__(self) -> Iterator[Any]:
        try:
            for packet in packets_from(self.container, self.stream, self.start):
                frames = decode_tolerantly(packet)
                self.n_errors += frames is None
                yield from (f for f in frames or () if not f.is_corrupt and _has_pts(f))
        except av.FFmpegError:
            self.n_errors += 1


def _shown_at(frames: Any, instants: Sequence[int]) -> Iterator[tuple[Any, int]]:
    """Each frame that is on screen at some instants, with how many of them, in order."""
    done, shown = 0, None
    for frame in frames:
        if shown is not None:
            count = bisect_left(instants, _frame_pts(frame), lo=done) - done
            if count:
                yield shown, count
                done += count
        if done == len(instants):
            return
        shown = frame
    if shown is not None and done < len(instants):
        yield shown, len(instants) - done


def _to_rgb(frame: Any, width: int, height: int, rotation_deg: int) -> npt.NDArray[np.uint8]:
    if rotation_deg in (90, 270):
        width, height = height, width
    # Area averaging is the cheapest scaler without aliasing on the way down.
    shrinks = width < frame.width
    scaled = frame.reformat(
        width=width, height=height, format="rgb24", interpolation="AREA" if shrinks else "BILINEAR"
    )
    return np.rot90(scaled.to_ndarray(), -rotation_deg // 90)


def _has_pts(frame: Any) -> bool:
    return frame.pts is not None or frame.dts is not None


def _frame_pts(frame: Any) -> int:
    return frame.pts if frame.pts is not None else frame.dts


def _video(info: MediaInfo) -> VideoStream:
    if info.video is None:
        raise ValueError("the file has no video stream")
    return info.video
