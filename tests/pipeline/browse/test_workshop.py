"""What is made for the page is made once, forgotten in time, and told as often as asked where it cannot be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.browse.originals import RefusedError, browser_type, open_original
from pipeline.browse.workshop import Kept, Workshop
from pipeline.media.probe import probe
from pipeline.records import MediaError, short_hash
from pipeline.sources import list_sources
from tests.http_server import LoopbackServer
from tests.media_factory import flash_and_click


@pytest.fixture
def workshop():
    workshop = Workshop()
    yield workshop
    workshop.close()


def test_the_folder_never_holds_more_than_it_may(tmp_path):
    kept = Kept(tmp_path, most_bytes=100)
    for name in "abc":
        kept.put(name, name.encode() * 40)
    assert kept.get("a") is None  # the oldest went
    assert kept.get("b") == b"b" * 40
    kept.put("d", b"d" * 40)
    assert (kept.get("c"), kept.get("b")) == (None, b"b" * 40)  # `b` was asked for since
    kept.put("huge", b"h" * 101)
    assert kept.get("huge") is None
    kept.put("b", b"B" * 60)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == 100


def test_what_is_asked_for_by_many_at_once_is_made_once(workshop, video_file, monkeypatch):
    made = []
    real = type(workshop._kept).put
    monkeypatch.setattr(
        type(workshop._kept), "put", lambda self, *a: (made.append(a[0]), real(self, *a))
    )
    with ThreadPoolExecutor(4) as pool:
        stills = list(pool.map(lambda _: workshop.still("c", str(video_file), 1.0), range(4)))
    assert len({*stills}) == 1
    assert len(made) == 1


def test_a_file_that_cannot_be_read_is_tried_once(workshop, tmp_path):
    path = tmp_path / "not.mp4"
    path.write_bytes(b"nothing like a film")
    with pytest.raises(MediaError, match="not a readable media file"):
        workshop.excerpt("c", str(path), 0.0, 1.0)
    path.unlink()
    with pytest.raises(MediaError, match="not a readable media file"):
        workshop.excerpt("c", str(path), 0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "how", "expected"),
    [
        ("a.mp4", {}, "video/mp4"),
        ("a.mov", {}, "video/mp4"),
        ("a.mp4", {"acodec": None}, "video/mp4"),
        ("a.m4a", {"vcodec": None}, "audio/mp4"),
        ("a.wav", {"vcodec": None, "acodec": "pcm_s16le"}, "audio/wav"),
        ("a.webm", {"vcodec": "libvpx", "acodec": "libopus"}, "video/webm"),
        ("a.mkv", {"vcodec": "libvpx", "acodec": "libopus"}, None),
        ("a.mp4", {"vcodec": "libx265"}, None),
        ("a.mp4", {"acodec": "ac3"}, None),
        ("a.avi", {"vcodec": "mpeg4", "acodec": "mp3"}, None),
        ("a.ts", {}, None),  # its clock begins at 1.4 s
    ],
)
def test_what_every_browser_plays(tmp_path, name, how, expected):
    path = str(flash_and_click(tmp_path / name, seconds=1.0, **how))
    assert browser_type(path, probe(path)) == expected


class Bucket(LoopbackServer):
    """One object, of which parts can be asked for, with a version that can be changed."""

    content, version = b"", "1"

    def answer(self, request):
        first, end = 0, len(self.content)
        if asked := request.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            first, end = int(first), min(end, int(last) + 1)
        part = self.content[first:end]
        request.send_response(206 if asked else 200)
        request.send_header("ETag", f'"{self.version}"')
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Length", str(len(part)))
        if asked:
            request.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(self.content)}")
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(part)


def test_an_object_of_a_store_is_read_while_it_is_the_same(video_file):
    bucket = Bucket()
    try:
        bucket.content = video_file.read_bytes()
        (source,) = list_sources([f"{bucket.url}/film.mp4"]).sources
        opened = open_original(source.uri, source.video_id)
        with opened.file as file:
            assert (file.read(), opened.size_bytes) == (bucket.content, len(bucket.content))
        bucket.version = "2"
        with pytest.raises(RefusedError, match="changed"):
            open_original(source.uri, source.video_id)
    finally:
        bucket.close()


@pytest.mark.parametrize(
    "uri",
    ["local:///etc/passwd", "simplecache::s3://b/k", "zip://a::/etc/passwd", "data:///x", "ftp://h/x"],
)
def test_other_ways_to_a_file_are_not_opened(uri):
    with pytest.raises(RefusedError, match="not opened"):
        open_original(uri, short_hash(uri, "1"))
