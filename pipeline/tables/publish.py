"""`videos`, `segments` and `failures`, derived from what is committed."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pyarrow as pa

from pipeline.tables.ledger import Ledger
from pipeline.tables.schema import FACT_NAMES, FAILURES, SEGMENTS, VIDEOS, clips_schema
from pipeline.tables.segments import derive_segments
from pipeline.tables.store import Store

PUBLISHED = "_runs/_published.state"
_SEGMENT_COLUMNS = ["video_id", "result_digest", "start_s", "end_s", "labels"]


def publish(store: Store, ledger: Ledger, dt: str) -> None:
    """Write the derived tables of every date anew, each file whole; `dt` gets one even when empty."""
    units = _latest_units(store, ledger)
    newest = _newest_digests(units)
    units = [unit for unit in units if unit["result_digest"] == newest[unit["video_id"]]]
    by_video = defaultdict(list)
    for unit in units:
        by_video[unit["video_id"]].append(unit)
    videos, failures = defaultdict(list), defaultdict(list)
    for parts in by_video.values():
        row, when = _video_row(parts)
        videos[when].append(row)
    for unit in units:
        if unit["state"] == "failed":
            failures[unit["dt"]].append({name: unit[name] for name in FAILURES.names})
    dates = {dt, *(record.dt for record in ledger.records)}
    for date in sorted(dates):
        store.write_table(f"videos/dt={date}/videos.parquet", _videos_table(videos[date]))
        rows = pa.Table.from_pylist(failures[date], schema=FAILURES)
        store.write_table(f"failures/dt={date}/failures.parquet", rows)
        store.write_table(
            f"segments/dt={date}/segments.parquet", _segments(store, ledger, date, newest)
        )
    store.write_json(PUBLISHED, {"records": len(ledger.records)})
    if not any(record.files for record in ledger.records):
        # A reader of an output in which nothing could be read finds an empty table, not an error.
        store.write_table(f"clips/dt={dt}/empty.parquet", clips_schema().empty_table())


def is_published(store: Store, ledger: Ledger) -> bool:
    """Whether the derived tables cover all that is committed: a publish may have been cut off."""
    return store.exists(PUBLISHED) and store.read_json(PUBLISHED)["records"] == len(ledger.records)


def _latest_units(store: Store, ledger: Ledger) -> list[dict[str, Any]]:
    """Each unit once: as it ended well, else as it failed last."""
    latest: dict[str, dict[str, Any]] = {}
    for record in ledger.records:
        for unit in store.read_table(record.units_file).to_pylist():
            unit["dt"] = record.dt
            known = latest.get(unit["unit_id"])
            if known is None or _rank(unit) >= _rank(known):
                latest[unit["unit_id"]] = unit
    return list(latest.values())


def _newest_digests(units: list[dict[str, Any]]) -> dict[str, str]:
    """For each video the result digest under which it was understood last: what is derived from."""
    last: dict[str, tuple[str, str]] = {}
    for unit in units:
        by_run = (unit["run_id"], unit["result_digest"])  # run ids sort by time
        last[unit["video_id"]] = max(last.get(unit["video_id"], by_run), by_run)
    return {video_id: digest for video_id, (_, digest) in last.items()}


def _rank(unit: dict[str, Any]) -> tuple[bool, int]:
    return unit["state"] != "failed", unit["attempt"]


def _video_row(parts: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """The row of a video from its units, and the date under which it stands: its latest."""
    parts = sorted(parts, key=lambda unit: unit["start_s"])
    first = parts[0]
    n_failed = sum(unit["state"] == "failed" for unit in parts)
    damaged = any(unit["status"] == "partial" for unit in parts)
    status = "failed" if n_failed == len(parts) else "partial" if n_failed or damaged else "ok"
    surest = max(parts, key=lambda unit: unit["sync_confidence"] or 0.0)
    row = {name: first[name] for name in VIDEOS.names if name in first}
    for name in FACT_NAMES:  # the first unit may be the one that failed
        row[name] = next((unit[name] for unit in parts if unit[name] is not None), None)
    row |= {
        "status": status,
        "n_clips": sum(unit["n_clips"] for unit in parts),
        "n_units": len(parts),
        "n_failed_units": n_failed,
        "is_vfr": any(u["is_vfr"] for u in parts) if row["is_vfr"] is not None else None,
        "gap_s": sum(unit["gap_s"] or 0.0 for unit in parts),
        "n_decode_errors": sum(unit["n_decode_errors"] or 0 for unit in parts),
        "damaged_s": [span for unit in parts for span in unit["damaged_s"] or ()],
        "sync_offset_ms": surest["sync_offset_ms"],
        "sync_confidence": surest["sync_confidence"],
    }
    carried = json.loads(first["attributes"] or "{}")
    if "dt" in carried:  # the partition's name: readers refuse it as a column too
        carried["manifest_dt"] = carried.pop("dt")
    return carried | row, max(unit["dt"] for unit in parts)


def _videos_table(rows: list[dict[str, Any]]) -> pa.Table:
    """The fixed columns, then those that manifests brought along."""
    extra = sorted({name for row in rows for name in row} - set(VIDEOS.names))
    schema = VIDEOS
    for name in extra:
        values = [row.get(name) for row in rows]
        try:
            kind = pa.array(values).type
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # one manifest says 3, another "three"
            kind = pa.string()
            for row in rows:
                row[name] = None if row.get(name) is None else str(row[name])
        schema = schema.append(pa.field(name, pa.string() if pa.types.is_null(kind) else kind))
    return pa.Table.from_pylist(rows, schema=schema)


def _segments(store: Store, ledger: Ledger, dt: str, newest: dict[str, str]) -> pa.Table:
    files = [file for record in ledger.records if record.dt == dt for file in record.files]
    if not files:
        return SEGMENTS.empty_table()
    clips = pa.concat_tables([store.read_table(file, columns=_SEGMENT_COLUMNS) for file in files])
    by_row = zip(clips.column("video_id"), clips.column("result_digest"), strict=True)
    is_newest = [newest.get(video.as_py()) == digest.as_py() for video, digest in by_row]
    return derive_segments(clips.filter(pa.array(is_newest, pa.bool_())))
