"""One actor that hears what every stage has done: for the progress line, the record and the metrics.

Stages tell it and do not wait for an answer, so that counting never holds up a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import ray

from jobs.metrics import RunMetrics
from jobs.record import Done, Failed

_MOST_FAILURES = 10_000  # that wait to be told; all are in the tables in any case


@dataclass
class Counts:
    """Sums over all stages so far."""

    units: dict[str, int] = field(default_factory=dict)  # by stage
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    cpu_s: dict[str, float] = field(default_factory=dict)  # by stage
    video_s: float = 0.0  # encoded
    n_failed: int = 0


@ray.remote(num_cpus=0)
class Watcher:
    """Counts what the stages have finished; with `metrics` for Prometheus too."""

    def __init__(self, metrics: tuple[str, str, int] | None = None) -> None:
        self.counts = Counts()
        self.metrics = RunMetrics(*metrics) if metrics else None
        self.failures: list[Failed] = []

    def add(self, done: Done) -> None:
        counts = self.counts
        for sums, more in ((counts.seconds, done.seconds), (counts.cpu_s, done.cpu_s)):
            sums[done.stage] = sums.get(done.stage, 0.0) + more
        counts.units[done.stage] = counts.units.get(done.stage, 0) + done.n_units
        counts.n_failed += len(done.failures)
        if done.stage == "encoded":
            counts.video_s += done.video_s
        self.failures = (self.failures + list(done.failures))[-_MOST_FAILURES:]
        if self.metrics is not None:
            self.metrics.add(done, counts.units)

    def read(self) -> tuple[Counts, tuple[Failed, ...]]:
        """The sums, and the failures that nobody was told of yet."""
        untold, self.failures = tuple(self.failures), []
        return self.counts, untold
