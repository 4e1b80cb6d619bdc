"""An output of every version that ever was is read, added to and kept in shape; a newer one is refused."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.tables.commit import COMMITS
from pipeline.tables.ledger import read_ledger
from pipeline.tables.maintain import compact, vacuum
from pipeline.tables.publish import publish
from pipeline.tables.read import read
from pipeline.tables.schema import clips_schema
from pipeline.tables.store import FORMAT_VERSION, Store, TableError
from tests.pipeline.tables.rows import DAY, commit_video

KEPT = sorted((Path(__file__).parents[2] / "data").glob("tables-v*"))


def test_every_version_is_kept():
    assert [p.name for p in KEPT] == [f"tables-v{v}" for v in range(1, FORMAT_VERSION + 1)]


@pytest.fixture(params=KEPT, ids=lambda path: path.name)
def old(request, tmp_path):
    """A copy of what an older version wrote: one video of two units, one file that is none."""
    return Store(str(shutil.copytree(request.param, tmp_path / "out")))


def test_an_older_output_is_read(old):
    clips = read(old.root, "clips", to="arrow")
    assert len(clips) == 3
    assert set(clips_schema().names) <= set(clips.column_names)
    assert clips.schema.field("embedding").type == pa.list_(pa.float32(), 384)
    assert len(read(old.root, "videos")) == 2
    assert read(old.root, "failures")["code"].tolist() == ["not_media"]
    ended = sorted(entry.state for entry in read_ledger(old).units.values())
    assert ended == ["done", "done", "failed"]


def test_an_older_output_is_added_to_and_merged(old):
    before = read(old.root, "clips", columns=["clip_id", "caption"])
    commit_video(old, "new", 2, run_id="99990101T000000Z-new")
    publish(old, DAY)
    assert len(read(old.root, "clips")) == 5
    assert len(read(old.root, "videos")) == 3
    compact(old, DAY)
    vacuum(old, timedelta(0))
    after = read(old.root, "clips", columns=["clip_id", "caption"]).set_index("clip_id")
    assert after.loc[before["clip_id"], "caption"].tolist() == before["caption"].tolist()
    assert len(after) == 5
    assert len(read(old.root, "segments")) >= 2


def test_a_newer_output_is_refused(tmp_path):
    store = Store(str(tmp_path / "out"))
    record = commit_video(store, "a")
    newer = record.to_json() | {"version": FORMAT_VERSION + 1}
    (tmp_path / "out" / COMMITS / f"{record.name}.json").write_text(json.dumps(newer))
    with pytest.raises(
        TableError, match=rf"{record.name}.*newer reeltable \(format {FORMAT_VERSION + 1}\)"
    ):
        read_ledger(store)
