"""One contract for every frame reader: the picture on screen at an instant, with its exact PTS."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from pipeline.config import ClipConfig
from pipeline.media.probe import probe
from pipeline.media.video import (
    DecordReader,
    PyAVReader,
    ReaderError,
    index_packets,
    read_frames,
    scaled_size,
)
from tests.media_factory import flash_and_click

FOREVER = Fraction(10**6)
READERS = {
    "decord": DecordReader,
    "pyav": PyAVReader,
}
VFR_TIMES = [0.0, 0.04, 0.08, 0.5, 0.9, 1.0, 1.04, 1.08, 1.9, 2.0, 2.04, 3.5]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    d = tmp_path_factory.mktemp("readers")
    return {
        "cfr": flash_and_click(d / "cfr.mp4", seconds=4),
        "vfr": flash_and_click(d / "vfr.mp4", frame_times=VFR_TIMES, acodec=None, seconds=4),
        "mkv": flash_and_click(d / "a.mkv", seconds=4, acodec="libopus"),
        "ts": flash_and_click(d / "a.ts", seconds=4, audio_delay_s=0.3),
    }


def ticks(info, seconds):
    return [int((Fraction(str(s)) + info.origin_s) / info.video.time_base) for s in seconds]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["cfr", "vfr", "mkv", "ts"])
def test_a_reader_gives_the_picture_on_screen_with_its_pts(reader, name, files):
    uri = str(files[name])
    info = probe(uri)
    index = index_packets(uri, info, Fraction(0), FOREVER)
    wanted = ticks(info, [0.01, 0.98, 1.02, 1.5, 2.01, 3.2])
    expected = [max(p for p in index.pts if p <= t) for t in wanted]
    try:
        frames = READERS[reader](uri, info, index).read(expected, 80, 60)
    except ReaderError:
        assert (reader, name) == ("decord", "ts")  # what it cannot open or place, it leaves
        return
    assert frames.pts.tolist() == expected
    assert frames.rgb.shape == (6, 60, 80, 3)
    times = [float(p * info.video.time_base - info.origin_s) for p in expected]
    is_white = frames.rgb.mean(axis=(1, 2, 3)) > 128
    assert is_white.tolist() == [t >= 0.5 and abs(t - round(t)) < 0.02 for t in times]


def test_both_readers_agree_on_every_frame(files):
    uri = str(files["cfr"])
    info = probe(uri)
    index = index_packets(uri, info, Fraction(0), FOREVER)
    a = DecordReader(uri, info, index).read(index.pts, 160, 120)
    b = PyAVReader(uri, info, index).read(index.pts, 160, 120)
    assert a.pts.tolist() == b.pts.tolist() == list(index.pts)
    assert np.abs(a.rgb.astype(int) - b.rgb).mean() < 2


def test_packet_times_are_those_of_a_full_decode(files):
    import av

    for uri in map(str, files.values()):
        info = probe(uri)
        index = index_packets(uri, info, Fraction(0), FOREVER)
        with av.open(uri) as container:
            decoded = sorted(frame.pts for frame in container.decode(video=0))
        assert list(index.pts) == decoded
        assert index.is_whole_file


def test_a_span_in_the_middle_holds_the_frame_on_screen_at_its_start(files):
    uri = str(files["vfr"])
    info = probe(uri)
    index = index_packets(uri, info, Fraction(3, 10), Fraction(2))
    times = [round(float(p * info.video.time_base), 3) for p in index.pts]
    assert times == [0.08, 0.5, 0.9, 1.0, 1.04, 1.08, 1.9]
    assert not index.is_whole_file


def test_vfr_is_seen(files):
    for name, is_vfr in (("vfr", True), ("cfr", False), ("mkv", False)):
        info = probe(str(files[name]))
        assert index_packets(str(files[name]), info, Fraction(0), FOREVER).is_vfr is is_vfr


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_pictures_are_shown_upright(tmp_path, degrees):
    import av

    plain = flash_and_click(tmp_path / "plain.mp4", seconds=1, acodec=None)
    with av.open(str(plain)) as source, av.open(str(tmp_path / "turned.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(degrees)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    info = probe(str(tmp_path / "turned.mp4"))
    assert info.video.rotation_deg == degrees or info.video.rotation_deg == 360 - degrees
    expected = (160, 120) if degrees == 180 else (120, 160)
    assert (info.video.width, info.video.height) == expected
    index = index_packets(str(tmp_path / "turned.mp4"), info, Fraction(0), FOREVER)
    clips = ClipConfig(short_side_px=240)
    frames = read_frames(str(tmp_path / "turned.mp4"), info, index, [0], clips)
    width, height = scaled_size(info.video, 240)
    assert frames.rgb.shape == (1, height, width, 3)
