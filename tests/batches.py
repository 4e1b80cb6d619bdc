"""Batches of clips for tests that need no file."""

from __future__ import annotations

import numpy as np

from pipeline.records import ClipBatch


def make_batch(
    n: int, *, seed: int = 0, n_frames: int = 4, has_audio: bool = True, has_video: bool = True
):
    """`n` clips of noise, four seconds each."""
    rng = np.random.default_rng(seed)
    start = np.arange(n, dtype=np.float64) * 4
    return ClipBatch(
        start_s=start,
        end_s=start + 4,
        start_pts=(start * 90_000).astype(np.int64),
        time_base="1/90000",
        is_padded=np.zeros(n, bool),
        is_damaged=np.zeros(n, bool),
        frames=rng.integers(0, 255, (n, n_frames, 224, 224, 3), dtype=np.uint8),
        frame_valid=np.full((n, n_frames), has_video),
        frame_time_s=start[:, None] + np.arange(n_frames),
        frame_error_ms=np.full(n, 20.0, np.float32),
        samples=rng.normal(0, 0.1, (n, 64_000)).astype(np.float32) * has_audio,
        sample_rate_hz=16_000,
        audio_valid=np.tile(np.array([[0, 64_000 * has_audio]], np.int32), (n, 1)),
        audio_coverage=np.full(n, float(has_audio), np.float32),
        av_skew_ms=np.zeros(n, np.float32),
    )
