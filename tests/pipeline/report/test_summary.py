"""What the page says of an output, against what the tables hold."""

from __future__ import annotations

import dataclasses

import pytest

from pipeline.remedies import REMEDIES
from pipeline.report.card import cards
from pipeline.report.facts import read_facts
from pipeline.report.summary import failure_groups, label_counts, run_rows, sync_rows, totals
from pipeline.tables.store import Store
from tests.pipeline.report.lake import make_lake


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("lake")))
    failures = {"not_media": "/bad/a.mp4: not a media file", "empty": "/bad/b.mp4: 0 bytes"}
    make_lake(store, 20, 3, failures=failures)
    return read_facts(store.root)


def test_totals_count_rows(facts):
    found = totals(facts)
    assert (found.n_clips, found.n_videos, found.clip_s) == (60, 22, 240.0)
    assert (found.n_failed_units, found.n_failed_videos, found.n_partial_videos) == (2, 2, 1)
    assert (found.n_captioned, found.n_embedded, found.n_with_sound) == (60, 60, 60)


def test_labels_are_counted_a_clip_once_the_most_frequent_first(facts):
    counts = [c for c in label_counts(facts) if c.space == "objects"]
    rows = facts.clips["labels"].to_pylist()
    for count in counts:
        assert count.n_clips == sum(any(x["label"] == count.label for x in row) for row in rows)
    assert counts == sorted(counts, key=lambda c: -c.n_clips)


def test_the_worst_video_comes_first_with_what_is_wrong(facts):
    rows = sync_rows(facts)
    assert [row.severity for row in rows] == sorted((row.severity for row in rows), reverse=True)
    offset = max((r for r in rows if r.offset_ms), key=lambda r: abs(r.offset_ms))
    assert "disagree by content" in offset.why
    assert any(row.n_decode_errors == 4 and "do not decode" in row.why for row in rows)
    assert all("variable" in row.why for row in rows if row.is_vfr)


def test_failures_come_with_what_to_do(facts):
    groups = failure_groups(facts.failures)
    assert {(g.code, g.n_units, g.remedy) for g in groups} == {
        (code, 1, REMEDIES[code]) for code in ("not_media", "empty")
    }
    assert groups[0].examples


def test_the_machines_limit_is_its_cores_at_what_the_stages_took():
    run = {"run_id": "r", "video_s": 1000.0, "wall_s": 100.0, "decode_s": 60.0, "encode_s": 140.0}
    (row,) = run_rows((run | {"n_cpus": 4.0},))
    assert (row.rate, row.limit, row.used, row.bound_by) == (10.0, 20.0, 0.5, "cores")
    # Encoding measured in processor time: twice the cores' seconds.
    (row,) = run_rows((run | {"n_cpus": 4.0, "encode_cpu_s": 340.0},))
    assert row.limit == 10.0
    # On a GPU encoding bounds by its actors, decoding by the cores.
    (row,) = run_rows((run | {"n_cpus": 4.0, "n_gpus": 1.0},))
    assert (row.limit, row.bound_by) == (pytest.approx(1000 / 140), "GPU")
    (row,) = run_rows((run,))  # a record of before
    assert (row.limit, row.used) == (None, None)


def test_a_bundle_that_is_here_is_described_and_one_that_is_not_is_told(facts):
    (card,) = cards(facts)
    assert card.name == "embedded"
    assert "another state" in card.problem  # the rows' digest is not this bundle's
    assert {part.role for part in card.parts} >= {"video", "audio", "text"}
    assert dict(card.measured)["imagenet1k"] == "not measured here"
    column = facts.clips.column_names.index("bundle")
    elsewhere = facts.clips.set_column(column, "bundle", [["theirs"] * len(facts.clips)])
    (card,) = cards(dataclasses.replace(facts, clips=elsewhere))
    assert "not on the machine" in card.problem
    assert card.parts == ()
