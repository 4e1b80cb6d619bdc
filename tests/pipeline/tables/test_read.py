"""One snapshot of the tables: newest results, every row once, also while files are merged."""

from __future__ import annotations

import threading
from datetime import timedelta

import duckdb
import pandas as pd
import polars
import pyarrow as pa
import pytest

from pipeline.tables.commit import SUPERSEDED, commit
from pipeline.tables.lease import LeaseLostError
from pipeline.tables.ledger import read_ledger
from pipeline.tables.maintain import compact, forget, vacuum
from pipeline.tables.publish import publish
from pipeline.tables.read import query, read
from pipeline.tables.store import Store, TableError
from tests.pipeline.tables.rows import DAY, clips, commit_video, unit, units


def ids(store, **how):
    return sorted(read(store.root, "clips", columns=["clip_id"], **how)["clip_id"])


def test_a_table_is_read_as_what_is_asked_for(store):
    commit_video(store, "a", 2)
    publish(store, DAY)
    frame = read(store.root, "clips", where="start_s >= 60", columns=["clip_id", "dt"])
    assert frame.to_dict("records") == [{"clip_id": "ca1d1", "dt": DAY}]
    assert isinstance(read(store.root, "videos"), pd.DataFrame)
    assert isinstance(read(store.root, "videos", to="arrow"), pa.Table)
    assert isinstance(read(store.root, "segments", to="polars"), polars.DataFrame)
    relation = read(store.root, "clips", to="duckdb")
    assert isinstance(relation, duckdb.DuckDBPyRelation)
    assert relation.aggregate("count(*)").fetchall() == [(2,)]


def test_sql_sees_four_tables(store):
    commit_video(store, "a", 2)
    commit(store, clips(), units(unit("f", "failed", uri="/bad.mp4", video_id="bad")), DAY, "r")
    publish(store, DAY)
    asked = "select (select count(*) from {}) as n"
    counts = {
        t: query(store.root, asked.format(t))["n"][0].as_py()
        for t in ("clips", "videos", "segments", "failures")
    }
    assert counts == {"clips": 2, "videos": 2, "segments": 2, "failures": 1}


def test_newer_settings_stand_beside_the_older_ones_and_are_seen_first(store):
    commit_video(store, "a", run_id="1", digest="old")
    commit_video(store, "a", run_id="2", digest="new")
    publish(store, DAY)
    assert ids(store) == ["ca1new0"]
    assert ids(store, all_results=True) == ["ca1new0", "ca1old0"]


def test_a_changed_videos_old_rows_leave(store):
    commit_video(store, "a", 2, run_id="1", version="1")
    commit_video(store, "b", run_id="1")
    publish(store, DAY)
    commit_video(store, "a", run_id="2", version="2")
    publish(store, DAY)
    assert ids(store) == ["ca2d0", "cb1d0"]
    assert ids(store, all_results=True) == ["ca2d0", "cb1d0"]
    files = [store.read_table(file, ["clip_id"]) for file in store.names("clips")]
    assert sorted(pa.concat_tables(files)["clip_id"].to_pylist()) == ["ca2d0", "cb1d0"]
    assert sorted(read(store.root, "videos")["video_id"]) == ["a2", "b1"]


def test_a_unit_done_again_replaces_itself(store):
    commit_video(store, "a", run_id="1")
    commit_video(store, "a", run_id="2")
    assert ids(store) == ["ca1d0"], "even before it is published"
    publish(store, DAY)
    assert list(read(store.root, "clips")["run_id"]) == ["2"]
    assert len(store.names("clips", ".parquet")) == 1


def test_compaction_keeps_every_row_once_and_vacuum_takes_the_rest(store):
    for k in range(5):
        commit_video(store, f"v{k}", 2, run_id=str(k))
    commit_video(store, "other", dt="2026-02-01", run_id="9")
    publish(store, DAY)
    before, videos = read(store.root), read(store.root, "videos")
    done = compact(store, DAY)
    assert (done.n_files_before, done.n_files_after) == (6, 2)
    order = ["clip_id"]
    pd.testing.assert_frame_equal(
        read(store.root).sort_values(order, ignore_index=True),
        before.sort_values(order, ignore_index=True),
    )
    pd.testing.assert_frame_equal(read(store.root, "videos"), videos)
    assert len(store.names("clips", ".parquet")) == 2
    assert vacuum(store, timedelta(hours=1)).n_kept == 5
    assert len(store.names(SUPERSEDED)) == 5
    gone = vacuum(store, timedelta(0))
    assert (gone.n_kept, store.names(SUPERSEDED)) == (0, [])
    assert len(read_ledger(store).records) == 2
    assert len(ids(store)) == 11
    assert compact(store, DAY).n_files_after == 2, "nothing left to merge"


@pytest.mark.parametrize("n_checks", [0, 1, 2, 3])
@pytest.mark.parametrize("work", [compact, vacuum, forget])
def test_whoever_lost_the_output_changes_nothing_more(store, work, n_checks):
    for k in range(3):
        commit_video(store, f"v{k}", 2, run_id=str(k))
    publish(store, DAY)
    compact(store, DAY)
    for k in range(3):
        commit_video(store, f"w{k}", 2, run_id=f"1{k}")
    publish(store, DAY)
    calls, files = [], []

    def check():
        calls.append(1)
        if len(calls) > n_checks:
            files.append(sorted(store.names("")))
            raise LeaseLostError("it is another's")

    given = {compact: [DAY], vacuum: [timedelta(0)], forget: [[ids_of_videos(store)[0]], DAY]}[work]
    with pytest.raises(LeaseLostError):
        work(store, *given, check=check)
    assert sorted(store.names("")) == files[0]


def ids_of_videos(store):
    return list(read(store.root, "videos")["video_id"])


def test_a_reader_sees_every_row_once_while_files_are_merged(tmp_path):
    store = Store(str(tmp_path / "out"))
    for k in range(40):
        commit_video(store, f"v{k}", 2, run_id=f"{k:02}")
    publish(store, DAY)
    seen, stopped = set(), threading.Event()

    def look():
        while not stopped.is_set():
            try:
                answer = query(store.root, "select count(*) n, count(distinct clip_id) d from clips")
            except Exception as e:
                seen.add(repr(e))
                raise
            seen.add(tuple(answer.to_pylist()[0].values()))

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for target in (60_000, 250_000, 2**30):
            compact(store, DAY, target)
    finally:
        stopped.set()
        for reader in readers:
            reader.join()
    assert seen == {(80, 80)}


def test_a_forgotten_video_is_nowhere(store):
    commit_video(store, "a", 2, run_id="1", version="1")
    publish(store, DAY)
    commit_video(store, "a", run_id="2", version="2")  # the first version's file is only replaced
    commit_video(store, "b", run_id="2")
    publish(store, DAY)
    compact(store, DAY)
    done = forget(store, ["a2"], DAY)
    assert (done.video_ids, done.uris) == (("a1", "a2"), ("/a.mp4",))
    assert done.n_units == 3
    assert ids(store) == ["cb1d0"]
    for name in store.names(""):
        content = store.fs.cat_file(store.path(name))
        if name.endswith(".parquet"):
            content = str(store.read_table(name).to_pylist()).encode()
        assert b"/a.mp4" not in content, name
        assert b"a2d0" not in content, name
        assert b"a1d0" not in content, name
    with pytest.raises(TableError, match="no video 'a2'"):
        forget(store, ["a2"], DAY)


def test_a_table_without_clips_can_be_asked(store):
    commit(store, clips(), units(unit("f", "failed")), DAY, "r")
    publish(store, DAY)
    assert len(read(store.root, "clips")) == 0
    assert read(store.root, "failures")["code"].tolist() == ["not_media"]


def test_what_cannot_be_asked_says_why(tmp_path):
    with pytest.raises(TableError, match="no tables here"):
        read(str(tmp_path), "clips")
    store = Store(str(tmp_path / "out"))
    commit_video(store, "a")
    publish(store, DAY)
    with pytest.raises(TableError, match="no table 'clip'"):
        read(store.root, "clip")
    with pytest.raises(TableError, match="nosuch"):
        read(store.root, "clips", columns=["nosuch"])


def test_a_torn_table_file_is_named(tmp_path):
    store = Store(str(tmp_path / "out"))
    (file,) = commit_video(store, "a").files
    publish(store, DAY)
    torn = tmp_path / "out" / file
    torn.write_bytes(torn.read_bytes()[:100])
    with pytest.raises(TableError, match=torn.name):
        read(store.root, "clips")
