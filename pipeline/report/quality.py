"""Whether the rows can be trusted: what is missing, whether scores moved, what is there twice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.facts import Facts

SCORE_BINS = 20
_PSI_BINS = 10
_PSI_WATCH, _PSI_MOVED = 0.1, 0.25  # the usual reading of a PSI
_MIN_SCORES = 30  # fewer of a run tell nothing of its distribution
_PROBES = 2_000  # clips whose nearest neighbour is looked for
_SAME_COSINE = 0.98
_BLOCK = 250


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    found: str
    state: str  # fine, look, or unknown
    meaning: str


@dataclass(frozen=True)
class Drift:
    """How the top scores of the newest run stand to those of the run before it."""

    newest_run: str
    before_run: str
    newest: npt.NDArray[np.float64]  # (SCORE_BINS,) shares
    before: npt.NDArray[np.float64]
    n_newest: int
    n_before: int
    psi: float
    ks: float
    ks_noise: float  # that chance alone exceeds in one of twenty comparisons


@dataclass(frozen=True)
class Duplicates:
    """Clips of a sample that have a near-twin."""

    n_looked: int
    n_compared: int
    n_all: int
    same_video: float  # share with a twin in their own video
    other_video: float  # share with a twin in another one


def score_drift(facts: Facts) -> Drift | None:
    """None where there are not two runs with scores enough."""
    by_run: dict[str, tuple[list[float], list[int]]] = {}
    # Attempts of one run are no two runs.
    run_of = {a: run["run_id"] for run in facts.runs for a in run.get("attempts") or ()}
    for row in facts.scores.to_pylist():
        run_id = run_of.get(row["run_id"], row["run_id"])
        values, counts = by_run.setdefault(run_id, ([], []))
        values.append(row["top_score"])
        counts.append(row["n"])
    told = [run for run in sorted(by_run) if sum(by_run[run][1]) >= _MIN_SCORES]
    if len(told) < 2:
        return None
    before, newest = (_spread(*by_run[run]) for run in told[-2:])
    n_before, n_newest = (sum(by_run[run][1]) for run in told[-2:])
    return Drift(
        newest_run=told[-1],
        before_run=told[-2],
        newest=np.histogram(newest[0], SCORE_BINS, (0, 1), weights=newest[1])[0] / n_newest,
        before=np.histogram(before[0], SCORE_BINS, (0, 1), weights=before[1])[0] / n_before,
        n_newest=n_newest,
        n_before=n_before,
        psi=psi(before, newest),
        ks=ks(before, newest),
        ks_noise=1.36 * math.sqrt((n_before + n_newest) / (n_before * n_newest)),
    )


Spread = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  # values, how often each


def _spread(values: list[float], counts: list[int]) -> Spread:
    return np.asarray(values, np.float64), np.asarray(counts, np.float64)


def psi(before: Spread, newest: Spread) -> float:
    """The population stability index over tenths of [0, 1]: 0 alike, above 0.25 moved.

    An empty tenth counts as half a clip, so that one score cannot make it infinite.
    """
    shares = []
    for values, counts in (before, newest):
        n, _ = np.histogram(values, _PSI_BINS, (0, 1), weights=counts)
        n = np.maximum(n, 0.5)
        shares.append(n / n.sum())
    old, new = shares
    return float(((new - old) * np.log(new / old)).sum())


def ks(before: Spread, newest: Spread) -> float:
    """The largest distance of the two cumulative distributions (Kolmogorov-Smirnov), 0 to 1."""
    values = np.concatenate([before[0], newest[0]])
    steps = np.concatenate([-before[1] / before[1].sum(), newest[1] / newest[1].sum()])
    order = np.argsort(values, kind="stable")
    apart = np.cumsum(steps[order])
    is_last = np.append(np.diff(values[order]) > 0, True)  # between equal values there is no distance
    return float(np.abs(apart[is_last]).max())


def near_duplicates(facts: Facts) -> Duplicates | None:
    """None where fewer than two clips have an embedding."""
    if len(facts.embeddings) < 2:
        return None
    column = facts.embeddings["embedding"].combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    vectors = vectors.reshape(len(column), -1)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    videos = np.unique(facts.embeddings["video_id"].to_numpy(), return_inverse=True)[1]
    n_looked = min(_PROBES, len(vectors))
    n_same = n_other = 0
    for first in range(0, n_looked, _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, n_looked))
        is_twin = vectors[rows] @ vectors.T >= _SAME_COSINE
        is_twin[np.arange(len(rows)), rows] = False
        is_mine = videos[rows][:, None] == videos[None]
        n_same += int((is_twin & is_mine).any(axis=1).sum())
        n_other += int((is_twin & ~is_mine).any(axis=1).sum())
    return Duplicates(n_looked, len(vectors), facts.n_embeddings, n_same / n_looked, n_other / n_looked)


def checks(facts: Facts, drift: Drift | None, twins: Duplicates | None) -> list[Check]:
    """What was looked at, with what was found and what it means."""
    if not len(facts.clips):
        return [Check("Clips", "none", "look", "Nothing in these tables to look at.")]
    return [*_nulls(facts), _partial(facts), _frame_error(facts), _drift(drift), *_twins(twins)]


def _nulls(facts: Facts) -> list[Check]:
    clips = facts.clips
    n = len(clips)
    without_picture = 1 - _share(clips["has_video"])
    without_sound = 1 - _share(clips["has_audio"])
    unlabelled, unsaid = clips["top_label"].null_count / n, clips["caption"].null_count / n
    unfound, unheard = 1 - facts.n_embeddings / n, clips["transcript"].null_count / n
    listens = "Null in all: the bundle does not listen to speech." if unheard == 1 else ""
    return [
        _shared("Without a top label", unlabelled, 0.5, "Nothing was above its floor; not an error in itself."),
        _shared("Without a caption", unsaid, 0.01, "caption_problem says why, where a model was asked."),
        _shared("Without an embedding", unfound, 0.5, "These clips are not found by search."),
        _shared("Without a picture", without_picture, 0.5, "Sound alone, or pictures that do not decode."),
        _shared("Without sound", without_sound, 0.9, "Silent files, or sound that does not decode."),
        _shared("Without a transcript", unheard, 2.0, listens or "Clips without sound have none."),
    ]  # fmt: skip


def _shared(name: str, share: float, bound: float, meaning: str) -> Check:
    return Check(name, f"{share:.1%} of clips", "look" if share > bound else "fine", meaning)


def _partial(facts: Facts) -> Check:
    share = _share(pc.equal(facts.clips["status"], "partial"))
    return _shared(
        "Damaged (status partial)", share, 0.01, "Rows of what could be decoded around damage."
    )


def _frame_error(facts: Facts) -> Check:
    worst = pc.max(facts.clips["frame_error_ms"]).as_py()
    if worst is None:
        return Check("Largest frame error", "no picture", "unknown", "No clip has a picture.")
    meaning = (
        "Distance of a picture used from the instant asked for; a frame's length is what one expects."
    )
    return Check("Largest frame error", f"{worst:.0f} ms", "look" if worst > 200 else "fine", meaning)


def _drift(drift: Drift | None) -> Check:
    name = "Scores against the run before"
    if drift is None:
        why = f"There are not two runs of {_MIN_SCORES} scored clips and more."
        return Check(name, "not told", "unknown", why)
    found = f"PSI {drift.psi:.3f}, KS {drift.ks:.3f}"
    if drift.psi > _PSI_MOVED:
        return Check(
            name, found, "look", "Moved: other footage, other settings, or a model that changed."
        )
    if drift.psi > _PSI_WATCH:
        return Check(name, found, "look", "Moved a little; look at the chart and at what was added.")
    return Check(name, found, "fine", "Alike; PSI below 0.1.")


def _twins(twins: Duplicates | None) -> list[Check]:
    if twins is None:
        return [
            Check("Near-duplicates", "not told", "unknown", "Fewer than two clips have an embedding.")
        ]
    of = f"Cosine of {_SAME_COSINE:g} and more; {twins.n_looked:,} clips looked at among {twins.n_compared:,}"
    of += f" of {twins.n_all:,}." if twins.n_compared < twins.n_all else "."
    other = "The same footage under several names, or clips that show as little. " + of
    return [
        _shared("Near-twin in another video", twins.other_video, 0.1, other),
        _shared("Near-twin in the same video", twins.same_video, 2.0, "Scenes that stand still. " + of),
    ]


def _share(values: pa.ChunkedArray) -> float:
    return float(pc.mean(pc.fill_null(values, False).cast(pa.float64())).as_py() or 0.0)
