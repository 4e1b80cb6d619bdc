"""What a filter finds, in which order, and what its address says."""

from __future__ import annotations

import pytest

from pipeline.browse.selection import (
    AskedWrongly,
    Selection,
    count_of,
    labels_like,
    rows_of,
    rows_of_ids,
)
from pipeline.browse.similar import nearest
from pipeline.browse.snapshot import Snapshot, Snapshots
from pipeline.tables.publish import publish
from pipeline.tables.store import Store, TableError
from tests.pipeline.browse.lake import (
    FIRST_DAY,
    HOSTILE,
    LAST_DAY,
    MANY,
    N_CLIPS,
    N_VIDEOS,
    add_video,
    clip,
    clip_id_of,
    video_id_of,
)


@pytest.fixture(scope="module")
def snapshot(lake):
    return Snapshot.read(lake.out)


@pytest.fixture
def found(lake, snapshot):
    """(video, index) of the clips that a selection finds."""
    names = {video_id: name for name, video_id in lake.ids.items()}

    def ask(**selection):
        rows = [row for row, _ in rows_of(snapshot, Selection(**selection))]
        clips = snapshot.clips.take(rows).to_pylist() if rows else []
        return [(names[c["video_id"]], c["clip_index"]) for c in clips]

    return ask


def test_a_label_is_found_by_its_name_whatever_the_case_and_the_surest_first(found):
    assert found(label="DOG") == [("plain", 1), ("plain", 0), ("hostile", 0)]


def test_vocabulary_and_score_are_of_the_same_label(found):
    assert found(label="dog", space="objects") == [("plain", 1), ("plain", 0)]
    assert found(label="dog", space="actions", min_score=0.4) == []
    assert found(label="dog", min_score=0.95) == [("plain", 1)]
    assert found(space="audioset") == [("sound", 0), ("plain", 0)]


def test_text_is_looked_for_in_caption_and_speech_and_is_no_pattern(found):
    assert set(found(text="dog")) == {("plain", 0), ("plain", 1), ("plain", 2)}
    assert found(text="100%") == [("plain", 1)]
    assert found(text="%") == [("plain", 1)]
    assert found(text="where is the D") == [("plain", 2)]


@pytest.mark.parametrize("typed", ["'", "'; drop table clips; --", "?", "$1", HOSTILE, "\\", '"', "\0"])
def test_what_is_typed_is_never_sql(snapshot, typed):
    for name in ("label", "space", "text", "video"):
        n, _ = count_of(snapshot, Selection(**{name: typed}))
        assert n < len(snapshot.clips)
    assert count_of(snapshot, Selection()) == (N_CLIPS, N_VIDEOS)


def test_time_is_the_logical_date_and_the_start_in_the_file(found):
    assert {name for name, _ in found(day_from=LAST_DAY)} == {"plain", "film", "hostile", "torn"}
    assert {name for name, _ in found(day_to=FIRST_DAY)} == {"gone", "new", "sound"}
    assert found(video="plain", start_from=4, start_to=8) == [("plain", 1)]


def test_a_video_is_named_by_part_of_its_address_by_all_of_it_or_by_its_id(found, lake):
    for asked in ("FILM", str(lake.videos / "film.mkv"), lake.ids["film"]):
        assert found(video=asked) == [("film", 0), ("film", 1)]


def test_without_labels_the_newest_day_comes_first_then_each_video_from_its_start(found):
    everything = found()
    assert len(everything) == N_CLIPS
    plain = [("plain", i) for i in range(3)]
    assert everything[:7] == [("film", 0), ("film", 1), *plain, ("torn", 0), ("hostile", 0)]
    assert everything[7:] == [*(("gone", i) for i in range(MANY)), ("new", 0), ("sound", 0)]


def test_order_can_be_chosen(found):
    assert found(label="dog", sort="time") == [("plain", 0), ("plain", 1), ("hostile", 0)]
    assert found(sort="score")[:3] == [("plain", 1), ("torn", 0), ("sound", 0)]


def test_a_page_is_a_part_of_the_whole(snapshot):
    everything = rows_of(snapshot, Selection())
    pages = [rows_of(snapshot, Selection(), first=i, most=10) for i in range(0, 40, 10)]
    assert [row for page in pages for row in page] == everything


def test_an_address_says_the_selection_and_is_read_back():
    selection = Selection(
        "dog", "objects", 0.25, "a & b", "x.mp4", FIRST_DAY, LAST_DAY, 3.0, 1e7, "time"
    )
    assert selection.parameters()["start_from"] == "3"
    assert Selection.parse(selection.parameters()) == selection
    assert Selection.parse({"unknown": "1"}).parameters() == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_score", "much"),
        ("min_score", "nan"),
        ("start_from", "inf"),
        ("day_from", "yesterday"),
        ("day_to", "20260131"),
        ("sort", "row; drop table clips"),
    ],
)
def test_what_cannot_be_asked_names_its_field(name, value):
    with pytest.raises(AskedWrongly, match=name):
        Selection.parse({name: value})


def test_a_part_of_a_label_suggests_whole_ones(snapshot):
    assert labels_like(snapshot, "iR") == [("bird", MANY)]
    assert ("dog", 1) in labels_like(snapshot, space="actions")


def test_ticked_clips_come_in_the_order_of_the_page(snapshot, lake):
    ids = [clip_id_of(lake.ids["plain"], i) for i in (2, 0)]
    rows = rows_of_ids(snapshot, [*ids, "unknown"])
    assert snapshot.clips["clip_id"].take(rows).to_pylist() == ids[::-1]


def test_similar_clips_are_those_of_the_smallest_angle(snapshot, lake):
    chosen = snapshot.row_of(clip_id_of(lake.ids["plain"], 0))
    near = nearest(snapshot, chosen, 3)
    ids = [snapshot.clips["clip_id"][row].as_py() for row, _ in near]
    assert ids[:2] == [clip_id_of(lake.ids["plain"], 1), clip_id_of(lake.ids["film"], 0)]
    assert [cosine for _, cosine in near[:2]] == pytest.approx([0.9950, 0.9801], abs=1e-4)
    others = nearest(snapshot, chosen, 100, other_videos=True)
    videos = snapshot.clips["video_id"].take([row for row, _ in others]).to_pylist()
    assert lake.ids["plain"] not in videos
    assert len(videos) == N_CLIPS - 3 - 1  # this video's, and one without embedding


def test_a_clip_without_embedding_has_none_like_it(snapshot, lake):
    assert nearest(snapshot, snapshot.row_of(clip_id_of(lake.ids["new"], 0)), 3) is None


def test_new_rows_are_in_the_next_snapshot(tmp_path):
    store = Store(str(tmp_path / "tables"))
    add_video(store, tmp_path / "a.mp4", [clip(0, "First.", [])])
    publish(store, LAST_DAY)
    snapshots = Snapshots(store.root)
    before = snapshots.refreshed()
    assert snapshots.refreshed() is before
    add_video(store, tmp_path / "b.mp4", [clip(0, "Second.", [])], run_id="r2")
    after = snapshots.refreshed()
    assert (len(before.clips), len(after.clips)) == (1, 2)
    assert (before.last_run, after.last_run) == ("r1", "r2")
    assert before.key != after.key
    assert after.uri_of(video_id_of(tmp_path / "b.mp4")) == str(tmp_path / "b.mp4")


def test_a_directory_without_tables_is_told(tmp_path):
    with pytest.raises(TableError, match="no tables here"):
        Snapshot.read(str(tmp_path))
