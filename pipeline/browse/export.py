"""A selection to take along: CSV for a spreadsheet, Parquet with every column as it is."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.browse.snapshot import Snapshot

# A spreadsheet takes a cell for a formula where its text begins with one of these, some of them after spaces.
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
_NOT_IN_CSV = ("embedding", "words")  # not for a person's eye
_ROWS_AT_ONCE = 1000
_PARQUET_ROWS_AT_ONCE = 10_000


def csv_lines(snapshot: Snapshot, rows: Sequence[int]) -> Iterator[str]:
    """UTF-8 with its mark in front, as spreadsheets expect it; a header, then a line a clip.

    Labels stand in one cell, `dog 0.91 (objects, video); …`. Text that a spreadsheet would take for a formula
    gets an apostrophe in front.
    """
    columns = [name for name in snapshot.clips.column_names if name not in _NOT_IN_CSV]
    table = snapshot.clips.select(columns)
    is_single = [pa.types.is_float32(field.type) for field in table.schema]
    yield "\ufeff" + _line(columns)
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        some = table.take(pa.array(rows[first : first + _ROWS_AT_ONCE], pa.int64()))
        rows_of_cells = (map(_cell, row.values(), is_single) for row in some.to_pylist())
        yield "".join(_line(list(cells)) for cells in rows_of_cells)


def write_parquet(snapshot: Snapshot, rows: Sequence[int], file: IO[bytes]) -> None:
    """All columns, `dt` too, with the types that they have in the tables."""
    with pq.ParquetWriter(file, snapshot.clips.schema, compression="zstd") as writer:
        for first in range(0, len(rows), _PARQUET_ROWS_AT_ONCE):
            some = pa.array(rows[first : first + _PARQUET_ROWS_AT_ONCE], pa.int64())
            writer.write_table(snapshot.clips.take(some))


def safe_text(text: str) -> str:
    """`text` as a cell that no spreadsheet calculates."""
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or text.startswith(_FORMULA) else text


def _cell(value: Any, is_single: bool) -> Any:
    if is_single and value is not None:
        return float(f"{value:.7g}")  # as many digits as a float32 has
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, list):
        return safe_text("; ".join(_item(item) for item in value))
    return value


def _item(item: Any) -> str:
    if isinstance(item, dict):
        return f"{item['label']} {item['score']:.3g} ({item['space']}, {item['modality']})"
    return f"{item:g}"


def _line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n").writerow(
        ["" if cell is None else cell for cell in cells]
    )
    return line.getvalue()
