"""The page's server: who may ask, what it answers, and what never leaves the machine's disk."""

from __future__ import annotations

import html
import io
import os
import re
import shutil

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from pipeline.browse.app import MOST_TICKED, make_app
from pipeline.tables import query
from pipeline.tables.publish import publish
from pipeline.tables.store import Store
from tests.media_factory import flash_and_click
from tests.pipeline.browse.lake import (
    ENDLESS,
    HOSTILE_NAME,
    LAST_DAY,
    N_CLIPS,
    N_VIDEOS,
    add_video,
    clip,
    clip_id_of,
    video_id_of,
)


def csv_of(response):
    return pd.read_csv(io.BytesIO(response.content), keep_default_na=False)


@pytest.fixture
def small(tmp_path):
    """A lake of one film, to be changed: its file, and a function that asks the page's server."""
    film = flash_and_click(tmp_path / "film.mp4", seconds=4.0)
    store = Store(str(tmp_path / "tables"))
    add_video(store, film, [clip(0, "A flash.", [])])
    publish(store, LAST_DAY)
    with TestClient(make_app(store.root), base_url="http://127.0.0.1") as client:
        yield film, client


# --- the page


def test_the_page_tells_which_rows_it_shows(client):
    page = client.get("/").text
    assert f"{N_CLIPS} clips of {N_VIDEOS} videos" in page
    assert '<span class="code">r1</span>' in page
    assert page.count("<article") == 24
    assert "page 1 of 2" in page
    last = client.get("/?page=99").text
    assert last.count("<article") == N_CLIPS - 24


def test_an_address_is_a_view(client):
    page = client.get("/?label=dog&space=objects&min_score=0.9").text
    assert "<b>1</b> clip of 1 video" in page
    assert "A DOG runs; 100% sure." in page
    assert 'value="dog"' in page
    assert '<option value="objects" selected>' in page


def test_a_label_that_is_none_is_answered_with_those_that_contain_it(client):
    page = client.get("/?label=BIR").text
    assert "No clip here" in page
    assert re.search(r'href="/\?label=bird"', page)


def test_similar_clips_stand_beside_the_chosen_one(client, lake):
    page = client.get(f"/?text=dog&like={clip_id_of(lake.ids['plain'], 0)}").text
    chosen, _, nearest = page.partition("<main")
    assert "A dog on a lawn." in chosen
    assert nearest.index("A DOG runs") < nearest.index("A cat asleep.") < nearest.index("A garden.")
    assert "cosine 0.995" in nearest
    assert 'href="/?text=dog"' in chosen  # the way back to what was looked for
    others = client.get(f"/?like={clip_id_of(lake.ids['plain'], 0)}&others=1").text
    assert "A DOG runs" not in others


def test_a_clip_that_was_not_evident_has_none_like_it(client, lake):
    assert "no embedding" in client.get(f"/?like={clip_id_of(lake.ids['new'], 0)}").text


@pytest.mark.parametrize(
    "address", ["/?min_score=x", "/?page=0", "/?page=²", "/?day_from=now", "/?sort=z"]
)
def test_what_cannot_be_asked_is_told_on_a_page(client, address):
    answer = client.get(address)
    assert answer.status_code == 400
    assert "expected" in answer.text


def test_hostile_text_is_only_ever_text(client, lake):
    page = client.get(f"/?video={lake.ids['hostile']}&text=%22%3E%3Cimg").text
    page += client.get(f"/?video={lake.ids['hostile']}").text
    for hostile in ("<script>alert", "<b>bold", "<img src=x", '"><img'):
        assert hostile not in page
    assert html.escape(ENDLESS) in page.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    assert html.escape(HOSTILE_NAME) in page.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    for tag in re.findall(r"<[^>]*>(?=[^<]*(?:قلب|مرحبا))", page):
        assert 'dir="auto"' in tag or "unseen" in tag or "<option" in tag, tag


def test_new_rows_appear_on_reload(tmp_path):
    store = Store(str(tmp_path / "tables"))
    add_video(store, tmp_path / "a.mp4", [clip(0, "The first.", [])])
    publish(store, LAST_DAY)
    with TestClient(make_app(store.root), base_url="http://127.0.0.1") as client:
        assert "The second." not in client.get("/").text
        add_video(store, tmp_path / "b.mp4", [clip(0, "The second.", [])], run_id="r2")
        assert "The second." in client.get("/").text
        shutil.rmtree(tmp_path / "tables" / "clips")
        add_video(store, tmp_path / "c.mp4", [clip(0, "The third.", [])], run_id="r3")
        broken = client.get("/")
    assert broken.status_code == 503
    assert "no such file" in broken.text.lower()


# --- taking along


def test_csv_has_the_rows_of_the_filter_in_order(client):
    answer = client.get("/export.csv?label=dog")
    assert answer.headers["content-disposition"] == 'attachment; filename="clips.csv"'
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    table = csv_of(answer)
    assert table["caption"].tolist()[:2] == ["A DOG runs; 100% sure.", "A dog on a lawn."]
    assert table["labels"][1] == "dog 0.6 (objects, video); Bark 0.7 (audioset, video)"
    assert table["dt"][0] == LAST_DAY
    assert "embedding" not in table
    assert len(csv_of(client.get("/export.csv"))) == N_CLIPS


def test_csv_is_utf8_that_spreadsheets_recognise_and_never_calculate(client, lake):
    answer = client.get("/export.csv")
    assert answer.content.startswith(b"\xef\xbb\xbf")
    table = csv_of(answer).set_index("video_id")
    assert table["caption"][lake.ids["torn"]] == '\'=HYPERLINK("http://x")'
    assert table["labels"][lake.ids["torn"]].startswith("'-1+1 0.9")
    assert table["caption"][lake.ids["hostile"]] == ENDLESS
    assert table["uri"][lake.ids["hostile"]].endswith(HOSTILE_NAME)


def test_parquet_has_every_column_as_it_stands_in_the_tables(client, lake):
    answer = client.get(f"/export.parquet?video={lake.ids['plain']}")
    taken = pq.read_table(io.BytesIO(answer.content))
    there = query(
        lake.out, f"select * from clips where video_id = '{lake.ids['plain']}' order by start_s"
    )
    assert taken.schema == there.schema
    assert taken.to_pylist() == there.to_pylist()


def test_ticked_clips_alone_are_taken_along(client, lake):
    ids = [clip_id_of(lake.ids["gone"], 7), clip_id_of(lake.ids["plain"], 2)]
    address = f"?label=dog&ticked={','.join(ids)}"
    assert csv_of(client.get(f"/export.csv{address}"))["clip_id"].tolist() == ids[::-1]
    taken = pq.read_table(io.BytesIO(client.get(f"/export.parquet{address}").content))
    assert taken["clip_id"].to_pylist() == ids[::-1]
    too_many = ",".join(f"c{i}" for i in range(MOST_TICKED + 1))
    assert client.get(f"/export.csv?ticked={too_many}").status_code == 400


def test_an_empty_selection_is_a_file_without_rows(client, tmp_path):
    assert len(csv_of(client.get("/export.csv?label=unicorn"))) == 0
    (tmp_path / "none.parquet").write_bytes(client.get("/export.parquet?label=unicorn").content)
    assert duckdb.sql(f"select count(*) from '{tmp_path}/none.parquet'").fetchall() == [(0,)]


# --- playing


def test_what_browsers_play_comes_from_the_source_with_its_seconds(client, lake):
    how = client.get(f"/clips/{clip_id_of(lake.ids['plain'], 1)}/play").json()
    assert how["from"] == "original"
    assert (how["start_s"], how["end_s"]) == (4.0, 8.0)
    assert how["otherwise"]["url"].endswith("/excerpt.mp4")
    answer = client.get(how["url"])
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.content == (lake.videos / "plain.mp4").read_bytes()
    hostile = client.get(f"/clips/{clip_id_of(lake.ids['hostile'], 0)}/play").json()
    assert client.get(hostile["url"]).headers["content-type"] == "video/webm"


@pytest.mark.parametrize("name", ["film", "new"])
def test_what_some_browser_cannot_play_comes_as_an_excerpt(client, lake, name):
    clip_id = clip_id_of(lake.ids[name], 0)
    how = client.get(f"/clips/{clip_id}/play").json()
    assert (how["from"], how["start_s"], how["end_s"]) == ("excerpt", 0.0, 4.0)
    answer = client.get(how["url"], headers={"range": "bytes=4-7"})
    assert (answer.status_code, answer.content) == (206, b"ftyp")
    assert client.get(f"/videos/{lake.ids[name]}/original").status_code == 415


def test_a_clip_with_damage_comes_as_an_excerpt(tmp_path):
    film = flash_and_click(tmp_path / "film.mp4", seconds=4.0)
    store = Store(str(tmp_path / "tables"))
    add_video(store, film, [clip(0, "A flash.", [], status="partial")])
    publish(store, LAST_DAY)
    with TestClient(make_app(store.root), base_url="http://127.0.0.1") as client:
        how = client.get(f"/clips/{clip_id_of(video_id_of(film), 0)}/play").json()
    assert how["from"] == "excerpt"


def test_stills_are_pictures_and_where_there_is_none_that_is_drawn(client, lake):
    still = client.get(f"/clips/{clip_id_of(lake.ids['plain'], 0)}/still.jpg")
    assert still.headers["content-type"] == "image/jpeg"
    assert still.content.startswith(b"\xff\xd8")
    for name in ("torn", "gone"):
        drawn = client.get(f"/clips/{clip_id_of(lake.ids[name], 0)}/still.jpg")
        assert drawn.headers["content-type"].startswith("image/svg+xml")


@pytest.mark.parametrize(
    ("name", "why"), [("torn", "not a readable media file"), ("gone", "not there")]
)
def test_why_a_clip_cannot_be_played_is_told(client, lake, name, why):
    how = client.get(f"/clips/{clip_id_of(lake.ids[name], 0)}/play").json()
    assert why in how["problem"]
    assert str(lake.videos) not in how["problem"]
    assert client.get(f"/clips/{clip_id_of(lake.ids[name], 0)}/excerpt.mp4").status_code == 404
    assert client.get(f"/videos/{lake.ids[name]}/original").status_code == 404


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-", 206, 0, None),
        ("bytes=100-199", 206, 100, 200),
        ("bytes=100-999999999", 206, 100, None),
        ("bytes=-50", 206, -50, None),
        ("bytes=-999999999", 206, 0, None),
        ("bytes=5-4", 200, 0, None),
        ("bytes=0-1,5-6", 200, 0, None),
        ("bytes=a-b", 200, 0, None),
        ("lines=0-5", 200, 0, None),
    ],
)
def test_a_range_is_that_part_of_the_file(client, lake, asked, status, first, last):
    whole = (lake.videos / "plain.mp4").read_bytes()
    answer = client.get(f"/videos/{lake.ids['plain']}/original", headers={"range": asked})
    assert answer.status_code == status
    assert answer.content == whole[first:last]
    assert answer.headers["accept-ranges"] == "bytes"
    if status == 206:
        begin = whole.index(answer.content) if first else 0
        assert answer.headers["content-range"] == (
            f"bytes {begin}-{begin + len(answer.content) - 1}/{len(whole)}"
        )


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0"])
def test_a_range_outside_the_file_is_refused_with_its_size(client, lake, asked):
    answer = client.get(f"/videos/{lake.ids['plain']}/original", headers={"range": asked})
    size = (lake.videos / "plain.mp4").stat().st_size
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{size}")


def test_head_tells_the_size_and_a_part_of_another_version_is_not_joined(client, lake):
    address = f"/videos/{lake.ids['plain']}/original"
    size = (lake.videos / "plain.mp4").stat().st_size
    head = client.head(address)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))
    headers = {"range": "bytes=0-9", "if-range": '"other"'}
    assert client.get(address, headers=headers).status_code == 200
    assert client.get(address, headers=headers | {"if-range": head.headers["etag"]}).status_code == 206


# --- refusals


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_only_reading_is_answered(client, method):
    answer = client.request(method, "/")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "host",
    ["example.org", "127.0.0.1.example.org", "localhost.", "0.0.0.0", "[::1]", "evil@127.0.0.1", ""],
)
def test_only_this_machines_own_names_are_answered(client, host):
    assert client.get("/", headers={"host": host}).status_code == 400
    assert client.get("/export.csv", headers={"host": f"{host}:80"}).status_code == 400


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST:8000", "127.0.0.1:1"])
def test_this_machines_names_are_answered(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


def test_no_other_site_may_read_or_make_work(client, lake):
    cross = {"origin": "https://example.org", "sec-fetch-site": "cross-site"}
    still = f"/clips/{clip_id_of(lake.ids['plain'], 0)}/still.jpg"
    assert client.get(still, headers=cross | {"sec-fetch-mode": "no-cors"}).status_code == 403
    linked = client.get("/", headers=cross | {"sec-fetch-mode": "navigate"})
    assert linked.status_code == 200
    assert not [name for name in linked.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("address", ["/", "/static/browse.js", "/nowhere", "/?page=x", "/export.csv"])
def test_every_answer_says_what_it_may_do(client, address):
    headers = client.get(address).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in headers


def test_refusals_carry_the_same_headers(client):
    for answer in (client.post("/"), client.get("/", headers={"host": "example.org"})):
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/videos/..%2f..%2f..%2fetc%2fpasswd/original",
        "/videos/%2fetc%2fpasswd/original",
        "/videos/file:%2f%2f%2fetc%2fpasswd/original",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/..%5capp.py",
        "/clips/..%2f..%2fetc%2fpasswd/still.jpg",
        "/videos/unknown/original",
        "/clips/unknown/play",
        "/clips/unknown/excerpt.mp4",
        "/original?uri=/etc/passwd",
        "//etc/passwd",
    ],
)
def test_no_path_comes_from_a_request(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert "root:" not in answer.text
    assert "import" not in answer.text


@pytest.mark.parametrize(
    "uri", ["/etc/passwd", "file:///etc/passwd", "local:///etc/passwd", "etc/passwd"]
)
def test_a_table_that_names_a_file_that_is_no_video_shows_nothing_of_it(tmp_path, uri):
    store = Store(str(tmp_path / "tables"))
    add_video(store, "/etc/passwd", [clip(0, "Not a film.", [])], uri=uri)
    publish(store, LAST_DAY)
    video_id = video_id_of("/etc/passwd")
    with TestClient(make_app(store.root), base_url="http://127.0.0.1") as client:
        answers = [
            client.get(f"/videos/{video_id}/original"),
            client.get(f"/clips/{clip_id_of(video_id, 0)}/excerpt.mp4"),
            client.get(f"/clips/{clip_id_of(video_id, 0)}/still.jpg"),
            client.get(f"/clips/{clip_id_of(video_id, 0)}/play"),
        ]
    assert [answer.status_code for answer in answers] == [404, 404, 200, 200]
    assert not any("root:" in answer.text for answer in answers)
    assert "problem" in answers[3].json()


def test_a_file_that_changed_since_is_refused(small):
    film, client = small
    address = f"/videos/{video_id_of(film)}/original"
    assert client.get(address).status_code == 200
    content = film.read_bytes()
    os.utime(film, ns=(1, 1))
    assert "has changed" in client.get(address).text
    film.unlink()
    film.with_name("other.mp4").write_bytes(content)
    film.symlink_to(film.with_name("other.mp4"))
    assert "has changed" in client.get(address).text
    assert client.get(address).status_code == 404


def test_a_link_that_leads_elsewhere_now_is_refused(tmp_path):
    film = flash_and_click(tmp_path / "real.mp4", seconds=1.0)
    link = tmp_path / "link.mp4"
    link.symlink_to(film)
    store = Store(str(tmp_path / "tables"))
    add_video(store, link, [clip(0, "A flash.", [])])
    publish(store, LAST_DAY)
    address = f"/videos/{video_id_of(link)}/original"
    with TestClient(make_app(store.root), base_url="http://127.0.0.1") as client:
        assert client.get(address).content == film.read_bytes()
        link.unlink()
        link.symlink_to("/etc/passwd")
        assert client.get(address).status_code == 404
        assert "has changed" in client.get(address).text


@pytest.mark.parametrize("kind", ["pipe", "directory", "device"])
def test_what_is_no_regular_file_is_refused_at_once(small, kind):
    film, client = small
    address = f"/videos/{video_id_of(film)}/original"
    film.unlink()
    if kind == "pipe":
        os.mkfifo(film)  # opening it would wait for a writer for ever
    elif kind == "directory":
        film.mkdir()
    else:
        film.symlink_to("/dev/zero")
    answer = client.get(address)
    assert (answer.status_code, answer.text) == (404, "what is there now is no regular file")
