"""Tables of any size with everything that a report tells, written without Ray and without a file read."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.media.levels import STEP_S
from pipeline.records import short_hash
from pipeline.tables.commit import commit
from pipeline.tables.publish import publish
from pipeline.tables.schema import UNITS, clips_schema
from pipeline.tables.store import Store

DAY = "2026-01-31"
RUNS = ("20260130T020000Z-aaaaaa", "20260131T020000Z-bbbbbb")
OBJECTS = (
    "dog",
    "bicycle",
    "person",
    "frying pan",
    "barbell",
    "car",
    "mountain",
    "bird",
    "bed",
    "web page",
)
SOUNDS = ("Speech", "Music", "Dog", "Engine", "Silence")
ACTIONS = ("training dog", "riding a bike", "cooking egg", "deadlifting", "driving car")
CLIP_S = 4.0


def make_lake(
    store: Store,
    n_videos: int,
    clips_a_video: int,
    *,
    uris: dict[int, str] | None = None,
    texts: dict[int, dict[str, Any]] | None = None,
    failures: dict[str, str] | None = None,
    seed: int = 0,
) -> None:
    """Two runs that did a half of the videos each, published.

    Args:
        uris: of some videos, by their number.
        texts: columns of some clips, by their number over all videos.
        failures: code → message of a video that failed in the second run.
    """
    rng = np.random.default_rng(seed)
    half = n_videos // 2
    for run, numbers in zip(RUNS, (range(half), range(half, n_videos)), strict=True):
        videos = [_video(n, (uris or {}).get(n), run, clips_a_video, rng) for n in numbers]
        failed = failures or {}
        units = [*videos, *(_failed(*item, run) for item in failed.items() if run == RUNS[1])]
        if units:
            clips = _clips(videos, clips_a_video, texts or {}, run, rng)
            commit(store, clips, pa.Table.from_pylist(units, schema=UNITS), DAY, run)
            _record(store, run, len(videos) * clips_a_video, len(failed))
    publish(store, DAY)


def _video(number: int, uri: str | None, run: str, n_clips: int, rng: Any) -> dict[str, Any]:
    uri = uri or f"/lake/camera{number % 40}/video_{number:06d}.mp4"
    row: dict[str, Any] = dict.fromkeys(UNITS.names)
    row |= {"unit_id": short_hash("u", number), "video_id": short_hash("v", number), "uri": uri}
    row |= {"number": number, "start_s": 0.0, "attempt": 1, "state": "done", "status": "ok"}
    row |= {"n_clips": n_clips, "attributes": "{}", "container": "mov,mp4", "video_codec": "h264"}
    row |= {"width": 1280, "height": 720, "fps": 25.0, "is_vfr": number % 9 == 8, "audio_codec": "aac"}
    row |= {"duration_s": n_clips * CLIP_S, "gap_s": 0.0, "n_decode_errors": 0, "run_id": run}
    row |= {"av_skew_ms": float(rng.normal(0, 12)), "drift_ppm": float(rng.normal(0, 15))}
    row |= {"bundle": "embedded", "result_digest": "d"}
    if number % 7 == 3:
        row |= {"sync_offset_ms": float(rng.normal(0, 60)), "sync_confidence": 0.9}
    if number % 50 == 5:
        row |= {
            "status": "partial",
            "n_decode_errors": 4,
            "damaged_s": [{"start_s": 1.0, "end_s": 2.5}],
        }
    return row


def _failed(code: str, message: str, run: str) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(UNITS.names)
    row |= {
        "unit_id": short_hash("f", code),
        "video_id": short_hash("fv", code),
        "uri": f"/bad/{code}.mp4",
    }
    row |= {
        "start_s": 0.0,
        "attempt": 1,
        "state": "failed",
        "n_clips": 0,
        "stage": "probe",
        "code": code,
    }
    return row | {"message": message, "attributes": "{}", "run_id": run, "result_digest": "d"}


def _clips(
    videos: list[dict[str, Any]], a_video: int, texts: dict[int, dict[str, Any]], run: str, rng: Any
) -> pa.Table:
    rows = [
        _clip(video, i, run, rng) | texts.get(video["number"] * a_video + i, {})
        for video in videos
        for i in range(a_video)
    ]
    vectors = rng.normal(size=(len(rows), 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    schema = clips_schema()
    columns = {
        f.name: pa.array([row.get(f.name) for row in rows], f.type)
        for f in schema
        if f.name != "embedding"
    }
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), 384)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _levels(rng: Any) -> list[float]:
    return [round(float(db), 2) for db in rng.uniform(-50, -10, int(CLIP_S / STEP_S))]


def _clip(video: dict[str, Any], i: int, run: str, rng: Any) -> dict[str, Any]:
    thing, sound, deed = (int(rng.integers(len(names))) for names in (OBJECTS, SOUNDS, ACTIONS))
    # The second run's scores lie higher: there is a drift to see.
    score = float(np.clip(rng.beta(5, 3) + (0.15 if run == RUNS[1] else 0.0), 0, 1))
    labels = [(ACTIONS[deed], 0.5, "actions", "fused"), (OBJECTS[thing], score, "objects", "video")]
    labels.append((SOUNDS[sound], 0.7, "audioset", "audio"))
    start_s = i * CLIP_S
    row = {"clip_id": short_hash(video["unit_id"], start_s), "video_id": video["video_id"]}
    row |= {"unit_id": video["unit_id"], "uri": video["uri"], "clip_index": i, "start_s": start_s}
    row |= {"end_s": start_s + CLIP_S, "n_frames": 8, "frame_error_ms": 20.0, "is_padded": False}
    row |= {"status": video["status"], "cut_s": [start_s] if i % 3 == 0 else [], "has_video": True}
    row |= {
        "has_audio": True,
        "audio_coverage": 1.0,
        "av_skew_ms": 0.0,
        "sound_level_db": _levels(rng),
        "caption_score": score,
    }
    row["labels"] = [dict(zip(("label", "score", "space", "modality"), x, strict=True)) for x in labels]
    row |= {"top_label": OBJECTS[thing], "top_score": score, "run_id": run, "bundle": "embedded"}
    row |= {
        "caption": f"A {OBJECTS[thing]} in view, perhaps {ACTIONS[deed]}; {SOUNDS[sound].lower()} heard."
    }
    if SOUNDS[sound] == "Speech":
        words = [("well", 0.4), ("done", 0.9), ("everyone", 2.2)]
        row["words"] = [
            {"word": w, "start_s": start_s + t, "end_s": start_s + t + 0.4, "score": 0.9}
            for w, t in words
        ]
        row["transcript"] = "well done everyone"
    return row | {"bundle_digest": "b", "result_digest": "d"}


def _record(store: Store, run: str, n_clips: int, n_failed: int) -> None:
    at = f"{run[:4]}-{run[4:6]}-{run[6:8]}T{run[9:11]}:{run[11:13]}:00+00:00"
    video_s = n_clips * CLIP_S
    record = {"run_id": run, "dt": DAY, "state": "succeeded", "n_clips": n_clips, "n_failed": n_failed}
    record |= {"wall_s": video_s / 20, "video_s": video_s, "plan_s": 2.0, "start_s": 18.0}
    record |= {"decode_s": video_s * 0.06, "encode_s": video_s * 0.07, "commit_s": 0.5, "n_cpus": 4.0}
    record |= {"bundle": "embedded", "started_at": at, "config": {"bundle": "embedded", "run": {}}}
    store.write(f"_runs/{run}.json", json.dumps(record).encode())
