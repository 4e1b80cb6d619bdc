"""Opening: facts of good files, clear failures of bad ones."""

from __future__ import annotations

import pytest

from pipeline.config import LimitConfig
from pipeline.media.probe import probe
from pipeline.records import MediaError
from tests.media_factory import flash_and_click


def test_facts_of_a_file(video_file):
    info = probe(str(video_file))
    assert info.video.codec == "h264"
    assert (info.video.width, info.video.height) == (160, 120)
    assert info.video.fps == 25.0
    assert (info.audio.codec, info.audio.rate_hz, info.audio.channels) == ("aac", 48_000, 2)
    assert info.duration_s == pytest.approx(10.0, abs=0.05)
    assert info.origin_s == 0


def test_files_with_one_stream_have_one_stream(tmp_path):
    assert probe(str(flash_and_click(tmp_path / "v.mp4", seconds=1, acodec=None))).audio is None
    only_sound = probe(
        str(flash_and_click(tmp_path / "a.wav", seconds=1, vcodec=None, acodec="pcm_s16le"))
    )
    assert only_sound.video is None
    assert only_sound.audio.rate_hz == 48_000


def bad_file(kind, tmp_path, video_file):
    path = tmp_path / f"{kind}.mp4"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("dear diary, this is no video\n" * 50)
    elif kind == "noise":
        path.write_bytes(bytes(range(256)) * 64)
    elif kind == "headless":  # an mp4's index stands at its end: cut off, nothing can be read
        path.write_bytes(video_file.read_bytes()[:2_000])
    elif kind == "directory":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("missing", "not_found"),
        ("empty", "empty"),
        ("text", "not_media"),
        ("noise", "not_media"),
        ("headless", "not_media"),
        ("directory", "not_a_file"),
    ],
)
def test_a_bad_file_fails_with_a_code_and_its_name(kind, code, tmp_path, video_file):
    path = bad_file(kind, tmp_path, video_file)
    with pytest.raises(MediaError) as error:
        probe(str(path))
    assert error.value.failure.code == code
    assert str(path) in error.value.failure.message


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n/etc/passwd\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile /etc/passwd\n",
    ],
)
def test_a_file_that_points_at_others_is_refused(tmp_path, content):
    path = tmp_path / "trap.mp4"
    path.write_text(content)
    with pytest.raises(MediaError) as error:
        probe(str(path))
    assert error.value.failure.code == "not_media"


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"max_pixels": 100}, "pictures of 160x120; limits.max_pixels is 100"),
        ({"max_duration_s": 5}, "by its header; limits.max_duration_s is 5"),
        ({"max_streams": 1}, "2 streams; limits.max_streams is 1"),
    ],
)
def test_a_file_that_asks_for_too_much_is_refused_before_it_is_decoded(video_file, limit, said):
    with pytest.raises(MediaError) as error:
        probe(str(video_file), limits=LimitConfig(**limit))
    assert error.value.failure.code == "too_large"
    assert said in error.value.failure.message
