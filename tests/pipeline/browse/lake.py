"""A small lake with tables, made without a run: real files, rows as a run would write them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.sources import list_sources
from pipeline.tables.commit import commit
from pipeline.tables.publish import publish
from pipeline.tables.schema import clips_schema
from pipeline.tables.store import Store
from tests.media_factory import flash_and_click
from tests.pipeline.tables.rows import unit, units

FIRST_DAY, LAST_DAY = "2026-01-30", "2026-01-31"
HOSTILE_NAME = "مرحبا <img src=x onerror=alert(1)> \"q\" & 'p'.webm"
HOSTILE = "<script>alert('x')</script> \"><b>bold</b> \u202eقلب "
ENDLESS = HOSTILE + "many words and " * 270  # more than 4,000 characters
MANY = 30
N_CLIPS, N_VIDEOS = MANY + 9, 7


def make_lake(root: Path) -> tuple[str, dict[str, str]]:
    """The tables' directory, and video ids by name: plain, film, hostile, new, sound, torn, gone."""
    videos, out = root / "videos", root / "tables"
    videos.mkdir(parents=True)
    flash_and_click(videos / "plain.mp4", seconds=12.0)
    flash_and_click(videos / "film.mkv", seconds=8.0)
    flash_and_click(videos / HOSTILE_NAME, seconds=4.0, vcodec="libvpx", acodec="libopus")
    flash_and_click(videos / "new.mp4", seconds=4.0, vcodec="libx265")
    flash_and_click(videos / "sound.m4a", seconds=4.0, vcodec=None)
    (videos / "torn.mp4").write_bytes(b"\0\0\0\x18ftypisom" + b"torn" * 500)
    paths = {
        "plain": videos / "plain.mp4",
        "film": videos / "film.mkv",
        "hostile": videos / HOSTILE_NAME,
        "new": videos / "new.mp4",
        "sound": videos / "sound.m4a",
        "torn": videos / "torn.mp4",
        "gone": videos / "gone.mp4",
    }
    store = Store(str(out))
    add_video(store, paths["plain"], plain_clips())
    asleep = clip(0, "A cat asleep.", [("cat", 0.8, "objects")], near=0.2)
    awake = clip(1, "A cat awake.", [("cat", 0.7, "objects")], near=0.4)
    add_video(store, paths["film"], [asleep, awake])
    heard = clip(0, "Rain heard.", [("Rain", 0.9, "audioset")], has_video=False)
    add_video(store, paths["sound"], [heard], FIRST_DAY)
    add_video(
        store,
        paths["hostile"],
        [clip(0, ENDLESS, [(HOSTILE, 0.5, "objects"), ("dog", 0.3, "actions")])],
    )
    add_video(store, paths["new"], [clip(0, "A new kind of film.", [], near=None)], FIRST_DAY)
    add_video(store, paths["torn"], [clip(0, '=HYPERLINK("http://x")', [("-1+1", 0.9, "objects")])])
    many = [
        clip(i, f"Clip {i} of a file that is gone.", [("bird", 0.5, "objects")]) for i in range(MANY)
    ]
    add_video(store, paths["gone"], many, FIRST_DAY)
    publish(store, LAST_DAY)
    return str(out), {name: video_id_of(path) for name, path in paths.items()}


def plain_clips():
    """Of plain.mp4: a dog, a dog that is surer, and no label at all but speech."""
    return [
        clip(0, "A dog on a lawn.", [("dog", 0.6, "objects"), ("Bark", 0.7, "audioset")], near=0.0),
        clip(1, "A DOG runs; 100% sure.", [("dog", 0.95, "objects")], near=0.1),
        clip(2, "A garden.", [], near=0.3, transcript="Where is the dog?"),
    ]


def clip(index, caption, labels, *, near: float | None = 0.5, **more):
    """Part of a row; `near` is the angle of its embedding, in radians."""
    embedding = None
    if near is not None:
        embedding = np.zeros(384, np.float32)
        embedding[:2] = np.cos(near), np.sin(near)
    return {
        "clip_index": index,
        "start_s": 4.0 * index,
        "end_s": 4.0 * index + 4.0,
        "caption": caption,
        "status": "ok",
        "has_video": True,
        "embedding": None if embedding is None else embedding.tolist(),
        "labels": [
            {"label": name, "score": score, "space": space, "modality": "video"}
            for name, score, space in labels
        ],
    } | more


def add_video(
    store: Store,
    path: Path | str,
    clips: Iterable[dict],
    dt: str = LAST_DAY,
    run_id: str = "r1",
    **more,
) -> None:
    """Commit a file's clips; `more` stands in every row in place of what is."""
    source = list_sources([str(path)]).sources[0]
    about = {"video_id": source.video_id, "uri": source.uri, "run_id": run_id}
    unit_id = f"u{source.video_id}{run_id}"
    rows = [
        dict.fromkeys(clips_schema().names)
        | part
        | {"clip_id": clip_id_of(source.video_id, part["clip_index"]), "unit_id": unit_id}
        | {"result_digest": "d"}
        | about
        | more
        for part in clips
    ]
    done = unit(unit_id, **(about | more), n_clips=len(rows), version=source.version)
    commit(store, pa.Table.from_pylist(rows, schema=clips_schema()), units(done), dt, run_id)


def clip_id_of(video_id: str, index: int) -> str:
    return f"{video_id}-{index}"


def video_id_of(path: Path) -> str:
    return list_sources([str(path)]).sources[0].video_id
