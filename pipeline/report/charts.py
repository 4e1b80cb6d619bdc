"""The charts: Vega-Lite specs with their numbers inside, each with a sentence and a table that say the same.

Colours come from the page, which knows whether it is dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.report.facts import Facts
from pipeline.report.quality import SCORE_BINS, Drift
from pipeline.report.summary import FailureGroup, LabelCount, RunRow, SyncRow

_TOP = 12  # bars of a vocabulary
_SPACES = {
    "actions": "What happens (actions)",
    "objects": "What is seen (objects)",
    "audioset": "What is heard (AudioSet)",
    "camera": "What the camera does",
    "imagenet1k": "ImageNet classes",
}
_SYNC_BINS = 25  # an odd number: one is around 0
_SYNC_EDGE = 50.0  # the axis never shows less: what nobody notices looks like nothing
_MAX_RUNS = 12
_BAR = {"type": "bar", "cornerRadiusEnd": 2}
_BY_RUN = {"field": "run", "type": "ordinal", "sort": None, "title": None}


@dataclass(frozen=True)
class Chart:
    """One picture and its text."""

    chart_id: str  # letters, digits and hyphens
    title: str
    says: str  # what is to be seen, for who does not see it
    spec: dict[str, Any]
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...] = field(default=())


def label_charts(counts: Sequence[LabelCount]) -> list[Chart]:
    """One a vocabulary, known ones first."""
    spaces = sorted({c.space for c in counts}, key=lambda s: (_place(s), s))
    return [_labels(i, s, [c for c in counts if c.space == s]) for i, s in enumerate(spaces)]


def _place(space: str) -> int:
    return list(_SPACES).index(space) if space in _SPACES else len(_SPACES)


def _labels(number: int, space: str, counts: Sequence[LabelCount]) -> Chart:
    shown = counts[:_TOP]
    values = [{"label": c.label, "clips": c.n_clips, "score": round(c.mean_score, 3)} for c in shown]
    encoding = {
        "y": {"field": "label", "type": "nominal", "sort": None, "title": None},
        "x": {"field": "clips", "type": "quantitative", "title": "clips", "axis": {"tickMinStep": 1}},
        "tooltip": [
            {"field": "label", "type": "nominal"},
            {"field": "clips", "type": "quantitative"},
            {"field": "score", "type": "quantitative", "title": "mean score"},
        ],
    }
    more = f" {len(counts)} different labels in all." if len(counts) > len(shown) else ""
    says = f"Most frequent: {shown[0].label} in {shown[0].n_clips:,} clips.{more}"
    spec = {"mark": _BAR, "height": {"step": 20}, "encoding": encoding}
    return Chart(
        f"labels-{number}",
        _SPACES.get(space, f"Labels of {space}"),
        says,
        _with(spec, values),
        ("label", "clips", "mean score"),
        tuple((c.label, f"{c.n_clips:,}", f"{c.mean_score:.2f}") for c in shown),
    )


def score_charts(facts: Facts) -> list[Chart]:
    """How sure the top labels and the captions are."""
    return [
        chart
        for name, column, title in (
            ("scores-top", "top_score", "Score of the top label"),
            ("scores-caption", "caption_score", "Score of the caption"),
        )
        if (chart := _scores(name, title, facts.clips[column].drop_null().to_numpy())) is not None
    ]


def _scores(chart_id: str, title: str, scores: np.ndarray[Any, Any]) -> Chart | None:
    if not len(scores):
        return None
    counts, edges = np.histogram(scores, SCORE_BINS, (0, 1))
    says = f"Half of {len(scores):,} lie above {float(np.median(scores)):.2f}."
    return _histogram(chart_id, title, says, counts, edges, "score", "clips")


def sync_charts(rows: Sequence[SyncRow]) -> list[Chart]:
    """Skew, offset and drift over the videos that tell them."""
    asked = (
        ("sync-offset", "Offset by content", "ms", "sound behind picture", [r.offset_ms for r in rows]),
        ("sync-skew", "Skew of the streams' starts", "ms", "sound after picture", [r.skew_ms for r in rows]),
        ("sync-drift", "Drift of the sound's clock", "ppm", "sound slower", [r.drift_ppm for r in rows]),
    )  # fmt: skip
    charts = []
    for chart_id, title, unit, side, values in asked:
        told = np.array([v for v in values if v is not None], np.float64)
        if len(told):
            usual, widest = float(np.median(np.abs(told))), float(np.abs(told).max())
            edge = _round_up(max(_SYNC_EDGE, widest))
            counts, edges = np.histogram(told, _SYNC_BINS, (-edge, edge))
            says = f"Told of {len(told):,} of {len(values):,} videos: half lie within {usual:.1f} {unit} of 0, "
            says += f"the furthest {widest:.1f} {unit} away."
            charts.append(_histogram(chart_id, title, says, counts, edges, f"{unit}, {side}", "videos"))
    return charts


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, … at or above `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def _histogram(
    chart_id: str,
    title: str,
    says: str,
    counts: np.ndarray[Any, Any],
    edges: np.ndarray[Any, Any],
    x: str,
    y: str,
) -> Chart:
    values = [
        {"from": round(float(a), 4), "to": round(float(b), 4), "n": int(n)}
        for n, a, b in zip(counts, edges[:-1], edges[1:], strict=True)
    ]
    encoding = {
        "x": {"field": "from", "type": "quantitative", "title": x, "bin": {"binned": True}},
        "x2": {"field": "to"},
        "y": {"field": "n", "type": "quantitative", "title": y, "axis": {"tickMinStep": 1}},
        "tooltip": [
            {"field": "from", "type": "quantitative"},
            {"field": "to", "type": "quantitative"},
            {"field": "n", "type": "quantitative", "title": y},
        ],
    }
    rows = tuple((f"{v['from']:g} to {v['to']:g}", f"{v['n']:,}") for v in values if v["n"])
    return Chart(
        chart_id, title, says, _with({"mark": "bar", "height": 170, "encoding": encoding}, values), (x, y), rows
    )  # fmt: skip


def failure_chart(groups: Sequence[FailureGroup]) -> list[Chart]:
    if not groups:
        return []
    values = [{"code": g.code, "units": g.n_units, "stage": g.stage} for g in groups]
    encoding = {
        "y": {"field": "code", "type": "nominal", "sort": "-x", "title": None},
        "x": {"field": "units", "type": "quantitative", "title": "units", "axis": {"tickMinStep": 1}},
        "color": {"field": "stage", "type": "nominal"},
        "tooltip": [{"field": n, "type": "nominal"} for n in ("code", "stage", "units")],
    }
    says = f"{sum(g.n_units for g in groups):,} units failed; most often {groups[0].code}."
    rows = tuple((g.code, g.stage, f"{g.n_units:,}") for g in groups)
    spec = {"mark": _BAR, "height": {"step": 22}, "encoding": encoding}
    columns = ("code", "stage", "units")
    return [Chart("failure-codes", "Failed units by code", says, _with(spec, values), columns, rows)]


def run_charts(rows: Sequence[RunRow]) -> list[Chart]:
    """How fast the last runs were against their machine, and where their time went."""
    shown = [row for row in rows[:_MAX_RUNS] if row.rate][::-1]
    if not shown:
        return []
    return [_rates(shown), _stages(shown)]


def _rates(rows: Sequence[RunRow]) -> Chart:
    values = [{"run": _short(r), "rate": r.rate, "limit": r.limit, "bound": r.bound_by} for r in rows]
    x = {"type": "quantitative", "title": "seconds of video a second"}
    tooltip = [
        {"field": "run", "type": "nominal"},
        {"field": "rate", "type": "quantitative", "format": ".2f"},
        {"field": "limit", "type": "quantitative", "format": ".2f", "title": "the machine's limit"},
        {"field": "bound", "type": "nominal", "title": "bound by"},
    ]
    layers: list[dict[str, Any]] = [{"mark": _BAR, "encoding": {"x": x | {"field": "rate"}}}]
    if any(row.limit for row in rows):
        tick = {"type": "tick", "thickness": 3, "style": "limit"}
        where = [{"filter": "isValid(datum.limit)"}]
        layers.append({"mark": tick, "transform": where, "encoding": {"x": x | {"field": "limit"}}})
    spec = {"layer": layers, "height": {"step": 30}, "encoding": {"y": _BY_RUN, "tooltip": tooltip}}
    last = rows[-1]
    says = f"The last run took {last.rate:.1f} s of video a second"
    says += f", {last.used:.0%} of what its {last.bound_by} allow." if last.used else "."
    table = tuple(
        (_short(r), f"{r.rate:.2f}", f"{r.limit:.2f}" if r.limit else "not recorded") for r in rows
    )
    title = "Throughput of runs; the line is the machine's limit"
    columns = ("run", "seconds of video a second", "limit")
    return Chart("runs-rate", title, says, _with(spec, values), columns, table)


def _stages(rows: Sequence[RunRow]) -> Chart:
    values = [
        {"run": _short(r), "stage": stage, "seconds": round(s / r.video_s, 5), "order": i}
        for r in rows
        for i, (stage, s) in enumerate(r.stage_s.items())
    ]
    encoding = {
        "y": _BY_RUN,
        "x": {"field": "seconds", "type": "quantitative", "title": "seconds a second of video"},
        "color": {"field": "stage", "type": "nominal", "sort": list(rows[0].stage_s), "title": None},
        "order": {"field": "order", "type": "quantitative"},
        "tooltip": [
            {"field": "run", "type": "nominal"},
            {"field": "stage", "type": "nominal"},
            {"field": "seconds", "type": "quantitative", "format": ".4f"},
        ],
    }
    last = rows[-1]
    stage, most_s = max(last.stage_s.items(), key=lambda item: item[1])
    says = f"In the last run {stage} took most, {most_s:.1f} s for {last.video_s:.0f} s of video."
    table = tuple((v["run"], v["stage"], f"{v['seconds']:.4f}") for v in values)
    spec = {"mark": "bar", "height": {"step": 30}, "encoding": encoding}
    columns = ("run", "stage", "seconds a second of video")
    return Chart("runs-stages", "Where the time went", says, _with(spec, values), columns, table)


def _short(row: RunRow) -> str:
    """A run by its start; its id where it did not say."""
    return row.started_at or row.run_id


def drift_chart(drift: Drift | None) -> list[Chart]:
    if drift is None:
        return []
    width = 1 / SCORE_BINS
    series = (("newest run", drift.newest), ("run before", drift.before))
    values = [
        {"score": round((i + 0.5) * width, 3), "share": round(float(share), 5), "run": name}
        for name, shares in series
        for i, share in enumerate(shares)
    ]
    encoding = {
        "x": {"field": "score", "type": "quantitative", "title": "score of the top label"},
        "y": {"field": "share", "type": "quantitative", "title": "share of clips", "axis": {"format": "%"}},
        "color": {"field": "run", "type": "nominal", "sort": ["newest run", "run before"], "title": None},
        "strokeDash": {"field": "run", "type": "nominal", "sort": ["newest run", "run before"], "legend": None},
        "tooltip": [
            {"field": "run", "type": "nominal"},
            {"field": "score", "type": "quantitative"},
            {"field": "share", "type": "quantitative", "format": ".1%"},
        ],
    }  # fmt: skip
    mark = {"type": "line", "point": True}
    says = (
        f"PSI {drift.psi:.3f}, KS {drift.ks:.3f} (chance alone stays below {drift.ks_noise:.3f}): run "
    )
    says += (
        f"{drift.newest_run}, {drift.n_newest:,} clips, against {drift.before_run}, {drift.n_before:,}."
    )
    rows = tuple(
        (f"{i * width:.2f} to {(i + 1) * width:.2f}", f"{a:.1%}", f"{b:.1%}")
        for i, (a, b) in enumerate(zip(drift.newest, drift.before, strict=True))
    )
    title = "Top scores of the newest run against the one before"
    spec = _with({"mark": mark, "height": 200, "encoding": encoding}, values)
    return [Chart("score-drift", title, says, spec, ("score", "newest run", "run before"), rows)]


def _with(spec: dict[str, Any], values: list[dict[str, Any]]) -> dict[str, Any]:
    return {"data": {"values": values}, "width": "container"} | spec
