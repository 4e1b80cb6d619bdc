"""A batch of clips crosses a process border unchanged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipeline.transport import pack, unpack
from tests.batches import make_batch


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_batch_comes_back_as_it_went(n):
    batch = make_batch(n)
    back = unpack(pack(batch))
    for field in dataclasses.fields(batch):
        a, b = getattr(batch, field.name), getattr(back, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        else:
            assert a == b
