"""`reeltable report`: the HTML page of an output directory."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from jobs.console import AsJson, err, guarded, out, print_json

_PROGRESS_EVERY = 10
_DEFAULT_PREVIEWS = 120


def report(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Where the tables are.")],
    n_previews: Annotated[
        int,
        typer.Option(
            "--previews", min=0, metavar="N", help="Clips that get a still and an excerpt to play."
        ),
    ] = _DEFAULT_PREVIEWS,
    no_previews: Annotated[
        bool, typer.Option("--no-previews", help="Make none; those that are there stay.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """One HTML page of DIR in DIR/report: what is in it, how good it is, and clips to look at.

    It opens from disk or a bucket, with no server and no network. Previews that are there are not made again.

    Example:

      reeltable report tables && xdg-open tables/report/index.html
    """
    written, previews = guarded(lambda: _report(directory, 0 if no_previews else n_previews))
    if as_json:
        made = {"made": previews.n_made, "kept": previews.n_kept, "failed": dict(previews.failed)}
        print_json(dataclasses.asdict(written) | {"previews": made})
        return
    n_clips, n_videos = written.totals["n_clips"], written.totals["n_videos"]
    out.print(
        f"{written.page}: {n_clips} clips of {n_videos} videos; {written.n_files} files, "
        f"{written.n_bytes / 2**20:.1f} MB, and {len(previews.names)} previews",
        highlight=False,
    )


def _report(directory: str, n_previews: int) -> tuple[Any, Any]:
    from pipeline.report.facts import read_facts
    from pipeline.report.previews import of_clips
    from pipeline.report.render import check_library, write_report
    from pipeline.tables.store import Store

    check_library()
    store = Store(directory)
    err.print("reading tables")
    facts = read_facts(directory)
    previews = _previews(store, facts, n_previews) if n_previews else of_clips(store, facts.clips)
    if previews.says:
        err.print(previews.says)
    err.print("writing the page")
    return write_report(store, facts, previews, [previews.says] if previews.says else []), previews


def _previews(store: Any, facts: Any, n_previews: int) -> Any:
    from pipeline.media.preview import Previewer
    from pipeline.report.previews import choose, make_previews

    def told(done: int, of: int) -> None:
        if done % _PROGRESS_EVERY == 0 or done == of:
            err.print(f"previews {done}/{of}")

    with Previewer() as previewer:
        return make_previews(store, choose(facts.clips, n_previews), previewer, told)
