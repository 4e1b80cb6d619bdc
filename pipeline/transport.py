"""A batch of clips as one buffer and back, for crossing from one process to another. No pickles.

The buffer is a file in the format of safetensors: eight bytes that tell a header's length, a JSON header,
arrays one behind the other. Pictures, which are most of it, are copied neither into it nor out of it: each copy
costs two or three hundredths of what decoding them did.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.records import ClipBatch, MotionPictures

if TYPE_CHECKING:
    from typing_extensions import Buffer

_FIELDS = tuple(field.name for field in dataclasses.fields(ClipBatch) if field.name != "motion")
_MOTION = "motion."
_PICTURES = {"frames", _MOTION + "grey"}
_ALIGNMENT = 64  # of the first array, in bytes; a larger kind of number never follows a smaller one
_NAMES = {
    np.dtype(kind): name
    for name, kind in {
        "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32,
        "U8": np.uint8, "BOOL": np.bool_,
    }.items()
}  # fmt: skip
_KINDS = {name: kind for kind, name in _NAMES.items()}


def pack(batch: ClipBatch) -> list[Buffer]:
    """All of `batch`, its scalars in the header: pieces that make up the buffer when laid end to end."""
    values = {name: getattr(batch, name) for name in _FIELDS}
    if batch.motion is not None:
        values |= {_MOTION + name: value for name, value in vars(batch.motion).items()}
    arrays = {k: np.ascontiguousarray(v) for k, v in values.items() if isinstance(v, np.ndarray)}
    scalars = {k: v for k, v in values.items() if k not in arrays}
    header: dict[str, Any] = {"__metadata__": {"scalars": json.dumps(scalars)}}
    pieces: list[Buffer] = []
    end = 0
    for name, array in sorted(arrays.items(), key=lambda item: -item[1].itemsize):
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": array.shape,
            "data_offsets": (start, end),
        }
        pieces.append(array.data)
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return [len(text).to_bytes(8, "little"), text, *pieces]


def unpack(buffer: Buffer) -> ClipBatch:
    """The batch that `pack` made `buffer` of. Pictures lie in `buffer`, read-only; all else is a copy."""
    whole = memoryview(buffer)
    begin = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(bytes(whole[8:begin]))
    values: dict[str, Any] = json.loads(header.pop("__metadata__")["scalars"])
    for name, told in header.items():
        start, end = told["data_offsets"]
        array = np.frombuffer(whole[begin + start : begin + end], _KINDS[told["dtype"]])
        values[name] = array.reshape(told["shape"])
        if name in _PICTURES:
            values[name].flags.writeable = False
        else:
            values[name] = values[name].copy()
    of_motion = {k.removeprefix(_MOTION): v for k, v in values.items() if k.startswith(_MOTION)}
    of_batch = {k: v for k, v in values.items() if not k.startswith(_MOTION)}
    return ClipBatch(**of_batch, motion=MotionPictures(**of_motion) if of_motion else None)
