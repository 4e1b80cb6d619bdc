"""Config: what a person writes, and what they are told when it is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import config
from pipeline.config import Config, ConfigError, load_config


def test_the_default_is_the_shipped_embedded_config():
    config = load_config()
    assert config == load_config("embedded")
    assert config.bundle == "embedded"
    assert len(config.labels.actions) == 400


def test_set_changes_one_key_and_reads_it_as_yaml():
    config = load_config(overrides=["clips.length_s=2", "labels.min_score={actions: 0.5}"])
    assert config.clips.length_s == 2.0
    assert config.labels.min_score == {"actions": 0.5}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("clips.lenght_s=2", "unknown key 'clips.lenght_s'; the nearest valid one is 'clips.length_s'"),
        ("clip.length_s=2", "unknown key 'clip'; the nearest valid one is 'clips'"),
        ("clips.length_s=long", "clips.length_s: Input should be a valid number"),
        ("clips.length_s=-1", "clips.length_s: Input should be greater than 0, got -1"),
        ("clips.unit_s=61", "must be a whole number of strides"),
        ("clips.length_s", "expected key=value"),
        ("labels.actions=nowhere.txt", "'nowhere.txt' is neither 'kinetics400' nor a file"),
        ("labels.min_score={actions: 2}", "floor of 'actions' must lie in 0..1"),
        ("bundle.name=x", "is a value, not a section"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_expected(override, said):
    with pytest.raises(ConfigError, match=None) as error:
        load_config(overrides=[override])
    assert said in str(error.value)


def test_a_bundles_folder_stands_for_the_config_in_it(tmp_path):
    (tmp_path / "config.yaml").write_text("clips: {length_s: 2}")
    assert load_config(tmp_path).clips.length_s == 2


def test_a_bundles_folder_may_be_copied_elsewhere(tmp_path, monkeypatch):
    for name in ("first", "copy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("bundle: .")
    monkeypatch.chdir(tmp_path)
    assert load_config("copy").bundle == str(tmp_path / "copy")
    assert load_config("first/config.yaml").bundle == str(tmp_path / "first")
    assert load_config("first", ["bundle=embedded"]).bundle == "embedded"


def test_a_folder_called_as_a_shipped_config_does_not_stand_in_its_place(tmp_path, monkeypatch):
    (tmp_path / "embedded").mkdir()
    (tmp_path / "embedded" / "config.yaml").write_text("clips: {length_s: 2}")
    monkeypatch.chdir(tmp_path)
    assert load_config().clips.length_s == load_config("embedded").clips.length_s == 4
    assert load_config("./embedded").clips.length_s == 2


def test_a_missing_or_torn_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nosuch.*no such config file.*embedded"):
        load_config("nosuch")
    torn = tmp_path / "torn.yaml"
    torn.write_text("clips: [1, 2")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(torn)
    torn.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="expected keys and values, found list"):
        load_config(torn)


def test_a_vocabulary_file_is_found_beside_its_config(tmp_path):
    (tmp_path / "mine.txt").write_text("# ours\nforklift driving\nwelding: sparks\n\n")
    (tmp_path / "c.yaml").write_text("labels: {actions: mine.txt}\n")
    assert load_config(tmp_path / "c.yaml").labels.actions == ("forklift driving", "welding: sparks")


def test_the_digest_covers_what_changes_rows_and_nothing_else():
    base = load_config().result_digest("b")
    same = ["run.decode_workers=7", "run.units_per_batch=1", "run.units_per_file=2", "run.device=cpu"]
    for override in same:
        assert load_config(overrides=[override]).result_digest("b") == base
    other = ["clips.length_s=2", "labels.max_per_space=5", "labels.actions=[a, b]", "clips.unit_s=8"]
    digests = {load_config(overrides=[o]).result_digest("b") for o in other}
    assert len(digests | {base}) == len(other) + 1
    assert load_config().result_digest("another bundle") != base


def test_where_shots_are_cut_the_detector_is_part_of_the_digest(monkeypatch):
    stride, shots = load_config(), load_config(overrides=["clips.mode=shots"])
    before = stride.result_digest("b"), shots.result_digest("b")
    monkeypatch.setattr(config, "SHOT_WEIGHTS_SHA256", "others")
    assert stride.result_digest("b") == before[0]
    assert shots.result_digest("b") not in before


@given(st.integers(1, 30), st.integers(1, 60))
def test_units_of_whole_strides_are_accepted(stride, n):
    clips = {"stride_s": stride, "unit_s": stride * n}
    assert Config.model_validate({"clips": clips}).clips.unit_s == stride * n
