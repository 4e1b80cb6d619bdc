"""Putting rows into the tables: files staged, one record that names them, then their final place.

    _staging/T.parquet     written first; plain readers skip names that begin with an underscore
    _commits/T.json        written second: from now on the rows are in the table
    clips/dt=D/T.parquet   the staged file, renamed; where a crash came first, the next run does it

T is a hash of the units, so a task that Ray repeats replaces its own files and record.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.records import short_hash
from pipeline.tables.store import Store

COMMITS, STAGING, UNITS_DIR = "_commits", "_staging", "_units"


@dataclass(frozen=True)
class CommitRecord:
    """What one write task put into the tables."""

    name: str
    run_id: str
    dt: str
    files: tuple[str, ...]  # of `clips/`
    units_file: str
    done: tuple[str, ...]  # unit ids
    empty: tuple[str, ...]
    failed: tuple[str, ...]
    n_clips: int

    @classmethod
    def from_json(cls, value: dict[str, object]) -> CommitRecord:
        tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        return cls(**tuples)  # type: ignore[arg-type]


def commit(store: Store, clips: pa.Table, units: pa.Table, dt: str, run_id: str) -> CommitRecord:
    """Put the clips of some finished units into the tables.

    Args:
        clips: rows of `clips_schema`, all of them of these units.
        units: rows of `UNITS`.
        dt: the logical date, 2026-01-31.

    Raises:
        TableError: a file cannot be written; nothing of this call is in the tables then.
    """
    ids = units.column("unit_id").to_pylist()
    name = short_hash(run_id, *sorted(ids))
    units_file = f"{UNITS_DIR}/dt={dt}/{name}.parquet"
    store.write_table(units_file, units)
    files = []
    if len(clips):
        files.append(f"clips/dt={dt}/{name}.parquet")
        store.write_table(f"{STAGING}/{name}.parquet", clips)
    record = CommitRecord(
        name=name,
        run_id=run_id,
        dt=dt,
        files=tuple(files),
        units_file=units_file,
        done=_ids(units, "done"),
        empty=_ids(units, "empty"),
        failed=_ids(units, "failed"),
        n_clips=len(clips),
    )
    store.write_json(f"{COMMITS}/{name}.json", record.__dict__)
    _unstage(store, record)
    return record


def recover(store: Store, records: list[CommitRecord]) -> None:
    """Finish what a crash left: staged files that a record names move in, the others go."""
    staged = set(store.names(STAGING, ".parquet"))
    for record in records:
        if f"{STAGING}/{record.name}.parquet" in staged:
            _unstage(store, record)
            staged.discard(f"{STAGING}/{record.name}.parquet")
    for orphan in staged:
        store.remove(orphan)


def _unstage(store: Store, record: CommitRecord) -> None:
    for file in record.files:
        store.move(f"{STAGING}/{record.name}.parquet", file)


def _ids(units: pa.Table, state: str) -> tuple[str, ...]:
    chosen = units.filter(pc.equal(units.column("state"), state))
    return tuple(chosen.column("unit_id").to_pylist())
