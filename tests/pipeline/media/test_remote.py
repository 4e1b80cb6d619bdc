"""Files elsewhere: read in ranges; files that point elsewhere: refused, and nobody is called."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import pytest

from pipeline.config import load_config
from pipeline.media.probe import probe
from pipeline.records import MediaError, Unit
from pipeline.understand import decode
from tests.benchmarks.footage import FPS, footage


@pytest.fixture
def server():
    """A file server on loopback that knows ranges and counts what it is asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self._answer(send=False)

        def do_GET(self):
            self._answer(send=True)

        def _answer(self, *, send):
            self.server.calls.append(self.path)
            content = self.server.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first = int(wanted[1]) if wanted else 0
            last = (
                min(int(wanted[2] or len(content) - 1), len(content) - 1)
                if wanted
                else len(content) - 1
            )
            self.send_response(206 if wanted else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(last - first + 1))
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.end_headers()
            if send:
                self.server.n_bytes += last - first + 1
                self.wfile.write(content[first : last + 1])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.calls, server.n_bytes = {}, [], 0
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def url(server, path):
    return f"http://127.0.0.1:{server.server_port}{path}"


def long_file(tmp_path, seconds=8, times=12):
    """A file of many megabytes: the same packets again and again, index in front."""
    short = footage(tmp_path / "s.mp4", codec="mpeg4", width=640, height=360, seconds=seconds, gop=25)
    target = tmp_path / "long.mp4"
    with av.open(str(target), "w", options={"movflags": "faststart"}) as out:
        stream, offset = None, 0
        for _ in range(times):
            with av.open(str(short)) as source:
                stream = stream or out.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                        packet.stream = stream
                        out.mux(packet)
                offset += round(seconds / source.streams.video[0].time_base)
    return target


def test_a_minute_of_a_remote_file_is_read_without_the_rest(server, tmp_path):
    path = long_file(tmp_path)
    size = 30_000_000  # a box of padding behind makes the file large without making it slow to write
    server.files["/v.mp4"] = path.read_bytes() + size.to_bytes(4, "big") + b"free" + bytes(size - 8)
    config = load_config(overrides=["clips.unit_s=8"])
    remote = decode(Unit("u", "v", url(server, "/v.mp4"), "1", 48.0, 56.0), config, 16_000)
    assert remote.failure is None
    local = decode(Unit("u", "v", str(path), "1", 48.0, 56.0), config, 16_000)
    assert (remote.batch.frames == local.batch.frames).all()
    assert remote.batch.frame_time_s[0, 0] == pytest.approx(48.25, abs=1 / FPS)
    assert server.n_bytes < len(server.files["/v.mp4"]) / 2


def test_what_is_not_there_is_told(server):
    with pytest.raises(MediaError) as error:
        probe(url(server, "/gone.mp4"))
    assert error.value.failure.code == "not_found"


@pytest.mark.parametrize("name", ["trap.mp4", "trap.m3u8", "trap.mkv"])
@pytest.mark.parametrize("kind", ["hls", "concat", "dash", "subtitle"])
def test_a_file_that_points_elsewhere_is_refused_and_nobody_is_called(server, tmp_path, name, kind):
    target = url(server, "/secret.ts")
    server.files["/secret.ts"] = b"\x47" * 188
    content = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{target}'\nfile /etc/hostname\n",
        "dash": f"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period>"
        f"<AdaptationSet mimeType='video/mp4'><Representation id='1' bandwidth='1'><BaseURL>{target}"
        "</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "subtitle": f"1\n00:00:00,000 --> 00:00:09,000\n{target}\n",
    }[kind]
    (tmp_path / name).write_text(content)
    result = decode(Unit("u", "v", str(tmp_path / name), "1", 0.0, None), load_config(), 16_000)
    assert result.failure is not None
    assert result.failure.code == "not_media"
    assert server.calls == []
