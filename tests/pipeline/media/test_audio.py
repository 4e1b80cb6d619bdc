"""Sound sits where its PTS says."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from pipeline.media.audio import AudioTrack, read_audio, resample
from pipeline.media.probe import probe
from tests.media_factory import click_times, click_track, flash_and_click

FOREVER = Fraction(10**6)
FORMATS = [
    ("a.mp4", "aac"),
    ("a.mkv", "aac"),
    ("a.mkv", "libopus"),
    ("a.webm", "libopus"),
    ("a.ts", "aac"),
    ("a.avi", "pcm_s16le"),
    ("a.mkv", "flac"),
    ("a.mpg", "mp2"),
]


def tolerance_s(name):
    """A millisecond; in Matroska half a tick more, which the writer's rounding of 1 ms ticks costs."""
    return 1.5e-3 if name.endswith(("mkv", "webm")) else 1e-3


def read(path, start=Fraction(0), end=FOREVER):
    return read_audio(str(path), probe(str(path)), start, end)


@pytest.mark.parametrize(("name", "codec"), FORMATS)
@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_clicks_are_heard_on_their_second(tmp_path, name, codec, delay):
    if delay and name.endswith("avi"):
        pytest.skip("AVI has no timestamps: a late track cannot be written")
    vcodec = "libvpx" if name.endswith("webm") else "mpeg1video" if name.endswith("mpg") else "libx264"
    path = flash_and_click(tmp_path / name, seconds=4, vcodec=vcodec, acodec=codec, audio_delay_s=delay)
    info = probe(str(path))
    track = read(path)
    # In containers without edit lists the clock starts where the first stream does.
    shift = float(info.video.start_pts * info.video.time_base - info.origin_s)
    heard = [t - shift for t in click_times(track.samples, track.rate_hz)]
    assert heard == pytest.approx([1.0, 2.0, 3.0], abs=tolerance_s(name))


@pytest.mark.parametrize(("name", "codec"), FORMATS[:5])
def test_a_span_after_a_seek_agrees_with_the_whole(tmp_path, name, codec):
    vcodec = "libvpx" if name.endswith("webm") else "libx264"
    path = flash_and_click(tmp_path / name, seconds=8, vcodec=vcodec, acodec=codec)
    whole, part = read(path), read(path, Fraction(5, 2), Fraction(13, 2))
    assert part.start_s == Fraction(5, 2)
    heard = [t + 2.5 for t in click_times(part.samples, part.rate_hz)]
    expected = [t for t in click_times(whole.samples, whole.rate_hz) if 2.5 < t < 6.5]
    assert heard == pytest.approx(expected, abs=tolerance_s(name))


def test_a_gap_is_silence_and_is_recorded(tmp_path):
    path = flash_and_click(tmp_path / "gap.mkv", seconds=4, acodec="libopus", sound_gap=(1.5, 1.9))
    track = read(path)
    assert track.gap_s == pytest.approx(0.4, abs=0.05)
    assert click_times(track.samples, track.rate_hz) == pytest.approx([1.0, 2.0, 3.0], abs=1e-3)
    hole = track.samples[int(1.6 * track.rate_hz) : int(1.8 * track.rate_hz)]
    assert not hole.any()


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
def test_any_layout_becomes_one_channel(tmp_path, layout):
    track = read(flash_and_click(tmp_path / "l.mp4", seconds=3, layout=layout))
    assert track.samples.ndim == 1
    assert len(click_times(track.samples, track.rate_hz)) == 2


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_moves_nothing(rate):
    sound = click_track(0, 3 * rate, rate)
    track = AudioTrack(sound, rate, Fraction(0), np.array([[0, len(sound)]]))
    out = resample(track, 16_000)
    assert len(out.samples) == 3 * 16_000
    assert click_times(out.samples, 16_000) == pytest.approx([1.0, 2.0], abs=1e-3)
