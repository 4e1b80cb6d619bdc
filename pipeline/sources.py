"""Inputs → sources: files, directories, globs, URLs and manifests, each video once, with its identity.

Nothing here opens a video; a file that is named but not there is a source too, so that its failure
is a row.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import fsspec

from pipeline.records import Source, short_hash

VIDEO_SUFFIXES = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".flv",
        ".ts",
        ".m2ts",
        ".mts",
        ".mpg",
        ".mpeg",
        ".vob",
        ".3gp",
        ".3g2",
        ".wmv",
        ".asf",
        ".ogv",
        ".mxf",
        ".gif",
        ".ivf",
        ".dv",
    ]
)
SOUND_SUFFIXES = frozenset(
    [".wav", ".mp3", ".flac", ".aac", ".m4a", ".ogg", ".opus", ".ac3", ".aiff", ".w64"]
)
MANIFEST_SUFFIXES = frozenset([".txt", ".csv", ".parquet"])
# Query keys that sign a URL and say nothing of what it names.
_SIGNING = (
    "x-amz-*", "x-goog-*", "awsaccesskeyid", "googleaccessid", "signature", "expires", "sig", "se",
    "sp", "sv", "sr", "st", "spr", "skoid", "sktid", "skt", "ske", "sks", "skv", "token", "key-pair-id",
    "policy", "security-token", "access_token", "api_key", "apikey", "password", "secret",
)  # fmt: skip
_USERINFO = re.compile(r"(?<=://)[^/\s@]+@")
_SIGNED = re.compile(
    r"(?i)(?<=[?&])("
    + "|".join(key.replace("*", r"[\w-]*") for key in _SIGNING)
    + r")=[^&\s'\"#]+?(?=[:.]?(?:[&\s'\"#]|$))"
)


class InputError(Exception):
    """An input from which no video can be taken; the message names it and what was expected."""


class ListingError(Exception):
    """An input that could not be looked at: no access, or a store that does not answer. Whether there is a
    video is not known, so nobody may take it for none."""


@dataclass(frozen=True)
class Listing:
    """What the inputs name."""

    sources: tuple[Source, ...]
    problems: tuple[str, ...] = field(default=())  # inputs that gave nothing, in a sentence each


def list_sources(inputs: Sequence[str]) -> Listing:
    """All videos that `inputs` name, each once, in order of their URI.

    An input is a file, a directory (searched whole for video files), a glob, an fsspec URL of any of
    these, or a manifest (`.txt`: one URI a line; `.csv`, `.parquet`: a column `uri`, optionally
    `duration_s`; other columns are carried along).

    Raises:
        InputError: no input gave a video, or a manifest cannot be read.
        ListingError: an input could not be looked at.
    """
    found: dict[str, Source] = {}
    problems = []
    for given in inputs:
        sources = list(_expand(given))
        if not sources:
            problems.append(without_secrets(_nothing_in(given)))
        for source in sources:
            found.setdefault(source.uri, source)
    if not found:
        raise InputError("; ".join(problems) or "no input given; expected a video, a directory, …")
    return Listing(tuple(found[uri] for uri in sorted(found)), tuple(problems))


def canonical_uri(uri: str) -> str:
    """The URI that names a video whoever asks: absolute, no user, no password, no signature."""
    if "://" not in uri or uri.startswith("file://"):
        return os.path.abspath(uri.removeprefix("file://"))
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    query = [
        (key, value)
        for key, value in parse_qsl(parts.query, keep_blank_values=True)
        if not any(fnmatch.fnmatch(key.lower(), pattern) for pattern in _SIGNING)
    ]
    return f"{parts.scheme}://{host}{parts.path}" + (f"?{urlencode(query)}" if query else "")


def without_secrets(text: str) -> str:
    """`text`, a message or a URL, with no user, password or signature in any URL that it holds."""
    return _SIGNED.sub(r"\1=…", _USERINFO.sub("", text))


def file_version(stat: os.stat_result) -> str:
    """What of a file on a disk changes with its content."""
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def object_version(info: dict[str, Any]) -> str:
    """The same of what fsspec says of an object."""
    stamp = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("mtime") or ""
    return f"{info.get('size')}-{str(stamp).strip(chr(34))}"


def _expand(given: str) -> Iterator[Source]:
    suffix = _suffix(given)
    if suffix in MANIFEST_SUFFIXES and _exists(given):
        yield from _read_manifest(given, suffix)
    elif "://" in given and not given.startswith("file://"):
        yield from _expand_url(given)
    else:
        yield from _expand_path(given.removeprefix("file://"), suffix)


def _expand_path(path: str, suffix: str) -> Iterator[Source]:
    if os.path.isdir(path):
        for folder, _, files in os.walk(path):
            for name in sorted(files):
                if _suffix(name) in VIDEO_SUFFIXES and not name.startswith("."):
                    yield _local_source(os.path.join(folder, name))
    elif os.path.exists(path):
        yield _local_source(path)
    elif glob.has_magic(path):
        for name in sorted(glob.glob(path, recursive=True)):
            if os.path.isfile(name):
                yield _local_source(name)
    elif suffix in VIDEO_SUFFIXES | SOUND_SUFFIXES:
        yield _local_source(path)


def _expand_url(url: str) -> Iterator[Source]:
    fs, path = _filesystem(url)
    with _listing(url):
        for name in sorted(_names(fs, path)):
            yield _remote_source(fs, fs.unstrip_protocol(name) if name != path else url, name)


def _filesystem(url: str) -> tuple[Any, str]:
    with _listing(url):
        try:
            fs, path = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as e:  # no such kind of store, or not installed
            raise InputError(without_secrets(f"{canonical_uri(url)}: cannot be listed: {e}")) from e
    return fs, path


@contextmanager
def _listing(url: str) -> Iterator[None]:
    """Whatever a store's client raises as an error that names the URL."""
    try:
        yield
    except (InputError, GeneratorExit):
        raise
    except Exception as e:  # each client has its own, and not all are OSErrors
        told = f"{canonical_uri(url)}: cannot be listed: {str(e) or type(e).__name__}"
        raise ListingError(without_secrets(told)) from e


def _names(fs: Any, path: str) -> list[str]:
    """What a path in a store names: as on a disk, a video that is not there where it looks like one."""
    if glob.has_magic(path):
        return [name for name in fs.glob(path) if fs.isfile(name)]
    if fs.isdir(path):
        return [name for name in fs.find(path) if _suffix(name) in VIDEO_SUFFIXES]
    if _suffix(path) in VIDEO_SUFFIXES | SOUND_SUFFIXES:
        return [path]
    try:
        fs.info(path)
    except FileNotFoundError:
        return []
    return [path]


def _suffix(name: str) -> str:
    return posixpath.splitext(urlsplit(name).path if "://" in name else name)[1].lower()


def _local_source(path: str, **more: Any) -> Source:
    uri = canonical_uri(path)
    try:
        stat = os.stat(uri)
        version, size = file_version(stat), stat.st_size
    except OSError:
        version, size = "missing", None
    return Source(uri, short_hash(uri, version), version, size, **more)


def _remote_source(fs: Any, url: str, path: str, **more: Any) -> Source:
    uri = canonical_uri(url)
    try:
        info = fs.info(path)
    except (FileNotFoundError, PermissionError):  # its own failure, and not that of all the others
        return Source(uri, short_hash(uri, "missing"), "missing", None, **more)
    version = object_version(info)
    return Source(uri, short_hash(uri, version), version, info.get("size"), **more)


def _read_manifest(file: str, suffix: str) -> Iterator[Source]:
    beside = posixpath.dirname(file)
    for row in manifest_rows(file, suffix):
        uri = str(row.pop("uri")).strip()
        duration = row.pop("duration_s", None)
        duration_s = _positive(duration)
        more = {"duration_s": duration_s, "attributes": {k: v for k, v in row.items() if v is not None}}
        if "://" in uri and not uri.startswith("file://"):
            fs, path = _filesystem(uri)
            with _listing(uri):
                yield _remote_source(fs, uri, path, **more)
        else:
            yield _local_source(near_manifest(uri.removeprefix("file://"), beside), **more)


def near_manifest(path: str, beside: str) -> str:
    """A relative path is meant from here, or else from the manifest's own place."""
    near = os.path.join(beside, path)
    return near if not os.path.exists(path) and os.path.exists(near) else path


def _positive(value: Any) -> float | None:
    """A duration that a manifest states; what is none is left to the file's headers."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if 0 < seconds < float("inf") else None


def manifest_rows(file: str, suffix: str) -> list[dict[str, Any]]:
    """Rows of a manifest, each with a `uri`; raises InputError where it is none."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        with fsspec.open(file, "rb") as handle:
            if suffix == ".txt":
                lines = handle.read().decode("utf-8").splitlines()
                stripped = (line.strip() for line in lines)
                return [{"uri": line} for line in stripped if line and not line.startswith("#")]
            table = pa.csv.read_csv(handle) if suffix == ".csv" else pa.parquet.read_table(handle)
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid) as e:
        raise InputError(without_secrets(f"{file}: not a readable manifest: {e}")) from e
    if "uri" not in table.column_names:
        columns = ", ".join(table.column_names)
        raise InputError(f"{without_secrets(file)}: a manifest needs a column 'uri'; found: {columns}")
    return [row for row in table.to_pylist() if row["uri"]]


def _exists(path: str) -> bool:
    fs, name = _filesystem(path)
    with _listing(path):
        return bool(fs.isfile(name))


def _nothing_in(given: str) -> str:
    if os.path.isdir(given):
        return f"{given}: a directory without videos; expected files such as .mp4, .mkv, .webm, .avi"
    if glob.has_magic(given):
        return f"{given}: no file matches"
    if posixpath.splitext(given)[1].lower() in MANIFEST_SUFFIXES and os.path.exists(given):
        return f"{given}: a manifest that names no video"
    if "://" in given:
        return f"{given}: no video there; expected a video, a folder with some, a glob or a manifest"
    return f"{given}: no such file or directory; expected a video, a directory, a glob or a manifest"
