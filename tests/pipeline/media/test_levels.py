"""How loud a clip is over its time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media.levels import SILENCE_DB, STEP_S, sound_levels_db

RATE_HZ = 16_000


def test_a_level_is_that_of_its_own_quarter_of_a_second():
    samples = np.zeros(2 * RATE_HZ, np.float32)
    samples[: RATE_HZ // 4] = 1.0  # a full-scale square wave
    samples[RATE_HZ // 2 : 3 * RATE_HZ // 4] = 0.5 * np.sin(np.arange(RATE_HZ // 4) * np.pi / 8)
    levels = sound_levels_db(samples, (0, len(samples)), RATE_HZ, 2.0)
    assert levels == pytest.approx([0, SILENCE_DB, -9.03, *[SILENCE_DB] * 5], abs=0.01)


def test_what_the_file_does_not_have_has_no_level():
    samples = np.full(4 * RATE_HZ, 0.1, np.float32)
    levels = sound_levels_db(samples, (RATE_HZ, 2 * RATE_HZ + 800), RATE_HZ, 4.0)
    assert levels == [None] * 4 + [-20.0] * 5 + [None] * 7
    assert sound_levels_db(samples, (0, 0), RATE_HZ, 1.0) == [None] * 4


def test_a_clip_that_is_shorter_has_fewer_steps_the_last_of_what_there_is():
    samples = np.full(4 * RATE_HZ, 0.1, np.float32)
    samples[round(1.3 * RATE_HZ) :] = 1.0  # padding, or the next clip
    assert sound_levels_db(samples, (0, len(samples)), RATE_HZ, 1.3) == [-20.0] * 6


def test_what_is_no_number_is_left_out():
    samples = np.full(RATE_HZ, 0.1, np.float32)
    samples[[10, 5000]] = np.nan, np.inf
    samples[12_000:] = np.nan
    assert sound_levels_db(samples, (0, RATE_HZ), RATE_HZ, 1.0) == [-20.0] * 3 + [None]


def test_a_clip_that_was_made_longer_has_levels_of_the_samples_that_it_has():
    samples = np.full(4 * RATE_HZ, 0.1, np.float32)
    assert sound_levels_db(samples, (0, 5 * RATE_HZ), RATE_HZ, 4.05) == [-20.0] * 16
    assert sound_levels_db(samples[:0], (0, 0), RATE_HZ, 1.0) == []


@given(
    st.floats(0.01, 8),
    st.integers(0, 40_000),
    st.integers(0, 40_000),
    st.sampled_from([16_000, 44_100]),
)
def test_a_step_for_each_quarter_second_and_none_where_nothing_is(length_s, a, b, rate_hz):
    samples = np.full(round(8 * rate_hz), 0.1, np.float32)
    first, end = min(a, b), max(a, b)
    levels = sound_levels_db(samples, (first, end), rate_hz, length_s)
    assert len(levels) * STEP_S == pytest.approx(length_s, abs=STEP_S)
    assert all(db is None or db == pytest.approx(-20, abs=0.01) for db in levels)
    there = min(end, round(length_s * rate_hz)) - first
    assert any(db is not None for db in levels) == (there > 0)
