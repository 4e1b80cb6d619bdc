"""The config of a training: what a person writes, and what they are told when it is wrong."""

from __future__ import annotations

import pytest
import yaml

from pipeline.config import ConfigError
from pipeline.training.settings import load_train_config

LEAST = {"name": "mine", "manifest": "labels.csv", "spaces": {"what": {"column": "label"}}}


def loaded(tmp_path, *overrides, **more):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(LEAST | more))
    return load_train_config(tmp_path / "mine.yaml", overrides)


def test_a_few_lines_are_enough(tmp_path):
    (tmp_path / "labels.csv").write_text("uri,label\n")
    config = loaded(tmp_path, "clips.length_s=2", "clips.stride_s=2")
    assert config.manifest == str(tmp_path / "labels.csv")  # beside the config
    assert config.config().clips.length_s == 2
    assert config.config().bundle == "embedded"
    assert not config.spaces["what"].is_multi


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("spaces.what.colum=x", "unknown key 'spaces.what.colum'; .* is 'spaces.what.column'"),
        ("loop.epochs=3", "unknown key 'loop.epochs'; the nearest valid one is 'loop.n_epochs'"),
        ("manifst=x.csv", "unknown key 'manifst'; the nearest valid one is 'manifest'"),
        ("unfreeze.streams=[sound]", "Input should be 'video', 'audio' or 'motion'"),
        ("name=my labels", "expected letters, digits"),
        ("fold=part", "expected held_out_folds too"),
        ("held_out_folds=[1]", "expected fold too"),
        ("spaces.what.precision=2", "less than or equal to 1"),
        ("clips.unit_s=61", "whole number of strides"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_expected(tmp_path, override, said):
    with pytest.raises(ConfigError, match=said):
        loaded(tmp_path, override)


def test_the_shipped_example_is_a_config_and_found_by_its_name():
    assert load_train_config("finetune_example").spaces


def test_no_config_names_those_that_ship(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such config file; .*finetune_example"):
        load_train_config(tmp_path / "nowhere.yaml")
