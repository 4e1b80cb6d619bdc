"""`videos`, `segments` and `failures`, derived from what is committed since the last publishing.

Only videos that a new record speaks of are derived anew, and only the dates written on which they stand
or stood; what a run costs does not grow with the table's history.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tables.commit import CLIPS, PLACEHOLDER, CommitRecord, commit
from pipeline.tables.ledger import Ledger, read_ledger, write_checkpoint
from pipeline.tables.schema import FACT_NAMES, FAILURES, SEGMENTS, UNITS, VIDEOS, clips_schema
from pipeline.tables.segments import derive_segments
from pipeline.tables.store import Store

PUBLISHED = "_runs/_published.state"
_UNIT_NAMES = UNITS.names
_SEGMENT_COLUMNS = [
    "unit_id",
    "video_id",
    "result_digest",
    "run_id",
    "start_s",
    "end_s",
    "labels",
    "cut_s",
]


def publish(store: Store, dt: str) -> Ledger:
    """Bring the derived tables up to all that is committed; `dt` gets files of them even when empty.

    Rows that a later run replaced (a video that changed, a unit done again) leave the table.
    """
    ledger = retire(store, read_ledger(store))
    known = _published(store)
    new = [record for record in ledger.records if record.name not in known]
    sources = {entry.source_id for record in new for entry in record.units}
    rederive(store, ledger, sources, dt)
    mark_published(store, ledger)
    write_checkpoint(store, ledger)
    return ledger


def is_published(store: Store, ledger: Ledger) -> bool:
    """Whether the derived tables cover all that is committed: a publish may have been cut off."""
    return {record.name for record in ledger.records} <= _published(store)


def mark_published(store: Store, ledger: Ledger) -> None:
    store.write_json(PUBLISHED, {"records": [record.name for record in ledger.records]})


def _published(store: Store) -> set[str]:
    if not store.exists(PUBLISHED):
        return set()
    names = store.read_json(PUBLISHED)["records"]
    return set(names) if isinstance(names, list) else set()  # version 1 kept their number


def retire(store: Store, ledger: Ledger) -> Ledger:
    """Write records anew whose rows another run replaced, without those rows."""
    latest = {source: video for source, (video, _) in ledger.newest.items()}
    stale = []
    for record in ledger.records:
        kept = [e for e in record.units if ledger.counts(e) and latest[e.source_id] == e.video_id]
        if any(entry.state == "done" and entry not in kept for entry in record.units):
            stale.append((record, {entry.unit_id for entry in kept}))
    for record, unit_ids in stale:
        rewrite(store, [record], unit_ids)
    return read_ledger(store) if stale else ledger


def rewrite(
    store: Store,
    records: Collection[CommitRecord],
    kept: Collection[str],
    before: Collection[CommitRecord] = (),
) -> CommitRecord:
    """Replace records of one date by one that holds only the units `kept`.

    Args:
        before: what those had replaced themselves, where they will not stay to say so.
    """
    chosen = pa.array(sorted(kept), pa.string())
    units, clips = [], []
    for record in records:
        units.append(_of_units(store.read_table(record.units_file), chosen))
        clips += [_of_units(store.read_table(file), chosen) for file in record.files]
    dts, runs = {record.dt for record in records}, max(record.run_id for record in records)
    (dt,) = dts
    rows = _stacked(clips) if clips else clips_schema().empty_table()
    return commit(store, rows, _stacked(units), dt, runs, replaces=[*records, *before])


def _of_units(table: pa.Table, unit_ids: pa.Array) -> pa.Table:
    return table.filter(pc.is_in(table["unit_id"], unit_ids))


def _stacked(tables: list[pa.Table]) -> pa.Table:
    """One below the other; a column that an older version did not have is null in its rows."""
    plain = [table.replace_schema_metadata(None) for table in tables]
    return pa.concat_tables(plain, promote_options="default")


def rederive(
    store: Store, ledger: Ledger, sources: Collection[str], dt: str, gone: Collection[str] = ()
) -> None:
    """Derive all rows of some sources' videos anew; rows of others stay, those of videos `gone` go."""
    records = [r for r in ledger.records if any(e.source_id in sources for e in r.units)]
    units = _current_units(store, ledger, records, sources)
    by_video = defaultdict(list)
    for unit in units:
        by_video[unit["video_id"]].append(unit)
    videos, when = defaultdict(list), {}
    failures: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for video_id, parts in by_video.items():
        row, date = _video_row(parts)
        videos[date].append(row)
        when[video_id] = date
        failures[date] += [
            {name: u[name] for name in FAILURES.names} for u in parts if u["state"] == "failed"
        ]
    segments = _segments(store, ledger, records, when)
    past = [*records, *ledger.replaced]
    gone = {*gone, *(e.video_id for r in past for e in r.units if e.source_id in sources)}
    new_videos = {date: _videos_table(rows) for date, rows in videos.items()}
    new_failures = {d: pa.Table.from_pylist(rows, schema=FAILURES) for d, rows in failures.items()}
    dates = {dt, *_dates_of(store, gone), *when.values()}
    for date in sorted(dates):
        _merge(store, "videos", date, gone, new_videos.get(date, VIDEOS.empty_table()))
        _merge(store, "failures", date, gone, new_failures.get(date, FAILURES.empty_table()))
        _merge(store, "segments", date, gone, segments.get(date, SEGMENTS.empty_table()))
    _agree_on_columns(store)
    if any(record.files for record in ledger.records):
        for name in store.names(CLIPS, PLACEHOLDER):
            store.remove(name)
    else:
        # A reader of an output in which nothing could be read finds an empty table, not an error.
        store.write_table(f"{CLIPS}/dt={dt}/{PLACEHOLDER}", clips_schema().empty_table())


def _current_units(
    store: Store, ledger: Ledger, records: Iterable[CommitRecord], sources: Collection[str]
) -> list[dict[str, Any]]:
    """Rows of `_units` that count, of some sources, each with the date of its record."""
    rows = []
    for record in records:
        wanted = {
            e.unit_id
            for e in record.units
            if e.source_id in sources and ledger.counts(e) and ledger.is_newest(e)
        }
        if wanted:
            every = store.read_table(record.units_file).to_pylist()
            mine = (unit for unit in every if unit["unit_id"] in wanted)
            rows += [dict.fromkeys(_UNIT_NAMES) | unit | {"dt": record.dt} for unit in mine]
    return rows


def _dates_of(store: Store, video_ids: set[str]) -> set[str]:
    """The dates under which some videos stand so far."""
    dates = set()
    for file in store.names("videos", ".parquet"):
        if video_ids.intersection(store.read_table(file, ["video_id"])["video_id"].to_pylist()):
            dates.add(file.split("dt=")[1].split("/")[0])
    return dates


def _merge(store: Store, table: str, dt: str, gone: set[str], new: pa.Table) -> None:
    """Rows of the videos `gone` out, `new` in."""
    file = f"{table}/dt={dt}/{table}.parquet"
    if store.exists(file):
        old = store.read_table(file)
        old = old.filter(pc.invert(pc.is_in(old["video_id"], pa.array(sorted(gone), pa.string()))))
        new = _conformed([old, new])
    store.write_table(file, new)


def _conformed(tables: list[pa.Table]) -> pa.Table:
    """One table of tables whose carried columns may differ: null where missing, text where types do."""
    kinds: dict[str, pa.DataType] = {}
    for table in tables:
        for field in table.schema:
            known = kinds.get(field.name, field.type)
            kinds[field.name] = known if known == field.type else _common(known, field.type)
    schema = pa.schema(list(kinds.items()))
    return pa.concat_tables([_as(table, schema) for table in tables])


def _common(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    if pa.types.is_null(a) or pa.types.is_null(b):
        return b if pa.types.is_null(a) else a
    numbers = (pa.types.is_integer, pa.types.is_floating)
    if all(any(is_number(kind) for is_number in numbers) for kind in (a, b)):
        return pa.float64()
    return pa.string()


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with the columns of `schema`."""
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(len(table), field.type))
        elif table[field.name].type == field.type:
            columns.append(table[field.name])
        elif pa.types.is_string(field.type):
            values = table[field.name].to_pylist()
            columns.append(pa.array([None if v is None else str(v) for v in values], pa.string()))
        else:
            columns.append(table[field.name].cast(field.type))
    return pa.table(columns, schema=schema)


def _agree_on_columns(store: Store) -> None:
    """Give the `videos` files of all dates the same columns: plain readers go by the first one."""
    schemas = {file: store.read_schema(file) for file in store.names("videos", ".parquet")}
    if len(set(schemas.values())) < 2:
        return
    every = _conformed([schema.empty_table() for schema in schemas.values()]).schema
    fixed = pa.schema([VIDEOS.field(n) if n in VIDEOS.names else every.field(n) for n in every.names])
    for file, schema in schemas.items():
        if schema != fixed:
            store.write_table(file, _as(store.read_table(file), fixed))


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


def _segments(
    store: Store, ledger: Ledger, records: Iterable[CommitRecord], when: dict[str, str]
) -> dict[str, pa.Table]:
    """Segments of some videos by the date under which each stands."""
    parts = []
    for record in records:
        wanted = [e for e in record.units if e.video_id in when]
        wanted = [e for e in wanted if ledger.counts(e) and ledger.is_newest(e)]
        chosen = pa.array([e.unit_id for e in wanted], pa.string())
        parts += [_of_units(store.read_table(f, _SEGMENT_COLUMNS), chosen) for f in record.files]
    if not parts:
        return {}
    segments = derive_segments(_stacked(parts))
    dates = [when[video_id] for video_id in segments["video_id"].to_pylist()]
    return {date: segments.filter(pc.equal(pa.array(dates), date)) for date in set(dates)}
