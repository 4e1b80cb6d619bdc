"""The command line without Ray: usage errors, exit codes, and the commands that only look."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from jobs.cli import _print_report, app
from pipeline.remedies import remedy
from pipeline.tables.commit import commit
from pipeline.tables.lease import lease
from pipeline.tables.publish import publish
from pipeline.tables.store import Store
from tests.media_factory import flash_and_click
from tests.pipeline.tables.rows import DAY, clips, commit_video, unit, units

cli = CliRunner()


def call(*arguments):
    result = cli.invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "clips.lenght_s=2"], "the nearest valid one is 'clips.length_s'"),
        (["--set", "run.device=tpu"], "run.device"),
        (["--config", "nosuch.yaml"], "nosuch.yaml: no such config file"),
        (["--set", "bundle=nosuch"], "bundle 'nosuch' is unknown"),
        (["--date", "someday"], "expected a date such as 2026-01-31"),
    ],
)
def test_bad_usage_exits_with_2_and_names_what_was_wrong(tmp_path, video_file, arguments, said):
    code, _, stderr = call("run", video_file, "--out", tmp_path / "t", *arguments)
    assert code == 2
    assert said in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "t").exists()


def test_shots_without_their_package_exit_with_2_and_say_what_to_install(
    tmp_path, video_file, monkeypatch
):
    monkeypatch.setattr("pipeline.sync.shots._PACKAGE", "no_such_package")
    code, _, stderr = call("run", video_file, "--out", tmp_path / "t", "--set", "clips.mode=shots")
    assert code == 2
    assert "pip install 'reeltable[shots]'" in stderr
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected a CONFIG, a MANIFEST, or --fusion with --data"),
        (["nosuch.yaml"], "nosuch.yaml: no such file"),
        (["--fusion", "all"], "--fusion: expected --data"),
        (
            ["--fusion", "late,latest", "--data", "."],
            "expected all, or some of late, early, bottleneck",
        ),
        (["--fusion", "all", "--data", "nosuch"], "nosuch/esc10.csv"),
    ],
)
def test_what_evaluate_lacks_is_told(tmp_path, arguments, said):
    code, _, stderr = call("evaluate", *arguments, "--work", tmp_path)
    assert code == 2
    assert said in stderr


def test_a_directory_without_videos_exits_with_2(tmp_path):
    code, _, stderr = call("run", tmp_path, "--out", tmp_path / "t")
    assert code == 2
    assert f"{tmp_path}: a directory without videos" in stderr


def test_an_output_that_cannot_be_written_is_named(tmp_path, video_file):
    (tmp_path / "t").write_text("a file in the way")
    code, _, stderr = call("run", video_file, "--out", tmp_path / "t")
    assert code == 1
    assert str(tmp_path / "t") in stderr


def test_plan_lists_units_and_writes_nothing(tmp_path, video_file):
    code, stdout, _ = call(
        "plan", video_file, "--out", tmp_path / "t", "--json", "--set", "clips.unit_s=4"
    )
    plan = json.loads(stdout)
    assert code == 0
    assert [(u["start_s"], u["end_s"]) for u in plan["todo"]] == [(0, 4), (4, 8), (8, None)]
    assert not (tmp_path / "t").exists()
    code, stdout, _ = call("plan", video_file, "--out", tmp_path / "t")
    assert "1 of 1 units to do, of 1 videos" in stdout


def test_status_of_nothing_says_how_to_begin(tmp_path):
    code, _, stderr = call("status", tmp_path)
    assert code == 1
    assert "reeltable run" in stderr


def test_status_says_what_to_do_about_each_failure_code(tmp_path):
    store = Store(str(tmp_path))
    commit(store, clips(), units(unit("u", "failed")), DAY, "r")
    publish(store, DAY)
    code, stdout, _ = call("status", tmp_path)
    assert code == 0
    assert f"1 × not_media: {remedy('not_media')}" in stdout


def test_probe_tells_streams_and_their_skew(tmp_path):
    late = flash_and_click(tmp_path / "late.mp4", seconds=2, audio_delay_s=0.5)
    code, stdout, _ = call("probe", late, "--json")
    facts = json.loads(stdout)
    assert code == 0
    assert facts["video_codec"] == "h264"
    assert facts["av_skew_ms"] == pytest.approx(500, abs=25)
    assert "av_skew_ms" in call("probe", late)[1]


def test_probe_of_a_bad_file_names_it(tmp_path):
    (tmp_path / "bad.mp4").write_text("no")
    code, _, stderr = call("probe", tmp_path / "bad.mp4")
    assert code == 1
    assert "bad.mp4: not a readable media file" in stderr


def test_models_are_listed_and_shown():
    assert "embedded" in call("models", "list")[1]
    shown = json.loads(call("models", "show", "embedded", "--json")[1])
    assert shown["video"]["licence"] == "Apache-2.0"
    code, _, stderr = call("models", "show", "nosuch")
    assert code == 2
    assert "'nosuch' is unknown" in stderr


@pytest.fixture
def tables(tmp_path):
    """Three videos, one a failure, in an output of three small files."""
    store = Store(str(tmp_path / "t"))
    for name in "ab":
        commit_video(store, name, 2, run_id=name)
    failed = unit("f", "failed", uri="/bad.mp4", video_id="bad")
    commit(store, clips(), units(failed), DAY, "r")
    publish(store, DAY)
    return store


def test_sql_prints_rows_json_and_csv(tables):
    question = "select uri, count(*) as n from clips group by all order by uri"
    assert "/a.mp4" in call("sql", tables.root, question)[1]
    told = json.loads(call("sql", tables.root, question, "--json")[1])
    assert told == [{"uri": "/a.mp4", "n": 2}, {"uri": "/b.mp4", "n": 2}]
    assert call("sql", tables.root, question, "--csv")[1].splitlines()[1] == "/a.mp4,2"
    code, _, stderr = call("sql", tables.root, "select nosuch from clips")
    assert code == 1
    assert "nosuch" in stderr
    code, _, stderr = call("sql", tables.root, "create table t (a int)")
    assert code == 1
    assert "expected a select" in stderr


def test_tables_are_merged_cleaned_and_forgotten(tables, monkeypatch):
    assert "2 files of clips became 1" in call("compact", tables.root)[1]
    assert "kept" in call("vacuum", tables.root)[1]
    gone = json.loads(call("vacuum", tables.root, "--grace-hours", "0", "--json")[1])
    assert gone["n_kept"] == 0
    assert gone["n_files"] > 0
    assert "removed 2 clips and 2 units of /a.mp4" in call("forget", tables.root, "/a.mp4")[1]
    left = json.loads(call("sql", tables.root, "select distinct uri from clips", "--json")[1])
    assert left == [{"uri": "/b.mp4"}]
    code, _, stderr = call("forget", tables.root, "/a.mp4")
    assert code == 1
    assert "no video '/a.mp4'" in stderr
    monkeypatch.chdir("/")
    assert "of /b.mp4" in call("forget", tables.root, "b.mp4")[1]


def test_a_second_job_is_refused_and_told_who_writes(tables, video_file):
    with lease(tables, "run", "first"):
        for command in (["run", video_file, "--out", tables.root], ["compact", tables.root]):
            code, _, stderr = call(*command)
            assert code == 1
            assert "another job writes here: run first" in stderr


def test_a_file_that_no_record_names_is_left_alone_and_named(tables, video_file, tmp_path):
    foreign = tmp_path / "t" / "clips" / f"dt={DAY}" / "theirs.parquet"
    foreign.write_bytes(b"somebody's")
    code, _, stderr = call("run", video_file, "--out", tables.root)
    assert code == 1
    assert str(foreign) in stderr
    assert foreign.read_bytes() == b"somebody's"


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "http://me:sEcReT@127.0.0.1:9/v.mp4?X-Amz-Signature=sEcReT2", "--out", "TABLES"],
        ["run", "http://me:sEcReT@127.0.0.1:9/list.csv?sig=sEcReT2", "--out", "TABLES"],
        ["plan", "ftp://me:sEcReT@127.0.0.1:9/*.mp4", "--out", "TABLES"],
        ["run", "VIDEO", "--out", "s3://me:sEcReT@bucket/tables"],
        ["status", "s3://me:sEcReT@bucket/tables"],
        ["run", "VIDEO", "--out", "TABLES", "--set", "captions.url=http://me:sEcReT@host/v1"],
        ["run", "VIDEO", "--out", "TABLES", "--set", "captions.url=http://host/v1?api_key=sEcReT"],
        ["schedule", "cron", "https://h/v.mp4?X-Amz-Signature=sEcReT", "--out", "s3://t"],
        ["submit", "run", "https://me:sEcReT@h/v.mp4", "--out", "s3://t", "--address", "http://h:1"],
        ["submit", "list", "--address", "http://me:sEcReT@127.0.0.1:9"],
    ],
)
def test_no_error_repeats_a_secret_that_a_url_holds(arguments, tmp_path, video_file):
    places = {"TABLES": tmp_path / "t", "VIDEO": video_file}
    code, stdout, stderr = call(*(places.get(a, a) for a in arguments))
    assert code in (1, 2)
    assert stderr.startswith("error: ")
    assert "sEcReT" not in stdout + stderr
    assert not (tmp_path / "t").exists()


def test_failures_are_told_with_what_their_code_means(tables, capsys):
    counted = dict.fromkeys(("n_clips", "n_videos", "n_done", "n_empty", "n_done_before"), 0)
    times = dict.fromkeys(("wall_s", "video_s", "plan_s", "start_s", "decode_s", "encode_s"), 0.0)
    report = {"state": "succeeded", "attempts": ("r",), "n_failed": 1, "commit_s": 0.0}
    _print_report(SimpleNamespace(**counted, **times, **report), tables.root)
    failed, why = capsys.readouterr().err.splitlines()
    assert failed == "failed: /v.mp4: no"
    assert why.startswith("not_media: No media container: ")
    assert why.endswith("index was written.")  # its first sentence alone


def test_help_has_a_place_for_every_verb_and_examples():
    helped = call("--help")[1]
    command = typer.main.get_command(app)
    panels = {name: verb.rich_help_panel for name, verb in command.commands.items()}
    assert set(panels.values()) == {"Run", "Look", "Keep", "Models and training", "Cluster"}
    assert "Parquet" in helped
    assert "reeltable run videos/ --out tables" in helped
    assert "--install-completion" in helped


def test_version():
    assert call("--version")[1].startswith("reeltable ")
