"""Reading the tables as one snapshot: every row once, whatever runs, compacts or is replaced meanwhile.

    read("tables", "clips", where="top_score > 0.5", columns=["uri", "caption"])   a pandas frame
    query("tables", "select top_label, count(*) from clips group by all")          an Arrow table

The commit records say which files hold the rows; a file that moved away while it was read means that there is
a newer snapshot, and the question is asked again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa

from pipeline.tables.commit import UnitEntry
from pipeline.tables.ledger import Ledger, read_ledger
from pipeline.tables.schema import EMBEDDING_DIM, FAILURES, SEGMENTS, VIDEOS, clips_schema
from pipeline.tables.store import MissingError, Store, TableError

TABLES = ("clips", "videos", "segments", "failures")
As = Literal["pandas", "arrow", "polars", "duckdb"]
_TRIES = 20  # while files are merged
_PAUSE_S = 0.05  # longer from try to try: ten seconds in all
_MOVED = ("No such file", "No files found", "Cannot open file", "FileNotFoundError")
_SCHEMAS = {"videos": VIDEOS, "segments": SEGMENTS, "failures": FAILURES}


def read(
    directory: str,
    table: str = "clips",
    *,
    where: str | None = None,
    columns: Sequence[str] | None = None,
    all_results: bool = False,
    to: As = "pandas",
) -> Any:
    """Rows of one of the four tables.

    Args:
        where: a condition in SQL, such as `top_label = 'dog' and start_s < 60`.
        columns: names; default all, and the date as `dt`.
        all_results: also what older settings said of a video; default only its newest.
        to: a pandas frame, an Arrow table, a Polars frame, or a DuckDB relation.

    Raises:
        TableError: no tables there, a damaged file, an unknown table or column.
    """
    if table not in TABLES:
        raise TableError(f"no table {table!r}; there are: {', '.join(TABLES)}")
    chosen = ", ".join(_quoted(name) for name in columns) if columns is not None else "*"
    condition = f" where {where}" if where else ""
    found = query(directory, f"select {chosen} from {table}{condition}", all_results=all_results)
    if to == "arrow":
        return found
    if to == "polars":
        import polars

        return polars.from_arrow(found)
    if to == "duckdb":
        import duckdb

        return duckdb.from_arrow(found)
    return found.to_pandas()


def query(directory: str, sql: str, *, all_results: bool = False) -> pa.Table:
    """The answer to a question in SQL over `clips`, `videos`, `segments` and `failures`.

    Raises:
        TableError: no tables there, a damaged file, or a question that DuckDB refuses.
    """
    return query_together(directory, {"": sql}, all_results=all_results)[""]


def query_together(
    directory: str, questions: Mapping[str, str], *, all_results: bool = False
) -> dict[str, pa.Table]:
    """The answers to several questions about one snapshot, by their names.

    Beside the four tables there is `every_clip`: what older settings said too.

    Raises:
        TableError: as `query` does.
    """
    import duckdb  # workers import this package too, and need no database

    store = Store(directory)
    for attempt in range(_TRIES):
        time.sleep(_PAUSE_S * attempt)
        connection = duckdb.connect()
        try:
            for sql in questions.values():
                _check_is_question(connection, directory, sql)
            _define_views(connection, store, all_results)
            return {name: connection.sql(sql).to_arrow_table() for name, sql in questions.items()}
        except MissingError:
            if attempt == _TRIES - 1:
                raise
        except duckdb.Error as e:
            has_moved = any(sign in str(e) for sign in _MOVED)
            if not has_moved or attempt == _TRIES - 1:
                raise TableError(f"{directory}: {e}") from e
        finally:
            connection.close()
    raise AssertionError("unreachable")


def _check_is_question(connection: Any, directory: str, sql: str) -> None:
    import duckdb

    kinds = [statement.type for statement in connection.extract_statements(sql)]
    if kinds != [duckdb.StatementType.SELECT]:
        raise TableError(f"{directory}: {sql!r} is not one question; expected a select")


def _define_views(connection: Any, store: Store, all_results: bool) -> None:
    ledger = read_ledger(store)
    if not ledger.records and not store.names("_runs", ".json"):
        raise TableError(
            f"{store.root}: no tables here; reeltable run INPUT… --out {store.root} makes some"
        )
    if not store.is_local:
        connection.register_filesystem(store.fs)
    _check_formats(store)
    current = [e for e in ledger.units.values() if all_results or ledger.is_newest(e)]
    connection.register("_current", _unit_keys(current))
    connection.register("_every", _unit_keys(ledger.units.values()))
    files = _clip_files(ledger)
    schema = clips_schema(embedding_dim(store, ledger) or EMBEDDING_DIM)
    clips = _scan(connection, store, files, "clips", schema)
    for view, keys in (("clips", "_current"), ("every_clip", "_every")):
        rows = f"select * from {clips} semi join {keys} using (unit_id, run_id)"
        connection.execute(f"create view {view} as {rows}")
    for table, schema in _SCHEMAS.items():
        scan = _scan(connection, store, store.names(table, ".parquet"), table, schema)
        connection.execute(f"create view {table} as select * from {scan}")


_CURRENT = pa.schema([("unit_id", pa.string()), ("run_id", pa.string())])


def _unit_keys(entries: Iterable[UnitEntry]) -> pa.Table:
    entries = list(entries)
    rows = {"unit_id": [e.unit_id for e in entries], "run_id": [e.run_id for e in entries]}
    return pa.table(rows, schema=_CURRENT)


def embedding_dim(store: Store, ledger: Ledger) -> int | None:
    """How long an output's embeddings are; None where it has no clip yet."""
    files = _clip_files(ledger)
    return store.read_schema(files[0]).field("embedding").type.list_size if files else None


def _clip_files(ledger: Ledger) -> list[str]:
    return [file for record in ledger.records for file in record.files]


def _scan(connection: Any, store: Store, files: list[str], table: str, schema: pa.Schema) -> str:
    """SQL that reads some files of a table as one, with `dt` as a date; nulls where a column is missing."""
    empty = f"_no_{table}"
    none = schema.append(pa.field("dt", pa.string())).empty_table()
    connection.register(empty, none)
    if not files:
        return empty
    prefix = "" if store.is_local else f"{store.fs.unstrip_protocol('').split('://')[0]}://"
    listed = ", ".join(_text(prefix + store.path(file)) for file in files)
    options = "union_by_name = true, hive_partitioning = true, hive_types_autocast = false"
    return (
        f"(select * from {empty} union all by name select * from read_parquet([{listed}], {options}))"
    )


def _check_formats(store: Store) -> None:
    """Refuse an output of which a newer version made the derived tables."""
    for name in store.names("videos", ".parquet")[-1:]:
        store.read_table(name, ["video_id"])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
