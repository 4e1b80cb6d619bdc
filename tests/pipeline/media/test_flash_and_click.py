"""Sound against picture on every container: a click lies on its flash to a millisecond.

Each case is read from its start and, on its own, after a seek into its middle.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from pipeline.media.audio import read_audio
from pipeline.media.probe import probe
from pipeline.media.video import PyAVReader, index_packets
from tests.media_factory import click_times, flash_and_click

FOREVER = Fraction(10**6)
SECONDS = 9
FPS = 25
VFR = [t for k in range(SECONDS) for t in (k, k + 0.04, k + 0.3, k + 0.36, k + 0.8, k + 0.96)]
WRAP_S = 2**33 / 90_000
TS_NEAR_WRAP = {"output_ts_offset": f"{WRAP_S - 4:.6f}"}


@dataclass(frozen=True)
class Case:
    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} {' '.join(str(v)[:24] for v in self.options.values())}".strip()


def video(codec, **options):
    return {"vcodec": codec, **options}


MPEG1 = {"vcodec": "mpeg1video", "acodec": "mp2"}
CONTAINERS = {
    "mp4": video("libx264", acodec="aac"),
    "mov": video("libx264", acodec="aac"),
    "mkv": video("libx264", acodec="aac"),
    "webm": video("libvpx", acodec="libopus"),
    "ts": video("libx264", acodec="aac"),
    "flv": video("libx264", acodec="aac", rate_hz=44_100),
    "3gp": video("libx264", acodec="aac"),
}
TWISTS = {
    "plain": {},
    "late sound": {"audio_delay_s": 0.5},
    "vfr": {"frame_times": VFR},
    "gap": {"sound_gap": (3.3, 3.7)},
    "sound slow": {"drift_ppm": 200.0},
    "sound fast": {"drift_ppm": -150.0},
}
CASES = [
    Case(f"{twist} {suffix}", {"suffix": suffix, **base, **options})
    for suffix, base in CONTAINERS.items()
    for twist, options in TWISTS.items()
] + [
    Case("late picture mp4", {"suffix": "mp4", "frame_times": [0.32 + i / FPS for i in range(200)]}),
    Case("late picture mkv", {"suffix": "mkv", "frame_times": [0.32 + i / FPS for i in range(200)]}),
    Case("pcm mov", {"suffix": "mov", "acodec": "pcm_s16le"}),
    Case("fragmented mp4", {"suffix": "mp4", "muxer": {"movflags": "frag_keyframe+empty_moov"}}),
    Case("no edit list mp4", {"suffix": "mp4", "muxer": {"use_editlist": "0"}}),
    Case("wrap ts", {"suffix": "ts", "muxer": TS_NEAR_WRAP}),
    Case("wrap late ts", {"suffix": "ts", "muxer": TS_NEAR_WRAP, "audio_delay_s": 0.5}),
    Case("hevc mp4", {"suffix": "mp4", "vcodec": "libx265"}),
    Case("vp9 webm", {"suffix": "webm", "vcodec": "libvpx-vp9", "acodec": "libopus"}),
    Case("flac mkv", {"suffix": "mkv", "acodec": "flac"}),
    Case("ac3 mkv", {"suffix": "mkv", "acodec": "ac3"}),
    Case("opus mkv", {"suffix": "mkv", "acodec": "libopus"}),
    Case("mp3 mp4", {"suffix": "mp4", "acodec": "libmp3lame"}),
    Case("pcm avi", {"suffix": "avi", "vcodec": "mpeg4", "acodec": "pcm_s16le"}),
    Case("mp2 mpg", {"suffix": "mpg", "vcodec": "mpeg1video", "acodec": "mp2"}),
    Case("late mpg", {"suffix": "mpg", **MPEG1, "audio_delay_s": 0.5}),
    Case("slow mpg", {"suffix": "mpg", **MPEG1, "drift_ppm": 200.0}),
    Case("gap mpg", {"suffix": "mpg", **MPEG1, "sound_gap": (3.3, 3.7)}),
    Case("ac3 vob", {"suffix": "vob", "vcodec": "mpeg2video", "acodec": "ac3"}),
    Case("av1 mp4", {"suffix": "mp4", "vcodec": "libsvtav1", "acodec": "libopus"}),
    Case("5.1 ac3 ts", {"suffix": "ts", "acodec": "ac3", "layout": "5.1"}),
]  # fmt: skip


def make(case, tmp_path):
    options = dict(case.options)
    path = tmp_path / f"case.{options.pop('suffix')}"
    return str(flash_and_click(path, seconds=SECONDS, fps=FPS, **options))


def flashes(uri, info, start_s, end_s):
    """When white pictures begin, in seconds of the media clock."""
    index = index_packets(uri, info, start_s, end_s)
    frames = PyAVReader(uri, info, index).read(index.pts, 16, 12)
    times = [float(p * info.video.time_base - info.origin_s) for p in frames.pts.tolist()]
    white = frames.rgb.mean(axis=(1, 2, 3)) > 128
    began = [
        t
        for t, now, before in zip(times, white, [False, *white[:-1]], strict=True)
        if now and not before
    ]
    return index, began


def error_s(uri, info, start_s, end_s):
    """The largest distance of a click to its flash."""
    index, began = flashes(uri, info, start_s, end_s)
    track = read_audio(uri, info, start_s, end_s)
    clicks = [t + float(start_s) for t in click_times(track.samples, track.rate_hz)]
    pairs = [(c, min(began, key=lambda f: abs(f - c))) for c in clicks]
    met = [abs(c - f) for c, f in pairs if abs(c - f) < 0.2]
    assert len(met) >= (4 if end_s < 100 else 6), (began, clicks)
    return max(met), track, index


def test_there_are_at_least_forty_cases():
    assert len(CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_click_lies_on_its_flash(case, tmp_path):
    uri = make(case, tmp_path)
    info = probe(uri)
    limit = 1.0e-3
    error, track, index = error_s(uri, info, Fraction(0), FOREVER)
    assert error < limit, f"from the start: {error * 1000:.2f} ms"
    drift = case.options.get("drift_ppm", 0.0)
    if track.drift_ppm is not None:
        assert track.drift_ppm == pytest.approx(drift, abs=5)
    # Nine seconds of 1 ms ticks cannot tell drift; the sound is put right all the same.
    coarse = max(info.video.time_base, info.audio.time_base) >= Fraction(1, 1000)
    assert coarse or drift == 0 or track.drift_ppm is not None
    error, *_ = error_s(uri, info, Fraction(7, 2), Fraction(8))
    assert error < limit, f"after a seek: {error * 1000:.2f} ms"
    assert_frame_times_are_exact(case, info, index)


def assert_frame_times_are_exact(case, info, index):
    """To the container's tick."""
    asked = case.options.get("frame_times") or [i / FPS for i in range(SECONDS * FPS)]
    base = info.video.time_base
    steps = np.diff([p * base for p in index.pts])
    assert len(index.pts) == len(asked)
    for step, wanted in zip(steps.tolist(), np.diff(asked).tolist(), strict=True):
        assert abs(float(step) - wanted) <= float(base) + 1e-9
