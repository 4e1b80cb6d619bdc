"""The thin Ray Data adapter over `pipeline.tables.commit`: unit rows in, committed files out."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import ray
from ray.data.block import Block
from ray.data.datasource import Datasink

from jobs.record import Done, Failed
from pipeline.tables.commit import commit
from pipeline.tables.lease import check_held
from pipeline.tables.schema import UNITS
from pipeline.tables.store import Store

CLIPS_COLUMN = "clips"  # an Arrow IPC stream with the unit's rows of `clips`


class TableSink(Datasink[float]):
    """Commits the units of a write task; returns the seconds it took."""

    def __init__(
        self, root: str, dt: str, run_id: str, units_per_file: int, watcher: ray.actor.ActorHandle
    ) -> None:
        self.root, self.dt, self.run_id = root, dt, run_id
        self.units_per_file, self.watcher = units_per_file, watcher

    def write(self, blocks: Iterable[Block], ctx: Any) -> float:  # noqa: ARG002
        started = time.perf_counter()
        tables = [block for block in blocks if isinstance(block, pa.Table) and len(block)]
        if not tables:
            return 0.0
        rows = pa.concat_tables(tables)
        clips = [pa.ipc.open_stream(b.as_buffer()).read_all() for b in rows.column(CLIPS_COLUMN)]
        units = rows.select(UNITS.names).cast(UNITS)
        store = Store(self.root)
        check_held(store, self.run_id)  # a task may outlive its run
        record = commit(store, pa.concat_tables(clips), units, self.dt, self.run_id)
        seconds = time.perf_counter() - started
        self.watcher.add.remote(_done(units, record.n_clips, seconds))
        return seconds

    @property
    def min_rows_per_write(self) -> int:
        return self.units_per_file


def _done(units: pa.Table, n_clips: int, seconds: float) -> Done:
    """What the watcher is told of rows of `_units` that are committed."""
    names = ["unit_id", "uri", "stage", "code", "message", "state", "sync_offset_ms"]
    rows = units.select(names).to_pylist()
    failures = tuple(
        Failed(**{name: row[name] for name in names[:5]}) for row in rows if row["state"] == "failed"
    )
    offsets = tuple(r["sync_offset_ms"] / 1000 for r in rows if r["sync_offset_ms"] is not None)
    n_empty = sum(row["state"] == "empty" for row in rows)
    return Done(
        "committed",
        len(rows),
        seconds,
        n_clips=n_clips,
        n_empty=n_empty,
        failures=failures,
        offsets_s=offsets,
    )


def with_clips(units: list[dict[str, Any]], clips: list[pa.Table]) -> pa.Table:
    """Rows of `_units`, each with its rows of `clips` as one buffer: one row in, one row out."""
    buffers = []
    for table in clips:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        buffers.append(sink.getvalue().to_pybytes())
    rows = pa.Table.from_pylist(units, schema=UNITS)
    return rows.append_column(CLIPS_COLUMN, pa.array(buffers, pa.large_binary()))
