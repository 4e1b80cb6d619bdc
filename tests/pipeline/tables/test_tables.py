"""Commit, ledger, recovery and the derived tables."""

from __future__ import annotations

import json
import os

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tables.commit import COMMITS, STAGING, commit, recover
from pipeline.tables.ledger import read_ledger
from pipeline.tables.publish import publish
from pipeline.tables.schema import SEGMENTS
from pipeline.tables.segments import derive_segments
from pipeline.tables.store import Store, TableError
from tests.pipeline.tables.rows import DAY, clips, unit, units


def test_a_commit_is_whole_and_the_ledger_knows_it(store):
    record = commit(
        store, clips("a"), units(unit("a"), unit("b", "empty"), unit("c", "failed")), DAY, "r"
    )
    ledger = read_ledger(store)
    ended = {unit_id: entry.state for unit_id, entry in ledger.units.items()}
    assert ended == {"a": "done", "b": "empty", "c": "failed"}
    (file,) = record.files
    assert store.read_table(file).num_rows == 1
    assert store.names(STAGING, ".parquet") == []


def test_a_repeated_task_replaces_its_own(store):
    for _ in range(2):
        commit(store, clips("a"), units(unit("a")), DAY, "r")
    assert len(store.names("clips", ".parquet")) == 1
    assert len(store.names(COMMITS, ".json")) == 1


def test_staged_rows_without_a_record_are_not_in_the_table_and_go(store):
    store.write_table(f"{STAGING}/orphan.parquet", clips("x"))
    assert store.names("clips", ".parquet") == []
    recover(store, read_ledger(store).records, ())
    assert store.names(STAGING, ".parquet") == []
    assert store.names("clips", ".parquet") == []


def test_a_crash_after_the_record_loses_nothing(store):
    record = commit(store, clips("a"), units(unit("a")), DAY, "r")
    store.move(record.files[0], f"{STAGING}/{record.name}.parquet")  # as if the rename had not come
    recover(store, read_ledger(store).records, ())
    assert store.read_table(record.files[0]).num_rows == 1


def test_a_failure_is_settled_until_retries_are_asked_for(store):
    commit(store, clips(), units(unit("c", "failed")), DAY, "r1")
    ledger = read_ledger(store)
    assert ledger.is_settled("c")
    assert not ledger.is_settled("c", retry_failures=True)
    assert not ledger.is_settled("new")


def test_a_success_removes_the_failure(store):
    commit(store, clips(), units(unit("c", "failed")), DAY, "r1")
    publish(store, DAY)
    assert store.read_table(f"failures/dt={DAY}/failures.parquet").num_rows == 1
    commit(store, clips("c"), units(unit("c", attempt=2)), DAY, "r2")
    publish(store, DAY)
    assert store.read_table(f"failures/dt={DAY}/failures.parquet").num_rows == 0
    (video,) = store.read_table(f"videos/dt={DAY}/videos.parquet").to_pylist()
    assert (video["status"], video["n_clips"], video["n_failed_units"]) == ("ok", 1, 0)


def test_derived_tables_follow_the_newest_digest_of_a_video(store):
    commit(store, clips("a"), units(unit("a", run_id="1")), DAY, "1")
    newer = unit("b", run_id="2", result_digest="e")
    commit(store, clips("b", labels=[("cat", 0.9)], digest="e"), units(newer), DAY, "2")
    publish(store, DAY)
    (video,) = store.read_table(f"videos/dt={DAY}/videos.parquet").to_pylist()
    assert (video["result_digest"], video["n_clips"]) == ("e", 1)
    segments = store.read_table(f"segments/dt={DAY}/segments.parquet")
    assert segments.column("label").to_pylist() == ["cat"]


def test_a_video_carries_its_manifests_columns(store):
    rows = [carrying(str(i), {"floor": i}) for i in range(2)]
    rows.append(carrying("2", {"camera": "north"}))
    commit(store, clips(), units(*rows), DAY, "r")
    publish(store, DAY)
    videos = store.read_table(f"videos/dt={DAY}/videos.parquet").to_pandas().set_index("video_id")
    assert videos.loc["1", "floor"] == 1
    assert videos.loc["2", "camera"] == "north"


def carrying(name, attributes):
    """A unit of a video of its own, with a manifest's columns."""
    return unit(name, "empty", video_id=name, uri=f"/{name}.mp4", attributes=json.dumps(attributes))


def test_carried_columns_of_all_dates_agree(tmp_path):
    """A column that comes later, or with another type, does not break or hide what plain readers see."""
    store = Store(str(tmp_path))
    days = [("2026-01-29", {"floor": 1}), ("2026-01-30", {"floor": 2, "camera": "north"})]
    for day, attributes in [*days, ("2026-01-31", {"floor": "attic"})]:
        commit(store, clips(), units(carrying(day, attributes)), day, day)
        publish(store, day)
    videos = pd.read_parquet(tmp_path / "videos").set_index("video_id")
    assert videos["floor"].to_dict() == {"2026-01-29": "1", "2026-01-30": "2", "2026-01-31": "attic"}
    assert videos.loc["2026-01-30", "camera"] == "north"


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([("a", "done"), ("b", "done")], "ok"),
        ([("a", "done"), ("b", "failed")], "partial"),
        ([("a", "failed"), ("b", "failed")], "failed"),
    ],
)
def test_a_videos_status_is_its_units(store, parts, status):
    rows = [unit(u, s, start_s=60.0 * i) for i, (u, s) in enumerate(parts)]
    done = [u for u, s in parts if s == "done"]
    commit(store, clips(*done), units(*rows), DAY, "r")
    publish(store, DAY)
    (video,) = store.read_table(f"videos/dt={DAY}/videos.parquet").to_pylist()
    assert video["status"] == status


def test_pandas_reads_every_table_also_when_all_failed(tmp_path):
    store = Store(str(tmp_path))
    commit(store, clips(), units(unit("c", "failed")), DAY, "r")
    publish(store, DAY)
    counts = {
        t: len(pd.read_parquet(tmp_path / t)) for t in ("clips", "videos", "segments", "failures")
    }
    assert counts == {"clips": 0, "videos": 1, "segments": 0, "failures": 1}
    embedding = pa.parquet.read_schema(next((tmp_path / "clips").rglob("*.parquet"))).field("embedding")
    assert embedding.type == pa.list_(pa.float32(), 384)


def test_clips_that_agree_and_touch_are_one_segment():
    table = pa.concat_tables([
        clips("a", "b", labels=[("dog", 0.9), ("ball", 0.5)]),
        clips("c", labels=[("dog", 0.6)], start_s=8.0),
        clips("d", labels=[("dog", 0.6)], start_s=16.0),  # a hole before it
        clips("e", labels=[("dog", 0.6)], video_id="w", start_s=20.0),
    ])  # fmt: skip
    found = [
        (s["video_id"], s["label"], s["start_s"], s["end_s"])
        for s in derive_segments(table).to_pylist()
    ]
    assert found == [
        ("v", "ball", 0.0, 8.0),
        ("v", "dog", 0.0, 12.0),
        ("v", "dog", 16.0, 20.0),
        ("w", "dog", 20.0, 24.0),
    ]


def test_shots_are_a_track_that_unit_borders_do_not_cut():
    table = clips("a", "b", "c", "d", "e", "f", "g")
    cuts = [[], [4.0], [], [], [16.0], None, []]  # of the clips at 0, 4, …; 12 may be a unit's border
    column = table.schema.get_field_index("cut_s")
    table = table.set_column(
        column, table.schema.field("cut_s"), pa.array(cuts, pa.list_(pa.float64()))
    )
    shots = [s for s in derive_segments(table).to_pylist() if s["space"] == "shots"]
    spans = [(0.0, 4.0), (4.0, 16.0), (16.0, 20.0), (24.0, 28.0)]
    assert [(s["start_s"], s["end_s"]) for s in shots] == spans
    assert all(s["label"] == "shot" and s["score"] is None for s in shots)


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=12))
def test_segments_cover_exactly_the_clips_that_bear_the_label(marks):
    tables = [
        clips(str(i), labels=[(m, 0.5)] if m else [], start_s=4.0 * i) for i, m in enumerate(marks)
    ]
    segments = derive_segments(pa.concat_tables(tables))
    assert segments.schema.equals(SEGMENTS)
    for name in "ab":
        covered = {
            i for s in segments.to_pylist() if s["label"] == name
            for i in range(int(s["start_s"] // 4), int(s["end_s"] // 4))
        }  # fmt: skip
        assert covered == {i for i, m in enumerate(marks) if m == name}


def test_what_cannot_be_written_or_read_names_the_path(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TableError, match="file"):
        Store(str(tmp_path / "file")).write("a/b", b"x")
    store = Store(str(tmp_path))
    (tmp_path / COMMITS).mkdir()
    (tmp_path / COMMITS / "torn.json").write_text('{"name": ')
    with pytest.raises(TableError, match=r"torn.json: not readable JSON"):
        read_ledger(store)
    (tmp_path / COMMITS / "torn.json").write_text('{"name": "x"}')
    with pytest.raises(TableError, match=r"not a commit record"):
        read_ledger(store)


def test_nothing_temporary_stays_behind(tmp_path):
    store = Store(str(tmp_path))
    commit(store, clips("a"), units(unit("a")), DAY, "r")
    left = [name for _, _, files in os.walk(tmp_path) for name in files if name.endswith(".tmp")]
    assert left == []
