"""Consecutive clips that agree, merged into spans of time."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipeline.tables.schema import SEGMENTS

_TOUCH_S = 1e-6
_SHOT = ("shots", "shot")


def derive_segments(clips: pa.Table) -> pa.Table:
    """Rows of `segments` from rows of `clips` (at least video_id, start_s, end_s, labels, cut_s).

    A segment is a label of a vocabulary over clips that follow each other without a hole; its score
    is the clips' mean, where a label said by several senses counts with its best. Where cuts were looked
    for, each shot is one too, without a score: clips that follow each other up to one that begins at a cut.
    """
    spans: list[dict[str, object]] = []
    columns = clips.select(["video_id", "start_s", "end_s", "labels", "cut_s"])
    rows = columns.sort_by([("video_id", "ascending"), ("start_s", "ascending")]).to_pylist()
    open_spans: dict[tuple[str, str], _Span] = {}
    video_id = ""
    for row in rows:
        if row["video_id"] != video_id:
            spans += [span.row(video_id) for span in open_spans.values()]
            open_spans, video_id = {}, row["video_id"]
        for key, score in _said(row).items():
            span = open_spans.get(key)
            touches = span is not None and row["start_s"] <= span.end_s + _TOUCH_S
            if span is not None and touches and not (key == _SHOT and row["cut_s"]):
                span.extend(row["end_s"], score)
                continue
            if span is not None:
                spans.append(span.row(video_id))
            open_spans[key] = _Span(key, row["start_s"], row["end_s"], [score])
    spans += [span.row(video_id) for span in open_spans.values()]
    table = pa.Table.from_pylist(spans, schema=SEGMENTS)
    return table.sort_by([("video_id", "ascending"), ("start_s", "ascending"), ("label", "ascending")])


def _said(row: dict[str, Any]) -> dict[tuple[str, str], float | None]:
    """What a clip says, by vocabulary and label, with its best score."""
    best: dict[tuple[str, str], float | None] = {}
    for label in row["labels"]:
        key = (label["space"], label["label"])
        best[key] = max(best.get(key) or 0.0, label["score"])
    return best if row["cut_s"] is None else best | {_SHOT: None}


class _Span:
    """A segment that may still grow."""

    def __init__(
        self, key: tuple[str, str], start_s: float, end_s: float, scores: list[float | None]
    ) -> None:
        self.key, self.start_s, self.end_s, self.scores = key, start_s, end_s, scores

    def extend(self, end_s: float, score: float | None) -> None:
        self.end_s = max(self.end_s, end_s)
        self.scores.append(score)

    def row(self, video_id: str) -> dict[str, object]:
        space, label = self.key
        scores = [score for score in self.scores if score is not None]
        return {
            "video_id": video_id,
            "label": label,
            "space": space,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "score": sum(scores) / len(scores) if scores else None,
        }
