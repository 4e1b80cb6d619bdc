"""Progress of a run on stderr: a bar on a terminal, plain lines elsewhere; and how fast it goes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from jobs.record import Progress
from jobs.watch import Observer

LINE_EVERY_S = 10.0
_WINDOW_S = 120.0
_WORDS = {
    "planning": "reading headers",
    "starting": "starting Ray",
    "publishing": "publishing tables",
}


@dataclass(frozen=True)
class Speed:
    """How fast a run goes. None: too early to tell."""

    times_real_time: float | None = None  # seconds of video a second
    left_s: float | None = None


class Pace:
    """The speed of a run over the last two minutes, from what it says of itself.

    What comes with the first units counts for nothing: the model was loaded before them.
    """

    def __init__(self) -> None:
        self.seen: deque[tuple[float, float, int]] = deque()  # when, seconds of video, units
        self.run_id = ""

    def at(self, progress: Progress, now_s: float) -> Speed:
        """The speed with `progress` at the time `now_s`, which only differences are taken of."""
        if progress.run_id != self.run_id:
            self.run_id = progress.run_id
            self.seen.clear()
        if progress.phase != "running" or not progress.encoded:
            return Speed()
        if not self.seen or progress.encoded != self.seen[-1][2]:
            self.seen.append((now_s, progress.video_s, progress.encoded))
        while len(self.seen) > 2 and self.seen[1][0] < now_s - _WINDOW_S:
            self.seen.popleft()
        (began_s, video_s, units), (_, last_video_s, last_units) = self.seen[0], self.seen[-1]
        took_s = now_s - began_s  # to now, not to the last unit: where nothing comes it gets slower
        if last_units == units or took_s <= 0:
            return Speed()
        left = (progress.total - last_units) * took_s / (last_units - units)
        return Speed((last_video_s - video_s) / took_s, left)


@contextmanager
def progress_printer(console: Console) -> Iterator[Observer]:
    """An observer that shows how far a run is."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),  # so that 80 columns have room for what comes behind it
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
    ]
    with Bar(*columns, console=console, transient=True) as bar:
        yield _Bar(bar)


class _Bar(Observer):
    def __init__(self, bar: Bar) -> None:
        self.bar, self.pace = bar, Pace()
        self.task = bar.add_task("planning", total=None, speed="")

    def progress(self, progress: Progress) -> None:
        speed = self.pace.at(progress, time.monotonic())
        # What is encoded is all but done: commits come in batches and would make the bar jump.
        self.bar.update(
            self.task,
            description=_WORDS.get(progress.phase, "encoding"),  # which is what the bar counts
            speed=", ".join(_facts(progress, speed)),
            total=progress.total,
            completed=progress.encoded,
        )


class Lines(Observer):
    """A line when the phase changes, and now and then in between."""

    def __init__(self, console: Console) -> None:
        self.console, self.pace = console, Pace()
        self.phase, self.shown_at = "", 0.0

    def progress(self, progress: Progress) -> None:
        speed = self.pace.at(progress, time.monotonic())
        is_new = progress.phase != self.phase
        if not is_new and time.monotonic() - self.shown_at < LINE_EVERY_S:
            return
        self.phase, self.shown_at = progress.phase, time.monotonic()
        counts = f" {progress.encoded}/{progress.total} units" if progress.phase == "running" else ""
        self.console.print(described(progress, speed, counts), markup=False)


def described(progress: Progress, speed: Speed, counts: str = "") -> str:
    """Where a run stands, and how fast it goes where that can be told."""
    phase = _WORDS.get(progress.phase, "decoding and encoding")
    return ", ".join([phase + counts, *_facts(progress, speed)])


def _facts(progress: Progress, speed: Speed) -> Iterator[str]:
    if progress.failed:
        yield f"{progress.failed} failed"
    if speed.times_real_time is not None:
        yield f"{speed.times_real_time:.3g} × real time"
    if speed.left_s is not None and progress.encoded < progress.total:
        yield f"{left(speed.left_s)} left"
    if progress.phase == "running" and progress.decoded > progress.encoded:
        yield f"decode ahead by {progress.decoded - progress.encoded}"


def left(seconds: float) -> str:
    """A time to wait as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return (
        f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes // (24 * 60)} days"
    )
