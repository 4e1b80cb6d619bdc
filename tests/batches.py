"""Batches of clips for tests that need no file."""

from __future__ import annotations

import numpy as np

from pipeline.records import ClipBatch, MotionPictures


def make_batch(
    n: int,
    *,
    seed: int = 0,
    n_frames: int = 4,
    has_audio: bool = True,
    has_video: bool = True,
    motion_rate_hz: int = 8,
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
        motion=_motion(n, seed, motion_rate_hz, has_video=has_video) if motion_rate_hz else None,
    )


def _motion(n: int, seed: int, rate_hz: int, *, has_video: bool) -> MotionPictures:
    """A texture that goes to the right at a speed of each clip's own."""
    rng, n_pictures = np.random.default_rng(seed), 4 * rate_hz
    coarse = rng.integers(0, 255, (n, 9, 24)).astype(np.float32)
    texture = np.kron(coarse, np.ones((8, 8), np.float32))
    for axis in (1, 2):  # soft edges, whose motion can be seen
        texture = sum(np.roll(texture, k, axis) for k in range(-3, 4)) / 7
    grey = np.zeros((n, n_pictures, 72, 96), np.uint8)
    for i, k in np.ndindex(n, n_pictures):
        grey[i, k] = np.roll(texture[i], k * (2 + i), 1)[:, :96]
    time_s = np.arange(n)[:, None] * 4 + (np.arange(n_pictures) + 0.5) / rate_hz
    valid = np.full((n, n_pictures), has_video)
    return MotionPictures(grey * has_video, valid, np.where(valid, time_s, np.nan), rate_hz)
