"""Container facts without decoding, and the one place where a media file is opened."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av
import fsspec
import numpy as np
import numpy.typing as npt
from av.codec.hwaccel import HWAccel

from pipeline.config import LimitConfig
from pipeline.media.clock import file_origin
from pipeline.records import AudioStream, MediaError, MediaInfo, VideoStream

# What FFmpeg would print of a damaged file stands in the file's row instead.
av.logging.set_level(av.logging.PANIC)

# What a media file may be. Playlists, concat scripts, subtitles and device inputs are not in it: they
# can point at other files or addresses.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,mpegvideo,m4v,h264,hevc,"
    "ivf,wav,w64,mp3,flac,aac,ac3,eac3,aiff,caf,gif,mxf,rm,swf,nut,dv,vob,amr,wv"
)
_DEFAULT_LIMITS = LimitConfig()
_HIDE_NEGATIVE = ("mov", "matroska")
_SEEK_AHEAD_S = 10
_SEEK_EARLIER_S = (0, 4, 30)
_SETTLE_S = 2
_ROTATION_PACKETS = 64  # a decoder that has given no frame by then is damaged at its start
_DEFAULT_DURATION_TB = Fraction(1, 1_000_000)  # AV_TIME_BASE of a container's duration


def is_remote(uri: str) -> bool:
    """Whether `uri` is a URL of some file system rather than a path on this machine."""
    return "://" in uri and not uri.startswith("file://")


@contextmanager
def open_media(uri: str, hardware: HWAccel | None = None) -> Iterator[Any]:
    """A PyAV input container over a local path or an fsspec URL, decoding in `hardware` where that is given.

    Raises:
        MediaError: it does not exist, is empty, or is not a media container of the allowed kinds.
    """
    path = uri.removeprefix("file://")
    if is_remote(uri):
        try:
            handle = fsspec.open(uri, "rb").open()
        except FileNotFoundError as e:
            raise MediaError("probe", "not_found", f"{uri}: no such object") from e
        except (OSError, ValueError, ImportError) as e:
            raise MediaError("probe", "unreadable", f"{uri}: cannot be read: {e}") from e
        with handle, _container(uri, handle, hardware) as container:
            yield container
        return
    _check_local(path)
    with _container(uri, path, hardware) as container:
        yield container


def _check_local(path: str) -> None:
    if not os.path.exists(path):
        raise MediaError("probe", "not_found", f"{path}: no such file")
    if not os.path.isfile(path):
        raise MediaError("probe", "not_a_file", f"{path}: expected a media file, found a directory")
    if os.path.getsize(path) == 0:
        raise MediaError("probe", "empty", f"{path}: the file is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise MediaError("probe", "no_permission", f"{path}: no permission to read it")


@contextmanager
def _container(uri: str, file: Any, hardware: HWAccel | None) -> Iterator[Any]:
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    try:
        container = av.open(file, options=options, metadata_errors="replace", hwaccel=hardware)
    except PermissionError as e:
        raise MediaError("probe", "no_permission", f"{uri}: no permission to read it") from e
    except (av.FFmpegError, OSError, ValueError) as e:
        raise MediaError(
            "probe",
            "not_media",
            f"{uri}: not a readable media file ({getattr(e, 'strerror', None) or e}); expected a "
            "container such as mp4, mkv, webm, avi, mpegts",
        ) from e
    try:
        yield container
    finally:
        container.close()


def probe(uri: str, audio_track: str = "default", limits: LimitConfig = _DEFAULT_LIMITS) -> MediaInfo:
    """Facts of a media file, from its headers.

    Args:
        limits: what the file may ask for; beyond it nothing of it is decoded.
        audio_track: "default" as a player chooses, a language such as "eng", or a number from 0; the
            default track stands in where there is none such.

    Raises:
        MediaError: it cannot be opened, asks for more than the limits, or has neither picture nor
            sound that can be decoded.
    """
    with open_media(uri) as container:
        _check_limits(uri, container, limits)
        return _describe(uri, container, audio_track)


def probe_guarded(uri: str, audio_track: str, limits: LimitConfig) -> tuple[MediaInfo, None]:
    """`probe` as a guard's child calls it."""
    return probe(uri, audio_track, limits), None


def _check_limits(uri: str, container: Any, limits: LimitConfig) -> None:
    n_streams = len(container.streams)
    if n_streams > limits.max_streams:
        raise _too_large(uri, f"{n_streams} streams", f"limits.max_streams is {limits.max_streams}")
    duration_s = (container.duration or 0) * _DEFAULT_DURATION_TB
    if duration_s > limits.max_duration_s:
        allowed = f"limits.max_duration_s is {limits.max_duration_s:g}"
        raise _too_large(uri, f"{float(duration_s):g} s by its header", allowed)
    for stream in container.streams.video:
        context = stream.codec_context
        if context is not None and context.width * context.height > limits.max_pixels:
            what = f"pictures of {context.width}x{context.height}"
            raise _too_large(uri, what, f"limits.max_pixels is {limits.max_pixels}")


def _too_large(uri: str, what: str, allowed: str) -> MediaError:
    return MediaError("probe", "too_large", f"{uri}: {what}; {allowed}")


def _describe(uri: str, container: Any, audio_track: str) -> MediaInfo:
    """Facts of an open container; the streams are the ones that a player would choose."""
    video = _best(container, "video")
    audio = _chosen_audio(container, audio_track)
    if video is None and audio is None:
        raise MediaError("probe", "no_streams", f"{uri}: no video or audio stream that can be decoded")
    starts = [s.start_time * s.time_base for s in (video, audio) if s and s.start_time is not None]
    return MediaInfo(
        container=container.format.name,
        origin_s=_origin(container, starts),
        video=_video_stream(container, video) if video else None,
        audio=_audio_stream(audio) if audio else None,
        duration_s=_duration_s(container, [s for s in (video, audio) if s]),
    )


def _best(container: Any, kind: str) -> Any:
    """The stream that a player shows: FFmpeg's choice, never cover art, never one without decoder."""
    candidates = list(getattr(container.streams, kind))
    try:
        chosen = container.streams.best(kind)
    except IndexError:  # FFmpeg names a stream that appeared while it looked: damaged headers
        chosen = None
    if chosen is not None:
        candidates.insert(0, chosen)
    for stream in candidates:
        context = stream.codec_context
        if context is None or context.codec is None:
            continue
        if kind == "video" and (_is_picture(stream) or not context.width):
            continue
        if kind == "audio" and not context.sample_rate:
            continue
        return stream
    return None


def _chosen_audio(container: Any, track: str) -> Any:
    tracks = list(container.streams.audio)
    if track.isdigit() and int(track) < len(tracks):
        return tracks[int(track)]
    if track != "default" and not track.isdigit():
        named = [s for s in tracks if s.language and s.language.lower() == track.lower()]
        if named:
            return named[0]
    return _best(container, "audio")


def _origin(container: Any, starts_s: list[Fraction]) -> Fraction:
    hides = container.format.name.startswith(_HIDE_NEGATIVE)
    return file_origin(starts_s, hides_negative=hides)


def _is_picture(stream: Any) -> bool:
    """Cover art or a thumbnail track: one still, not a video."""
    return bool(stream.disposition & (av.stream.Disposition.attached_pic))


def _duration_s(container: Any, streams: list[Any]) -> float | None:
    """Length from the origin to the latest end that any header states."""
    ends = [float((s.duration + (s.start_time or 0)) * s.time_base) for s in streams if s.duration]
    starts = [s.start_time * s.time_base for s in streams if s.start_time is not None]
    if ends:
        return max(ends) - float(_origin(container, starts))
    if container.duration:
        return float(container.duration * _DEFAULT_DURATION_TB)
    return _scanned_duration_s(container, streams)


def _scanned_duration_s(container: Any, streams: list[Any]) -> float | None:
    """The length of a file whose headers do not tell it, by reading through its packets."""
    end_s: Fraction | None = None
    try:
        for packet in _demux(container, streams):
            if packet.pts is not None:
                ends_at = (packet.pts + (packet.duration or 0)) * packet.time_base
                end_s = ends_at if end_s is None else max(end_s, ends_at)
    except av.FFmpegError:
        pass  # as far as it can be read
    starts = [s.start_time * s.time_base for s in streams if s.start_time is not None]
    return None if end_s is None else float(end_s - _origin(container, starts))


def _video_stream(container: Any, stream: Any) -> VideoStream:
    context = stream.codec_context
    rotation, is_mirrored = _orientation(container, stream)
    shape = context.sample_aspect_ratio or stream.sample_aspect_ratio or Fraction(1)
    width = max(1, round(context.width * shape)) if shape > 0 else context.width
    height = context.height
    if rotation in (90, 270):
        width, height = height, width
    return VideoStream(
        index=stream.index,
        codec=context.codec.canonical_name,
        width=width,
        height=height,
        coded_width=context.width,
        coded_height=context.height,
        rotation_deg=rotation,
        is_mirrored=is_mirrored,
        time_base=Fraction(stream.time_base),
        start_pts=stream.start_time or 0,
        fps=float(stream.average_rate) if stream.average_rate else None,
        n_frames=stream.frames or None,
    )


def _orientation(container: Any, stream: Any) -> tuple[int, bool]:
    """Clockwise turn that shows the pictures upright, and whether they are mirrored before it.

    PyAV hands out the display matrix with a frame only, so the first that decodes is looked at.
    """
    try:
        for n_tried, packet in enumerate(_demux(container, stream)):
            for frame in decode_tolerantly(packet) or ():
                matrix = frame.side_data.get("DISPLAYMATRIX")
                return _turn(np.frombuffer(bytes(matrix), np.int32)) if matrix else (0, False)
            if n_tried >= _ROTATION_PACKETS:
                break
    except av.FFmpegError:
        pass  # damage is the reader's to report, with what can still be decoded
    return 0, False


def _turn(matrix: npt.NDArray[np.int32]) -> tuple[int, bool]:
    """Turn and mirroring of a display matrix (a b u, c d v, x y w): x' = ax + cy, y' = bx + dy.

    Source: ISO/IEC 14496-12, 8.3.2.
    """
    a, b, _, c, d = (int(v) for v in matrix[:5])
    is_mirrored = a * d - b * c < 0
    if is_mirrored:
        a, b = -a, -b
    return round(math.degrees(math.atan2(b, a)) / 90) * 90 % 360, is_mirrored


def stream_at(uri: str, container: Any, index: int) -> Any:
    """The stream of that index, decoding on one thread: throughput of a core, not latency of a file.

    Raises:
        MediaError: the file shows other streams than when it was probed.
    """
    if index >= len(container.streams):
        raise MediaError("decode", "unreadable", f"{uri}: stream {index} is not found again; damaged")
    stream = container.streams[index]
    stream.thread_type = "NONE"
    return stream


def _demux(container: Any, streams: Any) -> Iterator[Any]:
    """Packets of a stream, or of some."""
    try:
        yield from container.demux(streams)
    except IndexError as e:  # damage made up a stream in mid-file, which PyAV cannot name
        raise av.error.InvalidDataError(0, "a stream appears in mid-file") from e


def packets_from(container: Any, stream: Any, pts: int | None) -> Iterator[Any]:
    """Packets of a stream from the keyframe at or before `pts` on; from the start where it is None.

    Some containers (MPEG-TS above all) seek by guessing and land behind the target: then it is
    tried again from further ahead, in the end from the start.
    """
    if pts is not None:
        for earlier_s in _SEEK_EARLIER_S:
            target = pts - int(earlier_s / stream.time_base)
            if target <= (stream.start_time or 0) and earlier_s:
                break
            try:
                container.seek(target, stream=stream, backward=True)
                packets = _settled(container, stream)
                first = next(p for p in packets if p.is_keyframe and p.pts is not None)
            except (av.FFmpegError, StopIteration):
                continue
            if first.pts <= pts:
                yield first
                yield from packets
                return
        # Well ahead of the stream's start: aimed at the start itself, MPEG-TS misses its first keyframe.
        ahead = (stream.start_time or 0) - int(_SEEK_AHEAD_S / stream.time_base)
        try:
            container.seek(ahead, stream=stream, backward=True)
        except av.FFmpegError:  # AVI knows nothing before its start
            container.seek(stream.start_time or 0, stream=stream, backward=True)
    yield from _demux(container, stream)


def _settled(container: Any, stream: Any) -> Iterator[Any]:
    """Packets behind a seek, from where their times are true.

    An MPEG program stream gives a time only to some pictures. Behind a seek the parser guesses the
    first ones, by half a frame measured, until it has met the next that is given.
    """
    packets = _demux(container, stream)
    if container.format.name != "mpeg":
        return packets
    first = next((p for p in packets if p.pts is not None), None)
    settled = first.pts + int(_SETTLE_S / stream.time_base) if first is not None else 0
    return (p for p in packets if p.pts is not None and p.pts >= settled)


def decode_tolerantly(packet: Any) -> list[Any] | None:
    """Frames that come out with this packet; None where it is damaged."""
    try:
        return packet.decode()
    except av.FFmpegError:
        return None


def _audio_stream(stream: Any) -> AudioStream:
    context = stream.codec_context
    return AudioStream(
        index=stream.index,
        codec=context.codec.canonical_name,
        rate_hz=context.sample_rate,
        channels=context.channels,
        time_base=Fraction(stream.time_base),
        start_pts=stream.start_time or 0,
    )
