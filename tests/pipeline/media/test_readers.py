"""One contract for every frame reader: the picture on screen at an instant, with its exact PTS."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from pipeline.config import ClipConfig
from pipeline.media.probe import probe
from pipeline.media.video import (
    DecordReader,
    GreyAsked,
    NvdecReader,
    PyAVReader,
    ReaderError,
    index_packets,
    read_frames,
)
from tests.media_factory import flash_and_click

FOREVER = Fraction(10**6)
READERS = {
    "decord": DecordReader,
    "pyav": PyAVReader,
    "nvdec": NvdecReader,
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
        # What a reader cannot open or place, it leaves; without a GPU all of it.
        assert (reader, name) == ("decord", "ts") or (
            reader == "nvdec" and not torch.cuda.is_available()
        )
        return
    assert frames.pts.tolist() == expected
    assert frames.rgb.shape == (6, 60, 80, 3)
    times = [float(p * info.video.time_base - info.origin_s) for p in expected]
    is_white = frames.rgb.mean(axis=(1, 2, 3)) > 128
    assert is_white.tolist() == [t >= 0.5 and abs(t - round(t)) < 0.02 for t in times]


def test_where_no_gpu_decodes_the_pictures_are_those_of_the_cpu(files):
    uri = str(files["vfr"])
    info = probe(uri)
    index = index_packets(uri, info, Fraction(0), FOREVER)
    wanted = ticks(info, [0.01, 0.98, 1.5])
    by_gpu, by_cpu = (
        read_frames(uri, info, index, wanted, ClipConfig(reader=r)) for r in ("nvdec", "pyav")
    )
    assert by_gpu.pts.tolist() == by_cpu.pts.tolist()
    assert np.abs(by_gpu.rgb.astype(int) - by_cpu.rgb).mean() < 2


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


TURNS = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]
MIRRORS = [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]


@pytest.mark.parametrize("matrix", TURNS + MIRRORS)
def test_turned_and_mirrored_pictures_are_shown_as_a_player_shows_them(tmp_path, matrix):
    """The display matrix moves (x, y), y downwards, to (ax + cy, bx + dy)."""
    a, b, c, d = matrix
    uri = str(tmp_path / "turned.mp4")
    corners = {(-1, -1): (250, 10, 10), (1, -1): (10, 250, 10), (1, 1): (10, 10, 250)}
    picture = np.zeros((120, 160, 3), np.uint8)
    for (x, y), colour in corners.items():
        picture[60 * (y > 0) : 60 + 60 * (y > 0), 80 * (x > 0) : 80 + 80 * (x > 0)] = colour
    with av.open(uri, "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        one = 1 << 16
        stream.set_display_matrix([a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30])
        for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
            container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    info = probe(uri)
    assert (info.video.width, info.video.height) == ((160, 120) if a else (120, 160))
    index = index_packets(uri, info, Fraction(0), FOREVER)
    frames = read_frames(uri, info, index, [0], ClipConfig(), (), [0])
    shown, (small,) = frames.rgb[0], frames.grey.values()
    assert small.shape == (72, 96)
    grey = small.astype(int)
    height, width = shown.shape[:2]
    for (x, y), colour in corners.items():
        right, down = (1 + (a * x + c * y) / 2) / 2, (1 + (b * x + d * y) / 2) / 2
        pixel = shown[int(down * height), int(right * width)]
        assert np.abs(pixel.astype(int) - colour).max() < 60, (pixel, colour)
        luma = np.dot([0.299, 0.587, 0.114], colour)
        assert abs(grey[int(down * 72), int(right * 96)] - luma) < 30


def test_interlaced_pictures_do_not_comb(tmp_path):
    """The lines of the second field come from 20 ms later: a bar that moves is torn between them."""
    uri = str(tmp_path / "interlaced.mpg")
    with av.open(uri, "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
        stream.bit_rate = 8_000_000
        stream.options = {"flags": "+ildct+ilme"}
        fields = av.filter.Graph()
        parts = [
            fields.add_buffer(width=720, height=576, format="yuv420p", time_base=Fraction(1, 25)),
            fields.add("setfield", "tff"),
            fields.add("buffersink"),
        ]
        fields.link_nodes(*parts).configure()
        for k in range(10):
            picture = np.full((576, 720, 3), 20, np.uint8)
            picture[0::2, 60 * k : 60 * k + 40] = 230
            picture[1::2, 60 * k + 30 : 60 * k + 70] = 230
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            fields.push(frame)
            for packet in stream.encode(fields.pull()):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    info = probe(uri)
    index = index_packets(uri, info, Fraction(0), FOREVER)
    frames = read_frames(uri, info, index, index.pts[2:6], ClipConfig(short_side_px=576))
    luminance = frames.rgb.mean(axis=-1)
    between_lines = np.abs(np.diff(luminance, axis=1)).mean()
    assert between_lines < 3, "rows next to each other differ: two fields were woven"
    assert luminance.max() > 180


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["cfr", "vfr", "mkv", "ts"])
def test_a_reader_gives_small_grey_pictures_in_the_same_pass(reader, name, files):
    uri = str(files[name])
    info = probe(uri)
    index = index_packets(uri, info, Fraction(0), FOREVER)
    chosen, small = index.pts[1::7], index.pts[::2]
    try:
        frames = READERS[reader](uri, info, index).read(chosen, 80, 60, GreyAsked(small, 32, 24))
    except ReaderError:
        assert (reader, name) == ("decord", "ts") or (
            reader == "nvdec" and not torch.cuda.is_available()
        )
        return
    assert frames.pts.tolist() == list(chosen)
    assert sorted(frames.grey) == list(small)
    for pts, picture in frames.grey.items():
        t = float(pts * info.video.time_base - info.origin_s)
        assert picture.shape == (24, 32)
        assert (picture.mean() > 128) == (t >= 0.5 and abs(t - round(t)) < 0.02)


def test_a_small_picture_near_its_instant_stands_in_where_that_spares_decoding(tmp_path):
    """Every other picture is one that nothing refers to: 20 ms beside it lies one that is decoded anyway."""
    uri = str(flash_and_click(tmp_path / "b.mp4", seconds=4, fps=50, acodec=None, b_frames=1))
    info = probe(uri)
    index = index_packets(uri, info, Fraction(0), FOREVER)
    free = {int(p) for p, x in zip(index.packets.pts, index.packets.is_disposable, strict=True) if x}
    assert len(free) > 60
    instants = ticks(info, [(k + 0.5) / 8 for k in range(32)])
    shown = read_frames(uri, info, index, ticks(info, [0.25, 3.75]), ClipConfig(), (), instants)
    assert len(shown.grey_pts) == 32
    assert not free & set(shown.grey_pts)
    off_s = [abs(a - b) * info.video.time_base for a, b in zip(shown.grey_pts, instants, strict=True)]
    assert max(off_s) <= Fraction(1, 24)


def test_a_small_picture_is_the_one_on_screen_where_none_is_near(files):
    uri = str(files["vfr"])
    info = probe(uri)
    index = index_packets(uri, info, Fraction(0), FOREVER)
    instants = ticks(info, [0.3, 0.7, 1.5, 2.9])
    shown = read_frames(uri, info, index, instants[:1], ClipConfig(), (), instants)
    times = [round(float(p * info.video.time_base), 3) for p in shown.grey_pts]
    assert times == [0.08, 0.5, 1.08, 2.04]


def test_an_avi_is_read_from_any_of_its_instants(tmp_path):
    # A keyframe is found by when it is decoded, which is before it is shown: the one before it is needed.
    uri = str(flash_and_click(tmp_path / "a.avi", seconds=4, acodec=None))
    info = probe(uri)
    every = index_packets(uri, info, Fraction(0), FOREVER).pts
    for k in range(1, 100):
        index = index_packets(uri, info, Fraction(k, 25), FOREVER)
        assert not index.is_torn
        assert index.pts[0] == max(p for p in every if p <= ticks(info, [k / 25])[0])
