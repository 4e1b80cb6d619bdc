"""What decode workers are given, and in which order."""

from __future__ import annotations

import ray.data
from hypothesis import given
from hypothesis import strategies as st

from jobs.stages import short_ones_last
from pipeline.records import Unit


def units_of(lengths_s):
    return [
        Unit(f"u{k}", f"v{k}", f"v{k}.mp4", "", 0.0, None if s is None else float(s))
        for k, s in enumerate(lengths_s)
    ]


def length_s(unit):
    return float("inf") if unit.end_s is None else unit.end_s


@given(st.lists(st.none() | st.integers(0, 60), max_size=300))
def test_every_unit_is_decoded_once_and_the_last_are_ever_shorter(lengths_s):
    units = units_of(lengths_s)
    ordered = short_ones_last(units)
    assert sorted(u.unit_id for u in ordered) == sorted(u.unit_id for u in units)
    n_last = min(len(units), max(16, len(units) // 8))
    first, last = ordered[: len(units) - n_last], ordered[len(units) - n_last :]
    assert [length_s(u) for u in last] == sorted(map(length_s, last), reverse=True)
    assert all(length_s(a) >= length_s(b) for a in first for b in last[:1])
    assert first == [u for u in units if u in first]  # as they came


def test_a_unit_whose_length_no_header_tells_is_not_left_to_the_end():
    unknown, *known = units_of([None, *range(1, 20)])
    assert short_ones_last([*known, unknown])[-1] != unknown


def test_ray_knows_how_far_a_decoder_may_be_ahead():
    """A run sets it, and its name is Ray's own: a Ray without it would keep more and say nothing."""
    assert hasattr(ray.data.DataContext(), "_max_num_blocks_in_streaming_gen_buffer")
