"""Progress of a run on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from jobs.run import Progress, Report

_LINE_EVERY_S = 10.0


@contextmanager
def progress_printer(console: Console) -> Iterator[Report]:
    """A function that shows each `Progress` it is given."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("planning", total=None)

        def show(progress: Progress) -> None:
            # What is encoded is all but done: commits come in batches and would make the bar jump.
            bar.update(
                task, description=_describe(progress), total=progress.total, completed=progress.encoded
            )

        yield show


class _Lines:
    """A line when the phase changes, and now and then in between."""

    def __init__(self, console: Console) -> None:
        self.console, self.phase, self.shown_at = console, "", 0.0

    def __call__(self, progress: Progress) -> None:
        is_new = progress.phase != self.phase
        if not is_new and time.monotonic() - self.shown_at < _LINE_EVERY_S:
            return
        self.phase, self.shown_at = progress.phase, time.monotonic()
        counts = f" {progress.encoded}/{progress.total} units" if progress.phase == "running" else ""
        self.console.print(f"{_describe(progress)}{counts}", markup=False)


def _describe(progress: Progress) -> str:
    failed = f", {progress.failed} failed" if progress.failed else ""
    words = {
        "planning": "reading headers",
        "starting": "starting Ray",
        "publishing": "publishing tables",
    }
    return words.get(progress.phase, "decoding and encoding") + failed
