"""The comparison of fusions as an experiment; the comparison itself is tested with its training."""

from __future__ import annotations

from pathlib import Path

from pipeline.bundles.spec import find_bundle
from pipeline.evaluation.experiments.base import Lab
from pipeline.evaluation.experiments.fusion import FusionComparison
from pipeline.training import fusion


def test_differences_become_figures_and_tables_stay_as_they_are(monkeypatch, tmp_path):
    def measure(model, senses, snr_db, value, less=""):
        return fusion.Measure(model, senses, snr_db, value, value - 0.01, value + 0.01, less)

    found = fusion.Comparison(
        131,
        {"late": 10},
        {"late": 1.0},
        [measure("late", "both", -5.0, 0.7)],
        [measure("late", "both", -5.0, 0.02, "audio")],
        [
            measure("late", "audio", -5.0, -0.01, "audio"),
            measure("late", "audio", None, -0.03, "audio"),
        ],
        {"late": 0.8},
    )
    asked = []
    monkeypatch.setattr(fusion, "compare", lambda *given: asked.append(given) or found)
    lab = Lab(find_bundle("embedded"), Path("shared"), tmp_path, lambda _: None)
    told = FusionComparison(kind="fusion", work=tmp_path / "trained").measure(lab)
    assert asked[0][:2] == (Path("shared/data"), tmp_path / "trained")
    assert told.markdown == fusion.tables(found)
    gain, loss = told.figures
    assert (gain.key, gain.shown, gain.interval) == (
        "gain_late_both_minus_5_dB_less_audio",
        "+2.0 points",
        "+1.0 to +3.0",
    )
    assert loss.key == "loss_late_audio_no_noise_less_audio"
    assert loss.told == "late, no noise, given audio: one removed, less the model audio alone"
