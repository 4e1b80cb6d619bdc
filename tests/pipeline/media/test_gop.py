"""What is left undecoded changes no picture that is shown."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ClipConfig
from pipeline.media.gop import Packets, choose_frames, plan_decode
from pipeline.media.probe import probe
from pipeline.media.video import PyAVReader, index_packets, read_frames
from tests.benchmarks.footage import footage

FOREVER = Fraction(10**6)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    d = tmp_path_factory.mktemp("gop")
    small = {"width": 192, "height": 128, "seconds": 4}
    return {
        "h264": footage(d / "a.mp4", codec="libx264", gop=40, **small),
        "h264_ts": footage(d / "a.ts", codec="libx264", gop=40, **small),
        "hevc": footage(d / "h.mp4", codec="libx265", gop=40, **small),
        "vp9": footage(d / "v.webm", codec="libvpx-vp9", gop=40, **small),
        "mpeg4": footage(d / "m.mp4", codec="mpeg4", gop=12, **small),
        "mpeg2": footage(d / "m.mpg", codec="mpeg2video", gop=12, **small),
    }


def all_frames(uri, info, index):
    """Every picture by PTS, with every packet decoded."""
    reader = PyAVReader(uri, info, index)
    frames = reader.read(index.pts, 96, 64)
    return dict(zip(frames.pts.tolist(), frames.rgb, strict=True))


@pytest.mark.parametrize("name", ["h264", "h264_ts", "hevc", "vp9", "mpeg4", "mpeg2"])
def test_chosen_frames_are_pixel_for_pixel_those_of_a_full_decode(files, name):
    uri = str(files[name])
    info = probe(uri)
    index = index_packets(uri, info, Fraction(0), FOREVER)
    everything = all_frames(uri, info, index)
    rng = np.random.default_rng(0)
    for count in (1, 3, 8, 30):
        chosen = sorted(rng.choice(index.pts, count, replace=False).tolist())
        frames = PyAVReader(uri, info, index).read(chosen, 96, 64)
        for pts, picture in zip(chosen, frames.rgb, strict=True):
            np.testing.assert_array_equal(picture, everything[pts])


def test_no_picture_stands_in_from_the_other_side_of_a_cut():
    n = 40
    packets = Packets(np.arange(n), np.arange(n) == 0, np.arange(n) % 2 == 1)
    instants = list(range(1, n, 3))
    loose = choose_frames(packets, range(n), instants, 5)
    kept = choose_frames(packets, range(n), instants, 5, cuts=[10, 20, 21])
    sides = np.searchsorted([10, 20, 21], instants, side="right")
    assert (np.searchsorted([10, 20, 21], kept, side="right") == sides).all()
    assert (np.searchsorted([10, 20, 21], loose, side="right") != sides).any()


@pytest.mark.parametrize("name", ["h264", "h264_ts", "hevc"])
def test_frames_that_nothing_refers_to_stay_undecoded(files, name):
    uri = str(files[name])
    index = index_packets(uri, probe(uri), Fraction(0), FOREVER)
    assert index.packets.is_disposable.mean() > 0.3
    plan = plan_decode(index.packets, index.pts[::15])
    assert len(plan.send) < 0.7 * len(index.pts)


@pytest.mark.parametrize("name", ["h264", "hevc", "vp9", "mpeg4"])
@pytest.mark.parametrize("tolerance_ms", [0, 40, 700])
def test_no_frame_is_further_than_allowed(files, name, tolerance_ms):
    uri = str(files[name])
    info = probe(uri)
    index = index_packets(uri, info, Fraction(0), FOREVER)
    base = info.video.time_base
    instants = [int(Fraction(k, 3) / base) for k in range(11)]
    clips = ClipConfig(short_side_px=224, max_frame_error_ms=tolerance_ms)
    frames = read_frames(uri, info, index, instants, clips)
    for t, pts in zip(instants, frames.pts.tolist(), strict=True):
        on_screen = max(p for p in index.pts if p <= t)
        assert pts == on_screen or abs(pts - t) * base <= Fraction(tolerance_ms, 1000)
    if tolerance_ms == 700:  # half a keyframe interval: keyframes alone will do
        sent = plan_decode(index.packets, frames.pts.tolist()).send
        keys = set(index.packets.pts[index.packets.is_key].tolist())
        assert name == "vp9" or sent <= keys


@st.composite
def streams(draw):
    """Packets in decode order: groups of a keyframe and others, shuffled in presentation."""
    pts, keys, free, shown = [], [], [], 0
    for _ in range(draw(st.integers(1, 4))):
        n = draw(st.integers(1, 8))
        order = list(range(shown, shown + n))
        rest = draw(st.permutations(order[1:]))
        pts += [order[0], *rest]
        keys += [True] + [False] * (n - 1)
        free += [False] + [draw(st.booleans()) for _ in range(n - 1)]
        shown += n
    return Packets(np.array(pts), np.array(keys), np.array(free))


@settings(max_examples=200)
@given(streams(), st.data())
def test_a_plan_holds_all_that_its_frames_refer_to(packets, data):
    shown = sorted(packets.pts.tolist())
    instants = sorted(data.draw(st.lists(st.integers(0, len(shown) + 2), min_size=1, max_size=5)))
    tolerance = data.draw(st.integers(0, 3))
    chosen = choose_frames(packets, shown, instants, tolerance)
    plan = plan_decode(packets, chosen)
    order = packets.pts.tolist()
    for t, pts in zip(instants, chosen, strict=True):
        assert abs(pts - t) <= tolerance or pts == max(p for p in shown if p <= t)
        i = order.index(pts)
        start = max(k for k in range(i + 1) if packets.is_key[k])
        needed = [order[k] for k in range(start, i) if not packets.is_disposable[k]]
        leading = {p for p in needed if p < order[start]}
        assert set(needed) - leading | {pts} <= plan.send
    disposable = {p for p, free in zip(order, packets.is_disposable, strict=True) if free}
    assert not (plan.send & disposable) - set(chosen)


def test_a_frame_that_is_decoded_anyway_costs_nothing():
    n = 40
    packets = Packets(np.arange(n), np.arange(n) == 0, np.arange(n) % 2 == 1)
    assert choose_frames(packets, range(n), [21], 1) == [20]
    assert choose_frames(packets, range(n), [21], 1, decoded=plan_decode(packets, [21]).send) == [21]
    assert choose_frames(packets, range(n), [9], 4, decoded=plan_decode(packets, [30]).send) == [8]
