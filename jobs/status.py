"""What an output directory holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.record import RUNS
from pipeline.tables.ledger import read_ledger
from pipeline.tables.store import Store, TableError


@dataclass(frozen=True)
class Status:
    """Counts over all runs, and the record of the last one."""

    directory: str
    n_videos: int
    n_clips: int
    n_done: int
    n_empty: int
    n_failed: int
    failures_by_code: dict[str, int]
    video_s_per_s: float | None  # of the last run
    last_run: dict[str, Any] | None


def read_status(directory: str) -> Status:
    """Read the records of `directory`.

    Raises:
        TableError: nothing was ever run there.
    """
    store = Store(directory)
    ledger = read_ledger(store)
    runs = store.names(RUNS, ".json")
    if not ledger.records and not runs:
        raise TableError(
            f"{directory}: no tables here; reeltable run INPUT… --out {directory} makes some"
        )
    codes: Counter[str] = Counter()
    n_videos = 0
    for file in store.names("failures", ".parquet"):
        codes.update(store.read_table(file, ["code"]).column("code").to_pylist())
    for file in store.names("videos", ".parquet"):
        n_videos += len(store.read_table(file, ["video_id"]))
    last = store.read_json(runs[-1]) if runs else None  # names sort by time
    return Status(
        directory=directory,
        n_videos=n_videos,
        n_clips=sum(record.n_clips for record in ledger.records),
        n_done=ledger.count("done"),
        n_empty=ledger.count("empty"),
        n_failed=ledger.count("failed"),
        failures_by_code=dict(codes),
        video_s_per_s=last["video_s"] / last["wall_s"] if last else None,
        last_run=last,
    )


def failures_of(directory: str, run_ids: Sequence[str]) -> list[tuple[str, str]]:
    """What went wrong in one run, by the ids of its attempts: code and message of each unit."""
    store = Store(directory)
    rows = [
        row
        for file in store.names("failures", ".parquet")
        for row in store.read_table(file, ["run_id", "code", "message"]).to_pylist()
    ]
    return [(row["code"], row["message"]) for row in rows if row["run_id"] in run_ids]
