"""`reeltable tune`: what it finds is measured, and a run takes it."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from jobs.cli import app
from jobs.tune import _settings
from pipeline.config import load_config
from tests.media_factory import flash_and_click


def test_what_was_measured_is_written_into_a_config_that_a_run_takes(video_file, tmp_path):
    out = tmp_path / "tuned.yaml"
    options = ["--set", "labels.max_per_space=2", "--set", "run.device=cpu", "--write", str(out)]
    told = CliRunner().invoke(app, ["tune", str(video_file), *options, "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    best = min(found["looks"], key=lambda n: found["looks"][n])
    assert found["settings"]["looks_at_once"] == int(best)
    assert found["video_s"] == pytest.approx(10, abs=0.1)
    config = load_config(out)
    assert config.run.looks_at_once == int(best)
    assert config.labels.max_per_space == 2
    assert (config.rates.bundle, config.rates.device) == ("embedded", "cpu")
    assert config.rates.decode_s_per_video_s == pytest.approx(found["decode_s_per_video_s"], rel=1e-3)
    # How fast it goes changes no result.
    before = load_config(overrides=["labels.max_per_space=2"])
    assert config.result_digest("x") == before.result_digest("x")


def test_only_damaged_files_are_nothing_to_measure_on(tmp_path):
    (tmp_path / "torn.mp4").write_bytes(b"\0" * 5000)
    told = CliRunner().invoke(app, ["tune", str(tmp_path / "torn.mp4")])
    assert told.exit_code == 2
    assert "none of the videos could be decoded" in told.stderr


def test_a_gpu_gets_as_many_decoders_as_keep_it_busy_and_enough_looks_a_call(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    assert _settings(10.0, 2.0, "cuda", 64, 15.0) == {
        "decode_workers": 5, "looks_at_once": 64, "units_per_batch": 16,
    }  # fmt: skip
    assert _settings(100.0, 2.0, "cuda", 8, 15.0)["decode_workers"] == 16
    # Without a GPU the two share the CPUs: 10 s of one CPU against 2 s of all sixteen.
    assert _settings(10.0, 32.0, "cpu", 2, 15.0)["decode_workers"] == 4


def test_the_written_config_is_yaml_that_a_person_reads(tmp_path):
    out = tmp_path / "tuned.yaml"
    video = flash_and_click(tmp_path / "short.mp4", seconds=3)
    told = CliRunner().invoke(app, ["tune", str(video), "--write", str(out)])
    assert told.exit_code == 0, told.output
    assert yaml.safe_load(told.stdout)["run"] == yaml.safe_load(out.read_text())["run"]
