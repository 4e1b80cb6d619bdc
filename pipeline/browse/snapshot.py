"""The clips as they stood at one moment, in memory, and a small database over what they are filtered by."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.records import short_hash
from pipeline.tables.commit import COMMITS
from pipeline.tables.read import query
from pipeline.tables.store import Store

RUNS = "_runs"
# The newest day first, then as somebody would watch: video after video, from its start.
_ORDER = "dt desc, uri, video_id, start_s, clip_id"


@dataclass(frozen=True)
class Snapshot:
    """All clips of the newest results, in the order of the page: a row's number is its place."""

    directory: str
    key: str  # of the commit records and runs that were there; another means that rows may differ
    read_at: datetime
    clips: pa.Table  # the columns of `clips`, and `dt`
    database: Any  # DuckDB: `clips` (what is filtered by) and `labels` (one row each), by `row`

    @classmethod
    def read(cls, directory: str) -> Snapshot:
        """Read the tables of `directory`.

        Raises:
            TableError: no tables there, or a damaged file.
        """
        # The key is taken first: what is committed while we read is read again, never missed.
        key, read_at = snapshot_key(directory), datetime.now(UTC)
        clips = query(directory, f"select * from clips order by {_ORDER}")
        return cls(directory, key, read_at, clips, _database(clips))

    def ask(self, sql: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows that answer a question; safe from any thread."""
        rows: list[tuple[Any, ...]] = self.database.cursor().execute(sql, parameters or []).fetchall()
        return rows

    def row_of(self, clip_id: str) -> int | None:
        found = self.ask("select row from clips where clip_id = ?", [clip_id])
        return int(found[0][0]) if found else None

    def uri_of(self, video_id: str) -> str | None:
        found = self.ask("select uri from clips where video_id = ? limit 1", [video_id])
        return str(found[0][0]) if found else None

    @cached_property
    def n_videos(self) -> int:
        return int(self.ask("select count(distinct video_id) from clips")[0][0])

    @cached_property
    def last_run(self) -> str | None:
        """The run that wrote last among these rows; run ids sort by time."""
        return self.ask("select max(run_id) from clips")[0][0]

    @cached_property
    def spaces(self) -> list[tuple[str, int]]:
        """Vocabularies, and in how many clips each has a label."""
        counted = (
            "select space, count(distinct row) as n from labels group by space order by n desc, space"
        )
        return [(str(space), int(n)) for space, n in self.ask(counted)]

    @cached_property
    def embeddings(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Rows (n,) that have an embedding, and these (n, D), of unit length."""
        column = self.clips["embedding"]
        rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        size = column.type.list_size
        chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
        vectors = np.concatenate([*chunks, np.empty(0, np.float32)]).reshape(-1, size)  # (n, D)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return rows, np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def snapshot_key(directory: str) -> str:
    """Changes whenever rows may have: with every commit, compaction, forgetting and end of a run."""
    store = Store(directory)
    return short_hash(*store.names(COMMITS, ".json"), *store.names(RUNS, ".json"))


def _database(clips: pa.Table) -> Any:
    connection = duckdb.connect()
    incoming = clips.select(
        [
            "clip_id", "video_id", "uri", "dt", "start_s", "caption", "transcript", "labels", "run_id"
        ]
    ).append_column("row", pa.array(np.arange(len(clips))))  # fmt: skip
    connection.register("incoming", incoming)
    connection.execute("""
        create table clips as
        select row, clip_id, video_id, uri, lower(uri) as folded_uri, dt, start_s, run_id,
               lower(concat_ws(chr(10), caption, transcript)) as folded_text
        from incoming
    """)
    connection.execute("""
        create table labels as
        select row, l.label as label, lower(l.label) as folded, l.space as space, l.score as score
        from (select row, unnest(labels) as l from incoming)
    """)
    connection.unregister("incoming")
    # From here on it answers questions about these two tables and nothing else.
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


class Snapshots:
    """The newest snapshot of a directory, read again only where something was written since."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._latest = Snapshot.read(directory)

    @property
    def latest(self) -> Snapshot:
        """The one that was read last."""
        return self._latest

    def refreshed(self) -> Snapshot:
        """The one of now; raises TableError where it cannot be read."""
        with self._lock:
            if snapshot_key(self._directory) != self._latest.key:
                self._latest = Snapshot.read(self._directory)
            return self._latest
