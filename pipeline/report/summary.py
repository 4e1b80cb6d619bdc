"""What a person wants to know of an output first: how much, what, in time with itself, what failed, speed."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.remedies import remedy
from pipeline.report.facts import Facts

MAX_WORST, MAX_EXAMPLES, MAX_CAPTIONS = 50, 3, 12
# What a viewer notices of sound before or behind its picture begins near 45 ms (ITU-R BT.1359).
_NOTICED_MS, _DRIFT_PPM, _GAP_S = 45.0, 100.0, 0.1


@dataclass(frozen=True)
class Totals:
    """Counts over the newest result of each video."""

    n_clips: int
    n_videos: int
    clip_s: float
    n_partial_videos: int
    n_failed_videos: int
    n_failed_units: int
    n_labels: int  # different ones
    n_captioned: int
    n_embedded: int
    n_with_sound: int
    bundles: tuple[str, ...]


@dataclass(frozen=True)
class LabelCount:
    """In how many clips a label stands."""

    space: str
    label: str
    n_clips: int
    mean_score: float


@dataclass(frozen=True)
class SyncRow:
    """How sound and picture of a video stand to each other."""

    uri: str
    skew_ms: float | None
    offset_ms: float | None
    confidence: float | None
    drift_ppm: float | None
    is_vfr: bool | None
    gap_s: float | None
    n_decode_errors: int
    severity: float  # 0: nothing; from 1 on somebody may notice
    why: str


@dataclass(frozen=True)
class FailureGroup:
    """The failures of one code."""

    code: str
    stage: str
    n_units: int
    remedy: str
    examples: tuple[str, ...]  # messages


@dataclass(frozen=True)
class RunRow:
    """What a run did, and what its machine could have done."""

    run_id: str
    started_at: str
    n_clips: int
    n_failed: int
    video_s: float
    wall_s: float
    stage_s: dict[str, float]  # plan and start by the clock; decode, encode, commit summed over workers
    rate: float | None  # seconds of video a second
    n_cpus: float
    n_gpus: float
    limit: float | None  # the same, were all cores (and the GPUs) always at work
    bound_by: str  # cores or GPU

    @property
    def used(self) -> float | None:
        """Share of the limit that was reached."""
        return self.rate / self.limit if self.rate and self.limit else None


def totals(facts: Facts) -> Totals:
    clips, videos = facts.clips, facts.videos
    status = Counter(videos["status"].to_pylist())
    labels = pc.list_flatten(clips["labels"]).combine_chunks()
    span_s = pc.sum(pc.subtract(clips["end_s"], clips["start_s"])).as_py()
    return Totals(
        n_clips=len(clips),
        n_videos=len(videos),
        clip_s=span_s or 0.0,
        n_partial_videos=status["partial"],
        n_failed_videos=status["failed"],
        n_failed_units=len(facts.failures),
        n_labels=len(pc.unique(labels.field("label"))) if len(labels) else 0,
        n_captioned=len(clips) - clips["caption"].null_count,
        n_embedded=facts.n_embeddings,
        n_with_sound=pc.sum(clips["has_audio"]).as_py() or 0,
        bundles=tuple(sorted({b for b in pc.unique(clips["bundle"]).to_pylist() if b})),
    )


def label_counts(facts: Facts) -> list[LabelCount]:
    """Every label of every vocabulary, the most frequent of each first; a clip counts once."""
    import duckdb

    connection = duckdb.connect()
    try:
        connection.register("clips", facts.clips.select(["clip_id", "labels"]))
        rows = connection.sql(
            """select l.space, l.label, count(distinct clip_id) as n, avg(l.score) as score
            from (select clip_id, unnest(labels) as l from clips) group by all order by 1, 3 desc, 2"""
        ).fetchall()
    finally:
        connection.close()
    return [LabelCount(space, label, n, score) for space, label, n, score in rows]


def frequent_captions(facts: Facts) -> list[tuple[str, int]]:
    counted = pc.value_counts(facts.clips["caption"].drop_null()).to_pylist()
    pairs = [(row["values"], row["counts"]) for row in counted]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:MAX_CAPTIONS]


def sync_rows(facts: Facts) -> list[SyncRow]:
    """Every video with sound and picture facts, the worst first."""
    rows = [_sync_row(video) for video in facts.videos.to_pylist()]
    return sorted(rows, key=lambda row: (-row.severity, row.uri))


def _sync_row(video: dict[str, Any]) -> SyncRow:
    n_errors = video["n_decode_errors"] or 0
    # By how much each is beyond what is noticed or expected, and how that is said.
    signs = [
        (_beyond(video["sync_offset_ms"], _NOTICED_MS), "sound and picture disagree by content"),
        (_beyond(video["av_skew_ms"], _NOTICED_MS), "streams begin apart"),
        (_beyond(video["drift_ppm"], _DRIFT_PPM), "the sound's clock drifts"),
        (_beyond(video["gap_s"], _GAP_S), "holes in the sound"),
        (1.0 + math.log10(n_errors) if n_errors else 0.0, "packets that do not decode"),
        (0.5 if video["is_vfr"] else 0.0, "variable frame rate"),
    ]
    told = [what for size, what in sorted(signs, key=lambda s: -s[0]) if size >= 0.5]
    return SyncRow(
        uri=video["uri"],
        skew_ms=video["av_skew_ms"],
        offset_ms=video["sync_offset_ms"],
        confidence=video["sync_confidence"],
        drift_ppm=video["drift_ppm"],
        is_vfr=video["is_vfr"],
        gap_s=video["gap_s"],
        n_decode_errors=n_errors,
        severity=max(size for size, _ in signs),
        why=", ".join(told),
    )


def _beyond(value: float | None, bound: float) -> float:
    return 0.0 if value is None else abs(value) / bound


def failure_groups(failures: pa.Table) -> list[FailureGroup]:
    """Failures by code, the most frequent first, each with what to do."""
    by_code: dict[tuple[str, str], list[str]] = {}
    for row in failures.to_pylist():
        by_code.setdefault((row["code"] or "", row["stage"] or ""), []).append(row["message"] or "")
    groups = [
        FailureGroup(code, stage, len(told), remedy(code), tuple(dict.fromkeys(told))[:MAX_EXAMPLES])
        for (code, stage), told in by_code.items()
    ]
    return sorted(groups, key=lambda g: (-g.n_units, g.code, g.stage))


def run_rows(runs: tuple[dict[str, Any], ...]) -> list[RunRow]:
    """The runs that did something, the latest first."""
    rows = [_run_row(run) for run in runs if isinstance(run, dict) and "run_id" in run]
    return rows[::-1]


def _run_row(run: dict[str, Any]) -> RunRow:
    stages = ("plan", "start", "decode", "encode", "commit")
    stage_s = {stage: float(run.get(f"{stage}_s") or 0.0) for stage in stages}
    video_s, wall_s = float(run.get("video_s") or 0.0), float(run.get("wall_s") or 0.0)
    n_cpus, n_gpus = float(run.get("n_cpus") or 0.0), float(run.get("n_gpus") or 0.0)
    limit, bound_by = _limit(run, stage_s, video_s, n_cpus, n_gpus)
    return RunRow(
        run_id=run["run_id"],
        started_at=str(run.get("started_at", ""))[:16].replace("T", " "),
        n_clips=int(run.get("n_clips") or 0),
        n_failed=int(run.get("n_failed") or 0),
        video_s=video_s,
        wall_s=wall_s,
        stage_s=stage_s,
        rate=video_s / wall_s if wall_s and video_s else None,
        n_cpus=n_cpus,
        n_gpus=n_gpus,
        limit=limit,
        bound_by=bound_by,
    )


def _limit(
    run: dict[str, Any], stage_s: dict[str, float], video_s: float, n_cpus: float, n_gpus: float
) -> tuple[float | None, str]:
    """Seconds of video a second, were every core at work all the time at what the stages took.

    A second of a stage is one core's, unless the run measured its processor time; with GPUs, encoding is
    theirs and as wide as its actors.
    """
    config = (run.get("config") or {}).get("run") or {}
    on_gpu = run.get("device") == "cuda" or (
        not run.get("device") and n_gpus > 0 and config.get("device") != "cpu"
    )
    encode_core_s = 0.0 if on_gpu else float(run.get("encode_cpu_s") or stage_s["encode"])
    core_s = stage_s["decode"] + stage_s["commit"] + encode_core_s
    if not (n_cpus and video_s and core_s):
        return None, ""
    by_cores = n_cpus * video_s / core_s
    if not (on_gpu and stage_s["encode"]):
        return by_cores, "cores"
    n_encoders = config.get("encode_workers") or max(1, n_gpus // (config.get("encode_gpus") or 1))
    by_gpus = float(n_encoders) * video_s / stage_s["encode"]
    return (by_gpus, "GPU") if by_gpus < by_cores else (by_cores, "cores")
