"""The columns of every table, explicit, so that a first file without sound has no null-typed column."""

from __future__ import annotations

import pyarrow as pa

EMBEDDING_DIM = 384

LABEL = pa.struct(
    [
        ("label", pa.string()),
        ("score", pa.float32()),
        ("space", pa.string()),
        ("modality", pa.string()),
    ]
)

WORD = pa.struct(
    [
        ("word", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("score", pa.float32()),
    ]
)

SPAN = pa.struct([("start_s", pa.float64()), ("end_s", pa.float64())])


def clips_schema(embedding_dim: int = EMBEDDING_DIM) -> pa.Schema:
    """One row a clip. The partition column `dt` is in the path only."""
    return pa.schema(
        [
            ("clip_id", pa.string()),
            ("video_id", pa.string()),
            ("unit_id", pa.string()),
            ("uri", pa.string()),
            ("clip_index", pa.int32()),
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("start_pts", pa.int64()),
            ("time_base", pa.string()),
            ("n_frames", pa.int32()),
            ("frame_error_ms", pa.float32()),
            ("is_padded", pa.bool_()),
            ("status", pa.string()),
            ("cut_s", pa.list_(pa.float64())),
            ("has_video", pa.bool_()),
            ("has_audio", pa.bool_()),
            ("audio_coverage", pa.float32()),
            ("sound_level_db", pa.list_(pa.float32())),  # of each quarter of a second, null: none there
            ("av_skew_ms", pa.float32()),
            ("sync_offset_ms", pa.float32()),
            ("sync_confidence", pa.float32()),
            ("labels", pa.list_(LABEL)),
            ("top_label", pa.string()),
            ("top_score", pa.float32()),
            ("caption", pa.string()),
            ("caption_score", pa.float32()),
            ("caption_problem", pa.string()),  # why there is no caption
            ("transcript", pa.string()),  # null: nobody listened, or no sound; empty: nobody spoke
            ("words", pa.list_(WORD)),
            ("embedding", pa.list_(pa.float32(), embedding_dim)),
            ("video_weight", pa.float32()),
            ("audio_weight", pa.float32()),
            ("bundle", pa.string()),
            ("bundle_digest", pa.string()),
            ("result_digest", pa.string()),
            ("run_id", pa.string()),
        ]
    )


SEGMENTS = pa.schema(
    [
        ("video_id", pa.string()),
        ("label", pa.string()),
        ("space", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("score", pa.float32()),
    ]
)

# What the container says, once a video; the same names in `units` and `videos`.
_FACTS: list[tuple[str, pa.DataType]] = [
    ("size_bytes", pa.int64()),
    ("container", pa.string()),
    ("duration_s", pa.float64()),
    ("video_codec", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("fps", pa.float64()),
    ("is_vfr", pa.bool_()),
    ("rotation_deg", pa.int32()),
    ("is_mirrored", pa.bool_()),
    ("video_start_s", pa.float64()),
    ("audio_codec", pa.string()),
    ("audio_rate_hz", pa.int32()),
    ("audio_channels", pa.int32()),
    ("audio_start_s", pa.float64()),
    ("av_skew_ms", pa.float32()),
    ("drift_ppm", pa.float32()),
]
FACT_NAMES = tuple(name for name, _ in _FACTS)

VIDEOS = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("version", pa.string()),
        ("status", pa.string()),  # ok, partial (damage, or units failed), failed
        ("n_clips", pa.int32()),
        ("n_units", pa.int32()),
        ("n_failed_units", pa.int32()),
        *_FACTS,
        ("gap_s", pa.float64()),
        ("n_decode_errors", pa.int32()),
        ("damaged_s", pa.list_(SPAN)),
        ("sync_offset_ms", pa.float32()),
        ("sync_confidence", pa.float32()),
        ("bundle", pa.string()),
        ("result_digest", pa.string()),
        ("run_id", pa.string()),
    ]
)

FAILURES = pa.schema(
    [
        ("unit_id", pa.string()),
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("stage", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
        ("attempt", pa.int32()),
        ("result_digest", pa.string()),
        ("run_id", pa.string()),
    ]
)

# One row a unit that was begun, kept beside the tables (`_units/`): what `videos` and `failures` are
# derived from.
UNITS = pa.schema(
    [
        ("unit_id", pa.string()),
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("version", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("attempt", pa.int32()),
        ("state", pa.string()),  # done, empty, failed
        ("status", pa.string()),  # ok, partial
        ("n_clips", pa.int32()),
        ("stage", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
        *_FACTS,
        ("gap_s", pa.float64()),
        ("n_decode_errors", pa.int32()),
        ("damaged_s", pa.list_(SPAN)),
        ("sync_offset_ms", pa.float32()),
        ("sync_confidence", pa.float32()),
        ("attributes", pa.string()),  # JSON: columns of the manifest
        ("planned_s", pa.float64()),  # the duration by which the video was cut into units
        ("decode_s", pa.float64()),
        ("encode_s", pa.float64()),
        ("bundle", pa.string()),
        ("result_digest", pa.string()),
        ("run_id", pa.string()),
    ]
)
