"""Which instants and samples belong to a clip: nothing is lost, nothing is said twice."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ClipConfig
from pipeline.media.audio import AudioTrack
from pipeline.media.clock import to_fraction
from pipeline.sync.clips import ClipSpan, clip_instants, clip_spans, cut_sound

CLIPS = ClipConfig()
seconds = st.decimals("0.01", "200", places=3).map(Fraction)


def spans_of_file(media_end, clips):
    """All clips of a file, cut unit by unit as a run does."""
    length, found, start = to_fraction(clips.unit_s), [], Fraction(0)
    while start < media_end:
        found += clip_spans(start, start + length, media_end, clips)
        start += length
    return found


@given(seconds, st.sampled_from([(4, 4, 60), (2, 2, 8), (4, 2, 12), (3, 1.5, 6), (2.5, 2.5, 10)]))
def test_clips_cover_the_whole_file(media_end, shape):
    length, stride, unit = shape
    clips = ClipConfig(length_s=length, stride_s=stride, unit_s=unit)
    spans = spans_of_file(media_end, clips)
    assert spans[0].start_s == 0
    assert [s.start_s for s in spans] == [k * Fraction(str(stride)) for k in range(len(spans))]
    for a, b in pairwise(spans):
        assert b.start_s <= a.end_s  # no hole
    rest = media_end - spans[-1].end_s
    # Across a unit's border a rest of less than min_tail_s has no clip before it to join.
    assert rest == 0 or rest < to_fraction(clips.min_tail_s)
    for s in spans[:-1]:
        assert not s.is_padded or stride < length
        assert s.end_s - s.start_s >= min(Fraction(str(length)), Fraction(str(stride)))


@given(
    seconds,
    st.lists(st.integers(1, 5000), max_size=30),
    st.sampled_from([(4, 4, 60), (2, 2, 8), (4, 2, 12), (3, 1.5, 6), (2.5, 2.5, 10)]),
)
def test_no_clip_straddles_a_cut_and_nothing_is_dropped(media_end, ticks, shape):
    length, stride, unit = shape
    clips = ClipConfig(mode="shots", length_s=length, stride_s=stride, unit_s=unit)
    cuts = sorted({Fraction(k, 25) for k in ticks})
    unit_s, spans, start = to_fraction(clips.unit_s), [], Fraction(0)
    while start < media_end:
        inside = [t for t in cuts if start <= t < start + unit_s]
        spans += clip_spans(start, start + unit_s, media_end, clips, inside)
        start += unit_s
    borders = {k * unit_s for k in range(int(media_end / unit_s) + 1)}
    edges = sorted({*(t for t in cuts if t < media_end), *borders, media_end})
    assert {s.start_s for s in spans} >= set(edges) - {media_end}
    assert spans[0].start_s == 0
    assert spans[-1].end_s == media_end
    for span in spans:
        assert not any(span.start_s < edge < span.end_s for edge in edges)
        assert span.is_padded == (span.end_s - span.start_s < Fraction(str(length)))
    for a, b in pairwise(spans):
        assert a.start_s < b.start_s <= a.end_s
    if stride == length:
        assert sum(s.end_s - s.start_s for s in spans) == media_end


def test_a_shot_is_cut_as_a_file_of_its_own_would_be():
    clips = ClipConfig(mode="shots")
    cuts = [Fraction("1.2"), Fraction("9.25"), Fraction("9.29")]
    spans = clip_spans(Fraction(0), Fraction(60), Fraction(20), clips, cuts)
    expected = [
        (0, 1.2),
        (1.2, 5.2),
        (5.2, 9.25),
        (9.25, 9.29),
        (9.29, 13.29),
        (13.29, 17.29),
        (17.29, 20),
    ]
    assert [(float(s.start_s), float(s.end_s)) for s in spans] == expected
    assert [s.is_padded for s in spans] == [True, False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("media_end", "ends", "padded"),
    [
        ("5.28", ["4", "5.28"], [False, True]),
        ("4.004", ["4.004"], [False]),  # a sliver belongs to the clip before it
        ("0.05", ["0.05"], [True]),
        ("8", ["4", "8"], [False, False]),
    ],
)
def test_the_last_short_clip_is_kept_and_marked(media_end, ends, padded):
    spans = clip_spans(Fraction(0), Fraction(60), Fraction(media_end), CLIPS)
    assert [s.end_s for s in spans] == [Fraction(e) for e in ends]
    assert [s.is_padded for s in spans] == padded


def test_instants_lie_in_the_middle_of_equal_parts():
    span = ClipSpan(Fraction(4), Fraction(8), is_padded=False)
    instants = clip_instants(span, Fraction(0), Fraction(8), CLIPS)
    assert instants == [Fraction(17, 4) + Fraction(k, 2) for k in range(8)]


def test_where_no_picture_is_on_screen_nothing_is_looked_at():
    span = ClipSpan(Fraction(0), Fraction(4), is_padded=False)
    assert clip_instants(span, Fraction(0), Fraction(0), CLIPS) == [None] * 8
    shown = clip_instants(span, Fraction(1), Fraction(3), CLIPS)
    assert [t is not None for t in shown] == [False, False, True, True, True, True, False, False]


@given(st.fractions(0, 4), st.fractions(0, 4))
def test_any_picture_however_short_is_looked_at(a, b):
    first, last = sorted((a, b))
    shown = clip_instants(ClipSpan(Fraction(0), Fraction(4), is_padded=False), first, last, CLIPS)
    assert any(t is not None for t in shown) == (first < last)
    assert all(t is None or first <= t < last for t in shown)


def test_sound_is_cut_where_the_clip_lies_and_its_coverage_is_told():
    track = AudioTrack(np.arange(30, dtype=np.float32), 10, Fraction(0), np.array([[5, 12], [20, 30]]))
    spans = [
        ClipSpan(Fraction(0), Fraction(1), False),
        ClipSpan(Fraction(1), Fraction(2), False),
        ClipSpan(Fraction(2), Fraction(7, 2), True),
    ]
    sound = cut_sound(spans, track, 1.0, 10)
    assert sound.samples[1].tolist() == list(range(10, 20))
    assert sound.coverage.tolist() == pytest.approx([0.5, 0.2, 10 / 15])
    assert sound.valid.tolist() == [[5, 10], [0, 2], [0, 10]]
    assert sound.first_s.tolist() == [0.5, 1.0, 2.0]


def test_sound_that_was_moved_to_later_begins_within_the_first_clip():
    track = AudioTrack(np.arange(1, 31, dtype=np.float32), 10, Fraction(3, 10), np.array([[0, 30]]))
    spans = [ClipSpan(Fraction(0), Fraction(1), False), ClipSpan(Fraction(1), Fraction(2), False)]
    sound = cut_sound(spans, track, 1.0, 10)
    assert sound.samples[0].tolist() == [0, 0, 0, *range(1, 8)]
    assert sound.samples[1].tolist() == list(range(8, 18))
    assert sound.valid.tolist() == [[3, 10], [0, 10]]
    assert sound.coverage.tolist() == pytest.approx([0.7, 1.0])
    assert sound.first_s.tolist() == pytest.approx([0.3, 1.0])


def test_without_a_track_clips_are_silent():
    sound = cut_sound([ClipSpan(Fraction(0), Fraction(1), False)], None, 1.0, 10)
    assert sound.coverage.tolist() == [0.0]
    assert np.isnan(sound.first_s).all()
