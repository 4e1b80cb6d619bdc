"""Experiments on motion, on a few clips."""

from __future__ import annotations

import pytest

from pipeline.bundles.spec import find_bundle
from pipeline.evaluation.experiments.base import Lab
from pipeline.evaluation.experiments.motion import FightsFolds, RealMotion, RenderedMotion


@pytest.fixture(scope="module")
def lab(shared_media, tmp_path_factory):
    """Four clips of each fold of fights, and one real clip."""
    data = shared_media.parent / "data"
    if not (data / "fights.csv").is_file():
        pytest.skip(f"{data / 'fights.csv'} is not there")
    folder = tmp_path_factory.mktemp("motion")
    (folder / "data" / "fights").mkdir(parents=True)
    lines = (data / "fights.csv").read_text().splitlines()
    kept: dict[tuple[str, str], list[str]] = {}
    for line in lines[1:]:
        _, label, fold = line.split(",")
        if len(kept.setdefault((label, fold), [])) < 2:
            kept[label, fold].append(line)
    chosen = [line for some in kept.values() for line in some]
    (folder / "data" / "fights.csv").write_text("\n".join([lines[0], *chosen]) + "\n")
    for line in chosen:
        file = line.split(",")[0]
        (folder / "data" / file).symlink_to(data / file)
    (folder / "media" / "clips").mkdir(parents=True)
    clip = "skv_carphone_pristine.mp4"
    (folder / "media" / "clips" / clip).symlink_to(shared_media / "clips" / clip)
    return Lab(find_bundle("embedded"), folder, folder / "work", lambda _: None)


def test_each_motion_has_its_share_and_they_add_up(lab):
    found = RenderedMotion(kind="rendered_camera", n_clips=40).measure(lab)
    figures = {f.key: f for f in found.figures}
    assert figures["camera_right"].n == 40
    assert figures["camera_right"].value > 0.5  # the shipped network; chance is a sixth
    camera = next(p for p in found.plots if p.key == "camera")
    right = sum(camera.counts[i][i] for i in range(6))
    assert right / 40 == pytest.approx(figures["camera_right"].value)
    assert [sum(row) for row in camera.counts] == [figures[f"camera_{x}"].n for x in camera.labels]


def test_every_clip_of_the_fights_is_answered_once(lab):
    found = FightsFolds(kind="fights_folds").measure(lab)
    figures = {f.key: f for f in found.figures}
    assert figures["right"].n == 20
    assert sum(figures[f"fold_{k}"].n for k in range(1, 6)) == 20
    assert {plot.kind for plot in found.plots} == {"confusion", "reliability", "precision_recall"}


def test_a_real_clip_has_a_row_and_no_figure(lab):
    found = RealMotion(kind="real_motion", most_windows=2).measure(lab)
    assert found.figures == ()
    ((file, windows, camera, _, fight),) = found.tables[0].rows
    assert file == "skv_carphone_pristine.mp4"
    assert windows in ("1", "2")
    assert camera.split(" ")[1] in ("pan", "tilt", "zoom", "roll", "shake", "static")
    assert " to " in fight
