"""Files of an output directory: whole or not at all, on a disk or an object store."""

from __future__ import annotations

import json
import os
import posixpath
import uuid
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq


class TableError(Exception):
    """An output that cannot be read or written; the message names the path."""


class Store:
    """An output directory by its path or fsspec URL; every path given is relative to it."""

    def __init__(self, root: str) -> None:
        # Absolute, because a cluster's workers stand in other directories.
        self.root = root.rstrip("/") if "://" in root else os.path.abspath(root)
        try:
            self.fs, self._base = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError) as e:
            raise TableError(f"{root}: cannot be opened: {e}") from e
        self.is_local = "file" in _protocols(self.fs)

    def path(self, name: str) -> str:
        return posixpath.join(self._base, name)

    def exists(self, name: str) -> bool:
        return bool(self.fs.exists(self.path(name)))

    def names(self, folder: str, suffix: str) -> list[str]:
        """Files anywhere below `folder` whose name ends so, sorted, relative to the root."""
        if not self.exists(folder):
            return []
        self.fs.invalidate_cache(self.path(folder))
        found = self.fs.find(self.path(folder))
        return sorted(posixpath.relpath(p, self._base) for p in found if p.endswith(suffix))

    def write(self, name: str, content: bytes) -> None:
        """Make `name` appear with all of `content`, replacing what was there."""
        target = self.path(name)
        try:
            self.fs.makedirs(posixpath.dirname(target), exist_ok=True)
            if not self.is_local:
                self.fs.pipe_file(target, content)  # one put: an object store shows it whole
                return
            temporary = posixpath.join(posixpath.dirname(target), f"_{uuid.uuid4().hex}.tmp")
            try:
                with open(temporary, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, target)
            except BaseException:
                if os.path.exists(temporary):
                    os.unlink(temporary)
                raise
        except OSError as e:
            raise TableError(f"{target}: cannot be written: {e.strerror or e}") from e

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file as `write` does."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write(name, sink.getvalue().to_pybytes())

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read one Parquet file; the path's `dt=` does not become a column."""
        try:
            with self.fs.open(self.path(name), "rb") as file:
                return pq.read_table(file, columns=columns)
        except (OSError, pa.ArrowInvalid) as e:
            raise TableError(f"{self.path(name)}: not a readable Parquet file: {e}") from e

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.fs.cat_file(self.path(name)))
        except (OSError, ValueError) as e:
            raise TableError(f"{self.path(name)}: not readable JSON: {e}") from e

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, json.dumps(value, ensure_ascii=False, indent=1).encode())

    def move(self, source: str, target: str) -> None:
        """Give a file its final name."""
        self.fs.makedirs(posixpath.dirname(self.path(target)), exist_ok=True)
        if self.is_local:
            os.replace(self.path(source), self.path(target))
        else:
            self.fs.mv(self.path(source), self.path(target))

    def remove(self, name: str) -> None:
        self.fs.rm_file(self.path(name))

    def records(self, folder: str) -> Iterator[tuple[str, Any]]:
        """All JSON files of a folder with their names."""
        for name in self.names(folder, ".json"):
            yield name, self.read_json(name)


def _protocols(fs: Any) -> tuple[str, ...]:
    protocol = fs.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
