"""Which clips are asked for, as the page's address says it, and the rows that these are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from typing import Any

from pipeline.browse.snapshot import Snapshot

MOST_SUGGESTED = 400
SORTS = ("time", "score")


class AskedWrongly(ValueError):  # noqa: N818 - it is told to a person as it is
    """An address that asks for what cannot be; the message names the field and what was expected."""


@dataclass(frozen=True)
class Selection:
    """What is filtered by; empty or None where nothing is."""

    label: str = ""
    space: str = ""
    min_score: float | None = None
    text: str = ""  # in the caption or in what is said
    video: str = ""  # a part of its address, or its id
    day_from: str = ""  # logical dates, both included
    day_to: str = ""
    start_from: float | None = None  # seconds of the clip's start: from, and before
    start_to: float | None = None
    sort: str = ""  # "time", "score"; else by score where labels are asked for

    @classmethod
    def parse(cls, asked: Mapping[str, str]) -> Selection:
        """Read an address's parameters; those of others are left alone.

        Raises:
            AskedWrongly: a number, day or order that is none.
        """
        given = {f.name: asked.get(f.name, "").strip() for f in fields(cls)}
        numbers: dict[str, Any] = {
            name: _number(name, given[name]) for name in ("min_score", "start_from", "start_to")
        }
        for name in ("day_from", "day_to"):
            _check_day(name, given[name])
        if given["sort"] not in ("", *SORTS):
            raise AskedWrongly(f"sort {given['sort']!r}: expected one of {', '.join(SORTS)}")
        return cls(**(given | numbers))

    def parameters(self) -> dict[str, str]:
        """The address's parameters that `parse` reads back."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: _plain(value) if isinstance(value, float) else value
            for name, value in values.items()
            if value not in ("", None)
        }

    @property
    def asks_labels(self) -> bool:
        return bool(self.label or self.space or self.min_score is not None)

    @property
    def order(self) -> str:
        return self.sort or ("score" if self.asks_labels else "time")


def rows_of(
    snapshot: Snapshot, selection: Selection, *, first: int = 0, most: int | None = None
) -> list[tuple[int, float | None]]:
    """Row numbers in order, each with the score of the surest label that was asked for.

    Args:
        first, most: a page of them; default all.
    """
    matching, parameters = _matching(selection)
    by_score = "score desc nulls last, " if selection.order == "score" else ""
    found = snapshot.ask(
        f"select row, score from ({matching}) order by {by_score}row limit ? offset ?",
        [*parameters, most if most is not None else len(snapshot.clips), first],
    )
    return [(int(row), None if score is None else float(score)) for row, score in found]


def count_of(snapshot: Snapshot, selection: Selection) -> tuple[int, int]:
    """How many clips, of how many videos."""
    matching, parameters = _matching(selection)
    (found,) = snapshot.ask(f"select count(*), count(distinct video_id) from ({matching})", parameters)
    return int(found[0]), int(found[1])


def rows_of_ids(snapshot: Snapshot, clip_ids: Sequence[str]) -> list[int]:
    """Row numbers of those that are there, in the order of the page."""
    asked = "select row from clips where clip_id in (select unnest(?::varchar[])) order by row"
    return [int(row) for (row,) in snapshot.ask(asked, [list(clip_ids)])]


def labels_like(snapshot: Snapshot, label: str = "", space: str = "") -> list[tuple[str, int]]:
    """Labels that contain `label`, and in how many clips they are; the most frequent first."""
    found = snapshot.ask(
        """select label, count(distinct row) as n from labels
        where contains(folded, lower(?)) and (? = '' or space = ?)
        group by label order by n desc, label limit ?""",
        [label, space, space, MOST_SUGGESTED],
    )
    return [(str(name), int(n)) for name, n in found]


def video_names(snapshot: Snapshot) -> list[str]:
    """File names of the videos, for a person to choose from."""
    named = "select distinct split_part(uri, '/', -1) as name from clips order by name limit ?"
    return [str(name) for (name,) in snapshot.ask(named, [MOST_SUGGESTED])]


def days(snapshot: Snapshot) -> tuple[str, str] | None:
    """The first and the last logical date; None where there is no clip."""
    ((first, last),) = snapshot.ask("select min(dt), max(dt) from clips")
    return None if first is None else (str(first), str(last))


def _matching(selection: Selection) -> tuple[str, list[Any]]:
    """SQL for `row, video_id, score` of the clips selected; what was typed is only ever a parameter."""
    of_labels, parameters = _conditions(
        ("folded = lower(?)", selection.label),
        ("space = ?", selection.space),
        ("score >= ?::float", selection.min_score),
    )
    of_clips, more = _conditions(
        ("contains(folded_text, lower(?))", selection.text),
        ("? in (video_id, uri) or contains(folded_uri, lower(?))", selection.video),
        ("dt >= ?", selection.day_from),
        ("dt <= ?", selection.day_to),
        ("start_s >= ?", selection.start_from),
        ("start_s < ?", selection.start_to),
    )
    # A clip without labels is there as long as nothing is asked of labels.
    join = "join" if selection.asks_labels else "left join"
    surest = f"select row, max(score) as score from labels where {of_labels} group by row"
    matching = f"select row, video_id, score from clips {join} ({surest}) using (row) where {of_clips}"
    return matching, [*parameters, *more]


def _conditions(*conditions: tuple[str, Any]) -> tuple[str, list[Any]]:
    """SQL of those that have a value, and the values, one a question mark."""
    asked = [(sql, value) for sql, value in conditions if value not in ("", None)]
    parameters = [value for sql, value in asked for _ in range(sql.count("?"))]
    return " and ".join(["true", *(f"({sql})" for sql, _ in asked)]), parameters


def _number(name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise AskedWrongly(f"{name} {text[:40]!r}: expected a number, such as 0.5")
    return value


def _check_day(name: str, text: str) -> None:
    try:
        if text and date.fromisoformat(text).isoformat() != text:
            raise ValueError
    except ValueError:
        raise AskedWrongly(f"{name} {text[:40]!r}: expected a day, such as 2026-01-31") from None


def _plain(value: float) -> str:
    return str(int(value)) if value.is_integer() else str(value)
