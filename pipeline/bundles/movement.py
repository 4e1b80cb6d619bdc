"""The sense of motion: windows of small grey pictures in, what camera and things do out."""

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
    OBJECT_MOTIONS,
    RATE_HZ,
    SIZE_PX,
    TOKEN_DIM,
    MotionNet,
)
from pipeline.records import ClipBatch

CAMERA, OBJECTS, FIGHTS = "camera", "motion", "fights"
_STATIC = CAMERA_MOTIONS.index("static")
_LEAST_SHARE = 0.75  # of a window's pictures that the clip must have


@dataclass(frozen=True)
class _Window:
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
    token_dim = TOKEN_DIM

    def __init__(self, bundle: BundleSpec, spec: MotionSpec, runtime: Runtime) -> None:
        if (spec.rate_hz, spec.height_px) != (RATE_HZ, SIZE_PX[0]):
            raise BundleError(
                f"{bundle.name}: motion asks for {spec.rate_hz} pictures a second of {spec.height_px} px, "
                f"the network sees {RATE_HZ} of {SIZE_PX[0]}"
            )
        self.runtime, self.spaces = runtime, bundle.spaces
        self.names: dict[str, tuple[str, ...]] = {
            CAMERA: CAMERA_MOTIONS,
            OBJECTS: OBJECT_MOTIONS,
            FIGHTS: ("fighting",),
        }
        net = MotionNet()
        load_strictly(net, read_tensors(spec.weights, bundle.directory), bundle.name)
        self.net: MotionNet = net.to(runtime.device).eval()
        if runtime.is_fast:
            accelerate_cnn(net.trunk, (), runtime.device)
        self.chunk = runtime.at_once(8, 128)

    @torch.inference_mode()
    def perceive(self, batches: Sequence[ClipBatch]) -> Sensed:
        """Scores of all clips of all `batches`, one batch's clips behind the other's; zero where a clip has no
        window of motion pictures. A token is a window's features."""
        n_clips = sum(len(batch) for batch in batches)
        n_windows = max((_n_windows(batch) for batch in batches), default=0)
        found = {name: torch.zeros(n_clips, n_windows, len(c)) for name, c in self.names.items()}
        values = torch.zeros(n_clips, n_windows, TOKEN_DIM)
        middle_s, valid = (
            torch.zeros(n_clips, n_windows),
            torch.zeros(n_clips, n_windows, dtype=torch.bool),
        )
        windows = list(_windows(batches))
        for i in range(0, len(windows), self.chunk):
            part = windows[i : i + self.chunk]
            at = torch.tensor([w.row for w in part]), torch.tensor([w.place for w in part])
            pictures = torch.from_numpy(np.stack([w.pictures for w in part]))
            seen = self.net.tell(filled(pictures, self.chunk).to(self.runtime.device))
            values[at] = seen.tokens[: len(part)].cpu()
            middle_s[at] = torch.tensor([(w.start + N_PICTURES / 2) / RATE_HZ for w in part])
            valid[at] = True
            for name, scores in self._scores(seen.camera, seen.objects, seen.fight).items():
                found[name][at] = scores[: len(part)].cpu()
        spaces = {name: _of_clip(scores, valid) for name, scores in found.items()}
        if n_windows:  # a camera stands still if it does all the time, and pans if it does at some time
            standing = found[CAMERA][..., _STATIC].masked_fill(~valid, 1.0).amin(1)
            spaces[CAMERA][:, _STATIC] = standing * valid.any(1)
        return Sensed(spaces, torch.zeros(n_clips, 0), tokens=Tokens(values, middle_s, valid))

    def pieces(self, batches: Sequence[ClipBatch]) -> Tokens:
        """Windows of all clips, for an encoder that is tuned: values (N, K, N_PICTURES, h, w) uint8."""
        n_clips = sum(len(batch) for batch in batches)
        n_windows = max((_n_windows(batch) for batch in batches), default=0)
        values = torch.zeros(n_clips, n_windows, N_PICTURES, *SIZE_PX, dtype=torch.uint8)
        middle_s = torch.zeros(n_clips, n_windows)
        valid = torch.zeros(n_clips, n_windows, dtype=torch.bool)
        for w in _windows(batches):
            values[w.row, w.place] = torch.from_numpy(w.pictures)
            middle_s[w.row, w.place] = (w.start + N_PICTURES / 2) / RATE_HZ
            valid[w.row, w.place] = True
        return Tokens(values, middle_s, valid)

    def _scores(self, camera: Tensor, objects: Tensor, fight: Tensor) -> dict[str, Tensor]:
        """Calibrated scores of windows, (B, C) by vocabulary."""
        return {
            CAMERA: self._calibrated(CAMERA, _logit(camera.softmax(1))),
            OBJECTS: self._calibrated(OBJECTS, _logit(objects.softmax(1)[:, :-1])),
            FIGHTS: self._calibrated(FIGHTS, fight[:, None]),
        }

    def _calibrated(self, space: str, logits: Tensor) -> Tensor:
        calibration = self.spaces[space]
        return torch.sigmoid(calibration.slope * logits + calibration.offset)


def _n_windows(batch: ClipBatch) -> int:
    return -(-batch.motion.valid.shape[1] // N_PICTURES) if batch.motion is not None else 0


def _windows(batches: Sequence[ClipBatch]) -> Iterator[_Window]:
    """Windows one after the other over what a clip has; the last reaches back rather than over the end."""
    first = 0
    for batch in batches:
        motion = batch.motion
        for i in range(len(batch) if motion is not None else 0):
            assert motion is not None
            there = np.flatnonzero(motion.valid[i])
            if not len(there):
                continue
            begin, end = int(there[0]), int(there[-1]) + 1
            starts = range(begin, max(begin + 1, end - N_PICTURES // 4), N_PICTURES)
            for place, start in enumerate(starts):
                start = max(begin, min(start, end - N_PICTURES))
                pictures = motion.grey[i, start : start + N_PICTURES]
                n_valid = int(motion.valid[i, start : start + N_PICTURES].sum())
                if n_valid >= _LEAST_SHARE * N_PICTURES:
                    missing = N_PICTURES - len(pictures)
                    yield _Window(
                        first + i,
                        place,
                        start,
                        np.pad(pictures, ((0, missing), (0, 0), (0, 0)), "edge"),
                    )
        first += len(batch)


def _of_clip(scores: Tensor, valid: Tensor) -> Tensor:
    """Each name's best window: (N, K, C), (N, K) → (N, C); zero without one."""
    if not scores.shape[1]:
        return scores.new_zeros(len(scores), scores.shape[2])
    return scores.masked_fill(~valid[..., None], 0.0).amax(1)


def _logit(p: Tensor) -> Tensor:
    return torch.logit(p, eps=1e-6)
