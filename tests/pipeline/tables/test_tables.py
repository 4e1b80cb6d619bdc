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
from pipeline.tables.schema import SEGMENTS, UNITS, clips_schema
from pipeline.tables.segments import derive_segments
from pipeline.tables.store import Store, TableError

DAY = "2026-01-31"


def unit(unit_id, state="done", **more):
    row = dict.fromkeys(UNITS.names)
    row |= {"unit_id": unit_id, "video_id": "v", "uri": "/v.mp4", "start_s": 0.0, "attempt": 1}
    row |= {"state": state, "status": "ok", "n_clips": 1 if state == "done" else 0, "run_id": "r"}
    row |= {"result_digest": "d", "attributes": "{}"}
    if state == "failed":
        row |= {"stage": "probe", "code": "not_media", "message": "/v.mp4: no", "status": None}
    return row | more


def units(*rows):
    return pa.Table.from_pylist(list(rows), schema=UNITS)


def clips(*unit_ids, labels=(("dog", 0.9),), video_id="v", start_s=0.0, digest="d"):
    rows = []
    for i, unit_id in enumerate(unit_ids):
        row = dict.fromkeys(clips_schema().names)
        row |= {"clip_id": f"c{unit_id}", "unit_id": unit_id, "video_id": video_id}
        row |= {"result_digest": digest, "start_s": start_s + 4.0 * i, "end_s": start_s + 4.0 * i + 4}
        row["labels"] = [
            {"label": name, "score": score, "space": "objects", "modality": "video"}
            for name, score in labels
        ]
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=clips_schema())


@pytest.fixture(params=["disk", "bucket"])
def store(request, tmp_path):
    """A disk, and the object-store side of fsspec."""
    return Store(str(tmp_path / "out") if request.param == "disk" else f"memory://out{tmp_path.name}")


def test_a_commit_is_whole_and_the_ledger_knows_it(store):
    record = commit(
        store, clips("a"), units(unit("a"), unit("b", "empty"), unit("c", "failed")), DAY, "r"
    )
    ledger = read_ledger(store)
    assert (ledger.done, ledger.empty, ledger.failed) == ({"a"}, {"b"}, {"c": 1})
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
    recover(store, list(read_ledger(store).records))
    assert store.names(STAGING, ".parquet") == []
    assert store.names("clips", ".parquet") == []


def test_a_crash_after_the_record_loses_nothing(store):
    record = commit(store, clips("a"), units(unit("a")), DAY, "r")
    store.move(record.files[0], f"{STAGING}/{record.name}.parquet")  # as if the rename had not come
    recover(store, list(read_ledger(store).records))
    assert store.read_table(record.files[0]).num_rows == 1


def test_a_failure_is_settled_until_retries_are_asked_for(store):
    commit(store, clips(), units(unit("c", "failed")), DAY, "r1")
    ledger = read_ledger(store)
    assert ledger.is_settled("c")
    assert not ledger.is_settled("c", retry_failures=True)
    assert not ledger.is_settled("new")


def test_a_success_removes_the_failure(store):
    commit(store, clips(), units(unit("c", "failed")), DAY, "r1")
    publish(store, read_ledger(store), DAY)
    assert store.read_table(f"failures/dt={DAY}/failures.parquet").num_rows == 1
    commit(store, clips("c"), units(unit("c", attempt=2)), DAY, "r2")
    publish(store, read_ledger(store), DAY)
    assert store.read_table(f"failures/dt={DAY}/failures.parquet").num_rows == 0
    (video,) = store.read_table(f"videos/dt={DAY}/videos.parquet").to_pylist()
    assert (video["status"], video["n_clips"], video["n_failed_units"]) == ("ok", 1, 0)


def test_derived_tables_follow_the_newest_digest_of_a_video(store):
    commit(store, clips("a"), units(unit("a", run_id="1")), DAY, "1")
    newer = unit("b", run_id="2", result_digest="e")
    commit(store, clips("b", labels=[("cat", 0.9)], digest="e"), units(newer), DAY, "2")
    publish(store, read_ledger(store), DAY)
    (video,) = store.read_table(f"videos/dt={DAY}/videos.parquet").to_pylist()
    assert (video["result_digest"], video["n_clips"]) == ("e", 1)
    segments = store.read_table(f"segments/dt={DAY}/segments.parquet")
    assert segments.column("label").to_pylist() == ["cat"]


def test_a_video_carries_its_manifests_columns(store):
    rows = [unit(str(i), video_id=str(i), attributes=json.dumps({"floor": i})) for i in range(2)]
    rows.append(unit("2", video_id="2", attributes=json.dumps({"camera": "north"})))
    commit(store, clips("0", "1", "2"), units(*rows), DAY, "r")
    publish(store, read_ledger(store), DAY)
    videos = store.read_table(f"videos/dt={DAY}/videos.parquet").to_pandas().set_index("video_id")
    assert videos.loc["1", "floor"] == 1
    assert videos.loc["2", "camera"] == "north"


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
    publish(store, read_ledger(store), DAY)
    (video,) = store.read_table(f"videos/dt={DAY}/videos.parquet").to_pylist()
    assert video["status"] == status


def test_pandas_reads_every_table_also_when_all_failed(tmp_path):
    store = Store(str(tmp_path))
    commit(store, clips(), units(unit("c", "failed")), DAY, "r")
    publish(store, read_ledger(store), DAY)
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
