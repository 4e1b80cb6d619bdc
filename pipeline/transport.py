"""A batch of clips as one buffer and back, for crossing from one process to another. No pickles."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import safetensors.numpy

from pipeline.records import ClipBatch, MotionPictures

_FIELDS = tuple(field.name for field in dataclasses.fields(ClipBatch) if field.name != "motion")
_MOTION = "motion."


def pack(batch: ClipBatch) -> bytes:
    """All of `batch`, its scalars in the header."""
    values = {name: getattr(batch, name) for name in _FIELDS}
    if batch.motion is not None:
        values |= {_MOTION + name: value for name, value in vars(batch.motion).items()}
    arrays = {k: np.ascontiguousarray(v) for k, v in values.items() if isinstance(v, np.ndarray)}
    scalars = {k: v for k, v in values.items() if k not in arrays}
    return safetensors.numpy.save(arrays, metadata={"scalars": json.dumps(scalars)})


def unpack(buffer: bytes) -> ClipBatch:
    """The batch that `pack` made `buffer` of."""
    arrays: dict[str, Any] = safetensors.numpy.load(buffer)
    size = int.from_bytes(buffer[:8], "little")  # the format: header length, JSON header, tensors
    scalars: dict[str, Any] = json.loads(json.loads(buffer[8 : 8 + size])["__metadata__"]["scalars"])
    values = arrays | scalars
    of_motion = {k.removeprefix(_MOTION): v for k, v in values.items() if k.startswith(_MOTION)}
    of_batch = {k: v for k, v in values.items() if not k.startswith(_MOTION)}
    return ClipBatch(**of_batch, motion=MotionPictures(**of_motion) if of_motion else None)
