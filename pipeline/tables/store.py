"""Files of an output directory: whole or not at all, on a disk or an object store."""

from __future__ import annotations

import json
import os
import posixpath
import re
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

FORMAT_VERSION = 4  # of files and records; a reader reads this one and every older one
_VERSION_KEY = b"reeltable_format"
_TEMPORARY = re.compile(r"_[0-9a-f]{32}\.tmp")
_READS_AT_ONCE = 16
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")


class TableError(Exception):
    """An output that cannot be read or written; the message names the path."""


class MissingError(TableError):
    """A file that is not there, or not there any more."""


class Store:
    """An output directory by its path or fsspec URL; every path given is relative to it."""

    def __init__(self, root: str) -> None:
        if _PASSWORD.search(root):
            where = _PASSWORD.sub("://", root)
            raise TableError(
                f"{where}: expected no password in the URL of an output: it would end in logs; credentials "
                "come from the environment"
            )
        # Absolute, because a cluster's workers stand in other directories.
        self.root = root.rstrip("/") if "://" in root else os.path.abspath(root)
        try:
            # Listings are asked for to see what others did: never from a cache.
            self.fs, self._base = fsspec.core.url_to_fs(self.root, use_listings_cache=False)
        except (ImportError, ValueError) as e:
            raise TableError(f"{root}: cannot be opened: {e}") from e
        self.is_local = "file" in _protocols(self.fs)

    def path(self, name: str) -> str:
        return posixpath.join(self._base, name)

    def exists(self, name: str) -> bool:
        with self._told(name, "cannot be looked for"):
            return bool(self.fs.exists(self.path(name)))

    def names(self, folder: str, suffix: str = "") -> list[str]:
        """Files anywhere below `folder` whose name ends so, sorted, relative to the root."""
        with self._told(folder, "cannot be listed"):
            if not self.fs.exists(self.path(folder)):
                return []
            found = self.fs.find(self.path(folder))
        return sorted(posixpath.relpath(p, self._base) for p in found if p.endswith(suffix))

    def write(self, name: str, content: bytes) -> None:
        """Make `name` appear with all of `content`, replacing what was there."""
        target = self.path(name)
        with self._told(name, "cannot be written"):
            if not self.is_local:
                self.fs.pipe_file(target, content)  # one put: an object store shows it whole
                return
            with _temporary_beside(target, content) as temporary:
                os.replace(temporary, target)

    def create(self, name: str, content: bytes) -> bool:
        """Make `name` appear with `content` unless it is there already; whether it was made.

        On object stores without a conditional put, of two that come at once the later one wins.
        """
        target = self.path(name)
        with self._told(name, "cannot be written"):
            try:
                if self.is_local:
                    with _temporary_beside(target, content) as temporary:
                        os.link(temporary, target)
                elif self.fs.exists(target):
                    return False
                elif "memory" in _protocols(self.fs):
                    self.fs.pipe_file(target, content)
                else:
                    self.fs.pipe_file(target, content, mode="create")
            except FileExistsError:
                return False
            except OSError as e:
                if "PreconditionFailed" in str(e) or "pre-conditions" in str(e):
                    return False
                raise
        return True

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file as `write` does."""
        sink = pa.BufferOutputStream()
        metadata = {**(table.schema.metadata or {}), _VERSION_KEY: str(FORMAT_VERSION).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
        self.write(name, sink.getvalue().to_pybytes())

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read one Parquet file of this or an older version; the path's `dt=` is no column of it.

        Columns that an older version did not have are left out.
        """
        with self._told(name, "not a readable Parquet file"), self.fs.open(self.path(name), "rb") as f:
            file = pq.ParquetFile(f)
            check_version(self.path(name), int((file.schema_arrow.metadata or {}).get(_VERSION_KEY, 1)))
            if columns is not None:
                columns = [c for c in columns if c in file.schema_arrow.names]
            return file.read(columns=columns)

    def read_schema(self, name: str) -> pa.Schema:
        """The columns of a Parquet file, from its footer."""
        with self._told(name, "not a readable Parquet file"), self.fs.open(self.path(name), "rb") as f:
            return pq.read_schema(f).remove_metadata()

    def read_json(self, name: str) -> Any:
        with self._told(name, "not readable JSON"):
            return json.loads(self.fs.cat_file(self.path(name)))

    def read_jsons(self, names: Sequence[str]) -> list[Any]:
        """Many small files; on an object store several at a time."""
        if self.is_local:
            return [self.read_json(name) for name in names]
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            return list(pool.map(self.read_json, names))

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, json.dumps(value, ensure_ascii=False, indent=1).encode())

    def move(self, source: str, target: str) -> None:
        """Give a file its final name."""
        with self._told(target, "cannot be written"):
            if self.is_local:
                os.makedirs(posixpath.dirname(self.path(target)), exist_ok=True)
                os.replace(self.path(source), self.path(target))
            else:
                self.fs.mv(self.path(source), self.path(target))

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is fine."""
        with self._told(name, "cannot be removed"):
            try:
                self.fs.rm_file(self.path(name))
            except FileNotFoundError:
                return

    def size(self, name: str) -> int:
        """Bytes of a file; 0 where it is not."""
        with self._told(name, "cannot be looked at"):
            try:
                return int(self.fs.size(self.path(name)) or 0)
            except FileNotFoundError:
                return 0

    def remove_temporary(self) -> None:
        """Remove what writers that died had begun; only where nobody else writes."""
        for name in self.names("") if self.is_local else ():
            if _TEMPORARY.fullmatch(posixpath.basename(name)):
                self.remove(name)

    @contextmanager
    def _told(self, name: str, what: str) -> Iterator[None]:
        """Errors of any file system as one that names the path."""
        try:
            yield
        except TableError:
            raise
        except FileNotFoundError as e:
            raise MissingError(f"{self.path(name)}: {what}: no such file") from e
        except Exception as e:  # object stores raise their library's own errors
            reason = getattr(e, "strerror", None) or f"{type(e).__name__}: {e}"
            raise TableError(f"{self.path(name)}: {what}: {reason}") from e


def check_version(where: str, version: int) -> None:
    """Raise TableError for what a newer reeltable wrote."""
    if version > FORMAT_VERSION:
        made_by = f"made by a newer reeltable (format {version})"
        raise TableError(f"{where}: {made_by}; this one reads formats up to {FORMAT_VERSION}")


@contextmanager
def _temporary_beside(target: str, content: bytes) -> Iterator[str]:
    """A file with all of `content` on disk, in the folder of `target`; gone afterwards."""
    folder = posixpath.dirname(target)
    os.makedirs(folder, exist_ok=True)
    temporary = posixpath.join(folder, f"_{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _protocols(fs: Any) -> tuple[str, ...]:
    protocol = fs.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
