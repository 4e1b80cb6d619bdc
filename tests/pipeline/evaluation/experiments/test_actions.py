"""Timed actions of GMDCSA: how its table is read, and that every sense is asked."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from pipeline.bundles.spec import find_bundle
from pipeline.evaluation.experiments.actions import GmdcsaActions, timed_actions
from pipeline.evaluation.experiments.base import Lab


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Sitting[0 to 3]", {"sitting": [(0, 3)]}),
        ("Fall (FW)[0 to 3]", {"falling": [(0, 3)]}),
        (
            "Exercising[0 to 3]; Standing[0 to 0.3; 1.5 to 2.2]",
            {"exercising": [(0, 3)], "standing": [(0, 0.3), (1.5, 2.2)]},
        ),
        (
            " Falling (SW) [1.8 to 6] ; Sitting [0 to 2]",
            {"falling": [(1.8, 6)], "sitting": [(0, 2)]},
        ),
    ],
)
def test_spans_are_read_as_they_are_written(text, expected):
    assert timed_actions(text) == expected


def test_every_row_of_the_table_has_actions(shared_media):
    table = shared_media.parent / "data" / "gmdcsa.csv"
    if not table.is_file():
        pytest.skip(f"{table} is not there")
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            spans = timed_actions(row["classes"])
            assert spans, row["file"]
            assert sum(map(len, spans.values())) == row["classes"].count(" to ")


def test_a_row_for_each_action_and_a_figure_for_each_sense(shared_media, tmp_path):
    data = shared_media.parent / "data"
    if not (data / "gmdcsa.csv").is_file():
        pytest.skip(f"{data / 'gmdcsa.csv'} is not there")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "gmdcsa").symlink_to(data / "gmdcsa")
    with (data / "gmdcsa.csv").open() as file:
        lines = file.read().splitlines()
    names = ("s1_adl_16", "s1_fall_15", "s3_fall_01")
    kept = [line for line in lines if any(name in line for name in names)]
    (tmp_path / "data" / "gmdcsa.csv").write_text("\n".join([lines[0], *kept]) + "\n")
    lab = Lab(find_bundle("embedded"), tmp_path, tmp_path / "work", lambda _: None)
    found = GmdcsaActions(kind="gmdcsa_actions", least_videos=2).measure(lab)
    rows = {row[0]: row for row in found.tables[0].rows}
    assert set(rows) == {"falling", "sitting"}
    figures = {f.key: f for f in found.figures}
    assert {"motion", "pictures", "sound", "sight_and_sound", "sight_and_sound_sound_removed"} <= set(
        figures
    )
    n_windows = figures["motion"].n
    assert n_windows == 2 + 5 + 2
    shares = [int(row[1]) / n_windows for row in rows.values()]
    assert figures["chance"].value == pytest.approx(np.mean(shares))
    assert figures["sight_and_sound"].low <= figures["sight_and_sound"].high
