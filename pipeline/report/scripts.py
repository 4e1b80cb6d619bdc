"""Clips and timelines as scripts: a page from disk may not fetch, but it may load scripts beside it.

Each file is one call, `reeltable.take(KIND, VALUE)`, whose value is JSON. Its name carries a sum of its
content, so that a page never meets another page's data, whatever was cached or is being written.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.media.levels import STEP_S
from pipeline.report.facts import Facts

CLIPS_A_FILE = 5_000
_VIDEOS_A_FILE = 10_000
_ROWS_A_TIMELINE_FILE = 4_000
_MAX_TEXT = 5_000
_MOST_LEVELS = 480  # points of a video's curve
_PAUSE_S = 0.6  # between words of one stretch of speech
_MODALITIES = ("video", "audio", "fused")
# What could end a script, begin a comment in it, or end a line in an older reader of JavaScript.
_UNSAFE = {c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def script_json(value: Any) -> str:
    """JSON that can stand in a script, inside HTML or beside it; what is no number is null."""
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escaped in _UNSAFE.items():
        text = text.replace(character, escaped)
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


@dataclass(frozen=True)
class Script:
    """A file below `data/`."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Scripts:
    """All data files, and the index that the page holds of them."""

    files: tuple[Script, ...]
    index: dict[str, Any]


def make_scripts(facts: Facts, media: Collection[str]) -> Scripts:
    """The clips and timelines of an output.

    Args:
        media: names of the previews that are there, `<clip_id>.jpg` and `<clip_id>.mp4`.
    """
    clips = facts.clips
    video_ids = list(dict.fromkeys(clips["video_id"].to_pylist()))  # in the order of their clips
    place = {video_id: i for i, video_id in enumerate(video_ids)}
    labels, coded = _coded_labels(clips["labels"])
    timelines, timeline_of = _timelines(
        facts, place, {tuple(pair[:2]): i for i, pair in enumerate(labels)}
    )
    videos = list(_videos(facts, video_ids, timeline_of))
    rows = list(_clips(clips, place, coded, set(media)))
    index = {
        "n_clips": len(clips),
        "n_videos": len(video_ids),
        "labels": labels,
        "modalities": _MODALITIES,
        "videos": [file.name for file in videos],
        "clips": [file.name for file in rows],
        "timelines": [file.name for file in timelines],
    }
    return Scripts((*videos, *rows, *timelines), index)


def _script(kind: str, value: Any) -> Script:
    content = f"reeltable.take({json.dumps(kind)},{script_json(value)});\n".encode()
    return Script(f"{kind}-{hashlib.blake2b(content, digest_size=8).hexdigest()}.js", content)


def _coded_labels(column: pa.ChunkedArray) -> tuple[list[list[Any]], list[list[int]]]:
    """Each different label as [space, label, clips], the most frequent first; and each clip's labels as
    label, modality, score in thousandths, one after the other."""
    lists = pc.fill_null(pc.list_value_length(column), 0).to_pylist()
    flat = pc.list_flatten(column).combine_chunks()
    if not len(flat):
        return [], [[] for _ in lists]
    names = list(zip(*(flat.field(f).to_pylist() for f in ("space", "label")), strict=True))
    counts = Counter(names)
    order = sorted(counts, key=lambda name: (-counts[name], name))
    code = {name: i for i, name in enumerate(order)}
    senses = [
        _MODALITIES.index(m) if m in _MODALITIES else 2 for m in flat.field("modality").to_pylist()
    ]
    scores = pc.fill_null(flat.field("score"), 0.0).to_pylist()
    coded, at = [], 0
    for n in lists:
        clip: list[int] = []
        for i in range(at, at + n):
            clip += (code[names[i]], senses[i], round(scores[i] * 1000))
        coded.append(clip)
        at += n
    return [[space, label, counts[space, label]] for space, label in order], coded


def _clips(
    clips: pa.Table, place: dict[str, int], labels: list[list[int]], media: set[str]
) -> Iterator[Script]:
    """The clips in files of some thousand, as columns; what is mostly absent by row number."""
    for first in range(0, len(clips), CLIPS_A_FILE):
        part = clips.slice(first, CLIPS_A_FILE)
        column = {name: part[name].to_pylist() for name in _PLAIN}
        stills = [i for i, c in enumerate(column["clip_id"]) if f"{c}.jpg" in media]
        excerpts = [i for i, c in enumerate(column["clip_id"]) if f"{c}.mp4" in media]
        value = {
            "first": first,
            "id": column["clip_id"],
            "video": [place[v] for v in column["video_id"]],
            "start": [round(s, 3) for s in column["start_s"]],
            "end": [round(s, 3) for s in column["end_s"]],
            "top": [_clipped(text) for text in column["top_label"]],
            "score": [_rounded(s) for s in column["top_score"]],
            "caption": [_clipped(text) for text in column["caption"]],
            "cscore": [_rounded(s) for s in column["caption_score"]],
            "sound": [_rounded(s) for s in column["audio_coverage"]],
            "labels": labels[first : first + CLIPS_A_FILE],
            "partial": [i for i, s in enumerate(column["status"]) if s == "partial"],
            "said": {i: _clipped(text) for i, text in enumerate(column["transcript"]) if text},
            "problem": {i: _clipped(text) for i, text in enumerate(column["caption_problem"]) if text},
            "stills": stills,
            "excerpts": excerpts,
        }
        yield _script("clips", value)


_PLAIN = (
    "clip_id",
    "video_id",
    "start_s",
    "end_s",
    "top_label",
    "top_score",
    "caption",
    "caption_score",
    "audio_coverage",
    "status",
    "transcript",
    "caption_problem",
)


def _videos(facts: Facts, video_ids: Sequence[str], timeline_of: dict[str, int]) -> Iterator[Script]:
    known = {row["video_id"]: row for row in facts.videos.select(_VIDEO_COLUMNS).to_pylist()}
    uris = dict(zip(facts.clips["video_id"].to_pylist(), facts.clips["uri"].to_pylist(), strict=True))
    for first in range(0, len(video_ids), _VIDEOS_A_FILE):
        part = video_ids[first : first + _VIDEOS_A_FILE]
        rows = [known.get(video_id, {}) for video_id in part]
        value = {
            "first": first,
            "uri": [_clipped(uris[video_id]) for video_id in part],
            "seconds": [_rounded(row.get("duration_s")) for row in rows],
            "status": [row.get("status") for row in rows],
            "facts": [_facts_line(row) for row in rows],
            "timeline": [timeline_of[video_id] for video_id in part],
        }
        yield _script("videos", value)


_VIDEO_COLUMNS = [
    "video_id",
    "status",
    "duration_s",
    "width",
    "height",
    "fps",
    "is_vfr",
    "video_codec",
    "audio_codec",
]


def _facts_line(row: dict[str, Any]) -> str:
    """A video's streams in a few words."""
    parts = []
    if row.get("width"):
        rate = f", {row['fps']:.4g} frames a second" if row.get("fps") else ""
        uneven = " (variable)" if row.get("is_vfr") else ""
        parts.append(f"{row['video_codec']} {row['width']}×{row['height']}{rate}{uneven}")
    parts.append(f"sound {row['audio_codec']}" if row.get("audio_codec") else "no sound")
    return "; ".join(parts)


def _timelines(
    facts: Facts, place: dict[str, int], label_code: dict[tuple[Any, ...], int]
) -> tuple[list[Script], dict[str, int]]:
    """Timelines of videos, several to a file, and in which file each video's is."""
    values: dict[str, dict[str, Any]] = {
        video_id: {
            "video": i,
            "segments": [],
            "shots": [],
            "sound": [],
            "level": None,
            "speech": [],
            "damaged": [],
        }
        for video_id, i in place.items()
    }
    for row in facts.segments.to_pylist():
        value = values.get(row["video_id"])
        if value is None:
            continue
        span = [round(row["start_s"], 3), round(row["end_s"], 3)]
        code = label_code.get((row["space"], row["label"]))
        if row["space"] == "shots":
            value["shots"].append(span)
        elif code is not None:
            value["segments"].append([code, *span, _rounded(row["score"])])
    levels: dict[str, list[tuple[float, list[float | None]]]] = {}
    for video_id, start, end, coverage, words, of_clip in zip(
        *(facts.clips[name].to_pylist() for name in _TIMELINE_COLUMNS), strict=True
    ):
        value = values[video_id]
        if coverage:
            value["sound"].append([round(start, 3), round(end, 3), _rounded(coverage)])
            levels.setdefault(video_id, []).append((start, of_clip or []))
        value["speech"] += speech_spans(words or [])
    for video_id, of_clips in levels.items():
        values[video_id]["level"] = level_curve(of_clips)
    for row in facts.videos.select(["video_id", "damaged_s"]).to_pylist():
        if row["video_id"] in values:
            spans = [[round(s["start_s"], 3), round(s["end_s"], 3)] for s in row["damaged_s"] or ()]
            values[row["video_id"]]["damaged"] = spans
    return _packed(values)


_TIMELINE_COLUMNS = ("video_id", "start_s", "end_s", "audio_coverage", "words", "sound_level_db")


def _packed(values: dict[str, dict[str, Any]]) -> tuple[list[Script], dict[str, int]]:
    files: list[Script] = []
    where: dict[str, int] = {}
    held: list[dict[str, Any]] = []
    n_rows = 0
    for video_id, value in values.items():
        where[video_id] = len(files)
        held.append(value)
        n_rows += 1 + len(value["segments"]) + len(value["sound"])
        if n_rows >= _ROWS_A_TIMELINE_FILE:
            files.append(_script("timelines", held))
            held, n_rows = [], 0
    if held:
        files.append(_script("timelines", held))
    return files, where


def level_curve(of_clips: Sequence[tuple[float, list[float | None]]]) -> dict[str, Any] | None:
    """How loud a video is over its time: the loudest of each of at most `_MOST_LEVELS` equal steps, null where
    there is no sound; None where no level is known, as in tables of older versions.

    Args:
        of_clips: where each clip with sound starts, and its levels, one a `STEP_S`.
    """
    end_s = max((start + len(db) * STEP_S for start, db in of_clips if db), default=0.0)
    if not end_s:
        return None
    step_s = STEP_S * math.ceil(end_s / STEP_S / _MOST_LEVELS)
    loudest: list[int | None] = [None] * math.ceil(end_s / step_s)
    for start, levels in of_clips:
        for k, db in enumerate(levels):
            at = min(len(loudest) - 1, int((start + (k + 0.5) * STEP_S) / step_s))
            before = loudest[at]
            if db is not None and (before is None or db > before):
                loudest[at] = round(db)
    return {"step_s": step_s, "db": loudest}


def speech_spans(words: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Stretches of speech, from words with their times in order; a short pause belongs to one."""
    spans: list[list[float]] = []
    for word in words:
        if spans and word["start_s"] - spans[-1][1] < _PAUSE_S:
            spans[-1][1] = max(spans[-1][1], round(word["end_s"], 3))
        else:
            spans.append([round(word["start_s"], 3), round(word["end_s"], 3)])
    return spans


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 3)


def _clipped(text: str | None) -> str | None:
    """Texts as they are; a monstrous one is cut, with a sign."""
    return text if text is None or len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
