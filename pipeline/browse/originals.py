"""The files that the rows were made of, opened by what a table says of them and by nothing else.

A row names its file by URI, and by `video_id`, a hash of the URI and of the content's version. A file is
opened first and looked at then, through what was opened: where it is no regular file, or another one than the
rows were made of (replaced, or a link that leads elsewhere now), it is refused.
"""

from __future__ import annotations

import os
import posixpath
import stat
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

import fsspec

from pipeline.media.probe import is_remote
from pipeline.records import MediaInfo, short_hash
from pipeline.sources import file_version, object_version, without_secrets

# fsspec has more that lead back to this machine's own files: local, dir, zip, cached, reference, …
REMOTE = frozenset(
    ["s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "hdfs", "http", "https"]
)
_NEAR_ZERO_S = 0.02  # a browser's clock and ours begin together, to half a picture
_MOVIE_SOUND = {None, "aac", "mp3", "opus", "flac"}
_SOUND_TYPES = {"mp3": "audio/mpeg", "wav": "audio/wav", "flac": "audio/flac", "aac": "audio/aac"}


class RefusedError(Exception):
    """A file that is not shown; the message says why, to a person."""


@dataclass(frozen=True)
class Original:
    """A source, open for reading from its start, and how long it is."""

    file: IO[bytes]
    size_bytes: int


def open_original(uri: str, video_id: str) -> Original:
    """The very file that the rows of a video were made of.

    Raises:
        RefusedError: it is not there, is no regular file, or is another one by now.
    """
    return _open_object(uri, video_id) if is_remote(uri) else _open_file(uri, video_id)


def check_original(uri: str, video_id: str) -> None:
    """Raise as `open_original` does."""
    open_original(uri, video_id).file.close()


def browser_type(uri: str, info: MediaInfo) -> str | None:
    """The media type under which any browser plays the file as it is; None where some cannot.

    Formats are those that Chromium, Firefox and Safari have in common, and the file's clock has to begin where
    ours does.
    """
    if abs(info.origin_s) > _NEAR_ZERO_S:
        return None
    video = info.video.codec if info.video else None
    audio = info.audio.codec if info.audio else None
    kind = "video" if video else "audio"
    if info.container.startswith("mov,"):
        plays = video in (None, "h264", "vp9") and audio in _MOVIE_SOUND
        return f"{kind}/mp4" if plays else None
    if info.container == "matroska,webm":
        # FFmpeg has one name for both: the file's own name tells whether it was meant for browsers.
        is_webm = posixpath.splitext(uri)[1].lower() == ".webm"
        plays = video in (None, "vp8", "vp9") and audio in (None, "opus", "vorbis")
        return f"{kind}/webm" if is_webm and plays else None
    return _SOUND_TYPES.get(info.container) if video is None else None


def _open_file(uri: str, video_id: str) -> Original:
    path = uri.removeprefix("file://")
    if not os.path.isabs(path):
        raise RefusedError("its address is no absolute path")
    try:
        # Without waiting: a pipe or a device in a file's place must not hold us up.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise RefusedError("the file is not there any more") from None
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or "not a path"
        raise RefusedError(f"the file cannot be opened: {reason}") from None
    file = os.fdopen(number, "rb", closefd=True) if _is_regular(number) else None
    if file is None:
        raise RefusedError("what is there now is no regular file")
    now = os.fstat(number)
    if short_hash(uri, file_version(now)) != video_id:
        file.close()
        raise RefusedError("the file has changed since these rows were made of it")
    return Original(file, now.st_size)


def _is_regular(number: int) -> bool:
    if stat.S_ISREG(os.fstat(number).st_mode):
        return True
    os.close(number)
    return False


def _open_object(uri: str, video_id: str) -> Original:
    if "::" in uri or urlsplit(uri).scheme not in REMOTE:
        raise RefusedError("addresses of this kind are not opened")
    try:
        fs, path = fsspec.core.url_to_fs(uri)
        info: dict[str, Any] = fs.info(path)
        if short_hash(uri, object_version(info)) != video_id:
            raise RefusedError("the object has changed since these rows were made of it")
        return Original(fs.open(path, "rb"), int(info["size"]))
    except FileNotFoundError:
        raise RefusedError("the object is not there any more") from None
    except RefusedError:
        raise
    except Exception as e:  # object stores raise their library's own errors
        raise RefusedError(without_secrets(f"the object cannot be read: {e}")) from None
