"""The command line without Ray: usage errors, exit codes, and the commands that only look."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from tests.media_factory import flash_and_click

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
        (["--date", "yesterday"], "expected a date such as 2026-01-31"),
    ],
)
def test_bad_usage_exits_with_2_and_names_what_was_wrong(tmp_path, video_file, arguments, said):
    code, _, stderr = call("run", video_file, "--out", tmp_path / "t", *arguments)
    assert code == 2
    assert said in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "t").exists()


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


def test_help_and_version():
    assert "Parquet" in call("--help")[1]
    assert call("--version")[1].startswith("reeltable ")
