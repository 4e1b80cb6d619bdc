"""The comparison of fusions: every model, every noise, and differences taken on the same sentences."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.config import ConfigError, read_as
from pipeline.fusion import FusionSize
from pipeline.training import fusion, grid
from pipeline.training.loop import LoopConfig
from pipeline.training.sentences import TEXT_DIM, Learning
from tests.pipeline.training.talking_heads import made_up

RECIPE = fusion.Recipe(
    models=("late", "added", "video", "audio", "audio longer"),
    loop=LoopConfig(n_epochs=1, batch_size=4),
    joining=LoopConfig(n_epochs=2, batch_size=4),
    learning=Learning(size=FusionSize(dim=16, depth=1, num_heads=2, n_apart=0), n_draws=2),
    test_snr_db=(-5.0,),
    n_noises=1,
)


@pytest.fixture
def made_up_data(monkeypatch):
    parts = {"train": 8, "watch": 4, "test": 6}
    monkeypatch.setattr(grid, "load", lambda _data, _work, part, _tell: made_up(parts[part]))
    monkeypatch.setattr(fusion, "_texts", lambda heads: torch.randn(len(heads), TEXT_DIM))


def test_models_are_measured_side_by_side(made_up_data, tmp_path):  # noqa: ARG001
    found = fusion.compare(tmp_path, tmp_path, RECIPE, lambda _: None)
    asked = {(m.model, m.senses, m.snr_db) for m in found.shares}
    fused, single = ("late", "added"), ("audio", "audio longer")
    assert asked == {
        *((m, s, snr_db) for m in fused for s in ("both", "audio") for snr_db in (-5.0, None)),
        *((m, "audio", snr_db) for m in single for snr_db in (-5.0, None)),
        *((m, "video", None) for m in (*fused, "video")),
    }
    assert {(m.model, m.snr_db) for m in found.gains} == {(m, db) for m in fused for db in (-5.0, None)}
    assert {(m.model, m.senses, m.less) for m in found.losses} == {
        ("late", "video", "video"),
        ("late", "audio", "audio"),
        ("late", "audio", "audio longer"),
    }
    assert all(m.low <= m.value <= m.high for m in (*found.shares, *found.gains, *found.losses))
    shown = fusion.tables(found)
    assert all(f"| {name} |" in shown for name in ("late", "video", "audio", "-5 dB | no noise"))


def test_a_fusion_with_one_sense_is_the_model_of_that_sense(made_up_data, tmp_path):  # noqa: ARG001
    found = fusion.compare(tmp_path, tmp_path, RECIPE, lambda _: None)
    kept = [m for m in found.losses if m.less in ("video", "audio")]
    assert kept
    assert all(m.value == m.low == m.high == 0 for m in kept)


def test_trained_once_it_is_only_measured_again(made_up_data, tmp_path):  # noqa: ARG001
    first = fusion.compare(tmp_path, tmp_path, RECIPE, lambda _: None)
    told = []
    again = fusion.compare(tmp_path, tmp_path, RECIPE, told.append)
    assert not told
    assert dataclasses.replace(again, found_first={}) == dataclasses.replace(first, found_first={})


def test_the_best_single_model_is_taken_off():
    clean = fusion.CLEAN
    shares = {
        ("late", "both", 0.0): np.array([0.9, 0.7]),
        ("video", "video", clean): np.array([0.6, 0.6]),
        ("audio", "audio", 0.0): np.array([0.5, 0.5]),
        ("audio longer", "audio", 0.0): np.array([0.5, 0.9]),
    }
    (gain,) = fusion._gains(shares)
    assert gain.less == "audio longer"
    assert gain.value == pytest.approx(0.1)
    assert (gain.low, gain.high) == pytest.approx((-0.2, 0.4))


def test_the_shipped_recipe_is_read_and_a_wrong_one_is_told(tmp_path):
    assert set(read_as(fusion.Recipe, fusion.RECIPE).models) == set(fusion.MODELS)
    file = tmp_path / "recipe.yaml"
    file.write_text("models: [late, latest]")
    with pytest.raises(ConfigError, match="unknown latest; expected some of late, early"):
        read_as(fusion.Recipe, file)
    file.write_text("loop: {epochs: 3}")
    with pytest.raises(ConfigError, match="epochs"):
        read_as(fusion.Recipe, file)
