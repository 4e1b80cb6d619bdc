"""A user's manifest: which span of which video has which labels, and which videos are held out.

    uri,start_s,end_s,label,caption
    a.mp4,0,2.5,fight,two men fight in a yard

Spans are laid over the clips that a run would cut, so that what is learned is what will be asked. A clip takes
the labels of a span that covers half of it, or half of which it covers.
"""

from __future__ import annotations

import math
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.records import short_hash
from pipeline.sources import InputError, canonical_uri, manifest_rows, near_manifest
from pipeline.training.learner import NO_TEXT, target_of
from pipeline.training.settings import SpaceConfig, TrainConfig

_COVERED = 0.5


@dataclass(frozen=True)
class Span:
    """A row of the manifest."""

    uri: str
    start_s: float
    end_s: float  # infinite: to the end of the video
    labels: dict[str, tuple[str, ...] | None]  # by vocabulary; None where the cell is empty
    caption: str | None = None
    fold: str | None = None


@dataclass(frozen=True)
class Labelled:
    """The manifest as a whole."""

    spans: tuple[Span, ...]
    classes: dict[str, tuple[str, ...]]  # by vocabulary
    multi: frozenset[str] = frozenset()  # vocabularies of which a clip may have several labels
    captions: tuple[str, ...] = ()  # each once
    by_uri: dict[str, list[Span]] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """Which videos are for what, by URI."""

    train: frozenset[str]
    watched: frozenset[str]  # choose epoch, calibration and floor
    tested: frozenset[str] = frozenset()  # only measured, where the config says which


def read_manifest(config: TrainConfig) -> Labelled:
    """All rows, checked.

    Raises:
        InputError: no readable manifest, a column that it lacks, a time that is no number, a class without
            an example, or a vocabulary of one class.
    """
    suffix = posixpath.splitext(config.manifest)[1].lower()
    if suffix not in (".csv", ".parquet"):
        raise InputError(f"{config.manifest}: expected a .csv or .parquet with a column uri and labels")
    rows = manifest_rows(config.manifest, suffix)
    if not rows:
        raise InputError(f"{config.manifest}: it has no row with a uri")
    _check_columns(rows[0], config)
    spans = tuple(_span(row, config) for row in rows)
    classes = {name: _classes(name, space, spans, config) for name, space in config.spaces.items()}
    captions = tuple(dict.fromkeys(s.caption for s in spans if s.caption))
    by_uri: dict[str, list[Span]] = {}
    for span in spans:
        by_uri.setdefault(span.uri, []).append(span)
    multi = frozenset(name for name, space in config.spaces.items() if space.is_multi)
    return Labelled(spans, classes, multi, captions, by_uri)


def _check_columns(row: Mapping[str, Any], config: TrainConfig) -> None:
    wanted = {f"spaces.{n}.column": space.column or n for n, space in config.spaces.items()}
    wanted |= {key: column for key in ("caption", "fold") if (column := getattr(config, key))}
    for key, column in wanted.items():
        if column not in row:
            there = ", ".join(row)
            raise InputError(
                f"{config.manifest}: {key}: no column {column!r}; the manifest has: {there}"
            )


def _span(row: Mapping[str, Any], config: TrainConfig) -> Span:
    uri = str(row["uri"]).strip()
    if "://" not in uri or uri.startswith("file://"):
        uri = near_manifest(uri.removeprefix("file://"), posixpath.dirname(config.manifest))
    uri = canonical_uri(uri)
    start_s, end_s = _seconds(row, "start_s", uri, 0.0), _seconds(row, "end_s", uri, math.inf)
    if not 0 <= start_s < end_s:
        raise InputError(f"{uri}: nothing from start_s {start_s:g} to end_s {end_s:g}")
    labels = {
        name: _labels(row[space.column or name], space.separator)
        for name, space in config.spaces.items()
    }
    caption = _text(row[config.caption]) if config.caption else None
    return Span(uri, start_s, end_s, labels, caption, _text(row[config.fold]) if config.fold else None)


def _seconds(row: Mapping[str, Any], column: str, uri: str, default: float) -> float:
    value = row.get(column)
    if value in (None, ""):
        return default
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if math.isnan(seconds):
        raise InputError(f"{uri}: {column} is {value!r}; expected seconds")
    return seconds


def _text(value: Any) -> str | None:
    """A cell as text; readers of CSV make numbers and truth values of what looks like them."""
    if value is None:
        return None
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text.strip() or None


def _labels(value: Any, separator: str | None) -> tuple[str, ...] | None:
    if isinstance(value, (list, tuple)):  # a list column of a Parquet file
        return tuple(t for v in value if (t := _text(v)) is not None)
    text = _text(value)
    if text is None:
        return None
    if separator is None:
        return (text,)
    return tuple(part.strip() for part in text.split(separator) if part.strip())


def _classes(
    name: str, space: SpaceConfig, spans: Sequence[Span], config: TrainConfig
) -> tuple[str, ...]:
    """A vocabulary: as the config lists it, else what the rows say, sorted."""
    counts = Counter(label for span in spans for label in span.labels[name] or ())
    where = f"{config.manifest}: spaces.{name}"
    classes = space.classes or tuple(sorted(counts))
    absent = [c for c in classes if not counts[c]]
    if absent:
        raise InputError(f"{where}: no example of {absent[0]!r}; found: {_counted(counts)}")
    unknown = sorted(set(counts) - set(classes))
    if unknown:
        raise InputError(f"{where}: label {unknown[0]!r} is none of classes: {', '.join(classes)}")
    if not space.is_multi and len(classes) < 2:
        found = f"found only {classes[0]!r}" if classes else "found none"
        raise InputError(
            f"{where}: expected two classes or more, as something has to be told apart; {found}"
        )
    if not classes:
        raise InputError(f"{where}: no row has a label")
    foreign = sorted(set(space.background) - set(classes))
    if foreign:
        raise InputError(
            f"{where}: background {foreign[0]!r} is none of its classes: {', '.join(classes)}"
        )
    return classes


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{label} ({n})" for label, n in sorted(counts.items())) or "none"


def split_videos(labelled: Labelled, config: TrainConfig, uris: Iterable[str]) -> Split:
    """Which of `uris`, the videos that could be read, are held out: by the manifest's folds, else by chance.

    By chance each class, the rarest first, gets its share of videos held out and keeps one at least to learn
    from; chance comes from the seed and the video's URI below the folder that all have in common.

    Raises:
        InputError: a class that no video to learn from has, or none that is held out.
    """
    uris = sorted(uris)
    split = _by_fold(labelled, config, uris) if config.fold else _by_chance(labelled, config, uris)
    for name, classes in labelled.classes.items():
        for label in classes:
            has = {u for u in uris if _has(labelled, u, name, label)}
            for part, videos in (("to learn from", split.train), ("held out", split.watched)):
                if not has & videos:
                    told = "fold and held_out_folds" if config.fold else "more videos of it"
                    raise InputError(
                        f"{config.manifest}: spaces.{name}: no video {part} has {label!r} ({len(has)} of the "
                        f"{len(uris)} that could be read have it); expected {told}"
                    )
    return split


def _has(labelled: Labelled, uri: str, space: str, label: str) -> bool:
    return any(label in (span.labels[space] or ()) for span in labelled.by_uri[uri])


def _by_fold(labelled: Labelled, config: TrainConfig, uris: Sequence[str]) -> Split:
    parts: dict[str, set[str]] = {"train": set(), "watched": set(), "tested": set()}
    for uri in uris:
        folds = {span.fold for span in labelled.by_uri[uri]}
        if len(folds) != 1 or None in folds:
            found = ", ".join(sorted(str(fold) for fold in folds))
            raise InputError(
                f"{config.manifest}: {uri}: expected one {config.fold} for all rows of a video, "
                f"found {found}"
            )
        (fold,) = folds
        watched, tested = fold in config.held_out_folds, fold in config.test_folds
        parts["watched" if watched else "tested" if tested else "train"].add(uri)
    return Split(*(frozenset(part) for part in parts.values()))


def _by_chance(labelled: Labelled, config: TrainConfig, uris: Sequence[str]) -> Split:
    folder = posixpath.commonpath(uris) if len(uris) > 1 else ""
    order = sorted(uris, key=lambda u: short_hash(config.loop.seed, u.removeprefix(folder)))
    having = {
        (name, label): [u for u in order if _has(labelled, u, name, label)]
        for name, classes in labelled.classes.items()
        for label in classes
    }
    held: set[str] = set()
    kept: set[str] = set()
    for videos in sorted(having.values(), key=len):
        n_wanted = max(1, round(config.held_out_share * len(videos)))
        free = [u for u in videos if u not in held | kept]
        n_more = n_wanted - len(held & set(videos))
        if len(free) > 1 or kept & set(videos):
            held |= set(free[: max(0, min(n_more, len(free) - (not kept & set(videos))))])
        kept |= set(videos) - held
    return Split(frozenset(set(uris) - held), frozenset(held))


def labels_of(
    labelled: Labelled,
    uri: str,
    start_s: npt.NDArray[np.float64],
    end_s: npt.NDArray[np.float64],
) -> tuple[dict[str, Tensor], Tensor]:
    """What is known of clips [start, end) of a video: targets (C, classes) by vocabulary, captions (C,).

    Where spans of one of several classes compete for a clip, the one that covers most of it has it.
    """
    numbers = {caption: i for i, caption in enumerate(labelled.captions)}
    spans = labelled.by_uri[uri]
    targets = {
        name: torch.full((len(start_s), len(c)), math.nan) for name, c in labelled.classes.items()
    }
    texts = torch.full((len(start_s),), NO_TEXT)
    for i, (start, end) in enumerate(zip(start_s, end_s, strict=True)):
        covering = sorted(((_overlap_s(s, start, end), s) for s in spans), key=lambda pair: -pair[0])
        covering = [
            (overlap, s)
            for overlap, s in covering
            if overlap > 0 and overlap >= _COVERED * min(end - start, s.end_s - s.start_s)
        ]
        for name, classes in labelled.classes.items():
            known = [found for _, s in covering if (found := s.labels[name]) is not None]
            counted = known if name in labelled.multi else known[:1]
            if counted:
                mine = tuple({label for found in counted for label in found})
                targets[name][i] = target_of(mine, classes)
        told = [s.caption for _, s in covering if s.caption]
        if told:
            texts[i] = numbers[told[0]]
    return targets, texts


def _overlap_s(span: Span, start_s: float, end_s: float) -> float:
    return min(span.end_s, end_s) - max(span.start_s, start_s)
