"""Units of work: on the grid, stable, and none that is settled."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from jobs.plan import cut_units, make_plan, result_digest_of
from pipeline.config import load_config
from pipeline.records import Source
from pipeline.sources import Listing
from pipeline.tables.commit import CommitRecord, UnitEntry
from pipeline.tables.ledger import Ledger

CONFIG = load_config()
SOURCE = Source("/v.mp4", "v", "1", 10, duration_s=150.0)


@given(st.decimals("0.001", "100000", places=3))
def test_units_tile_the_video_and_the_last_is_open(duration):
    units = list(cut_units(SOURCE, float(duration), CONFIG, "d"))
    assert units[0].start_s == 0
    for a, b in pairwise(units):
        assert a.end_s == b.start_s == a.start_s + 60
    assert units[-1].end_s is None
    rest = Fraction(duration) - Fraction(units[-1].start_s)
    assert 0 < rest <= 60 + Fraction("0.1")


def test_what_has_no_duration_is_one_unit():
    (unit,) = cut_units(SOURCE, None, CONFIG, "d")
    assert (unit.start_s, unit.end_s) == (0.0, None)


@given(st.sampled_from(["video_id", "digest"]))
def test_ids_follow_the_video_and_the_digest(what):
    first = [u.unit_id for u in cut_units(SOURCE, 150.0, CONFIG, "d")]
    assert first == [u.unit_id for u in cut_units(SOURCE, 150.0, CONFIG, "d")]
    assert len(set(first)) == 3
    changed = dataclasses.replace(SOURCE, video_id="w") if what == "video_id" else SOURCE
    digest = "e" if what == "digest" else "d"
    assert not set(first) & {u.unit_id for u in cut_units(changed, 150.0, CONFIG, digest)}


def ledger_of(done, failed):
    """One unit that is done, one that failed twice."""
    ended = [("done", done, 1), ("failed", failed, 2)]
    entries = tuple(
        UnitEntry(
            u.unit_id,
            "s",
            u.video_id,
            state,
            n,
            result_digest_of(CONFIG),
            "r",
            u.planned_s,
        )
        for state, u, n in ended
    )
    return Ledger.of([CommitRecord("n", "r", "2026-01-31", (), "u", entries, 1)])


def test_settled_units_are_left_out_and_attempts_are_counted():
    listing = Listing((SOURCE,))
    a, b, c = make_plan(listing, CONFIG, Ledger()).todo
    ledger = ledger_of(a, b)
    plan = make_plan(listing, CONFIG, ledger)
    assert [u.unit_id for u in plan.todo] == [c.unit_id]
    assert (plan.n_units, plan.n_done_before, plan.n_failed_before) == (3, 1, 1)
    again = make_plan(listing, CONFIG, ledger, retry_failures=True)
    assert [(u.unit_id, u.attempt) for u in again.todo] == [(b.unit_id, 3), (c.unit_id, 1)]


def test_what_a_lost_attempt_ended_is_not_done_again_whatever_is_asked_for():
    """Also a unit that failed there and was done in an earlier run, whose end is the one that counts."""
    listing = Listing((SOURCE,))
    a, b, c = make_plan(listing, CONFIG, Ledger()).todo
    digest = result_digest_of(CONFIG)
    done, failed = (
        UnitEntry(a.unit_id, "s", a.video_id, state, 1, digest, run, a.planned_s)
        for state, run in (("done", "r1"), ("failed", "r2"))
    )
    ledger = Ledger.of(
        [
            CommitRecord("n1", "r1", "2026-01-31", (), "u1", (done,), 1),
            CommitRecord("n2", "r2", "2026-01-31", (), "u2", (failed,), 1),
        ]
    )
    for asked in ({"force": True}, {"retry_failures": True}):
        plan = make_plan(listing, CONFIG, ledger, settled_by=["r2"], **asked)
        assert [u.unit_id for u in plan.todo] == [b.unit_id, c.unit_id]
        assert (plan.n_done_before, plan.n_failed_before) == (0, 1)
    assert len(make_plan(listing, CONFIG, ledger, force=True).todo) == 3


def test_a_file_that_cannot_be_probed_is_a_unit_whose_failure_will_be_a_row(tmp_path):
    (tmp_path / "bad.mp4").write_text("no video")
    source = Source(str(tmp_path / "bad.mp4"), "v", "1")
    (unit,) = make_plan(Listing((source,)), CONFIG, Ledger()).todo
    assert unit.end_s is None


def test_what_is_in_the_table_keeps_its_cut():
    """A manifest that states another duration later, or none, does not make other units."""
    a, b, c = make_plan(Listing((SOURCE,)), CONFIG, Ledger()).todo
    later = dataclasses.replace(SOURCE, duration_s=500.0)
    again = make_plan(Listing((later,)), CONFIG, ledger_of(a, b), force=True).todo
    assert [u.unit_id for u in again] == [u.unit_id for u in (a, b, c)]
