"""The kinds of experiments that a config may name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.evaluation.experiments.actions import GmdcsaActions
from pipeline.evaluation.experiments.captions import (
    CaptionsFromEmbedding,
    CaptionsFromNames,
    RealCaptions,
)
from pipeline.evaluation.experiments.fusion import FusionComparison
from pipeline.evaluation.experiments.motion import FightsFolds, RealMotion, RenderedMotion
from pipeline.evaluation.experiments.scenes import SceneVectors
from pipeline.evaluation.experiments.sounds import Esc10Folds, SoundCalibration
from pipeline.evaluation.experiments.speed import Speed

AnyExperiment = Annotated[
    Esc10Folds
    | SoundCalibration
    | FightsFolds
    | RenderedMotion
    | RealMotion
    | GmdcsaActions
    | FusionComparison
    | SceneVectors
    | CaptionsFromEmbedding
    | CaptionsFromNames
    | RealCaptions
    | Speed,
    Field(discriminator="kind"),
]
