"""`reeltable report`: what it writes, prints and exits with, on a disk and in a bucket."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.tables.store import Store
from tests.media_factory import flash_and_click
from tests.pipeline.report.lake import make_lake

cli = CliRunner()


def call(*arguments):
    result = cli.invoke(app, ["report", *(str(a) for a in arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_the_page_is_written_with_previews_once_and_told_as_json(tmp_path):
    out = tmp_path / "out"
    film = flash_and_click(tmp_path / "film.mp4", seconds=8)
    films = {n: shutil.copy(film, tmp_path / f"film{n}.mp4") for n in range(3)}
    make_lake(Store(str(out)), 3, 2, uris={n: str(path) for n, path in films.items()})
    code, stdout, stderr = call(out, "--previews", 2, "--json")
    told = json.loads(stdout)
    assert code == 0
    assert told["page"] == f"{out}/report/index.html"
    assert (told["totals"]["n_clips"], told["totals"]["n_videos"]) == (6, 3)
    assert told["previews"] == {"made": 4, "kept": 0, "failed": {}}
    assert "previews 2/2" in stderr
    html = (out / "report" / "index.html").read_text()
    for name in json.loads(html.split('id="boot">')[1].split("</script>")[0])["index"]["clips"]:
        assert (out / "report" / "data" / name).is_file()
    assert len(list((out / "report" / "media").iterdir())) == 4
    code, stdout, _ = call(out, "--no-previews", "--json")
    assert json.loads(stdout)["previews"] == {"made": 0, "kept": 4, "failed": {}}
    assert sorted(p.name for p in (out / "report").iterdir()) == [
        "charts.js",
        "data",
        "index.html",
        "media",
        "report.css",
        "report.js",
    ]


def test_data_of_an_older_page_is_removed_once_the_new_page_is_there(tmp_path):
    make_lake(Store(str(tmp_path)), 2, 2)
    assert call(tmp_path, "--no-previews")[0] == 0
    before = {p.name for p in (tmp_path / "report" / "data").iterdir()}
    make_lake(Store(str(tmp_path)), 4, 2, seed=1)
    assert call(tmp_path, "--no-previews")[0] == 0
    after = {p.name for p in (tmp_path / "report" / "data").iterdir()}
    assert not {name for name in before if name.startswith("clips")} & after


def test_a_page_in_a_bucket_has_no_preview_of_sources_that_cannot_be_read_and_says_so(s3):
    make_lake(Store(s3), 2, 2)
    code, stdout, stderr = call(s3)
    assert code == 0
    assert stdout.startswith(f"{s3}/report/index.html: 4 clips of 2 videos")
    said = "8 previews could not be made (8 × not_found)"
    assert said in stderr
    store = Store(s3)
    assert said in store.fs.cat_file(store.path("report/index.html")).decode()
    assert store.names("report/data", ".js")


@pytest.mark.parametrize("content", ["nothing", "a file"])
def test_where_there_are_no_tables_it_exits_with_1_and_writes_nothing(tmp_path, content):
    out = tmp_path / "out"
    if content == "a file":
        out.mkdir()
        (out / "notes.txt").write_text("no table")
    code, _, stderr = call(out)
    assert code == 1
    assert "no tables here" in stderr
    assert not (out / "report").exists()


def test_without_the_charts_package_it_exits_with_2_and_says_what_to_install(tmp_path, monkeypatch):
    make_lake(Store(str(tmp_path)), 2, 1)
    monkeypatch.setattr("pipeline.report.render.importlib.util.find_spec", lambda _: None)
    code, _, stderr = call(tmp_path)
    assert code == 2
    assert "pip install 'reeltable[report]'" in stderr


def test_tables_without_a_clip_have_a_page_too(tmp_path):
    store = Store(str(tmp_path))
    make_lake(store, 0, 0, failures={"not_media": "/bad/a.mp4: no"})
    code, stdout, _ = call(tmp_path, "--json")
    assert code == 0
    assert json.loads(stdout)["totals"]["n_clips"] == 0
    html = (tmp_path / "report" / "index.html").read_text()
    assert "Copy it anew" in html
