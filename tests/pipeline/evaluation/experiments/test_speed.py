"""What the bundle costs, on one clip."""

from __future__ import annotations

from pipeline.bundles.spec import find_bundle
from pipeline.evaluation.experiments.base import Lab
from pipeline.evaluation.experiments.speed import Speed


def test_every_part_takes_time_and_the_machine_is_named(shared_media, tmp_path):
    (tmp_path / "media" / "clips").mkdir(parents=True)
    clip = "ucf101_v_Biking_g05_c02.avi"
    (tmp_path / "media" / "clips" / clip).symlink_to(shared_media / "clips" / clip)
    lab = Lab(find_bundle("embedded"), tmp_path, tmp_path / "work", lambda _: None)
    found = Speed(kind="speed", n_rounds=1, n_windows=2).measure(lab)
    figures = {f.key: f.value for f in found.figures}
    assert all(figures[part] > 0 for part in ("decode", "sense", "captions", "motion", "statistics"))
    assert 0 < figures["captions_share"] < 1
    assert "cores of" in found.how
