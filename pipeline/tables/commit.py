"""Putting rows into the tables: files staged, one record that names them, then their final place.

    _staging/T.parquet     written first; plain readers skip names that begin with an underscore
    _commits/T.json        written second: from now on the rows are in the table
    clips/dt=D/T.parquet   the staged file, renamed; where a crash came first, the next run does it

T is a hash of the run and its units, so a task that Ray repeats replaces its own files and record.

A record may replace others: their rows, but for those that are left out, are in its own file. It counts
from the moment it is written, and theirs then move to `_superseded/`, from where `vacuum` takes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipeline.records import short_hash
from pipeline.tables.store import FORMAT_VERSION, MissingError, Store, TableError, check_version

COMMITS, STAGING, UNITS_DIR, SUPERSEDED = "_commits", "_staging", "_units", "_superseded"
CLIPS = "clips"
PLACEHOLDER = "empty.parquet"  # a table without rows, so that readers find one


@dataclass(frozen=True, slots=True)
class UnitEntry:
    """What a record says of a unit; enough to plan by."""

    unit_id: str
    source_id: str  # of the URI, whatever its content
    video_id: str
    state: str  # done, empty, failed
    attempt: int
    result_digest: str
    run_id: str
    planned_s: float | None  # the duration by which the video was cut into units


@dataclass(frozen=True)
class CommitRecord:
    """What one write task put into the tables."""

    name: str
    run_id: str
    dt: str
    files: tuple[str, ...]  # of `clips/`
    units_file: str
    units: tuple[UnitEntry, ...]
    n_clips: int
    replaces: tuple[str, ...] = ()  # names of records
    written_at: str = ""
    version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """Units as columns: a tenth of the size of rows."""
        fields = [f.name for f in dataclasses.fields(UnitEntry)]
        value = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return value | {"units": {name: [getattr(u, name) for u in self.units] for name in fields}}

    @classmethod
    def from_json(cls, where: str, value: Any, store: Store) -> CommitRecord:
        """The record that `to_json` gave, of this version or an older one.

        Raises:
            TableError: it is no record, or a newer version's.
        """
        if not isinstance(value, dict) or not {"name", "files", "units_file"} <= value.keys():
            raise TableError(f"{where}: not a commit record")
        check_version(where, int(value.get("version", 1)))
        try:
            if "units" not in value:
                return _from_version_1(value, store)
            units = tuple(map(UnitEntry, *value["units"].values()))
            tuples = {k: tuple(value[k]) for k in ("files", "replaces")}
            return cls(**(value | tuples | {"units": units}))
        except (TypeError, KeyError, AttributeError) as e:
            raise TableError(f"{where}: not a commit record of this version: {e}") from e


def _from_version_1(value: dict[str, Any], store: Store) -> CommitRecord:
    """Records that only listed unit ids: the rest stands in the units' file."""
    return CommitRecord(
        name=value["name"],
        run_id=value["run_id"],
        dt=value["dt"],
        files=tuple(value["files"]),
        units_file=value["units_file"],
        units=_entries(store.read_table(value["units_file"])),
        n_clips=value["n_clips"],
        version=1,
    )


def _entries(units: pa.Table) -> tuple[UnitEntry, ...]:
    rows = units.to_pylist()
    return tuple(
        UnitEntry(
            unit_id=row["unit_id"],
            source_id=short_hash(row["uri"]),
            video_id=row["video_id"],
            state=row["state"],
            attempt=row["attempt"],
            result_digest=row["result_digest"],
            run_id=row["run_id"],
            planned_s=row.get("planned_s"),
        )
        for row in rows
    )


def commit(
    store: Store,
    clips: pa.Table,
    units: pa.Table,
    dt: str,
    run_id: str,
    replaces: Sequence[CommitRecord] = (),
) -> CommitRecord:
    """Put the clips of some finished units into the tables.

    Args:
        clips: rows of `clips_schema`, all of them of these units.
        units: rows of `UNITS`.
        dt: the logical date, 2026-01-31.
        replaces: records whose rows these are, less what is left out.

    Raises:
        TableError: a file cannot be written; nothing of this call is in the tables then.
    """
    replaced = tuple(record.name for record in replaces)
    name = short_hash(run_id, *sorted(units.column("unit_id").to_pylist()), *replaced)
    units_file = f"{UNITS_DIR}/dt={dt}/{name}.parquet"
    store.write_table(units_file, units)
    files = []
    if len(clips):
        files.append(f"{CLIPS}/dt={dt}/{name}.parquet")
        store.write_table(f"{STAGING}/{name}.parquet", clips)
    record = CommitRecord(
        name=name,
        run_id=run_id,
        dt=dt,
        files=tuple(files),
        units_file=units_file,
        units=_entries(units),
        n_clips=len(clips),
        replaces=replaced,
        written_at=datetime.now(UTC).isoformat(),
    )
    store.write_json(f"{COMMITS}/{name}.json", record.to_json())
    for old in replaces:
        supersede(store, old)
    _unstage(store, record)
    return record


def supersede(store: Store, record: CommitRecord) -> None:
    """Take the files of a record that is replaced out of plain readers' sight."""
    for file in record.files:
        if store.exists(file):
            store.move(file, f"{SUPERSEDED}/{file}")


def recover(store: Store, live: Iterable[CommitRecord], replaced: Iterable[CommitRecord]) -> None:
    """Finish what a crash left: replaced files move out, staged ones move in, orphans go.

    Only for whoever holds the lease.

    Raises:
        TableError: a file in `clips/` that no record names: it is not ours to remove.
    """
    live = list(live)
    store.remove_temporary()
    present = set(store.names(CLIPS, ".parquet"))
    for record in replaced:
        if present.intersection(record.files):
            supersede(store, record)
            present -= set(record.files)
    staged = set(store.names(STAGING, ".parquet"))
    for record in live:
        if f"{STAGING}/{record.name}.parquet" in staged:
            _unstage(store, record)
            staged.discard(f"{STAGING}/{record.name}.parquet")
    for orphan in staged:
        store.remove(orphan)
    named = {file for record in live for file in record.files}
    foreign = sorted(f for f in present - named if not f.endswith(f"/{PLACEHOLDER}"))
    if foreign:
        what = "no commit record names this file, so it is not of this table; move it elsewhere"
        raise TableError(f"{store.path(foreign[0])}: {what}")


def _unstage(store: Store, record: CommitRecord) -> None:
    for file in record.files:
        try:
            store.move(f"{STAGING}/{record.name}.parquet", file)
        except MissingError:
            if not store.exists(file):  # moved before by a task that was repeated
                raise
