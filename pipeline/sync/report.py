"""How well the streams of a unit agree, as facts for the tables."""

from __future__ import annotations

from pipeline.media.audio import AudioTrack
from pipeline.media.clock import pts_to_time
from pipeline.media.video import PacketIndex
from pipeline.records import MediaInfo, SyncReport


def sync_report(
    info: MediaInfo, index: PacketIndex | None, track: AudioTrack | None, n_errors: int
) -> SyncReport:
    """Starts of both streams on the media clock, holes, and whether frames are evenly spaced."""
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
        n_decode_errors=n_errors,
    )
