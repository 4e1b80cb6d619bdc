"""Experiments of a config: measured once, measured again when something changes, never silently left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.config import CONFIG_DIR, ConfigError
from pipeline.evaluation import run
from pipeline.evaluation.config import load_eval_config
from pipeline.evaluation.experiments.captions import RealCaptions
from pipeline.evaluation.experiments.sounds import Esc10Folds, SoundCalibration
from pipeline.evaluation.records import Figure, Measured

SOURCE = {"files": ["data/esc10.csv"], "what": "sounds", "licence": "CC BY 3.0", "source": "ESC"}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Two experiments over one source; how often each was measured is counted."""
    counts = {"a": 0, "b": 0}

    def measured(name):
        def measure(_, lab):
            counts[name] += 1
            lab.tell("half done")
            figure = Figure(key="right", told="right", value=counts[name] / 10, n=10)
            return Measured(how="Counted.", figures=(figure,))

        return measure

    monkeypatch.setattr(Esc10Folds, "measure", measured("a"))
    monkeypatch.setattr(SoundCalibration, "measure", measured("b"))
    (tmp_path / "shared" / "data").mkdir(parents=True)
    (tmp_path / "shared" / "data" / "esc10.csv").write_text("file,label,fold\n")
    (tmp_path / "card.md").write_text("# Card\n\n<!-- measured: folds -->\n")
    file = tmp_path / "two.yaml"
    values = {
        "shared": str(tmp_path / "shared"),
        "work": str(tmp_path / "work"),
        "card": "card.md",
        "out": str(tmp_path / "out"),
        "sources": {"esc10": SOURCE},
        "experiments": {
            "folds": {"kind": "esc10_folds"},
            "scores": {"kind": "sound_calibration"},
        },
    }
    file.write_text(yaml.safe_dump(values))
    return file, counts


def call(*arguments):
    ended = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    return ended.exit_code, ended.stdout, ended.stderr


def test_what_was_measured_is_read_the_second_time_and_the_card_stays_the_same(config, tmp_path):
    file, counts = config
    code, stdout, stderr = call(file)
    assert code == 0, stderr
    assert "right: 10.0 %, n 10" in stdout
    assert "folds: half done" in stderr
    card = (tmp_path / "out" / "two.md").read_bytes()
    code, _, stderr = call(file)
    assert code == 0
    assert "folds: measured before" in stderr
    assert counts == {"a": 1, "b": 1}
    assert (tmp_path / "out" / "two.md").read_bytes() == card


@pytest.mark.parametrize("change", ["settings", "data", "library", "fresh"])
def test_figures_do_not_outlive_what_they_came_from(config, tmp_path, monkeypatch, change):
    file, counts = config
    call(file)
    more = []
    if change == "settings":
        more = ["--set", "experiments.folds.strengths=[3.0]"]
    elif change == "data":
        (tmp_path / "shared" / "data" / "esc10.csv").write_text("file,label,fold\nmore\n")
    elif change == "library":
        monkeypatch.setattr(run, "library_digest", lambda: "other")
    else:
        more = ["--fresh", "--only", "folds"]
    assert call(file, *more)[0] == 0
    assert counts["a"] == 2


def test_only_one_is_measured_and_no_card_is_spoiled(config, tmp_path):
    file, counts = config
    code, stdout, stderr = call(file, "--only", "scores")
    assert code == 0
    assert counts == {"a": 0, "b": 1}
    assert "folds" not in stdout
    assert "no card is written: not measured yet: folds" in stderr
    assert not (tmp_path / "out").exists()
    call(file, "--only", "folds")
    assert "| right | 10.0 % |" in (tmp_path / "out" / "two.md").read_text()
    code, _, stderr = call(file, "--only", "fold")
    assert code == 2
    assert "--only fold: expected some of folds, scores" in stderr


def test_data_that_are_absent_make_a_row_and_exit_code_3(config, tmp_path):
    file, _ = config
    values = yaml.safe_load(file.read_text())
    values["sources"]["grid"] = SOURCE | {"files": ["data/grid"]}
    values["experiments"]["fusion"] = {"kind": "fusion"}
    file.write_text(yaml.safe_dump(values))
    code, stdout, _ = call(file, "--json")
    assert code == 3
    states = {o["name"]: (o["state"], o["why"]) for o in json.loads(stdout)["outcomes"]}
    assert states["folds"] == ("measured", "")
    assert states["fusion"] == ("not measured", f"{tmp_path}/shared/data/grid is absent")
    assert "data/grid is absent" in (tmp_path / "out" / "two.md").read_text()


def test_one_that_fails_takes_no_other_along(config, monkeypatch, tmp_path):
    file, _ = config

    def broken(*_):
        raise ValueError("row 7 has no label")

    monkeypatch.setattr(Esc10Folds, "measure", broken)
    code, stdout, _ = call(file)
    assert code == 1
    assert "folds: failed: ValueError: row 7 has no label" in stdout
    assert "scores:" in stdout
    assert "**Failed**: ValueError: row 7 has no label." in (tmp_path / "out" / "two.md").read_text()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "experiments.folds.kind=esc10_fold",
            "unknown kind 'esc10_fold'; did you mean 'esc10_folds'?",
        ),
        ("experiments.folds.strength=[1]", "experiments.folds.esc10_folds.strength: Extra inputs"),
        ("experiments.motion={kind: fights_folds}", "experiments.motion reads 'fights'"),
        ("experiments.more={strengths: [1.0]}", "experiments.more: expected a kind"),
    ],
)
def test_a_config_that_cannot_be_used_says_why(config, override, said):
    code, _, stderr = call(config[0], "--set", override)
    assert code == 2
    assert said in stderr


def test_a_card_that_names_what_is_not_measured_is_refused_before_measuring(config, tmp_path):
    file, counts = config
    (tmp_path / "card.md").write_text("<!-- measured: motion -->\n")
    code, _, stderr = call(file)
    assert code == 2
    assert "the card names 'motion'" in stderr
    assert counts == {"a": 0, "b": 0}


def test_the_shipped_config_loads_and_its_card_names_only_what_it_measures():
    file = CONFIG_DIR / "eval" / "embedded.yaml"
    config = load_eval_config(file)
    from pipeline.evaluation.card import check_names

    check_names((file.parent / config.card).read_text(), config.experiments)
    captions = config.experiments["real_captions"]
    assert isinstance(captions, RealCaptions)
    assert len(captions.judged) == 20


def test_a_missing_list_of_judged_clips_is_named():
    with pytest.raises(ConfigError, match=r"nosuch\.yaml: no such file; expected a list of judged"):
        load_eval_config(
            Path(CONFIG_DIR / "eval" / "embedded.yaml"),
            ["experiments.real_captions.judged=nosuch.yaml"],
        )
