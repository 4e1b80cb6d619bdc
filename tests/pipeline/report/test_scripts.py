"""Data files of the page: what a browser reads in them is what the tables hold, and nothing can break out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.facts import read_facts
from pipeline.report.scripts import CLIPS_A_FILE, level_curve, make_scripts, script_json, speech_spans
from pipeline.tables.store import Store
from tests.pipeline.report.lake import make_lake

CALL, END = "reeltable.take(", ");\n"


def taken(script) -> tuple[str, dict]:
    """The kind and value of the call that a file makes."""
    text = script.content.decode()
    assert text.startswith(CALL)
    assert text.endswith(END)
    kind, _, value = text[len(CALL) : -len(END)].partition(",")
    return json.loads(kind), json.loads(value)


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("lake")))
    make_lake(store, 6, 4)
    return read_facts(store.root)


@given(st.text())
def test_no_text_can_end_a_script_or_begin_a_comment(text):
    safe = script_json({"text": text})
    assert not set(safe) & set("<>&\u2028\u2029")
    assert json.loads(safe) == {"text": text}


def test_what_is_no_number_is_null():
    assert script_json([float("nan"), float("inf"), 1.5]) == "[null,null,1.5]"


def test_every_clip_is_there_once_in_order_with_its_own_labels(facts):
    scripts = make_scripts(facts, {f"{facts.clips['clip_id'][2].as_py()}.mp4"})
    (clips,) = [value for kind, value in map(taken, scripts.files) if kind == "clips"]
    assert clips["id"] == facts.clips["clip_id"].to_pylist()
    assert clips["caption"] == facts.clips["caption"].to_pylist()
    assert clips["excerpts"] == [2]
    for row, coded in zip(facts.clips["labels"].to_pylist(), clips["labels"], strict=True):
        told = [
            (*scripts.index["labels"][coded[k]][:2], scripts.index["modalities"][coded[k + 1]])
            for k in range(0, len(coded), 3)
        ]
        assert told == [(label["space"], label["label"], label["modality"]) for label in row]


def test_each_videos_timeline_holds_its_segments_sound_and_speech(facts):
    scripts = make_scripts(facts, ())
    by_kind = [taken(file) for file in scripts.files]
    (videos,) = [value for kind, value in by_kind if kind == "videos"]
    lines = {line["video"]: line for kind, value in by_kind if kind == "timelines" for line in value}
    assert sorted(lines) == list(range(6))
    of_uri = dict(zip(facts.clips["uri"].to_pylist(), facts.clips["video_id"].to_pylist(), strict=True))
    for number, uri in enumerate(videos["uri"]):
        segments = [s for s in facts.segments.to_pylist() if s["video_id"] == of_uri[uri]]
        line = lines[number]
        assert len(line["segments"]) == sum(s["space"] != "shots" for s in segments)
        assert len(line["shots"]) == sum(s["space"] == "shots" for s in segments) > 0
        assert [span[:2] for span in line["sound"]] == [[4.0 * i, 4.0 * i + 4] for i in range(4)]
        mine = [c for c in facts.clips.to_pylist() if c["video_id"] == of_uri[uri]]
        levels = [round(db) for clip in mine for db in clip["sound_level_db"]]
        assert line["level"] == {"step_s": 0.25, "db": levels}


def test_a_long_videos_curve_has_a_bounded_number_of_points_and_keeps_what_is_loudest():
    hour = [(4.0 * i, [-40.0] * 16) for i in range(900) if i != 450]  # a clip without sound
    hour[100] = (400.0, [-40.0] * 7 + [-3.0] + [-40.0] * 8)
    curve = level_curve(hour)
    assert curve["step_s"] * len(curve["db"]) == pytest.approx(3600, abs=curve["step_s"])
    assert len(curve["db"]) <= 480
    assert max(db for db in curve["db"] if db is not None) == -3
    assert curve["db"].index(-3) == int(401.75 / curve["step_s"])


def test_tables_of_older_versions_have_no_curve():
    assert level_curve([(0.0, []), (4.0, [])]) is None


def test_a_large_table_is_paged_and_a_files_name_changes_with_its_content(facts, monkeypatch):
    whole = make_scripts(facts, ())
    assert make_scripts(facts, ()).index == whole.index
    assert len(facts.clips) < CLIPS_A_FILE
    monkeypatch.setattr("pipeline.report.scripts.CLIPS_A_FILE", 10)
    paged = make_scripts(facts, ())
    parts = [value for kind, value in map(taken, paged.files) if kind == "clips"]
    assert [part["first"] for part in parts] == [0, 10, 20]
    assert [clip for part in parts for clip in part["id"]] == facts.clips["clip_id"].to_pylist()
    assert not set(paged.index["clips"]) & set(whole.index["clips"])


def test_a_short_pause_belongs_to_a_stretch_of_speech():
    times = [(0.0, 0.4), (0.7, 1.0), (2.0, 2.5)]
    words = [{"start_s": a, "end_s": b} for a, b in times]
    assert speech_spans(words) == [[0.0, 1.0], [2.0, 2.5]]
