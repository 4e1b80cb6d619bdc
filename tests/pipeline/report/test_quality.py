"""Measures of data quality against their definitions and a library that has them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import ks_2samp

from pipeline.report.facts import read_facts
from pipeline.report.quality import checks, ks, near_duplicates, psi, score_drift
from pipeline.tables.store import Store
from tests.pipeline.report.lake import RUNS, make_lake


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("lake")))
    make_lake(store, 40, 5)
    return read_facts(store.root)


def spread(values):
    return np.asarray(values), np.ones(len(values))


def test_ks_is_scipys_also_where_values_repeat():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = np.round(rng.random(40), 1), np.round(rng.random(70) ** 1.5, 1)
        assert ks(spread(a), spread(b)) == pytest.approx(ks_2samp(a, b).statistic)


def test_psi_is_nothing_for_the_same_and_grows_with_the_distance():
    rng = np.random.default_rng(0)
    base = rng.beta(5, 3, 2_000)
    moved = [psi(spread(base), spread(np.clip(base + d, 0, 1))) for d in (0.0, 0.05, 0.2)]
    assert moved[0] == 0
    assert moved[0] < moved[1] < moved[2]
    assert moved[2] > 0.25
    # By hand: halves of 100 against 75 and 25; the empty tenths count alike and tell nothing.
    before, newest = (
        (np.array([0.05, 0.95]), np.array([50.0, 50])),
        (np.array([0.05, 0.95]), np.array([75.0, 25])),
    )
    assert psi(before, newest) == pytest.approx(0.25 * np.log(1.5) + 0.25 * np.log(2), rel=0.05)


def test_the_newest_run_is_held_against_the_one_before(facts):
    drift = score_drift(facts)
    assert (drift.before_run, drift.newest_run) == RUNS
    assert (drift.n_before, drift.n_newest) == (100, 100)
    assert drift.newest.sum() == pytest.approx(1)
    assert drift.ks > drift.ks_noise
    mean = {
        run: float(np.mean([r["top_score"] for r in facts.clips.to_pylist() if r["run_id"] == run]))
        for run in RUNS
    }
    assert mean[RUNS[1]] > mean[RUNS[0]]


def test_one_run_tells_no_drift(facts):
    first = facts.scores.filter(pa.compute.equal(facts.scores["run_id"], RUNS[0]))
    assert score_drift(dataclasses.replace(facts, scores=first)) is None


def test_near_twins_are_told_apart_by_whose_they_are(facts):
    rng = np.random.default_rng(1)
    base = rng.normal(size=(6, 384)).astype(np.float32)
    vectors = np.stack([base[0], base[0] * 2, base[1], base[2], base[2], base[3], base[4], base[5]])
    videos = ["a", "a", "a", "b", "c", "c", "d", "d"]
    column = pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), 384)
    twins = near_duplicates(
        dataclasses.replace(facts, embeddings=pa.table({"video_id": videos, "embedding": column}))
    )
    assert (twins.same_video, twins.other_video) == (2 / 8, 2 / 8)


def test_what_is_missing_is_counted(facts):
    found = {check.name: check for check in checks(facts, None, None)}
    n_said = sum(row is not None for row in facts.clips["transcript"].to_pylist())
    assert found["Without a transcript"].found == f"{1 - n_said / 200:.1%} of clips"
    assert found["Without a caption"].state == "fine"
    assert found["Damaged (status partial)"].found == "2.5% of clips"
    assert found["Scores against the run before"].state == "unknown"
    unsaid = facts.clips.set_column(
        facts.clips.column_names.index("caption"), "caption", pa.nulls(200, pa.string())
    )
    found = {c.name: c for c in checks(dataclasses.replace(facts, clips=unsaid), None, None)}
    assert found["Without a caption"].state == "look"
