"""Previews are few, made once, and gone with their clips."""

from __future__ import annotations

import pytest

from pipeline.media.preview import Previewer
from pipeline.report.facts import read_facts
from pipeline.report.previews import MEDIA, choose, make_previews, of_clips, there
from pipeline.tables.maintain import forget
from pipeline.tables.store import Store
from tests.media_factory import flash_and_click
from tests.pipeline.report.lake import DAY, make_lake


@pytest.fixture(scope="module")
def previewer():
    with Previewer() as made:
        yield made


@pytest.fixture
def lake(tmp_path):
    """An output of which one video's file is there, and one's is damaged."""
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(b"no video")
    uris = {0: str(flash_and_click(tmp_path / "film.mp4", seconds=8)), 1: str(torn)}
    store = Store(str(tmp_path / "out"))
    make_lake(store, 4, 2, uris=uris)
    return store, str(uris[0])


def test_every_videos_surest_clip_is_chosen_before_any_second(lake):
    clips = read_facts(lake[0].root).clips
    for n in (1, 3, 4, 6):
        chosen = choose(clips, n)
        assert len(chosen) == n
        assert len({clip.uri for clip in chosen}) == min(n, 4)
    assert choose(clips, 3) == choose(clips, 6)[:3]
    surest = {row["uri"]: row for row in sorted(clips.to_pylist(), key=lambda r: r["top_score"])}
    assert {c.clip_id for c in choose(clips, 4)} == {row["clip_id"] for row in surest.values()}


def test_what_cannot_be_read_costs_its_own_previews_and_a_second_time_nothing_is_made(lake, previewer):
    store, _ = lake
    chosen = choose(read_facts(store.root).clips, 100)
    first = make_previews(store, chosen, previewer)
    assert (first.n_made, first.n_kept) == (4, 0)
    assert dict(first.failed) == {"not_media": 4, "not_found": 8}
    assert "12 previews could not be made" in first.says
    assert there(store) == first.names
    again = make_previews(store, chosen, previewer)
    assert (again.n_made, again.n_kept, again.names) == (0, 4, first.names)


def test_previews_of_clips_no_longer_chosen_or_there_go(lake, previewer):
    store, uri = lake
    clips = read_facts(store.root).clips
    make_previews(store, [c for c in choose(clips, 100) if c.uri == uri], previewer)
    assert len(there(store)) == 4
    kept = make_previews(store, [c for c in choose(clips, 100) if c.uri == uri][:1], previewer)
    assert there(store) == kept.names
    assert len(kept.names) == 2
    others = clips.filter([u != uri for u in clips["uri"].to_pylist()])
    assert of_clips(store, others).names == frozenset()
    assert store.names(MEDIA) == []


def test_a_video_that_is_forgotten_is_gone_from_the_report(lake, previewer):
    store, uri = lake
    make_previews(store, choose(read_facts(store.root).clips, 100), previewer)
    store.write("report/index.html", b"<p>a caption</p>")
    forget(store, [uri], DAY)
    assert store.names("report") == []
