"""Inputs → sources: what is found, what identifies a video, what is said when there is nothing."""

from __future__ import annotations

import os

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources import InputError, ListingError, canonical_uri, list_sources, without_secrets


@pytest.fixture
def lake(tmp_path):
    for name in ("a.mp4", "sub/b.MKV", "sub/note.txt", ".hidden.mp4", "c.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def names(listing):
    return [os.path.basename(s.uri) for s in listing.sources]


def test_a_directory_is_searched_for_video_files(lake):
    assert names(list_sources([str(lake)])) == ["a.mp4", "b.MKV"]


def test_the_same_video_named_twice_is_one_source(lake):
    listing = list_sources([str(lake), str(lake / "a.mp4"), str(lake / "sub" / ".." / "a.mp4")])
    assert names(listing) == ["a.mp4", "b.MKV"]


def test_a_glob(lake):
    assert names(list_sources([f"{lake}/**/*.MKV"])) == ["b.MKV"]


def test_manifests_carry_their_columns(lake):
    csv = lake / "m.csv"
    csv.write_text("uri,duration_s,camera,floor\na.mp4,12.5,north,3\nsub/b.MKV,,south,4\n")
    a, b = list_sources([str(csv)]).sources
    assert (a.duration_s, a.attributes) == (12.5, {"camera": "north", "floor": 3})
    assert (b.duration_s, b.attributes) == (None, {"camera": "south", "floor": 4})
    table = pa.table({"uri": [str(lake / "a.mp4")], "site": ["x"]})
    pq.write_table(table, lake / "m.parquet")
    assert list_sources([str(lake / "m.parquet")]).sources[0].attributes == {"site": "x"}
    (lake / "m.txt").write_text(f"# mine\n{lake}/a.mp4\n\nsub/b.MKV\n")
    assert names(list_sources([str(lake / "m.txt")])) == ["a.mp4", "b.MKV"]


def test_a_named_file_that_is_missing_is_a_source_so_that_its_failure_is_a_row(lake):
    (source,) = list_sources([str(lake / "gone.mp4")]).sources
    assert source.version == "missing"


def test_what_gives_nothing_is_said_and_the_rest_goes_on(lake, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    listing = list_sources([str(empty), str(lake / "a.mp4")])
    assert names(listing) == ["a.mp4"]
    assert "a directory without videos" in listing.problems[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("empty", "a directory without videos"),
        ("nodir", "no such file or directory"),
        ("*.mkv", "no file matches"),
    ],
)
def test_nothing_at_all_is_an_error_that_names_the_input(tmp_path, given, said):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=said) as error:
        list_sources([str(tmp_path / given)])
    assert given in str(error.value)


def test_a_manifest_without_the_column_is_an_error(tmp_path):
    (tmp_path / "m.csv").write_text("path,x\na.mp4,1\n")
    with pytest.raises(InputError, match=r"needs a column 'uri'; found: path, x"):
        list_sources([str(tmp_path / "m.csv")])


def test_identity_follows_content_and_not_signatures(lake):
    before = list_sources([str(lake / "a.mp4")]).sources[0].video_id
    assert list_sources([str(lake / "a.mp4")]).sources[0].video_id == before
    (lake / "a.mp4").write_bytes(b"another take")
    assert list_sources([str(lake / "a.mp4")]).sources[0].video_id != before


@pytest.mark.parametrize(
    ("uri", "canonical"),
    [
        ("https://me:pw@host/v.mp4?X-Amz-Signature=abc&X-Amz-Date=1", "https://host/v.mp4"),
        ("https://host/v.mp4?id=7&token=t", "https://host/v.mp4?id=7"),
        ("s3://bucket/a/b.mp4", "s3://bucket/a/b.mp4"),
        ("file:///a/../b.mp4", "/b.mp4"),
    ],
)
def test_canonical_uri(uri, canonical):
    assert canonical_uri(uri) == canonical


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "https://me:pw@host/v.mp4?id=7&X-Amz-Signature=ab%2Fc: no",
            "https://host/v.mp4?id=7&X-Amz-Signature=…: no",
        ),
        (
            "at 'az://c/a.mp4?sv=1&sig=x' and ftp://u:p@h/b",
            "at 'az://c/a.mp4?sv=…&sig=…' and ftp://h/b",
        ),
        ("s3://bucket/me@home/a.mp4?versionId=3", "s3://bucket/me@home/a.mp4?versionId=3"),
        ("/videos/1?.mp4 of me@host", "/videos/1?.mp4 of me@host"),
    ],
)
def test_messages_lose_the_secrets_of_urls_and_nothing_else_of_them(text, told):
    assert without_secrets(text) == told


def test_an_fsspec_url_is_listed_like_a_directory():
    fs = fsspec.filesystem("memory")
    fs.pipe({"/lake/x.mp4": b"1", "/lake/deep/y.webm": b"22", "/lake/z.doc": b""})
    listing = list_sources(["memory://lake"])
    assert [s.uri.rsplit("/", 1)[1] for s in listing.sources] == ["y.webm", "x.mp4"]
    assert all(s.uri.startswith("memory://") for s in listing.sources)


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    fs.pipe("/days/dt=1/x.mp4", b"1")
    yield fs
    fs.rm("/days", recursive=True)


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("given", ["dt=2/", "dt=2", "dt=2/*.mp4", "typo.csv"])
def test_a_folder_of_a_bucket_that_is_not_there_is_no_video(given):
    with pytest.raises(InputError, match="memory://days/") as error:
        list_sources([f"memory://days/{given}"])
    assert given in str(error.value)
    (gone,) = list_sources(["memory://days/dt=2/y.mp4"]).sources
    assert gone.version == "missing", "a video that is named is one, so that its failure is a row"


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (PermissionError("Access Denied"), "Access Denied"),
        (RuntimeError("Could not connect to the endpoint"), "Could not connect"),
        (TimeoutError(), "TimeoutError"),
    ],
)
@pytest.mark.parametrize("given", ["dt=1/", "dt=1/*.mp4", "m.txt"])
def test_what_cannot_be_looked_at_is_never_taken_for_empty(memory, monkeypatch, trouble, said, given):
    def refuse(*_, **__):
        raise trouble

    for name in ("isdir", "isfile", "glob", "info"):
        monkeypatch.setattr(type(memory), name, refuse)
    with pytest.raises(ListingError, match=said) as error:
        list_sources([f"memory://me:sEcReT@days/{given}"])
    assert "sEcReT" not in str(error.value)


def test_one_forbidden_video_of_a_manifest_holds_up_no_other(memory, monkeypatch, tmp_path):
    info = type(memory).info

    def refuse(fs, path, **more):
        if "secret" in path:
            raise PermissionError("Access Denied")
        return info(fs, path, **more)

    monkeypatch.setattr(type(memory), "info", refuse)
    (tmp_path / "m.txt").write_text("memory://days/dt=1/x.mp4\nmemory://days/secret.mp4\n")
    assert [s.version == "missing" for s in list_sources([str(tmp_path / "m.txt")]).sources] == [
        False,
        True,
    ]
