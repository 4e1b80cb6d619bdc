"""Prometheus metrics of a run, by Ray's own exporter; the watcher alone sets them, so that no stage waits.

Ray puts `ray_` before each name. Counters go on over runs for as long as the watcher's node lives; gauges end
with the run. What goes wrong with a metric is nobody's failure.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from jobs.record import Done

PREFIX = "ray_"
_OFFSET_BOUNDS_S = [0.01, 0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.32, 0.5, 1.0]


@dataclass(frozen=True)
class Metric:
    """One metric: its kind, what it tells, and what tells its series apart."""

    kind: str  # counter, gauge or histogram
    description: str
    tags: tuple[str, ...] = ()


METRICS = {
    "reeltable_units_total": Metric(
        "counter", "Units that ended; code says why one failed.", ("bundle", "state", "code")
    ),
    "reeltable_stage_units_total": Metric(
        "counter", "Units that a stage has done.", ("bundle", "stage")
    ),
    "reeltable_stage_seconds_total": Metric(
        "counter", "Seconds that the workers of a stage were busy.", ("bundle", "stage")
    ),
    "reeltable_encode_cpu_seconds_total": Metric("counter", "Processor time of encoders.", ("bundle",)),
    "reeltable_decoded_bytes_total": Metric(
        "counter", "Bytes of pictures and sound that decoders handed to encoders.", ("bundle",)
    ),
    "reeltable_video_seconds_total": Metric("counter", "Seconds of video encoded.", ("bundle",)),
    "reeltable_clips_total": Metric("counter", "Clips in the tables.", ("bundle",)),
    "reeltable_sync_offset_seconds": Metric(
        "histogram",
        "By how much the sound of a unit is late, or early, against its picture.",
        ("bundle", "sound"),
    ),
    "reeltable_queue_units": Metric(
        "gauge", "Units that wait for a stage or are in it.", ("bundle", "run_id", "stage")
    ),
    "reeltable_units_left": Metric(
        "gauge", "Units of the run that are not done.", ("bundle", "run_id")
    ),
}


class RunMetrics:
    """The metrics of one run."""

    def __init__(self, bundle: str, run_id: str, n_units: int) -> None:
        self.bundle, self.run_id, self.n_units = bundle, run_id, n_units
        self.made: dict[str, Any] = {}
        with contextlib.suppress(Exception):
            self.made = {name: _made(name, metric) for name, metric in METRICS.items()}
            self._set("reeltable_units_left", n_units)

    def add(self, done: Done, units: dict[str, int]) -> None:
        """What a stage has done, and units by stage so far."""
        with contextlib.suppress(Exception):
            self._add(done)
            self._look(units)

    def _add(self, done: Done) -> None:
        self._count("reeltable_stage_seconds_total", done.seconds, stage=done.stage)
        if done.stage == "loaded":
            return
        self._count("reeltable_stage_units_total", done.n_units, stage=done.stage)
        self._count("reeltable_decoded_bytes_total", done.n_bytes)
        if done.stage == "encoded":
            self._count("reeltable_video_seconds_total", done.video_s)
            self._count("reeltable_encode_cpu_seconds_total", done.cpu_s)
        self._count("reeltable_clips_total", done.n_clips)
        if done.stage == "committed":
            n_done = done.n_units - done.n_empty - len(done.failures)
            self._count("reeltable_units_total", n_done, state="done", code="")
            self._count("reeltable_units_total", done.n_empty, state="empty", code="")
        for failure in done.failures:
            self._count("reeltable_units_total", 1, state="failed", code=failure.code)
        for offset_s in done.offsets_s:
            sound = "late" if offset_s >= 0 else "early"
            tags = {"bundle": self.bundle, "sound": sound}
            self.made["reeltable_sync_offset_seconds"].observe(abs(offset_s), tags)

    def _look(self, units: dict[str, int]) -> None:
        decoded, encoded, committed = (units.get(s, 0) for s in ("decoded", "encoded", "committed"))
        waiting = {"decode": self.n_units - decoded, "encode": decoded - encoded}
        for stage, n in (waiting | {"commit": encoded - committed}).items():
            self._set("reeltable_queue_units", max(0, n), stage=stage)
        self._set("reeltable_units_left", max(0, self.n_units - committed))

    def _count(self, name: str, value: float, **tags: str) -> None:
        if value > 0:  # Ray's counters refuse a zero
            self.made[name].inc(value, {"bundle": self.bundle} | tags)

    def _set(self, name: str, value: float, **tags: str) -> None:
        self.made[name].set(value, {"bundle": self.bundle, "run_id": self.run_id} | tags)


def _made(name: str, metric: Metric) -> Any:
    from ray.util.metrics import Counter, Gauge, Histogram

    if metric.kind == "histogram":
        return Histogram(name, metric.description, _OFFSET_BOUNDS_S, metric.tags)
    made: type[Counter] | type[Gauge] = Counter if metric.kind == "counter" else Gauge
    return made(name, metric.description, metric.tags)
