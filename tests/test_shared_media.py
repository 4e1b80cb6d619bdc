"""Real clips and timing vectors, where they are present."""

from __future__ import annotations

import csv
from fractions import Fraction

import av
import pytest

from pipeline.media.probe import probe
from pipeline.media.video import index_packets
from pipeline.records import MediaError, Unit
from pipeline.understand import Provenance, decode, encode

MADE_BY = Provenance("embedded", "b", "r", "run")
FOREVER = Fraction(10**6)


def labels_of(path, config, model):
    """(label in lower case, sense) of all clips of a file."""
    unit = Unit("u", "v", str(path), "1", 0.0, 60.0)
    (rows,) = encode([decode(unit, config, model.sample_rate_hz)], model, MADE_BY)
    clips = rows.clips.to_pylist()
    return clips, {(x["label"].lower(), x["modality"]) for clip in clips for x in clip["labels"]}


def test_a_dog_is_seen_and_heard(shared_media, config, model):
    clips, labels = labels_of(shared_media / "clips" / "vggsound_3qesirWAGt4_dog.mp4", config, model)
    assert ("dog", "video") in labels
    assert ("dog", "audio") in labels
    assert clips[0]["caption"] == "A dog in view, probably training dog; a dog heard."


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("skv_carphone_pristine.mp4", "driving car"),
        ("skv_bikes.mp4", "riding a bike"),
        ("ucf101_v_Biking_g05_c02.avi", "riding a bike"),
        ("msvd_WTf5EgVY5uU_124_128.avi", "frying pan"),
    ],
)
def test_what_is_done_is_seen(shared_media, config, model, name, label):
    clips, labels = labels_of(shared_media / "clips" / name, config, model)
    assert (label, "video") in labels
    assert all(clip["audio_coverage"] is None and clip["audio_weight"] is None for clip in clips)
    assert not any(sense in ("audio", "fused") for _, sense in labels)


def manifest(shared_media):
    with open(shared_media / "manifest.csv") as file:
        return list(csv.DictReader(file))


def test_every_vector_gives_rows_or_a_failure_that_names_it(shared_media, config, model):
    """No file raises; what the manifest knows to be readable is read."""
    for row in manifest(shared_media):
        path = shared_media / row["file"]
        if path.stat().st_size > 3_500_000:  # the largest is a run's work, not a test's
            continue
        unit = Unit("u", "v", str(path), "1", 0.0, None)
        decoded = decode(unit, config, model.sample_rate_hz)
        if decoded.failure:
            assert str(path) in decoded.failure.message
            assert row["err"], f"{row['file']} should be readable: {decoded.failure}"
            continue
        batch = decoded.batch
        if row["vframes"] and int(row["vframes"]) and not row["err"]:
            assert batch.has_video.any(), row["file"]
            assert probe(str(path)).video.codec
        if row["a_sec"]:
            assert batch.has_audio.any(), row["file"]


def test_presented_times_are_those_of_a_full_decode(shared_media):
    for row in manifest(shared_media):
        if not row["vframes"] or row["err"] or row["file"].endswith("nasa_13013.mp4"):
            continue
        path = str(shared_media / row["file"])
        try:
            info = probe(path)
        except MediaError:
            continue
        with av.open(path) as container:
            stream = container.streams[info.video.index]
            decoded = sorted({f.pts for f in container.decode(stream) if f.pts is not None})
        index = index_packets(path, info, Fraction(0), FOREVER)
        origin = info.origin_s / info.video.time_base
        assert [p for p in index.pts if p >= origin] == [p for p in decoded if p >= origin], row["file"]
