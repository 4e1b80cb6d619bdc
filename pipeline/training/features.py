"""What senses told of a unit, kept on disk: the next training starts at once.

A file is named by its unit, whose id covers the video's content, its span, the bundle and how clips are cut and
looked at. Numbers are kept as halves: they move scores by less than a run's own rounding does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.bundles.senses import Tokens
from pipeline.records import ClipBatch

_PARTS = ("values", "middle_s", "valid")


@dataclass(frozen=True)
class UnitFeatures:
    """The clips of a unit."""

    start_s: npt.NDArray[np.float64]  # (C,)
    end_s: npt.NDArray[np.float64]  # (C,)
    streams: dict[str, Tokens]  # values (C, K, D) float16, or as an encoder takes them


def feature_file(folder: Path, unit_id: str, tuned: str = "") -> Path:
    """Where a unit's features are kept; of a stream that is tuned, what its encoder takes."""
    return folder / (f"{unit_id}.{tuned}.safetensors" if tuned else f"{unit_id}.safetensors")


def write_features(file: Path, batch: ClipBatch, streams: Mapping[str, Tokens]) -> None:
    """Keep what was told of a unit; the file appears whole or not at all."""
    tensors: dict[str, Tensor] = {
        "start_s": torch.from_numpy(batch.start_s.copy()),
        "end_s": torch.from_numpy(batch.end_s.copy()),
    }
    for name, tokens in streams.items():
        values = tokens.values
        tensors[f"{name}.values"] = values.half() if values.is_floating_point() else values
        tensors[f"{name}.middle_s"], tensors[f"{name}.valid"] = tokens.middle_s, tokens.valid
    part = file.with_suffix(f".{os.getpid()}.part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
    os.replace(part, file)


def read_features(file: Path, streams: Sequence[str] | None = None) -> UnitFeatures:
    """What was told of a unit, of some streams or (None) of all.

    Raises:
        KeyError: a stream that was not told.
    """
    with safe_open(file, framework="pt") as held:
        names = list(dict.fromkeys(key.partition(".")[0] for key in held.keys() if "." in key))  # noqa: SIM118
        wanted = names if streams is None else streams
        absent = set(wanted) - set(names)
        if absent:
            raise KeyError(f"{file}: no tokens of {min(absent)!r}; it has: {', '.join(names)}")
        told = {
            name: Tokens(*(held.get_tensor(f"{name}.{part}") for part in _PARTS)) for name in wanted
        }
        return UnitFeatures(held.get_tensor("start_s").numpy(), held.get_tensor("end_s").numpy(), told)
