"""The page's server: what it answers to which address. It reads only, and opens files by the tables' word."""

from __future__ import annotations

import io
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import jinja2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from pipeline.browse.doors import Doors
from pipeline.browse.export import csv_lines, write_parquet
from pipeline.browse.originals import RefusedError, browser_type, check_original, open_original
from pipeline.browse.ranges import media_response
from pipeline.browse.selection import (
    AskedWrongly,
    Selection,
    count_of,
    days,
    labels_like,
    rows_of,
    rows_of_ids,
    video_names,
)
from pipeline.browse.similar import MOST_COMPARED, nearest
from pipeline.browse.snapshot import Snapshot, Snapshots
from pipeline.browse.view import address, cards_of, shortened
from pipeline.browse.workshop import Workshop
from pipeline.media.preview import MAX_EXCERPT_S
from pipeline.records import MediaError
from pipeline.sources import without_secrets
from pipeline.tables.store import TableError

PAGE_SIZE = 24
N_SIMILAR = 24
MOST_TICKED = 1000
_HERE = Path(__file__).parent
_FOR_AN_HOUR = {"cache-control": "private, max-age=3600"}


def make_app(directory: str) -> ASGIApp:
    """The server of one output's page.

    Raises:
        TableError: no tables there.
    """
    browser = _Browser(directory)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        browser.workshop.close()

    routes = [
        Route("/", browser.page),
        Route("/export.csv", browser.export_csv),
        Route("/export.parquet", browser.export_parquet),
        Route("/clips/{clip_id}/play", browser.play),
        Route("/clips/{clip_id}/still.jpg", browser.still),
        Route("/clips/{clip_id}/excerpt.mp4", browser.excerpt),
        Route("/videos/{video_id}/original", browser.original),
        Mount("/static", StaticFiles(directory=_HERE / "static")),
    ]
    handlers: Any = {
        AskedWrongly: lambda _, e: browser.trouble(400, str(e)),
        TableError: lambda _, e: browser.trouble(503, str(e)),
    }
    return Doors(Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan))


class _Browser:
    """The answers, a method an address."""

    def __init__(self, directory: str) -> None:
        self.snapshots = Snapshots(directory)
        self.workshop = Workshop()
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["shortened"] = shortened
        self._templates.globals |= {
            "most_ticked": MOST_TICKED,
            "directory": without_secrets(directory),
        }

    def page(self, request: Request) -> Response:
        """The clips of a selection, or those like one, of the newest snapshot."""
        selection = Selection.parse(request.query_params)
        ticked = _ticked(request)
        snapshot = self.snapshots.refreshed()
        asked = request.query_params
        state: dict[str, Any] = {
            **selection.parameters(),
            "like": asked.get("like"),
            "others": asked.get("others"),
        }
        shown = self._similar(snapshot, state) if state["like"] else None
        shown = shown or self._results(snapshot, selection, _page_number(asked.get("page")))

        def link(**changes: Any) -> str:
            return address(state | changes)

        return self._html(
            "page.html",
            shown
            | {"snapshot": snapshot, "selection": selection, "ticked": ticked, "link": link}
            | {"export": address(selection.parameters()).removeprefix("/"), "days": days(snapshot)}
            | {"labels": labels_like(snapshot, space=selection.space), "videos": video_names(snapshot)},
        )

    def _results(self, snapshot: Snapshot, selection: Selection, number: int) -> dict[str, Any]:
        n_clips, n_videos = count_of(snapshot, selection)
        n_pages = max(1, -(-n_clips // PAGE_SIZE))
        number = min(number, n_pages)
        found = rows_of(snapshot, selection, first=(number - 1) * PAGE_SIZE, most=PAGE_SIZE)
        near = labels_like(snapshot, selection.label)[:12] if selection.label and not n_clips else []
        return {
            "cards": cards_of(snapshot, [(row, None) for row, _ in found]),
            "n_clips": n_clips,
            "n_videos": n_videos,
            "page": number,
            "n_pages": n_pages,
            "near_labels": near,
            "chosen": None,
        }

    def _similar(self, snapshot: Snapshot, state: dict[str, Any]) -> dict[str, Any] | None:
        """A clip and those like it; None where it is not there any more."""
        row = snapshot.row_of(state["like"])
        if row is None:
            return None
        found = nearest(snapshot, row, N_SIMILAR, other_videos=bool(state["others"]))
        return {
            "chosen": cards_of(snapshot, [(row, None)])[0],
            "cards": cards_of(snapshot, list(found or ())),
            "is_told": found is not None,
            "has_too_many": len(snapshot.clips) > MOST_COMPARED,
            "most_compared": MOST_COMPARED,
            "others": bool(state["others"]),
        }

    def export_csv(self, request: Request) -> Response:
        snapshot, rows = self._exported(request)
        lines = (text.encode() for text in csv_lines(snapshot, rows))
        return StreamingResponse(
            lines, media_type="text/csv; charset=utf-8", headers=_as_file("clips.csv")
        )

    def export_parquet(self, request: Request) -> Response:
        snapshot, rows = self._exported(request)
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is sent
        write_parquet(snapshot, rows, file)
        headers = _as_file("clips.parquet") | {"content-length": str(file.tell())}
        file.seek(0)
        return StreamingResponse(
            _chunks(file), media_type="application/vnd.apache.parquet", headers=headers
        )

    def _exported(self, request: Request) -> tuple[Snapshot, list[int]]:
        """Rows to take along: those ticked where any are, else the whole selection."""
        snapshot, ticked = self.snapshots.latest, _ticked(request)
        if ticked:
            return snapshot, rows_of_ids(snapshot, ticked)
        return snapshot, [row for row, _ in rows_of(snapshot, Selection.parse(request.query_params))]

    def play(self, request: Request) -> Response:
        """Where a player finds a clip and between which seconds; or why it cannot be played."""
        clip = self._clip(request)
        if clip is None:
            return _not_found("clip")
        excerpt = {
            "url": f"/clips/{clip['clip_id']}/excerpt.mp4",
            "start_s": 0.0,
            "end_s": min(clip["end_s"] - clip["start_s"], MAX_EXCERPT_S),
        }
        try:
            check_original(clip["uri"], clip["video_id"])
            info = self.workshop.facts(clip["video_id"], clip["uri"])
        except (RefusedError, MediaError) as e:
            return JSONResponse({"problem": _told(e, clip["uri"])})
        if clip["status"] == "partial" or browser_type(clip["uri"], info) is None:
            return JSONResponse({"from": "excerpt", **excerpt, "otherwise": None})
        original = {
            "url": f"/videos/{clip['video_id']}/original",
            "start_s": clip["start_s"],
            "end_s": clip["end_s"],
        }
        return JSONResponse({"from": "original", **original, "otherwise": excerpt})

    def original(self, request: Request) -> Response:
        """A source itself, where browsers play its kind; nothing else of the machine is ever sent."""
        video_id = request.path_params["video_id"]
        uri = self.snapshots.latest.uri_of(video_id)
        if uri is None:
            return _not_found("video")
        try:
            check_original(uri, video_id)
            media_type = browser_type(uri, self.workshop.facts(video_id, uri))
            if media_type is None:
                return PlainTextResponse("browsers do not play this; see its excerpts", status_code=415)
            opened = open_original(uri, video_id)
        except (RefusedError, MediaError) as e:
            return PlainTextResponse(_told(e, uri), status_code=404)
        return media_response(request, opened.file, opened.size_bytes, media_type, video_id)

    def still(self, request: Request) -> Response:
        """The picture in the middle of a clip; a drawn one where there is none."""
        clip = self._clip(request)
        if clip is None:
            return _not_found("clip")
        middle_s = (clip["start_s"] + clip["end_s"]) / 2
        made = self._made(clip, lambda: self.workshop.still(clip["clip_id"], clip["uri"], middle_s))
        if isinstance(made, str):
            drawn = (_HERE / "static" / "no_picture.svg").read_bytes()
            return Response(drawn, media_type="image/svg+xml")
        return Response(made, media_type="image/jpeg", headers=_FOR_AN_HOUR)

    def excerpt(self, request: Request) -> Response:
        """A small MP4 of a clip, made when it is first asked for."""
        clip = self._clip(request)
        if clip is None:
            return _not_found("clip")
        clip_id, uri = clip["clip_id"], clip["uri"]
        made = self._made(
            clip, lambda: self.workshop.excerpt(clip_id, uri, clip["start_s"], clip["end_s"])
        )
        if isinstance(made, str):
            return PlainTextResponse(made, status_code=404)
        return media_response(request, io.BytesIO(made), len(made), "video/mp4", clip_id)

    def trouble(self, status: int, message: str) -> Response:
        return self._html("trouble.html", {"message": without_secrets(message)}, status)

    def _made(self, clip: dict[str, Any], make: Callable[[], bytes]) -> bytes | str:
        """What is made of a clip's file, or why nothing can be."""
        try:
            check_original(clip["uri"], clip["video_id"])
            return make()
        except (RefusedError, MediaError) as e:
            return _told(e, clip["uri"])

    def _clip(self, request: Request) -> dict[str, Any] | None:
        snapshot = self.snapshots.latest
        row = snapshot.row_of(request.path_params["clip_id"])
        columns = ["clip_id", "video_id", "uri", "start_s", "end_s", "status"]
        return None if row is None else snapshot.clips.select(columns).slice(row, 1).to_pylist()[0]

    def _html(self, template: str, values: dict[str, Any], status: int = 200) -> Response:
        return HTMLResponse(self._templates.get_template(template).render(values), status)


def _ticked(request: Request) -> list[str]:
    """Ids of clips, from one parameter or several, each once."""
    lists = request.query_params.getlist("ticked")
    ids = [clip_id for text in lists for clip_id in text.split(",") if clip_id]
    if len(ids) > MOST_TICKED:
        raise AskedWrongly(f"ticked: {len(ids)} clips; expected at most {MOST_TICKED}")
    return list(dict.fromkeys(ids))


def _page_number(text: str | None) -> int:
    if text and not (text.isascii() and text.isdigit() and int(text[:9]) > 0 and len(text) < 10):
        raise AskedWrongly(f"page {text[:40]!r}: expected a number from 1")
    return int(text or 1)


def _not_found(what: str) -> Response:
    return PlainTextResponse(f"no such {what} in the tables", status_code=404)


def _told(error: RefusedError | MediaError, uri: str) -> str:
    """The reason without the file's address, which stands beside it."""
    return str(error).removeprefix(f"{uri}: ").replace(uri, "the file")


def _as_file(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(256 * 1024):
            yield chunk
