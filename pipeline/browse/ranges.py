"""A file, or the part of it that a player asks for (RFC 9110, one range)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_CHUNK = 256 * 1024


class NoSuchRangeError(ValueError):
    """A range that begins behind the file's end."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one behind the last; None where the whole is to be sent.

    What is not understood, several ranges too, means the whole, as the standard allows.

    Raises:
        NoSuchRangeError: nothing of the file lies in it.
    """
    found = _RANGE.fullmatch(header.strip()) if header and len(header) < 100 else None
    if found is None or found[1] == found[2] == "":
        return None
    if not found[1]:  # so many from the end
        first, end = max(0, size - int(found[2])), size
        if not int(found[2]):
            raise NoSuchRangeError
    else:
        first = int(found[1])
        end = min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < first:
            return None
    if first >= size:
        raise NoSuchRangeError
    return first, end


def media_response(
    request: Request, file: IO[bytes], size: int, media_type: str, version: str
) -> Response:
    """Answer with `file`, of which we take care from here on.

    Args:
        version: changes with the content; a player that holds a part of another gets the whole.
    """
    etag = f'"{version}"'
    headers = {"accept-ranges": "bytes", "etag": etag, "cache-control": "private, no-cache"}
    asked = request.headers.get("range")
    if request.headers.get("if-range", etag) != etag:
        asked = None
    try:
        part = parse_range(asked, size)
    except NoSuchRangeError:
        file.close()
        return Response(status_code=416, headers=headers | {"content-range": f"bytes */{size}"})
    first, end = part or (0, size)
    headers["content-length"] = str(end - first)
    if part is not None:
        headers["content-range"] = f"bytes {first}-{end - 1}/{size}"
    status = 200 if part is None else 206
    if request.method == "HEAD":
        file.close()
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(
        _bytes_of(file, first, end), status_code=status, headers=headers, media_type=media_type
    )


def _bytes_of(file: IO[bytes], first: int, end: int) -> Iterator[bytes]:
    with file:
        file.seek(first)
        left = end - first
        while left > 0 and (chunk := file.read(min(_CHUNK, left))):
            left -= len(chunk)
            yield chunk
