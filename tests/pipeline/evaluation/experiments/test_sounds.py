"""Experiments on ESC-10, on a few of its sounds."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from pipeline.bundles.senses import Tokens
from pipeline.bundles.spec import find_bundle
from pipeline.evaluation.experiments.base import Lab
from pipeline.evaluation.experiments.sounds import Esc10Folds, SoundCalibration, summary


@pytest.fixture(scope="module")
def lab(shared_media, tmp_path_factory):
    """One sound of each of three labels in each fold."""
    data = shared_media.parent / "data"
    if not (data / "esc10.csv").is_file():
        pytest.skip(f"{data / 'esc10.csv'} is not there")
    folder = tmp_path_factory.mktemp("esc")
    (folder / "data").mkdir()
    (folder / "data" / "esc10").symlink_to(data / "esc10")
    with (data / "esc10.csv").open() as file:
        rows = list(csv.DictReader(file))
    chosen = {
        (row["label"], row["fold"]): row
        for row in rows
        if row["label"] in ("dog_bark", "rain", "rooster")
    }
    lines = [f"{r['file']},{r['label']},{r['fold']}" for r in chosen.values()]
    (folder / "data" / "esc10.csv").write_text("\n".join(["file,label,fold", *lines]) + "\n")
    return Lab(find_bundle("embedded"), folder, folder / "work", lambda _: None)


def test_every_sound_is_answered_by_a_head_that_never_heard_its_fold(lab):
    found = Esc10Folds(kind="esc10_folds", strengths=(1.0,)).measure(lab)
    figures = {f.key: f for f in found.figures}
    assert figures["right"].n == 15
    assert figures["right"].value > 0.5  # chance is a third
    assert figures["right"].low < figures["right"].value <= figures["right"].high
    assert [figures[f"fold_{k}"].n for k in range(1, 6)] == [3] * 5
    confusion = next(plot for plot in found.plots if plot.kind == "confusion")
    assert confusion.labels == ("dog_bark", "rain", "rooster")
    right = sum(confusion.counts[i][i] for i in range(3))
    assert right / 15 == pytest.approx(figures["right"].value)


def test_the_shipped_calibration_is_what_is_measured(lab):
    figures = {f.key: f for f in SoundCalibration(kind="sound_calibration").measure(lab).figures}
    assert 0 <= figures["error"].value < figures["error_raw"].value < 1
    moved = figures["offset"].value - figures["offset_esc10"].value
    assert moved == pytest.approx(np.log((2.7 / 527) / (1 - 2.7 / 527) / (0.1 / 0.9)))


def test_a_summary_is_of_valid_tokens_only():
    values = torch.tensor([[[1.0], [3.0], [99.0]], [[5.0], [5.0], [5.0]]])
    valid = torch.tensor([[True, True, False], [False, False, False]])
    found = summary(Tokens(values, torch.zeros(2, 3), valid))
    assert found[0].tolist() == [2.0, 3.0]
    assert np.isnan(found[1]).all()
