"""What is known of a run while it goes on and when it has ended. No Ray, no torch."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.tables.ledger import Ledger
from pipeline.tables.store import Store

RUNS = "_runs"
_PACKAGES = ("torch", "torchvision", "torchaudio", "ray", "av", "decord2", "pyarrow", "reeltable")


@dataclass(frozen=True)
class Origin:
    """On whose behalf a run is made, for its record."""

    inputs: tuple[str, ...] = ()  # as they were asked for, without secrets; a `{date}` is not filled in
    job_id: str | None = None  # the cluster job or scheduler's run that this is


@dataclass(frozen=True)
class Failed:
    """A unit that failed."""

    unit_id: str
    uri: str  # without secrets, as all that is stored
    stage: str
    code: str
    message: str


@dataclass(frozen=True)
class Done:
    """What a stage has done since it last said so."""

    stage: str  # decoded, loaded, encoded, committed
    n_units: int
    seconds: float
    cpu_s: float = 0.0  # processor time, where it is measured
    video_s: float = 0.0
    n_bytes: int = 0  # handed on
    n_clips: int = 0
    n_empty: int = 0
    failures: tuple[Failed, ...] = ()
    offsets_s: tuple[float, ...] = ()  # of sound against picture, a number a unit that tells


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    phase: str  # planning, starting, running, publishing
    total: int = 0
    decoded: int = 0
    encoded: int = 0
    committed: int = 0
    failed: int = 0
    video_s: float = 0.0  # encoded
    run_id: str = ""
    failures: tuple[Failed, ...] = ()  # that came since the last time


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class RunReport:
    """What a run did; written to `_runs/<run_id>.json`."""

    run_id: str
    dt: str
    state: str  # succeeded, or nothing_to_do
    n_videos: int
    n_units: int
    n_done: int
    n_empty: int
    n_failed: int  # new in this run
    n_failed_before: int
    n_done_before: int
    n_clips: int
    wall_s: float
    plan_s: float
    start_s: float  # Ray and the model
    decode_s: float  # sums over workers
    encode_s: float
    commit_s: float
    video_s: float  # hours of video are what cost is counted in
    bundle: str
    bundle_digest: str
    result_digest: str
    config: dict[str, Any]
    started_at: str
    versions: dict[str, str]
    inputs: tuple[str, ...] = ()
    job_id: str | None = None
    device: str | None = None  # of the encoders; None: nothing was encoded
    encode_cpu_s: float = 0.0  # processor time of the encoders, all their threads
    n_cpus: float = 0.0  # of the cluster, as Ray counts them; 0: not recorded
    n_gpus: float = 0.0
    planned_cost: float | None = None  # where it was limited (--max-cost), in the money of `prices`
    # Ids under which its rows stand, the last its own; more than one: workers were lost.
    attempts: tuple[str, ...] = ()


def committed_of(store: Store, ledger: Ledger, run_ids: Sequence[str]) -> dict[str, Any]:
    """What the tables hold of a run, by the ids of its attempts: counts, and seconds of video in clips."""
    mine = [r for r in ledger.records if r.run_id in run_ids]
    states = [e.state for r in mine for e in r.units if e.run_id in run_ids]
    video_s = 0.0
    for record in mine:
        for file in record.files:
            spans = store.read_table(file, columns=["start_s", "end_s"]).to_pydict()
            video_s += sum(spans["end_s"]) - sum(spans["start_s"])
    return {
        "n_done": states.count("done"),
        "n_empty": states.count("empty"),
        "n_failed": states.count("failed"),
        "n_clips": sum(r.n_clips for r in mine),
        "video_s": video_s,
    }


def versions() -> dict[str, str]:
    """Of what computes, for the record."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
