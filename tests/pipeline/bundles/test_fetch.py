"""`models fetch` against a real HTTP server: resume, sums, hubs, mirrors, folders."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from pipeline.bundles.fetch import _may_have_token, fetch, resolve_url
from pipeline.bundles.spec import BundleError, WeightFile, find_bundle
from pipeline.bundles.weights import checked_path
from tests.http_server import LoopbackServer

CONTENT = bytes(range(256)) * 20_000  # 5 MB
SUM = hashlib.sha256(CONTENT).hexdigest()


class Server(LoopbackServer):
    """Serves `files` by path; `faults` are used up one a request."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.faults: list[str | int] = []
        self.requests: list[tuple[str, str | None, str | None]] = []
        self.has_ranges = self.tells_length = True
        super().__init__()

    def answer(self, request):
        asked = request.headers.get("Range")
        self.requests.append((request.path, asked, request.headers.get("Authorization")))
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, int):
            request.send_response(fault)
            request.send_header("Content-Length", "0")
            return request.end_headers()
        if request.path in self.redirects:
            request.send_response(302)
            request.send_header("Location", self.redirects[request.path])
            request.send_header("X-Linked-Etag", f'"{SUM}"')
            request.send_header("Content-Length", "0")
            return request.end_headers()
        content = self.files.get(request.path)
        if content is None:
            request.send_response(404)
            request.send_header("Content-Length", "0")
            return request.end_headers()
        tag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        is_same = request.headers.get("If-Range") in (None, tag)
        start = (
            int(asked.removeprefix("bytes=").rstrip("-"))
            if asked and self.has_ranges and is_same
            else 0
        )
        if start > len(content):
            request.send_response(416)
            request.send_header("Content-Length", "0")
            return request.end_headers()
        request.send_response(206 if start else 200)
        request.send_header("ETag", tag)
        if self.tells_length:
            request.send_header("Content-Length", str(len(content) - start))
        else:
            request.close_connection = True
        request.end_headers()
        body = content[start:]
        if fault == "break":
            request.wfile.write(body[: len(body) // 2])
            request.wfile.flush()
            request.connection.close()
            request.close_connection = True
            return None
        return request.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("pipeline.bundles.fetch.time.sleep", lambda _: None)
    monkeypatch.delenv("REELTABLE_MIRROR", raising=False)
    server = Server()
    yield server
    server.close()


@pytest.fixture
def bundle(tmp_path):
    """Makes a bundle whose one fetched file is at a URL."""

    def make(url, sha256=SUM):
        values = yaml.safe_load((find_bundle("embedded").directory / "bundle.yaml").read_text())
        weights = {"file": "w/model.pth", "sha256": sha256, "url": url}
        values |= {"name": "mine", "objects_file": None, "sounds_file": None, "audio": None}
        values["video"] = values["video"] | {"weights": weights}
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / "bundle.yaml").write_text(yaml.safe_dump(values))
        return find_bundle(str(tmp_path / "mine"))

    return make


def mine(found):
    return next(file for file in found if file.file == "w/model.pth")


def test_a_download_that_breaks_goes_on_from_where_it_was(server, bundle):
    server.files["/model.pth"] = CONTENT
    server.faults = ["break", 503, "break"]
    spec = bundle(f"{server.url}/model.pth")
    assert not spec.is_here
    told = []
    found = mine(fetch(spec, on_progress=lambda *step: told.append(step)))
    assert (found.state, found.sha256, found.size_bytes) == ("downloaded", SUM, len(CONTENT))
    assert (spec.directory / "w/model.pth").read_bytes() == CONTENT
    ranges = [asked for _, asked, _ in server.requests]
    assert ranges[0] is None
    assert ranges[-1].startswith("bytes=")
    assert told[-1] == ("w/model.pth", len(CONTENT), len(CONTENT))
    assert mine(fetch(spec)).state == "there"
    assert spec.is_here


def test_what_came_before_an_end_is_kept_for_the_next_fetch(server, bundle):
    server.files["/model.pth"] = CONTENT
    server.faults = ["break", *[503] * 4]
    spec = bundle(f"{server.url}/model.pth")
    with pytest.raises(BundleError, match=r"HTTP 503; [1-9]\d+ bytes of w/model.pth are kept"):
        fetch(spec)
    assert not (spec.directory / "w/model.pth").exists()
    assert mine(fetch(spec)).sha256 == SUM
    assert server.requests[-1][1] is not None


def test_a_file_that_changed_meanwhile_is_begun_again(server, bundle):
    """No sum is published, so nothing else could tell that head and tail are of different files."""
    server.files["/model.pth"] = b"old" * 100_000
    server.faults = ["break", *[503] * 4]
    spec = bundle(f"{server.url}/model.pth", sha256=None)
    with pytest.raises(BundleError, match="HTTP 503"):
        fetch(spec)
    server.files["/model.pth"] = CONTENT
    assert mine(fetch(spec)).sha256 == SUM


def test_a_beginning_longer_than_the_file_is_thrown_away(server, bundle):
    server.files["/model.pth"] = CONTENT
    server.faults = ["break", *[503] * 4]
    spec = bundle(f"{server.url}/model.pth", sha256=None)
    with pytest.raises(BundleError):
        fetch(spec)
    with (spec.directory / "w/model.pth.part").open("ab") as part:
        part.write(b"x" * len(CONTENT))
    assert mine(fetch(spec)).sha256 == SUM


def test_without_length_and_sum_nobody_could_say_that_a_file_is_whole(server, bundle):
    server.files["/model.pth"], server.tells_length = CONTENT, False
    with pytest.raises(BundleError, match="tells neither length nor sum"):
        fetch(bundle(f"{server.url}/model.pth", sha256=None))
    assert mine(fetch(bundle(f"{server.url}/model.pth"))).sha256 == SUM


def test_two_that_fetch_one_bundle_wait_for_each_other(server, bundle):
    server.files["/model.pth"] = CONTENT
    spec = bundle(f"{server.url}/model.pth", sha256=None)
    with ThreadPoolExecutor(4) as pool:
        found = [f.result() for f in [pool.submit(fetch, spec) for _ in range(4)]]
    assert {mine(files).sha256 for files in found} == {SUM}
    assert sum(mine(files).state == "downloaded" for files in found) == 1


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://huggingface.co.evil.example/x", None),
        ("https://example.com/x", ""),
        ("hf://me/net@1/x", "http://hub.example"),
    ],
)
def test_the_hubs_token_goes_to_nobody_else(url, endpoint, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    if endpoint is not None:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
    file = WeightFile(file="x", url=url)
    assert not _may_have_token(file, resolve_url(url))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    hubs = WeightFile(file="x", url="hf://me/net@1/x")
    assert _may_have_token(hubs, resolve_url(hubs.url))


@pytest.mark.parametrize("damage", ["{bad", "[]"])
def test_a_damaged_record_of_sums_is_named(bundle, damage):
    spec = bundle("https://example.com/x", sha256=None)
    (spec.directory / "sums.json").write_text(damage)
    with pytest.raises(BundleError, match=r"sums\.json: damaged"):
        fetch(spec)


def test_a_folder_where_one_name_stands_for_two_files_is_not_guessed_at(tmp_path, monkeypatch):
    monkeypatch.setenv("REELTABLE_MODELS", str(tmp_path / "models"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BundleError, match=r"clip/config\.json is not there"):
        fetch(find_bundle("clip-clap"), source=tmp_path)


def test_a_server_without_ranges_begins_again(server, bundle):
    server.files["/model.pth"], server.has_ranges = CONTENT, False
    server.faults = ["break"]
    assert mine(fetch(bundle(f"{server.url}/model.pth"))).sha256 == SUM


def test_a_wrong_sum_is_refused_and_not_kept(server, bundle):
    server.files["/model.pth"] = CONTENT[:-1] + b"x"
    spec = bundle(f"{server.url}/model.pth")
    with pytest.raises(BundleError, match=rf"sha256 is .*, expected {SUM} by the bundle"):
        fetch(spec)
    assert list((spec.directory / "w").iterdir()) == []


def test_a_missing_file_is_not_asked_for_again(server, bundle):
    with pytest.raises(BundleError, match="HTTP 404"):
        fetch(bundle(f"{server.url}/model.pth"))
    assert len(server.requests) == 1


def test_a_hubs_file_comes_by_its_endpoint_and_its_sum_by_the_hub(server, bundle, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "secret")
    server.files["/cdn/blob"] = CONTENT
    server.redirects["/me/net/resolve/abc123/model.pth"] = "/cdn/blob"
    spec = bundle("hf://me/net@abc123/model.pth", sha256=None)
    before = spec.digest()
    assert mine(fetch(spec)).sha256 == SUM
    assert server.requests[0][2] == "Bearer secret"
    assert spec.digest() != before  # what was fetched is part of what the bundle is
    server.files["/cdn/blob"] = b"altered"
    (spec.directory / "w/model.pth").unlink()
    (spec.directory / "sums.json").unlink()
    with pytest.raises(BundleError, match=rf"expected {SUM} by the server"):
        fetch(spec)


def test_a_sum_that_nobody_names_is_recorded_and_holds_from_then_on(server, bundle):
    server.files["/model.pth"] = CONTENT
    spec = bundle(f"{server.url}/model.pth", sha256=None)
    fetch(spec)
    assert json.loads((spec.directory / "sums.json").read_text()) == {"w/model.pth": SUM}
    assert checked_path(spec.video.weights, spec.directory)
    (spec.directory / "w/model.pth").write_bytes(b"other")
    with pytest.raises(BundleError, match=f"expected {SUM}"):
        checked_path(spec.video.weights, spec.directory)
    with pytest.raises(BundleError, match=r"by sums\.json"):
        fetch(spec)


def test_a_file_whose_sum_nobody_knows_is_not_loaded(bundle):
    spec = bundle("https://example.com/model.pth", sha256=None)
    (spec.directory / "w").mkdir()
    (spec.directory / "w/model.pth").write_bytes(CONTENT)
    with pytest.raises(BundleError, match=r"no sum is known for it; reeltable models fetch mine"):
        checked_path(spec.video.weights, spec.directory)


def test_a_published_prefix_of_a_sum_is_enough_and_less_is_not(server, bundle):
    server.files["/model.pth"] = CONTENT
    spec = bundle(f"{server.url}/model.pth", sha256=SUM[:8])
    fetch(spec)
    assert checked_path(spec.video.weights, spec.directory)
    short = bundle(f"{server.url}/model.pth", sha256=SUM[:4])
    with pytest.raises(BundleError, match="sha256 is"):
        checked_path(short.video.weights, short.directory)


def test_a_folder_stands_in_for_the_network(server, bundle, tmp_path):
    spec = bundle(f"{server.url}/model.pth")
    with pytest.raises(BundleError, match=r"neither w/model.pth nor model.pth is there"):
        fetch(spec, source=tmp_path)
    (tmp_path / "model.pth").write_bytes(CONTENT)
    assert mine(fetch(spec, source=tmp_path)).state == "copied"
    assert server.requests == []


def test_a_mirror_is_asked_instead(server, bundle, monkeypatch):
    server.files["/proxy/example.com/zoo/model.pth"] = CONTENT
    spec = bundle("https://example.com/zoo/model.pth")
    assert mine(fetch(spec, mirror=f"{server.url}/proxy/")).state == "downloaded"
    monkeypatch.setenv("REELTABLE_MIRROR", "http://mirror")
    assert resolve_url("https://a.b/c?x") == "http://mirror/a.b/c"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b", "model.pth", "hf://nothing"])
def test_other_protocols_are_refused(url):
    with pytest.raises(BundleError, match="expected https"):
        resolve_url(url)


def test_a_bundle_cannot_write_outside_its_directory(bundle):
    spec = bundle("https://example.com/x")
    text = (spec.directory / "bundle.yaml").read_text()
    (spec.directory / "bundle.yaml").write_text(text.replace("w/model.pth", "../../model.pth"))
    with pytest.raises(BundleError, match="leads out of the bundle's directory"):
        find_bundle(str(spec.directory))
    (spec.directory / "bundle.yaml").write_text(text.replace("w/model.pth", "/elsewhere/model.pth"))
    with pytest.raises(BundleError, match="lies outside the bundle's directory"):
        fetch(find_bundle(str(spec.directory)))
