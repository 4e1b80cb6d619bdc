"""A batch of clips crosses a process border unchanged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipeline.transport import pack, unpack
from tests.batches import make_batch


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("motion_rate_hz", [0, 8])
def test_a_batch_comes_back_as_it_went(n, motion_rate_hz):
    batch = make_batch(n, motion_rate_hz=motion_rate_hz)
    back = unpack(pack(batch))
    assert (back.motion is None) == (motion_rate_hz == 0)
    if batch.motion is not None:
        assert_same(batch.motion, back.motion)
    assert_same(*(dataclasses.replace(x, motion=None) for x in (batch, back)))


def assert_same(mine, theirs):
    for field in dataclasses.fields(mine):
        a, b = getattr(mine, field.name), getattr(theirs, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        else:
            assert a == b
