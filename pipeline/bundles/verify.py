"""Whether a bundle is what it was: every weight loaded strictly, and a fixed input answered as before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.bundles.accelerate import LEAST_COSINE, SURE
from pipeline.bundles.model import Model
from pipeline.bundles.senses import Sensed
from pipeline.bundles.spec import BundleError, BundleSpec, golden_file
from pipeline.config import Config, LabelConfig, RunConfig
from pipeline.records import ClipBatch, ClipResult, MotionPictures

_KEPT_LABELS = 12
_CLIP_S = 4.0
_SIZE_PX = (256, 340)
_TOLERANCE = 2e-3  # of scores and of each number of an embedding: other CPUs round otherwise


@dataclass(frozen=True)
class Verified:
    """What verifying a bundle found."""

    bundle: str
    digest: str
    golden: str  # equal, or none stored
    fast_cosine: (
        float | None
    )  # of scores as a run computes them to the library's; None: they are the same


def verify(spec: BundleSpec, *, record: bool = False, device: str = "cpu") -> Verified:
    """Load everything strictly and run the fixed input; a captioner that the config chooses is not asked.

    Args:
        record: keep what comes out as what is expected from now on.

    Raises:
        BundleError: a file is absent, altered or does not fit, or the answer is another than the stored one.
    """
    asked = spec.model_copy(update={"captions": None}) if spec.captioner_is_chosen else spec
    everything = LabelConfig(min_score=dict.fromkeys(spec.spaces, 0.0), max_per_space=100)
    exactly = RunConfig(precision="float32")
    config = asked.fitted(Config(bundle=spec.name, labels=everything, run=exactly))
    model = Model(asked, config, device)
    clips = fixed_input(config.clips.frames_per_clip, model.sample_rate_hz, config.clips.motion_rate_hz)
    (results,) = model.understand([clips])
    exact = model.sense([clips])
    found: dict[str, Any] = {"bundle": spec.name, "clips": [_told(result, model) for result in results]}
    path = golden_file(spec)
    if record:
        kept = {**found, "clips": [_best(clip) for clip in found["clips"]]}
        path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    golden = _compared(path, found) if path.is_file() else "none stored"
    del model  # one network at a time in memory
    hasty = Model(asked, config.model_copy(update={"run": RunConfig()}), device)
    fast = _agreement(spec, exact, hasty.sense([clips])) if hasty.runtime.is_fast else None
    return Verified(spec.name, spec.digest(), golden, fast)


def _agreement(
    spec: BundleSpec, exact: Sequence[Sensed | None], fast: Sequence[Sensed | None]
) -> float:
    """The least cosine between scores of the exact and the fast way, over clips and vocabularies.

    Raises:
        BundleError: it is under the stated tolerance, or another class is first where the first two lie apart.
    """
    cosines = [1.0]
    for mine, hasty in zip(exact, fast, strict=True):
        if mine is None or hasty is None:
            continue
        for space, scores in mine.spaces.items():
            has = scores.any(1)
            alike = torch.cosine_similarity(scores, hasty.spaces[space])
            cosines += alike[has].tolist()
            if turned(scores[has], hasty.spaces[space][has]).any():
                what = f"another class of {space} is first where the first two lie {SURE} apart"
                raise BundleError(f"{spec.name}: in its fast way {what}; use run.precision=float32")
    if min(cosines) < LEAST_COSINE:
        what = f"its networks answer otherwise in their fast way: cosine {min(cosines):.4f}"
        raise BundleError(f"{spec.name}: {what}, expected {LEAST_COSINE}; use run.precision=float32")
    return min(cosines)


def turned(exact: torch.Tensor, fast: torch.Tensor) -> torch.Tensor:
    """Rows of scores, (N, C), with another class first though the exact first two lie apart, (N,)."""
    best = exact.topk(min(2, exact.shape[1]), 1).values
    is_sure = best[:, 0] - best[:, -1] > SURE
    return is_sure & (exact.argmax(1) != fast.argmax(1))


def fixed_input(n_frames: int, sample_rate_hz: int, motion_rate_hz: int = 0) -> ClipBatch:
    """Two clips made of integers alone, alike on every machine: stripes that move, a tone that rises."""
    height, width = _SIZE_PX
    y, x = np.mgrid[:height, :width]
    at = np.arange(n_frames)[:, None, None] * (64 // n_frames + 1)
    first = np.stack(
        [(x + 3 * at) % 256 + 0 * y, (y + at) % 256 + 0 * x, (x + y + 2 * at) % 256], axis=-1
    )
    frames = np.stack([first, first[:, ::-1, :, ::-1]]).astype(np.uint8)
    seconds = np.arange(int(_CLIP_S * sample_rate_hz)) / sample_rate_hz
    tone = 0.3 * np.sin(2 * np.pi * (220 + 55 * seconds) * seconds)
    pulses = 0.5 * np.sin(2 * np.pi * 1000 * seconds) * (seconds % 0.5 < 0.05)
    start_s = np.array([0.0, _CLIP_S])
    n_samples = len(seconds)
    return ClipBatch(
        start_s=start_s,
        end_s=start_s + _CLIP_S,
        start_pts=(start_s * 1000).astype(np.int64),
        time_base="1/1000",
        is_padded=np.zeros(2, bool),
        is_damaged=np.zeros(2, bool),
        frames=frames,
        frame_valid=np.ones((2, n_frames), bool),
        frame_time_s=start_s[:, None] + np.arange(n_frames) * _CLIP_S / n_frames,
        frame_error_ms=np.zeros(2, np.float32),
        samples=np.stack([tone, pulses]).astype(np.float32),
        sample_rate_hz=sample_rate_hz,
        audio_valid=np.array([[0, n_samples]] * 2, np.int32),
        audio_coverage=np.ones(2, np.float32),
        av_skew_ms=np.zeros(2, np.float32),
        motion=_fixed_motion(motion_rate_hz, start_s) if motion_rate_hz else None,
    )


def _fixed_motion(rate_hz: int, start_s: npt.NDArray[np.float64]) -> MotionPictures:
    """A pattern that goes to the right, and one that stays while a bar crosses it."""
    n, (height, width) = int(_CLIP_S * rate_hz), (72, 96)
    y, x = np.mgrid[:height, :width]
    t = np.arange(n)[:, None, None]
    pattern = (x - 2 * t) // 6 * 37 % 97 + y // 8 * 53 % 89
    bar = np.where(abs(x - 3 * t % width) < 8, 240, 0 * t + (x // 5 * 41 + y // 7 * 29) % 180)
    grey = np.stack([pattern, bar]).astype(np.uint8)
    time_s = start_s[:, None] + (np.arange(n) + 0.5) / rate_hz
    return MotionPictures(grey, np.ones((2, n), bool), time_s, rate_hz)


def _told(result: ClipResult, model: Model) -> dict[str, Any]:
    return {
        "labels": {f"{x.space}/{x.modality}/{x.label}": round(x.score, 5) for x in result.labels},
        # A sentence made of labels says nothing more than they do.
        "caption": result.caption if model.captioner else None,
        "words": None if result.words is None else [word.word for word in result.words],
        "embedding": None
        if result.embedding is None
        else [round(float(number), 5) for number in result.embedding],
    }


def _best(clip: dict[str, Any]) -> dict[str, Any]:
    """A clip's answer with its best labels alone; a golden need not hold them all."""
    best = sorted(clip["labels"].items(), key=lambda item: -item[1])[:_KEPT_LABELS]
    return clip | {"labels": dict(best)}


def _compared(path: Path, found: dict[str, Any]) -> str:
    """ "equal", or BundleError with what differs."""
    expected = json.loads(path.read_text(encoding="utf-8"))
    problems = []
    for i, (was, now) in enumerate(zip(expected["clips"], found["clips"], strict=True)):
        problems += [
            f"clip {i}: {name} is {now[name]!r}, expected {was[name]!r}"
            for name in ("caption", "words")
            if was[name] != now[name]
        ]
        off = {n: abs(score - now["labels"].get(n, 0.0)) for n, score in was["labels"].items()}
        problems += [f"clip {i}: {n} is off by {d:.4f}" for n, d in off.items() if d > _TOLERANCE]
        vectors = [np.array(v["embedding"] or [0.0]) for v in (was, now)]
        if vectors[0].shape != vectors[1].shape or np.abs(vectors[0] - vectors[1]).max() > _TOLERANCE:
            problems.append(f"clip {i}: the embedding is another")
    if problems:
        raise BundleError(f"{path}: the fixed input is answered otherwise: " + "; ".join(problems))
    return "equal"
