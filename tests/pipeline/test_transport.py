"""A batch of clips crosses a process border unchanged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import safetensors.numpy

from pipeline.transport import pack, unpack
from tests.batches import make_batch


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("motion_rate_hz", [0, 8])
def test_a_batch_comes_back_as_it_went(n, motion_rate_hz):
    batch = make_batch(n, motion_rate_hz=motion_rate_hz)
    back = unpack(b"".join(pack(batch)))
    assert (back.motion is None) == (motion_rate_hz == 0)
    if batch.motion is not None:
        assert_same(batch.motion, back.motion)
    assert_same(*(dataclasses.replace(x, motion=None) for x in (batch, back)))


def test_what_crosses_is_a_file_that_any_reader_of_safetensors_opens():
    batch = make_batch(2, motion_rate_hz=8)
    arrays = safetensors.numpy.load(b"".join(pack(batch)))
    np.testing.assert_array_equal(arrays["frames"], batch.frames)
    np.testing.assert_array_equal(arrays["motion.time_s"], batch.motion.time_s)
    assert all(array.flags.aligned for array in arrays.values())


def test_pictures_are_not_copied_and_stay_as_they_are():
    whole = b"".join(pack(make_batch(2, motion_rate_hz=8)))
    back = unpack(whole)
    for pictures in (back.frames, back.motion.grey):
        assert np.shares_memory(pictures, np.frombuffer(whole, np.uint8))
        with pytest.raises(ValueError, match="read-only"):
            pictures += 1
    back.samples[0] *= 0.5  # what is small may be worked on


def assert_same(mine, theirs):
    for field in dataclasses.fields(mine):
        a, b = getattr(mine, field.name), getattr(theirs, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        else:
            assert a == b
