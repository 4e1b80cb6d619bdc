"""What hearing is worth, on ESC-10 (https://doi.org/10.1145/2733373.2806390) in its official folds."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from pipeline.bundles.accelerate import Runtime
from pipeline.bundles.senses import PatchHearing, Tokens, loudest, make_hearing
from pipeline.bundles.spec import BundleError, SpaceSpec
from pipeline.config import load_config
from pipeline.evaluation.experiments.base import Experiment, Lab
from pipeline.evaluation.linear import nested_softmax
from pipeline.evaluation.records import (
    Figure,
    Measured,
    confusion_plot,
    precision_recall_plot,
    reliability_plot,
    share,
)
from pipeline.media.probe import probe
from pipeline.metrics.calibration import at_floors, expected_calibration_error, fit_platt
from pipeline.records import ClipBatch, Unit
from pipeline.sync.align import read_clips

Array = npt.NDArray[Any]
_TOLD_EVERY = 100
_WHOLE_S = 5  # length of ESC's sounds
_CLAMP = 30.0  # logits of digital silence run off the scale
# Of ESC-10's labels, the AudioSet classes that mean them.
CLASSES = {
    "baby_cry": ["Baby cry, infant cry", "Crying, sobbing"],
    "chainsaw": ["Chainsaw"],
    "clock_tick": ["Tick", "Tick-tock", "Clock"],
    "dog_bark": ["Dog", "Bark"],
    "fire_crackling": ["Fire", "Crackle"],
    "helicopter": ["Helicopter"],
    "person_sneeze": ["Sneeze"],
    "rain": ["Rain", "Rain on surface"],
    "rooster": ["Crowing, cock-a-doodle-doo", "Chicken, rooster"],
    "sea_waves": ["Ocean", "Waves, surf"],
}


class Esc10Folds(Experiment):
    """Tokens of the bundle's hearing, left as they are, and a linear head trained on four folds."""

    kind: Literal["esc10_folds"]
    strengths: tuple[float, ...] = Field(
        (0.1, 1.0, 10.0), min_length=1, description="of the fit against its penalty; inner folds choose"
    )
    reads: ClassVar[tuple[str, ...]] = ("esc10",)

    def measure(self, lab: Lab) -> Measured:
        """Share of sounds told rightly, by folds and by classes."""
        labels, folds = _labels(lab.data / "esc10.csv")
        names = sorted(set(labels))
        truth = np.array([names.index(label) for label in labels])
        x = np.stack(_of_sounds(lab, _WHOLE_S, lambda hearing, batch: _summary(hearing, batch)))
        lab.tell("linear heads by nested folds")
        found = nested_softmax(x, truth, folds, self.strengths)
        answer, sureness = found.probabilities.argmax(1), found.probabilities.max(1)
        right = answer == truth
        of_folds = [share(f"fold_{k}", f"fold {k}", right[folds == k]) for k in np.unique(folds)]
        error = expected_calibration_error(sureness, right)
        kind = lab.bundle.audio.kind if lab.bundle.audio else ""
        return Measured(
            how=(
                f"Each of the {len(truth)} sounds is heard as one clip of {_WHOLE_S} s; mean and "
                f"maximum of its tokens ({kind}, {x.shape[1]} numbers, frozen) go to a logistic "
                "regression that was fitted to the other four official folds. Its strength was "
                "chosen by folds among these four."
            ),
            figures=(
                share("right", "ESC-10, official five folds: right", right),
                *of_folds,
                Figure(
                    key="calibration_error",
                    told="expected calibration error of its chances",
                    value=error,
                    n=len(right),
                ),
            ),
            plots=(
                confusion_plot("confusion", "ESC-10, sounds left out", names, truth, answer),
                reliability_plot("reliability", "ESC-10, chance of the answer", sureness, right),
            ),
        )


class SoundCalibration(Experiment):
    """What the bundle's scores of sounds are worth as chances; the fit that stands in `bundle.yaml`."""

    kind: Literal["sound_calibration"]
    esc_rate: float = Field(0.1, gt=0, lt=1, description="how often a label of ESC-10 is there")
    audioset_rate: float = Field(
        2.7 / 527, gt=0, lt=1, description="how often a class of AudioSet is there"
    )
    reads: ClassVar[tuple[str, ...]] = ("esc10",)

    def measure(self, lab: Lab) -> Measured:
        """Calibration error on folds left out, and what the bundle's floor lets through."""
        labels, folds = _labels(lab.data / "esc10.csv")
        names = _hearing(lab).evidence_names
        logits = np.stack(_of_sounds(lab, None, lambda hearing, batch: _loudest(hearing, batch)))
        pairs = [(names.index(c), label) for label, cs in CLASSES.items() for c in cs]
        x = np.concatenate([logits[:, i] for i, _ in pairs]).astype(np.float64).clip(-_CLAMP, _CLAMP)
        is_true = np.array([label == told for _, told in pairs for label in labels])
        fold = np.tile(folds, len(pairs))
        left_out = np.zeros(len(x))
        for k in np.unique(fold):
            left_out[fold == k] = fit_platt(x[fold != k], is_true[fold != k])(x[fold == k])
        title = "AudioSet scores on ESC-10"
        return Measured(
            how=(
                f"The loudest patch of the first clip of each of the {len(labels)} sounds, for the "
                f"{len(pairs)} classes of AudioSet that mean one of ESC-10's ten labels: "
                f"{len(x):,} scores. Platt's slope and offset are fitted to four folds for the "
                "fifth. The offset in bundle.yaml is the fit to all folds, moved from ESC-10's "
                "base rate to AudioSet's."
            ),
            figures=self._figures(lab.bundle.spaces["audioset"], x, is_true, left_out),
            plots=(
                reliability_plot("reliability", title, left_out, is_true),
                precision_recall_plot("precision_recall", title, {"all classes": (left_out, is_true)}),
            ),
        )

    def _figures(
        self, space: SpaceSpec, x: Array, is_true: Array, left_out: Array
    ) -> tuple[Figure, ...]:
        """Of logits (N,), whether the class is there (N,), and scores of fits to other folds (N,)."""
        fitted = fit_platt(x, is_true)
        moved = fitted.offset + _logit(self.audioset_rate) - _logit(self.esc_rate)
        written = _sigmoid(space.slope * x + space.offset)
        (at_floor,) = at_floors(written, is_true, [space.floor], is_true)
        error, raw = (expected_calibration_error(p, is_true) for p in (left_out, _sigmoid(x)))
        rows: tuple[tuple[str, str, float, Literal["%", ""], int], ...] = (
            ("error", "expected calibration error, folds left out", error, "%", 2),
            ("error_raw", "the same without a calibration", raw, "%", 2),
            ("precision", f"precision at the floor of {space.floor}", at_floor.precision or 0, "%", 1),
            ("recall", f"recall at the floor of {space.floor}", at_floor.recall, "%", 1),
            ("slope", "slope, fitted to all", fitted.slope, "", 3),
            ("offset_esc10", "offset, fitted to all", fitted.offset, "", 3),
            ("offset", "offset, moved to AudioSet's base rate", moved, "", 2),
        )
        return tuple(
            Figure(key=key, told=told, value=value, unit=unit, digits=digits, n=len(x))
            for key, told, value, unit, digits in rows
        )


def _labels(table: Path) -> tuple[list[str], Array]:
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["label"] for row in rows], np.array([int(row["fold"]) for row in rows])


def _hearing(lab: Lab) -> PatchHearing:
    hearing = make_hearing(lab.bundle, Runtime(torch.device("cpu")))
    if not isinstance(hearing, PatchHearing):
        raise BundleError(f"{lab.bundle.name}: expected YAMNet as its audio")
    return hearing


def _of_sounds(
    lab: Lab, length_s: int | None, look: Callable[[PatchHearing, ClipBatch], Array]
) -> list[Array]:
    """`look` at the first clip of every sound, of `length_s` or as long as a run's."""
    hearing = _hearing(lab)
    hearing.chunk = 1  # one sound at a time: no rows to fill up
    asked = [f"clips.length_s={length_s}", f"clips.stride_s={length_s}"] if length_s else []
    config = load_config(overrides=asked)
    found = []
    with (lab.data / "esc10.csv").open(encoding="utf-8", newline="") as file:
        paths = [str(lab.data / row["file"]) for row in csv.DictReader(file)]
    for i, path in enumerate(paths, start=1):
        unit = Unit("", "", path, "", 0.0, None)
        batch, _ = read_clips(unit, probe(path), config, hearing.sample_rate_hz)
        found.append(look(hearing, batch))
        if i % _TOLD_EVERY == 0:
            lab.tell(f"{i}/{len(paths)} sounds")
    return found


def _summary(hearing: PatchHearing, batch: ClipBatch) -> Array:
    """Mean and maximum of the first clip's tokens, (2 · D,)."""
    tokens = hearing.perceive([batch]).tokens
    assert tokens is not None  # it always tells them
    return summary(tokens)[0]


def summary(tokens: Tokens) -> Array:
    """Mean and maximum of each clip's valid tokens, (N, 2 · D); NaN where it has none."""
    values, valid = tokens.values.float(), tokens.valid[..., None]
    n = valid.sum(1)
    mean = (values * valid).sum(1) / n.clamp(min=1)
    most = values.masked_fill(~valid, float("-inf")).amax(1)
    there = (n > 0).expand_as(mean)
    both = torch.cat([mean.masked_fill(~there, torch.nan), most.masked_fill(~there, torch.nan)], dim=1)
    return np.asarray(both.numpy(), np.float64)


def _loudest(hearing: PatchHearing, batch: ClipBatch) -> Array:
    """The loudest valid patch of the first clip, for each class, (C,)."""
    with torch.inference_mode():
        logits, _ = hearing.net(torch.from_numpy(batch.samples[:1]))
    valid = hearing.valid_patches(torch.from_numpy(batch.audio_valid[:1]), logits.shape[1])
    return np.asarray(loudest(logits, valid)[0].numpy())


def _logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))
