"""What the page shows of a clip, ready to be set: names, times and numbers as a person reads them."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from pipeline.browse.snapshot import Snapshot

_SHOWN_APART = ("labels", "words", "embedding", "caption", "transcript")
_MOST_CHIPS = 6
_IN_A_NAME = 80  # characters of a text where it names something to a screen reader


@dataclass(frozen=True)
class Label:
    """A label of a clip, whatever the senses that gave it."""

    name: str
    space: str
    score: float  # the surest
    senses: str


@dataclass(frozen=True)
class Card:
    """A clip as the page shows it; every text is as it stands in the table, and escaped by the template."""

    clip_id: str
    uri: str
    file_name: str
    span: str  # 0:04–0:08
    caption: str
    transcript: str
    labels: tuple[Label, ...]
    has_picture: bool
    is_partial: bool
    facts: tuple[tuple[str, str], ...]  # every other column that says something
    cosine: float | None = None

    @property
    def chips(self) -> list[Label]:
        """The surest labels, each name once, whichever vocabularies have it."""
        names: dict[str, Label] = {}
        for label in self.labels:
            names.setdefault(label.name.lower(), label)
        return list(names.values())[:_MOST_CHIPS]

    @property
    def name(self) -> str:
        """Short, for whoever hears it."""
        return f"{shortened(self.file_name)}, {self.span}"


def card_of(row: dict[str, Any], cosine: float | None = None) -> Card:
    facts = ((k, _fact(v)) for k, v in row.items() if k not in _SHOWN_APART and v is not None)
    return Card(
        clip_id=row["clip_id"],
        uri=row["uri"],
        file_name=posixpath.basename(row["uri"].rstrip("/")) or row["uri"],
        span=f"{clock(row['start_s'])}–{clock(row['end_s'])}",
        caption=row["caption"] or "",
        transcript=row["transcript"] or "",
        labels=_labels(row["labels"] or []),
        has_picture=row["has_video"] is not False,
        is_partial=row["status"] == "partial",
        facts=tuple(facts),
        cosine=cosine,
    )


def cards_of(snapshot: Snapshot, found: Sequence[tuple[int, float | None]]) -> list[Card]:
    """Cards of row numbers, each with its cosine where there is one."""
    shown = snapshot.clips.drop_columns(["embedding", "words"])
    rows = shown.take([row for row, _ in found]).to_pylist() if found else []
    return [card_of(row, cosine) for row, (_, cosine) in zip(rows, found, strict=True)]


def clock(seconds: float) -> str:
    """0:04, 0:04.5, 1:02:03: as players write a time, to a tenth of a second."""
    tenths = round(seconds * 10)
    whole, tenth = divmod(tenths, 10)
    minutes, s = divmod(whole, 60)
    hours, m = divmod(minutes, 60)
    told = f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"
    return f"{told}.{tenth}" if tenth else told


def shortened(text: str, most: int = _IN_A_NAME) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def address(parameters: dict[str, Any]) -> str:
    """The page's own address with these parameters, those that are empty left out."""
    given = {name: value for name, value in parameters.items() if value not in (None, "", False)}
    return "/?" + urlencode(given) if given else "/"


def _labels(rows: list[dict[str, Any]]) -> tuple[Label, ...]:
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["label"], row["space"]), []).append(row)
    labels = [
        Label(
            name,
            space,
            max(row["score"] for row in group),
            ", ".join(dict.fromkeys(row["modality"] or "" for row in group)),
        )
        for (name, space), group in grouped.items()
    ]
    return tuple(sorted(labels, key=lambda label: -label.score))


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(_fact(item) for item in value) or "none"
    return str(value)
