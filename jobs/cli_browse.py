"""`reeltable browse`: a page over the tables, on this machine alone."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import webbrowser
from contextlib import suppress
from importlib.util import find_spec
from typing import Annotated

import typer

from jobs.console import AsJson, Exit, err, fail, out

_NEEDED = ("starlette", "uvicorn", "jinja2")
_ADDRESS = "127.0.0.1"  # never another: the page asks nobody who they are
_LAST_ANSWERS_S = 1


def browse(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Where the tables are.")],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where it listens on 127.0.0.1; 0: a free one.")
    ] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="Leave the browser alone.")] = False,
    as_json: AsJson = False,
) -> None:
    """A page to look through the tables of DIR: filter, play, compare, export. Ctrl-C ends it.

    It reads only, and only this machine reaches it. With --json no browser is opened.

    Example:

      reeltable browse tables --port 8800
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        fail(
            f"reeltable browse needs {', '.join(missing)}: pip install 'reeltable[browse]'", Exit.USAGE
        )
    with suppress(KeyboardInterrupt):  # which may come while the server ends by itself
        _serve(directory, port, no_open or as_json, as_json)
    err.print("stopped")


def _serve(directory: str, port: int, is_alone: bool, as_json: bool) -> None:
    import uvicorn

    from pipeline.browse.app import make_app
    from pipeline.tables.store import TableError

    try:
        app = make_app(directory)
    except TableError as e:
        fail(str(e), Exit.JOB_FAILED)
    try:
        listener = socket.create_server((_ADDRESS, port), backlog=128)
    except OSError as e:
        fail(f"--port {port}: cannot listen there: {os.strerror(e.errno or 0)}", Exit.JOB_FAILED)
    url = f"http://{_ADDRESS}:{listener.getsockname()[1]}/"
    if as_json:
        print(json.dumps({"url": url}))  # one line: who reads it must not wait for our end
    else:
        out.print(f"{url}  (Ctrl-C ends it)", highlight=False)
    sys.stdout.flush()
    if not is_alone and _has_screen():
        webbrowser.open(url)
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http="h11",
        ws="none",
        timeout_graceful_shutdown=_LAST_ANSWERS_S,
    )
    server = uvicorn.Server(config)
    # A player that was paused holds an answer open: that it is cut off at the end is no error.
    log = logging.getLogger("uvicorn.error")
    log.addFilter(unless_ending := lambda _: not server.should_exit)
    try:
        server.run([listener])
    finally:
        log.removeFilter(unless_ending)


def _has_screen() -> bool:
    """Whether a browser would open beside the terminal rather than in it."""
    return sys.platform != "linux" or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
