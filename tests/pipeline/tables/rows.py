"""Rows of units and clips for tests of tables: no file was ever read for them."""

from __future__ import annotations

import pyarrow as pa

from pipeline.tables.commit import CommitRecord, commit
from pipeline.tables.schema import UNITS, clips_schema
from pipeline.tables.store import Store

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


def clips(
    *unit_ids, labels=(("dog", 0.9),), video_id="v", start_s=0.0, digest="d", run_id="r", uri="/v.mp4"
):
    rows = []
    for i, unit_id in enumerate(unit_ids):
        row = dict.fromkeys(clips_schema().names)
        row |= {"clip_id": f"c{unit_id}", "unit_id": unit_id, "video_id": video_id, "run_id": run_id}
        row |= {"result_digest": digest, "start_s": start_s + 4.0 * i, "end_s": start_s + 4.0 * i + 4}
        row |= {"uri": uri, "embedding": [0.5] * 384}
        row["labels"] = [
            {"label": name, "score": score, "space": "objects", "modality": "video"}
            for name, score in labels
        ]
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=clips_schema())


def commit_video(
    store: Store, name: str, n_units: int = 1, *, run_id="r", version="1", digest="d", dt=DAY
) -> CommitRecord:
    """A video of `n_units` units of one clip each, done by one write task."""
    about = {"video_id": f"{name}{version}", "uri": f"/{name}.mp4"}
    names = [f"{name}{version}{digest}{i}" for i in range(n_units)]
    rows = [
        unit(u, **about, start_s=60.0 * i, run_id=run_id, result_digest=digest)
        for i, u in enumerate(names)
    ]
    made = [
        clips(u, **about, start_s=60.0 * i, digest=digest, run_id=run_id) for i, u in enumerate(names)
    ]
    return commit(store, pa.concat_tables(made), units(*rows), dt, run_id)
