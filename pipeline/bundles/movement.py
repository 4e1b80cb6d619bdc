"""The sense of motion: windows of small grey pictures in; what the camera does and whether they fight out.

What things do (fall, swing, …) the network knows too, but of rendered things only: in real clips it takes fades
and still faces for things that come near, so it is not told. docs/models/embedded.md has the figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.bundles.accelerate import Runtime, accelerate_cnn
from pipeline.bundles.senses import Sensed, Tokens, filled
from pipeline.bundles.spec import BundleError, BundleSpec, MotionSpec
from pipeline.bundles.weights import load_strictly, read_tensors
from pipeline.encoders.motion import (
    CAMERA_MOTIONS,
    N_PICTURES,
    RATE_HZ,
    SIZE_PX,
    TOKEN_DIM,
    MotionNet,
    Told,
)
from pipeline.records import ClipBatch

CAMERA, FIGHTS = "camera", "fights"
_STATIC = CAMERA_MOTIONS.index("static")
_LEAST_SHARE = 0.75  # of a window's pictures that the clip must have
_LEAST_ALIKE = (
    0.25  # correlation of each picture with the next: less is a cut, a flash, a fade to black
)
_SUREST = 0.999  # a floor of 1 lets nothing through


@dataclass(frozen=True)
class Window:
    """Pictures `start` to `start + N_PICTURES` of a clip."""

    row: int  # of the clip, among those of all batches
    place: int  # among the clip's windows
    start: int
    pictures: npt.NDArray[np.uint8]  # (N_PICTURES, h, w)


def make_movement(bundle: BundleSpec, runtime: Runtime) -> MotionSight | None:
    """The bundle's sense of motion."""
    return MotionSight(bundle, bundle.motion, runtime) if bundle.motion is not None else None


class MotionSight:
    """What moves and how, by the small X3D of `pipeline.encoders.motion`."""

    modality = "video"

    def __init__(self, bundle: BundleSpec, spec: MotionSpec, runtime: Runtime) -> None:
        if (spec.rate_hz, spec.height_px) != (RATE_HZ, SIZE_PX[0]):
            raise BundleError(
                f"{bundle.name}: motion asks for {spec.rate_hz} pictures a second of {spec.height_px} px, "
                f"the network sees {RATE_HZ} of {SIZE_PX[0]}"
            )
        self.runtime, self.spaces = runtime, bundle.spaces
        self.names: dict[str, tuple[str, ...]] = {CAMERA: CAMERA_MOTIONS, FIGHTS: ("fighting",)}
        net = MotionNet()
        load_strictly(net, read_tensors(spec.weights, bundle.directory), bundle.name)
        self.net: MotionNet = net.to(runtime.device).eval()
        if runtime.is_fast:
            accelerate_cnn(net.trunk, (), runtime.device)
        self.chunk = runtime.at_once(8, 128)

    @torch.inference_mode()
    def perceive(self, batches: Sequence[ClipBatch]) -> Sensed:
        """Scores of all clips of all `batches`, one batch's clips behind the other's; zero where a clip has no
        window of motion pictures, or a cut in each. A token is a window's features."""
        shape = sum(len(batch) for batch in batches), max(map(_n_windows, batches), default=0)
        scores = {name: torch.zeros(*shape, len(names)) for name, names in self.names.items()}
        values, middle_s = torch.zeros(*shape, TOKEN_DIM), torch.zeros(shape)
        valid, flows = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
        asked = list(windows(batches))
        for i in range(0, len(asked), self.chunk):
            part = asked[i : i + self.chunk]
            at = torch.tensor([w.row for w in part]), torch.tensor([w.place for w in part])
            pictures = torch.from_numpy(np.stack([w.pictures for w in part]))
            told = self.net.tell(filled(pictures, self.chunk).to(self.runtime.device))
            values[at], valid[at] = told.tokens[: len(part)].cpu(), True
            middle_s[at] = torch.tensor([(w.start + N_PICTURES / 2) / RATE_HZ for w in part])
            flows[at] = told.least_alike[: len(part)].cpu() >= _LEAST_ALIKE
            for name, found in self._scores(told).items():
                scores[name][at] = found[: len(part)].cpu()
        spaces = {name: _at_some_time(found, flows) for name, found in scores.items()}
        spaces[CAMERA][:, _STATIC] = _all_the_time(scores[CAMERA][..., _STATIC], flows)
        return Sensed(spaces, torch.zeros(shape[0], 0), tokens=Tokens(values, middle_s, valid))

    def _scores(self, told: Told) -> dict[str, Tensor]:
        """Calibrated scores of windows, (B, C) by vocabulary."""
        logits = {
            CAMERA: torch.logit(told.camera.softmax(1), eps=1e-6),
            FIGHTS: told.fight[:, None],
        }
        return {name: self._calibrated(name, of_names) for name, of_names in logits.items()}

    def _calibrated(self, space: str, logits: Tensor) -> Tensor:
        calibration = self.spaces[space]
        return torch.sigmoid(calibration.slope * logits + calibration.offset).clamp(max=_SUREST)


def windows(batches: Sequence[ClipBatch]) -> Iterator[Window]:
    """Windows one after the other over what each clip has; the last reaches back rather than over the end."""
    first = 0
    for batch in batches:
        for i in range(len(batch) if batch.motion is not None else 0):
            yield from _of(batch, i, first + i)
        first += len(batch)


def _of(batch: ClipBatch, i: int, row: int) -> Iterator[Window]:
    assert batch.motion is not None  # windows asked
    there = np.flatnonzero(batch.motion.valid[i])
    if not len(there):
        return
    begin, end = int(there[0]), int(there[-1]) + 1
    # A quarter of a window that is left over is not worth another one.
    for place, at in enumerate(range(begin, max(begin + 1, end - N_PICTURES // 4), N_PICTURES)):
        start = max(begin, min(at, end - N_PICTURES))
        pictures = batch.motion.grey[i, start : start + N_PICTURES]
        n_valid = int(batch.motion.valid[i, start : start + N_PICTURES].sum())
        if n_valid >= _LEAST_SHARE * N_PICTURES:
            missing = N_PICTURES - len(pictures)
            yield Window(row, place, start, np.pad(pictures, ((0, missing), (0, 0), (0, 0)), "edge"))


def _n_windows(batch: ClipBatch) -> int:
    return -(-batch.motion.valid.shape[1] // N_PICTURES) if batch.motion is not None else 0


def _at_some_time(scores: Tensor, counts: Tensor) -> Tensor:
    """Each name's best window of those that count: (N, K, C), (N, K) → (N, C); zero without one."""
    if not scores.shape[1]:
        return scores.new_zeros(len(scores), scores.shape[2])
    return scores.masked_fill(~counts[..., None], 0.0).amax(1)


def _all_the_time(scores: Tensor, counts: Tensor) -> Tensor:
    """The worst window of those that count: (N, K), (N, K) → (N,); zero without one."""
    if not scores.shape[1]:
        return scores.new_zeros(len(scores))
    return scores.masked_fill(~counts, 1.0).amin(1) * counts.any(1)
