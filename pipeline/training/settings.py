"""What a person writes to train: `reeltable train CONFIG`, typed and checked like the config of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.config import (
    AudioConfig,
    ClipConfig,
    Config,
    LimitConfig,
    RunConfig,
    SyncConfig,
    read_as,
)
from pipeline.sources import near_manifest
from pipeline.training.learner import Learning
from pipeline.training.loop import LoopConfig

_NAME = re.compile(r"[A-Za-z][\w-]*")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SpaceConfig(_Section):
    """A vocabulary, and the column of the manifest that tells it."""

    column: str | None = Field(
        None, description="of the manifest; the vocabulary's own name if not given"
    )
    separator: str | None = Field(None, description="between several labels of a row; none: one a row")
    multi: bool | None = Field(
        None, description="whether a clip may have several; if not given, as separator says"
    )
    classes: tuple[str, ...] | None = Field(None, description="all that there are; else as found")
    background: tuple[str, ...] = Field((), description="classes that are no event, such as 'nothing'")
    role: Literal["things", "actions", "sounds"] = Field(
        "actions", description="what its names are in a sentence: in view, done, or heard"
    )
    precision: float = Field(
        0.9, gt=0, le=1, description="share of written labels that shall be right; the floor follows"
    )

    @property
    def is_multi(self) -> bool:
        return self.separator is not None if self.multi is None else self.multi


class TuneConfig(_Section):
    """Encoders that are trained end to end, from pictures and sound."""

    streams: tuple[Literal["video", "audio", "motion"], ...] = ()
    rate: float = Field(0.1, gt=0, le=1, description="their learning rate, as a share of the others'")


class WorkerConfig(_Section):
    """On what training runs. The same config serves a laptop and a cluster."""

    n: int = Field(1, ge=1, description="training workers; each takes its part of every step")
    cpus: float = Field(1, gt=0, description="CPUs of each")
    gpu: Literal["auto", "never", "always"] = Field("auto", description="auto: where Ray finds enough")


class TrainConfig(_Section):
    """Everything a training is told."""

    name: str = Field(description="of the bundle that comes of it")
    manifest: str = Field(description=".csv or .parquet: uri, start_s, end_s, labels, caption")
    out: str | None = Field(None, description="directory of the bundle; bundles/NAME if not given")
    features: str | None = Field(
        None, description="where decoded features are kept; OUT.work/features if not given"
    )
    spaces: dict[str, SpaceConfig] = Field(min_length=1)
    caption: str | None = Field(None, description="column with a sentence on the span")
    fold: str | None = Field(None, description="column that says which fold a video is in")
    held_out_folds: tuple[str, ...] = Field(
        (), description="that choose the epoch, calibration, floors"
    )
    test_folds: tuple[str, ...] = Field((), description="that nothing is chosen by; only measured")
    held_out_share: float = Field(0.25, gt=0, lt=1, description="of videos, where there is no fold")
    licence: str = Field("as its data", description="of the weights that come of it")
    bundle: str = Field("embedded", description="what is learned on top of")
    streams: tuple[Literal["video", "audio", "motion"], ...] | None = Field(
        None, description="tokens to learn from; all that the bundle tells if not given"
    )
    learning: Learning = Learning()
    unfreeze: TuneConfig = TuneConfig()
    loop: LoopConfig = LoopConfig(n_epochs=40, batch_size=16, ema_decay=0.95, weight_decay=0.05)
    workers: WorkerConfig = WorkerConfig()
    clips: ClipConfig = ClipConfig()
    audio: AudioConfig = AudioConfig()
    sync: SyncConfig = SyncConfig(window_s=0.0)
    limits: LimitConfig = LimitConfig()
    run: RunConfig = RunConfig()

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("expected letters, digits, - and _, a letter first")
        return name

    @field_validator("manifest")
    @classmethod
    def _near_the_config(cls, manifest: str, info: ValidationInfo) -> str:
        """A relative path is meant from here, or else from the config's own place."""
        return (
            near_manifest(manifest, str((info.context or {}).get("beside", "")))
            if "://" not in manifest
            else manifest
        )

    @field_validator("held_out_folds", "test_folds", mode="before")
    @classmethod
    def _folds_are_texts(cls, folds: object) -> object:
        return [str(f) for f in folds] if isinstance(folds, (list, tuple)) else folds

    @model_validator(mode="after")
    def _folds_fit(self) -> Self:
        if self.fold and not self.held_out_folds:
            raise ValueError("fold: expected held_out_folds too, those that are not trained on")
        if (self.held_out_folds or self.test_folds) and not self.fold:
            raise ValueError("held_out_folds: expected fold too, the column that says which is which")
        both = set(self.held_out_folds) & set(self.test_folds)
        if both:
            raise ValueError(f"fold {min(both)!r} is in held_out_folds and in test_folds")
        return self

    def config(self) -> Config:
        """How videos are decoded and looked at, as a run would."""
        return Config(
            bundle=self.bundle,
            clips=self.clips,
            audio=self.audio,
            sync=self.sync,
            limits=self.limits,
            run=self.run,
        )


def load_train_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The config of a YAML file with `a.b=c` overrides applied; its manifest lies here, or in its place.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (with the nearest valid one), or a value of the
            wrong kind.
    """
    return read_as(TrainConfig, path, overrides, folder="train")
