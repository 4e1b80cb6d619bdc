"""The log of a run for a program: a JSON object a line on stderr.

    {"time": "…", "level": "info", "event": "progress", "run_id": "…", "encoded": 12, "total": 40, …}

| event | |
| --- | --- |
| `phase` | the run has come to another `phase` |
| `progress` | now and then: counts by stage, seconds of video, how many times real time, seconds left |
| `unit_failed` | `unit_id, uri, stage, code, message` |
| `run_ended`, `run_failed` | totals; the reason |
| `message` | anything that a person would be told |
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from jobs.console import err
from jobs.progress import LINE_EVERY_S, Pace
from jobs.record import Failed, Progress, RunReport
from jobs.watch import Observer, reason
from pipeline.sources import without_secrets

_COUNTS = ("total", "decoded", "encoded", "committed", "failed", "video_s")
_APART = ("config", "versions", "inputs")  # of a record: not for a log
_of_run: dict[str, Any] = {}  # of every line, once a run has begun
_LEVELS = {"error:": "error", "warning:": "warning", "failed:": "warning"}


def write_event(event: str, level: str = "info", **fields: Any) -> None:
    """One line of the log."""
    told = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": level,
        "event": event,
    }
    fields = _of_run | fields  # a report names its own
    fields = {k: round(v, 3) if isinstance(v, float) else v for k, v in fields.items()}
    sys.stderr.write(json.dumps(told | fields, ensure_ascii=False, default=str) + "\n")
    sys.stderr.flush()


@contextmanager
def json_lines() -> Iterator[None]:
    """Whatever would be printed on stderr becomes an event."""

    def message(text: str) -> None:
        text = text.strip()
        level = next((level for word, level in _LEVELS.items() if text.startswith(word)), "info")
        write_event("message", level, message=without_secrets(text))

    err.instead = message
    try:
        yield
    finally:
        err.instead = None
        _of_run.clear()


class JsonLog(Observer):
    """Writes what it is told."""

    def __init__(self) -> None:
        self.pace = Pace()
        self.phase, self.shown_at = "", 0.0

    def progress(self, progress: Progress) -> None:
        _of_run["run_id"] = progress.run_id
        speed = self.pace.at(progress, time.monotonic())
        for failure in progress.failures:
            self._write("unit_failed", "warning", **_clean(failure))
        if progress.phase != self.phase:
            self.phase, self.shown_at = progress.phase, time.monotonic()
            self._write("phase", phase=progress.phase, total=progress.total)
        elif progress.phase == "running" and time.monotonic() - self.shown_at >= LINE_EVERY_S:
            self.shown_at = time.monotonic()
            counts = {name: getattr(progress, name) for name in _COUNTS}
            self._write("progress", **counts, **dataclasses.asdict(speed))

    def ended(self, report: RunReport) -> None:
        told = {k: v for k, v in dataclasses.asdict(report).items() if k not in _APART}
        self._write("run_ended", "warning" if report.n_failed else "info", **told)

    def failed(self, error: BaseException) -> None:
        self._write("run_failed", "error", message=reason(error))

    def _write(self, event: str, level: str = "info", **fields: Any) -> None:
        write_event(event, level, **fields)


def _clean(failure: Failed) -> dict[str, str]:
    return {name: without_secrets(str(value)) for name, value in vars(failure).items()}
