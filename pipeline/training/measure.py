"""What a learned part is worth on videos that it was not trained on, and the floors that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.bundles.spec import LearnedSpec, SpaceSpec
from pipeline.metrics.calibration import expected_calibration_error
from pipeline.metrics.intervals import bootstrap
from pipeline.training.learner import Example, Learner, choose_floor, quality
from pipeline.training.settings import TrainConfig

_SENSES = {"pictures alone": ("video",), "sound alone": ("audio",)}


@dataclass(frozen=True)
class Measured:
    """One vocabulary on one part of the videos."""

    n_clips: int
    n_videos: int
    figure: str  # accuracy, or mAP where a clip may have several labels
    value: float
    low: float  # 95 %, videos drawn again
    high: float
    calibration_error: float
    precision: float | None  # of the labels written at the floor; None: none is
    recall: float  # of the clips' labels, the share that is written
    alone: dict[str, float]  # the same figure where one sense is shown


def measure(
    learner: Learner, examples: Sequence[Example], floors: Mapping[str, float]
) -> dict[str, Measured]:
    """Each vocabulary over the labelled clips of `examples`."""
    scores = learner.scores(examples)
    modalities = {stream.modality for stream in learner.spec.streams.values()}
    alone = (
        {name: learner.scores(examples, senses) for name, senses in _SENSES.items()}
        if len(modalities) > 1
        else {}
    )
    return {
        name: _measured(learner.spec, name, examples, scores[name], floors[name],
                        {sense: found[name] for sense, found in alone.items()})
        for name in learner.spec.spaces
    }  # fmt: skip


def _measured(
    spec: LearnedSpec,
    space: str,
    examples: Sequence[Example],
    scores: Tensor,
    floor: float,
    alone: Mapping[str, Tensor],
) -> Measured:
    is_multi = spec.spaces[space].is_multi
    truth = torch.cat([e.labels[space] for e in examples])
    groups = np.concatenate([[e.group] * len(e.middle_s) for e in examples])
    known = ~truth.isnan().any(1)
    scores, truth, groups = scores[known], truth[known], groups[known.numpy()]
    low, high = bootstrap(
        lambda at: quality(scores[at], truth[at], is_multi), len(truth), groups=groups, n_resampled=500
    )
    is_right = truth.numpy() > 0.5
    told = scores.numpy() >= floor
    return Measured(
        n_clips=len(truth),
        n_videos=len(set(groups)),
        figure="mAP" if is_multi else "accuracy",
        value=quality(scores, truth, is_multi),
        low=low,
        high=high,
        calibration_error=expected_calibration_error(scores.numpy().ravel(), is_right.ravel()),
        precision=float(is_right[told].mean()) if told.any() else None,
        recall=float(told[is_right].mean()),
        alone={sense: quality(found[known], truth, is_multi) for sense, found in alone.items()},
    )


def space_specs(
    learner: Learner, watched: Sequence[Example], config: TrainConfig
) -> dict[str, SpaceSpec]:
    """Calibration and floor of each vocabulary, fitted to the watched videos, as `bundle.yaml` holds them."""
    scores, specs = learner.scores(watched), {}
    for name, space in config.spaces.items():
        truth = torch.cat([e.labels[name] for e in watched])
        known = ~truth.isnan().any(1)
        floor, precision = choose_floor(scores[name][known], truth[known], space.precision)
        kind = "Platt scaling" if space.is_multi else "temperature"
        asked = (
            ""
            if precision >= space.precision
            else f", which is less than the {space.precision:.0%} asked"
        )
        specs[name] = SpaceSpec(
            floor=floor,
            slope=learner.calibrations[name].slope,
            offset=learner.calibrations[name].offset,
            role=space.role,
            calibration=f"{kind} on {int(known.sum())} held-out clips; the floor gives a precision of "
            f"{precision:.0%} on the same{asked}",
        )
    return specs


def told_measure(found: Measured, part: str) -> str:
    """A figure as a sentence for `bundle.yaml`."""
    alone = "".join(f", {sense} {value:.1%}" for sense, value in found.alone.items())
    precision = "nothing is written" if found.precision is None else f"precision {found.precision:.0%}"
    return (
        f"{part}: {found.figure} {found.value:.1%} ({found.low:.1%} to {found.high:.1%}) over "
        f"{found.n_clips} clips of {found.n_videos} videos{alone}; expected calibration error "
        f"{found.calibration_error:.3f}; at the floor {precision}, recall {found.recall:.0%}"
    )
