"""The page and its files, written so that who opens it meanwhile sees the old page or the new one."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline import __version__
from pipeline.config import ConfigError
from pipeline.report import charts as chart
from pipeline.report.card import Card, cards
from pipeline.report.facts import Facts
from pipeline.report.previews import Previews
from pipeline.report.quality import Check, checks, near_duplicates, score_drift
from pipeline.report.scripts import make_scripts, script_json
from pipeline.report.summary import (
    MAX_WORST,
    FailureGroup,
    RunRow,
    SyncRow,
    Totals,
    failure_groups,
    frequent_captions,
    label_counts,
    run_rows,
    sync_rows,
    totals,
)
from pipeline.tables.maintain import REPORT
from pipeline.tables.store import Store

FOLDER = REPORT
PAGE = f"{FOLDER}/index.html"
_HERE = Path(__file__).parent
_ASSETS = ("report.css", "report.js")
_LIBRARY = "charts.js"


@dataclass(frozen=True)
class Page:
    """Everything that the page tells, before it is HTML."""

    directory: str
    made_at: str
    version: str
    totals: Totals
    charts: dict[str, list[chart.Chart]]  # by section
    captions: list[tuple[str, int]]
    worst: list[SyncRow]
    n_sync: int  # videos in which something is to be noticed
    n_vfr: int
    failures: list[FailureGroup]
    runs: list[RunRow]
    cards: list[Card]
    checks: list[Check]
    notes: list[str]


@dataclass(frozen=True)
class Written:
    """What was written."""

    page: str
    n_files: int
    n_bytes: int
    totals: dict[str, Any]


def describe(facts: Facts, notes: Sequence[str] = ()) -> Page:
    """What there is to tell of an output."""
    counts, sync, runs = label_counts(facts), sync_rows(facts), run_rows(facts.runs)
    failures, drift = failure_groups(facts.failures), score_drift(facts)
    noticed = [row for row in sync if row.severity >= 1]
    return Page(
        directory=facts.directory,
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=__version__,
        totals=totals(facts),
        charts={
            "labels": chart.label_charts(counts),
            "scores": chart.score_charts(facts),
            "sync": chart.sync_charts(sync),
            "failures": chart.failure_chart(failures),
            "runs": chart.run_charts(runs),
            "quality": chart.drift_chart(drift),
        },
        captions=frequent_captions(facts),
        worst=[row for row in sync if row.why][:MAX_WORST],
        n_sync=len(noticed),
        n_vfr=sum(bool(row.is_vfr) for row in sync),
        failures=failures,
        runs=runs,
        cards=cards(facts),
        checks=checks(facts, drift, near_duplicates(facts)),
        notes=list(notes),
    )


def write_report(store: Store, facts: Facts, previews: Previews, notes: Sequence[str] = ()) -> Written:
    """Write `report/` below the output: scripts of data first, the page that names them last.

    Raises:
        TableError: a file cannot be written.
    """
    page, scripts = describe(facts, notes), make_scripts(facts, previews.names)
    files = {f"{FOLDER}/data/{file.name}": file.content for file in scripts.files}
    files |= {f"{FOLDER}/{name}": (_HERE / name).read_bytes() for name in _ASSETS}
    files[f"{FOLDER}/{_LIBRARY}"] = _library()
    files[PAGE] = render(page, scripts.index).encode()
    for name, content in files.items():
        store.write(name, content)
    for name in store.names(f"{FOLDER}/data"):
        if name not in files:
            store.remove(name)
    n_bytes = sum(len(content) for content in files.values())
    return Written(f"{store.root}/{PAGE}", len(files), n_bytes, asdict(page.totals))


def render(page: Page, index: dict[str, Any]) -> str:
    """The HTML."""
    specs = [{"id": c.chart_id, "spec": _told(c)} for group in page.charts.values() for c in group]
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"span": _span, "number": _number}
    boot = Markup(script_json({"index": index, "charts": specs}))  # which cannot end its script
    return environment.get_template("page.html.j2").render(page=page, boot=boot)


def _told(c: chart.Chart) -> dict[str, Any]:
    """A spec with the words by which a screen reader names the picture."""
    return c.spec | {"description": f"{c.title}. {c.says}"}


def check_library() -> None:
    """Raise ConfigError unless what draws the charts is installed: before previews are made, not after."""
    if importlib.util.find_spec("vl_convert") is None:
        what = "the report's charts need the package vl-convert-python"
        raise ConfigError(f"{what}: pip install 'reeltable[report]'")


def _library() -> bytes:
    """Vega, Vega-Lite and their embedder as one script."""
    import vl_convert  # 90 MB: only who makes a report loads it

    return vl_convert.javascript_bundle().encode()  # type: ignore[call-arg]  # its stub lacks the default


def _span(seconds: float | None) -> str:
    """90 → 1 min 30 s."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _number(value: float | None, digits: int = 0, unit: str = "") -> str:
    """A number with its unit; a dash where there is none."""
    return "–" if value is None else f"{round(value, digits) + 0.0:,.{digits}f}{unit}"  # + 0: no −0
