"""PTS arithmetic is exact."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media.clock import (
    file_origin,
    on_screen,
    pts_to_time,
    sample_index,
    time_to_pts,
    to_fraction,
)

time_bases = st.sampled_from([Fraction(1, d) for d in (25, 1000, 12800, 44100, 48000, 90000)])
ticks = st.integers(-(2**40), 2**40)


@given(ticks, time_bases, st.fractions(0, 100))
def test_ticks_to_time_and_back_loses_nothing(pts, time_base, origin):
    assert time_to_pts(pts_to_time(pts, time_base, origin), time_base, origin) == pts


@given(st.fractions(0, 10_000), time_bases)
def test_a_time_falls_on_the_last_tick_at_or_before_it(time_s, time_base):
    tick = time_to_pts(time_s, time_base, Fraction(0))
    assert tick * time_base <= time_s < (tick + 1) * time_base


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=50, unique=True), st.integers(-5, 10_005))
def test_the_frame_on_screen_began_last(times, t):
    times = sorted(times)
    i = on_screen(times, t)
    began = [pts for pts in times if pts <= t]
    assert times[i] == (began[-1] if began else times[0])


def test_without_frames_nothing_is_on_screen():
    with pytest.raises(ValueError, match="no frames"):
        on_screen([], 0)


def test_the_origin_is_the_earliest_start_but_never_negative():
    assert file_origin([Fraction(587, 10_000), Fraction(8, 100)]) == Fraction(587, 10_000)
    assert file_origin([Fraction(-1, 3), Fraction(0)]) == 0
    assert file_origin([]) == 0


@given(st.integers(0, 10**9), st.sampled_from([8_000, 16_000, 44_100, 48_000]))
def test_a_sample_index_is_its_own_time(n, rate):
    assert sample_index(Fraction(n, rate), rate) == n


@given(st.decimals(0, 10_000, places=3))
def test_a_float_of_the_config_is_the_decimal_a_person_wrote(d):
    assert to_fraction(float(d)) == Fraction(d)
