"""How well the streams of a unit agree, as facts for the tables."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.media.audio import AudioTrack
from pipeline.media.clock import Span, pts_to_time
from pipeline.media.video import PacketIndex
from pipeline.records import MediaInfo, SyncReport
from pipeline.sync.offset import Offset


def sync_report(
    info: MediaInfo,
    index: PacketIndex | None,
    track: AudioTrack | None,
    damage: Sequence[Span],
    offset: Offset | None,
) -> SyncReport:
    """Starts of both streams on the media clock, holes, damage, and whether frames are evenly spaced."""
    video_start_s = audio_start_s = None
    if info.video is not None and index is not None and index.pts:
        base = info.video.time_base
        video_start_s = float(pts_to_time(index.pts[0], base, info.origin_s))
    if track is not None and len(track.present):
        audio_start_s = float(track.start_s) + int(track.present[0, 0]) / track.rate_hz
    return SyncReport(
        is_vfr=index.is_vfr if index else None,
        video_start_s=video_start_s,
        audio_start_s=audio_start_s,
        gap_s=track.gap_s if track else 0.0,
        drift_ppm=track.drift_ppm if track else None,
        n_decode_errors=len(damage),
        damaged_s=_merged(damage),
        offset_ms=offset.offset_ms if offset else None,
        offset_confidence=offset.confidence if offset else None,
    )


def _merged(spans: Sequence[Span]) -> tuple[tuple[float, float], ...]:
    """Ascending, those that touch as one."""
    merged: list[tuple[float, float]] = []
    for first, last in sorted((float(a), float(b)) for a, b in spans):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)
