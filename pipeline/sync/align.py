"""One unit of a file, decoded into clips whose picture and sound agree in time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pipeline.config import ClipConfig, Config
from pipeline.media.audio import AudioTrack, read_audio, resample
from pipeline.media.clock import Span, pts_to_time, time_to_pts, to_fraction
from pipeline.media.video import (
    Frames,
    PacketIndex,
    index_packets,
    read_frames,
    read_motion,
    scaled_size,
)
from pipeline.records import ClipBatch, MediaError, MediaInfo, MotionPictures, SyncReport, Unit
from pipeline.sync.clips import ClipSpan, clip_instants, clip_spans, cut_sound, motion_instants
from pipeline.sync.offset import Offset, estimate_offset, loudest_span
from pipeline.sync.report import sync_report
from pipeline.sync.shots import find_cuts

_TORN_S = 1
_Place = tuple[int, int]  # which clip, which of its instants


@dataclass(frozen=True)
class _Pictures:
    """The pictures of a unit, and for which clip and which of its instants each is."""

    instants: list[list[Fraction | None]]  # of each clip
    frames: Frames
    places: list[_Place]
    motion_places: list[_Place]
    shown: Span  # from when to when there is a picture


def read_clips(
    unit: Unit, info: MediaInfo, config: Config, sample_rate_hz: int
) -> tuple[ClipBatch, SyncReport]:
    """Decode a unit into clips, with a report of how its streams stand to each other.

    Args:
        info: of the unit's file, from `probe`.
        sample_rate_hz: of the clips' sound, as the audio encoder wants it.

    Raises:
        MediaError: the file cannot be opened any more.
    """
    clips = config.clips
    start = to_fraction(unit.start_s)
    end = _open_end_s(start, info, config) if unit.end_s is None else to_fraction(unit.end_s)
    overlap = max(Fraction(0), to_fraction(clips.length_s) - to_fraction(clips.stride_s))
    read_end = end + (overlap if clips.mode == "stride" else 0)
    track = _read_sound(unit.uri, info, start, read_end, config)
    index = index_packets(unit.uri, info, start, read_end) if info.video else None
    _check_count(unit, index, config)
    shown = _shown_span(info, index)
    offset = _offset(unit.uri, info, index, track, shown, config)
    if config.sync.correct and offset is not None:
        track = _moved_sound(unit.uri, info, (start, read_end), offset, config)

    # What lies behind the unit is the next one's: cut there, so that no clip spills over the grid.
    media_end = min(read_end, max(shown[1], track.end_s if track else Fraction(0)))
    looks_for_cuts = clips.mode == "shots" and start < media_end
    cuts = find_cuts(unit.uri, info, (start, media_end), config) if looks_for_cuts else []
    spans = clip_spans(start, end, media_end, clips, cuts)
    _check_size(unit, len(spans), info, config)
    pictures = _read_pictures(unit.uri, info, index, spans, shown, clips, cuts)
    torn = (media_end, min(end, Fraction(info.duration_s or 0)))
    damage = _damage(info, index, track, pictures.frames, torn)

    report = sync_report(info, index, track, damage, offset)
    sound = resample(track, sample_rate_hz) if track else None
    batch = _assemble(info, spans, pictures, sound, config, sample_rate_hz)
    cut_s = _cuts_at(spans, cuts) if clips.mode == "shots" else None
    return dataclasses.replace(batch, is_damaged=_touched(spans, damage), cut_s=cut_s), report


def _cuts_at(spans: list[ClipSpan], cuts: Sequence[Fraction]) -> np.ndarray:
    """The cut at which each clip begins, NaN where it begins within a shot, (N,)."""
    known = set(cuts)
    return np.array([float(s.start_s) if s.start_s in known else np.nan for s in spans], np.float64)


def _offset(
    uri: str,
    info: MediaInfo,
    index: PacketIndex | None,
    track: AudioTrack | None,
    shown: Span,
    config: Config,
) -> Offset | None:
    """What the content says of the offset, in the part of the unit where the sound tells most."""
    if index is None or track is None or not config.sync.window_s:
        return None
    both = (max(shown[0], track.start_s), min(shown[1], track.end_s))
    window = loudest_span(track, *both, to_fraction(config.sync.window_s))
    if window[1] - window[0] < 1:
        return None
    found = estimate_offset(read_motion(uri, info, index, *window), track)
    return found if found and found.confidence >= config.sync.min_confidence else None


def _moved_sound(
    uri: str, info: MediaInfo, span: Span, offset: Offset, config: Config
) -> AudioTrack | None:
    """The sound that belongs to a span's pictures, on the pictures' clock."""
    moved = to_fraction(round(offset.offset_ms) / 1000)
    first_s = max(Fraction(0), span[0] + moved)
    track = _read_sound(uri, info, first_s, span[1] + moved, config)
    return dataclasses.replace(track, start_s=track.start_s - moved) if track else None


def _damage(
    info: MediaInfo,
    index: PacketIndex | None,
    track: AudioTrack | None,
    frames: Frames,
    torn: Span,
) -> list[Span]:
    """From when to when something would not decode, in no order; `torn`: from the end to the promised end."""
    found = list(track.damage) if track else []
    if info.video is not None and index is not None:
        base, origin = info.video.time_base, info.origin_s
        spans = [*frames.damage, *([(index.end_pts, index.end_pts)] if index.is_torn else [])]
        found += [(pts_to_time(a, base, origin), pts_to_time(b, base, origin)) for a, b in spans]
    if torn[1] - torn[0] > _TORN_S:  # a download that broke off
        found.append(torn)
    return found


def _touched(spans: list[ClipSpan], damage: Sequence[Span]) -> np.ndarray:
    """Which clips damage reaches into, (N,)."""
    reached = [any(a <= s.end_s and b >= s.start_s for a, b in damage) for s in spans]
    return np.array(reached, bool)


def _check_count(unit: Unit, index: PacketIndex | None, config: Config) -> None:
    most = config.limits.max_frames_per_unit
    if index is not None and len(index.packets) > most:
        what = f"{len(index.packets)} pictures in a unit; limits.max_frames_per_unit is {most}"
        raise MediaError("decode", "too_large", f"{unit.uri}: {what}")


def _open_end_s(start: Fraction, info: MediaInfo, config: Config) -> Fraction:
    """Where to stop reading the last unit: two units behind the end that the headers state.

    A damaged time stamp can lie years ahead, and what lies between would be read as silence.
    """
    stated = Fraction(info.duration_s or 0)
    return max(start, stated) + 2 * to_fraction(config.clips.unit_s)


def _check_size(unit: Unit, n_clips: int, info: MediaInfo, config: Config) -> None:
    """Raise where a unit's pictures would not fit into the decoder's memory."""
    if info.video is None:
        return
    clips = config.clips
    width, height = scaled_size(info.video, clips.short_side_px)
    large = clips.frames_per_clip * width * height * 3
    small = clips.motion_rate_hz * clips.length_s * clips.motion_height_px**2 * 4 / 3
    needed_mb = n_clips * (large + small) / 2**20
    if needed_mb > config.run.decode_memory_mb / 2:
        what = f"a unit of {n_clips} clips needs {needed_mb:.0f} MB for its pictures"
        allowed = f"half of run.decode_memory_mb ({config.run.decode_memory_mb}) is allowed"
        raise MediaError("decode", "too_large", f"{unit.uri}: {what}; {allowed}")


def _read_sound(
    uri: str, info: MediaInfo, start: Fraction, end: Fraction, config: Config
) -> AudioTrack | None:
    return read_audio(uri, info, start, end, config.audio.max_drift_ppm) if info.audio else None


def _shown_span(info: MediaInfo, index: PacketIndex | None) -> tuple[Fraction, Fraction]:
    """From when to when there is a picture; empty without one."""
    if info.video is None or index is None or not index.pts:
        return Fraction(0), Fraction(0)
    base, origin = info.video.time_base, info.origin_s
    return pts_to_time(index.pts[0], base, origin), pts_to_time(index.end_pts, base, origin)


def _read_pictures(
    uri: str,
    info: MediaInfo,
    index: PacketIndex | None,
    spans: list[ClipSpan],
    shown: Span,
    clips: ClipConfig,
    cuts: Sequence[Fraction],
) -> _Pictures:
    """Pictures for all instants of a unit, large and small in one pass, and the place that each is for."""
    instants = [clip_instants(span, *shown, clips) for span in spans]
    wanted = _in_order(instants)
    if info.video is None or index is None or not wanted:
        width, height = scaled_size(info.video, clips.short_side_px) if info.video else (1, 1)
        none = Frames(np.zeros((0, height, width, 3), np.uint8), np.zeros(0, np.int64))
        return _Pictures(instants, none, [], [], shown)
    moving = _in_order(
        [motion_instants(span, *shown, clips) for span in spans] if clips.motion_rate_hz else []
    )
    base, origin = info.video.time_base, info.origin_s
    ticks, grey_ticks = ([time_to_pts(t, base, origin) for t, _, _ in x] for x in (wanted, moving))
    cut_ticks = [time_to_pts(t, base, origin) for t in cuts]
    frames = read_frames(uri, info, index, ticks, clips, cut_ticks, grey_ticks)
    # A file too damaged to show anything gives no pictures: its places stay invalid.
    places = [(i, k) for _, i, k in wanted][: len(frames.pts)]
    return _Pictures(instants, frames, places, [(i, p) for _, i, p in moving], shown)


def _in_order(instants: list[list[Fraction | None]]) -> list[tuple[Fraction, int, int]]:
    """Instants with their clip and place, in order of time: clips may overlap and readers only go forward."""
    return sorted(
        (t, i, k) for i, row in enumerate(instants) for k, t in enumerate(row) if t is not None
    )


def _assemble(
    info: MediaInfo,
    spans: list[ClipSpan],
    pictures: _Pictures,
    track: AudioTrack | None,
    config: Config,
    sample_rate_hz: int,
) -> ClipBatch:
    stream = info.video or info.audio
    assert stream is not None  # probe refuses files without either
    starts_s = np.array([float(span.start_s) for span in spans])
    rgb, valid, times_s, error_ms = _place_pictures(info, pictures)
    sound = cut_sound(spans, track, config.clips.length_s, sample_rate_hz)
    first_shown_s = np.maximum(starts_s, float(pictures.shown[0]))
    first_picture_s = np.where(valid.any(axis=1), first_shown_s, np.nan)
    base = stream.time_base
    return ClipBatch(
        start_s=starts_s,
        end_s=np.array([float(span.end_s) for span in spans]),
        start_pts=np.array([time_to_pts(s.start_s, base, info.origin_s) for s in spans], np.int64),
        time_base=f"{base.numerator}/{base.denominator}",
        is_padded=np.array([span.is_padded for span in spans], bool),
        is_damaged=np.zeros(len(spans), bool),
        frames=rgb,
        frame_valid=valid,
        frame_time_s=times_s,
        frame_error_ms=error_ms,
        samples=sound.samples,
        sample_rate_hz=sample_rate_hz,
        audio_valid=sound.valid,
        audio_coverage=sound.coverage,
        av_skew_ms=((sound.first_s - first_picture_s) * 1000).astype(np.float32),
        motion=_motion(info, pictures, len(spans), config.clips),
    )


def _motion(info: MediaInfo, pictures: _Pictures, n: int, clips: ClipConfig) -> MotionPictures | None:
    """The clips' small grey pictures, where they were asked for."""
    if not clips.motion_rate_hz:
        return None
    height, shown = clips.motion_height_px, pictures.frames.grey
    n_pictures = round(to_fraction(clips.length_s) * clips.motion_rate_hz)
    grey = np.zeros((n, n_pictures, height, height * 4 // 3), np.uint8)
    valid, time_s = np.zeros((n, n_pictures), bool), np.full((n, n_pictures), np.nan)
    for pts, place in zip(pictures.frames.grey_pts, pictures.motion_places, strict=True):
        assert info.video is not None
        if pts in shown:
            grey[place], valid[place] = shown[pts], True
            time_s[place] = float(pts_to_time(pts, info.video.time_base, info.origin_s))
    for i in np.flatnonzero(valid.any(axis=1)):
        there = np.flatnonzero(valid[i])
        stands_in = there[np.maximum(0, np.searchsorted(there, np.arange(n_pictures), "right") - 1)]
        grey[i] = grey[i, stands_in]
    return MotionPictures(grey, valid, time_s, clips.motion_rate_hz)


def _place_pictures(
    info: MediaInfo, pictures: _Pictures
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Frames (N, T, H, W, 3), which are valid (N, T), their times (N, T), each clip's error (N,)."""
    instants, frames = pictures.instants, pictures.frames
    n, n_frames = len(instants), len(instants[0]) if instants else 0
    valid, times_s = np.zeros((n, n_frames), bool), np.full((n, n_frames), np.nan)
    error_ms = np.full(n, np.nan, np.float32)
    for pts, (i, k) in zip(frames.pts, pictures.places, strict=True):
        assert info.video is not None
        time_s = pts_to_time(int(pts), info.video.time_base, info.origin_s)
        valid[i, k], times_s[i, k] = True, float(time_s)
        off_ms = abs(float(time_s - instants[i][k])) * 1000  # type: ignore[operator]
        error_ms[i] = np.fmax(error_ms[i], off_ms)
    return _in_clips(pictures, n, n_frames, valid), valid, times_s, error_ms


def _in_clips(pictures: _Pictures, n: int, n_frames: int, valid: np.ndarray) -> np.ndarray:
    """The pictures as (N, T, H, W, 3); copied only where they are not in that order already."""
    frames, shape = pictures.frames, pictures.frames.rgb.shape[1:]
    if pictures.places == [(i, k) for i in range(n) for k in range(n_frames)]:
        return frames.rgb.reshape(n, n_frames, *shape)
    rgb = np.zeros((n, n_frames, *shape), np.uint8)
    for picture, place in zip(frames.rgb, pictures.places, strict=True):
        rgb[place] = picture
    for i in range(n):  # a short clip goes on with its last picture, for encoders of fixed length
        last = int(np.flatnonzero(valid[i])[-1]) if valid[i].any() else n_frames
        rgb[i, last + 1 :] = rgb[i, last : last + 1]
    return rgb
