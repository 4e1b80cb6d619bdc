"""The model that made the rows: what it is made of, its licences, what was measured of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.bundles.spec import BundleError, BundleSpec, find_bundle
from pipeline.report.facts import Facts


@dataclass(frozen=True)
class PartRow:
    """One model of a bundle."""

    role: str
    kind: str
    source: str
    licence: str


@dataclass(frozen=True)
class Card:
    """A bundle as the page shows it."""

    name: str
    n_clips: int
    problem: str = ""  # why less is told than could be
    version: int | None = None
    summary: str = ""
    parts: tuple[PartRow, ...] = ()
    spaces: tuple[tuple[str, float, str], ...] = ()  # vocabulary, floor, on what it was calibrated
    measured: tuple[tuple[str, str], ...] = ()


def cards(facts: Facts) -> list[Card]:
    """A card a bundle, of those that made the clips; the one with most clips first."""
    counts: dict[str, int] = {}
    digests: dict[str, set[str]] = {}
    grouped = facts.clips.group_by(["bundle", "bundle_digest"]).aggregate([("clip_id", "count")])
    for row in grouped.to_pylist():
        name = row["bundle"] or ""
        counts[name] = counts.get(name, 0) + row["clip_id_count"]
        digests.setdefault(name, set()).add(row["bundle_digest"] or "")
    order = sorted(counts, key=lambda name: (-counts[name], name))
    return [_card(name, counts[name], digests[name], facts.runs) for name in order]


def _card(name: str, n_clips: int, digests: set[str], runs: Sequence[dict[str, Any]]) -> Card:
    try:
        spec = find_bundle(_place(name, runs))
    except BundleError as e:
        return Card(name, n_clips, f"This bundle is not on the machine that made the page: {e}")
    return Card(
        name,
        n_clips,
        _difference(spec, digests),
        spec.version,
        spec.summary,
        tuple(_parts(spec)),
        tuple((space, s.floor, s.calibration) for space, s in spec.spaces.items()),
        tuple(spec.measured.items()),
    )


def _place(name: str, runs: Sequence[dict[str, Any]]) -> str:
    """Where the last run with this bundle found it: its name, or a directory of one's own."""
    for run in reversed(runs):
        if run.get("bundle") == name:
            return str((run.get("config") or {}).get("bundle") or name)
    return name


def _difference(spec: BundleSpec, digests: set[str]) -> str:
    try:
        here = spec.digest()
    except BundleError:
        return ""  # its weights are elsewhere; what the file says of it still holds
    if digests == {here}:
        return ""
    return "Some rows were made by another state of this bundle than the one described here."


def _parts(spec: BundleSpec) -> list[PartRow]:
    roles = ("text", "video", "audio", "motion", "captions", "speech", "scene")
    found = [(role, getattr(spec, role)) for role in roles]
    found += [("learned", part) for part in spec.learned]
    return [
        PartRow(role, getattr(part, "kind", "network"), part.source, part.licence)
        for role, part in found
        if part is not None
    ]
