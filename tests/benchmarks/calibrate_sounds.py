"""Fit the calibration of the sound scores on ESC-10 and print what stands in `bundle.yaml`.

A clip's score for a class is its loudest patch's logit, made a probability by a slope and an offset
(Platt 1999). They are fitted on ESC-10's official folds, over the AudioSet classes that mean one of
its ten labels, and then moved from ESC-10's base rate (one label in ten) to AudioSet's (2.7 labels of
527 a clip), because in a lake of videos most sounds are absent most of the time.

Run by `make calibrate`; needs ESC-10 in ../shared/data.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import torch

from pipeline.bundles.accelerate import Runtime
from pipeline.bundles.senses import PatchHearing, loudest
from pipeline.bundles.spec import find_bundle
from pipeline.config import load_config
from pipeline.media.probe import probe
from pipeline.records import Unit
from pipeline.sync.align import read_clips

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
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
ESC_RATE, AUDIOSET_RATE = 0.1, 2.7 / 527
CLAMP = 30.0  # logits of digital silence run off the scale


def clip_logits(hearing: PatchHearing, path: Path) -> torch.Tensor:
    """The loudest patch of the first clip of a file, for each class. (521,)"""
    unit = Unit("u", "v", str(path), "1", 0.0, None)
    batch, _ = read_clips(unit, probe(str(path)), load_config(), hearing.sample_rate_hz)
    with torch.inference_mode():
        logits, _ = hearing.net(torch.from_numpy(batch.samples[:1]))
    valid = hearing.valid_patches(torch.from_numpy(batch.audio_valid[:1]), logits.shape[1])
    return loudest(logits, valid)[0]


def fit(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Slope and offset of the logistic regression of `y` on `x`."""
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(weights[0] * x + weights[1], y)
        value.backward()
        return value

    optimiser.step(loss)
    slope, offset = weights.detach().tolist()
    return slope, offset


def calibration_error(p: torch.Tensor, y: torch.Tensor, bins: int = 10) -> float:
    """Expected calibration error over equal bins of probability."""
    which = (p * bins).long().clamp(max=bins - 1)
    error = 0.0
    for b in range(bins):
        mine = which == b
        if mine.any():
            error += float(mine.double().mean() * (p[mine].mean() - y[mine].mean()).abs())
    return error


def main() -> None:
    if not (DATA / "esc10.csv").is_file():
        sys.exit(f"{DATA / 'esc10.csv'} is not there: calibration needs ESC-10")
    spec = find_bundle("embedded")
    hearing = PatchHearing(spec, spec.audio, Runtime(torch.device("cpu")))
    with open(DATA / "esc10.csv") as file:
        rows = list(csv.DictReader(file))
    logits = torch.stack([clip_logits(hearing, DATA / row["file"]) for row in rows])
    pairs = [(hearing.evidence_names.index(c), label) for label, cs in CLASSES.items() for c in cs]
    x = torch.cat([logits[:, i] for i, _ in pairs]).double().clamp(-CLAMP, CLAMP)
    y = torch.tensor([row["label"] == label for _, label in pairs for row in rows]).double()
    fold = torch.tensor([int(row["fold"]) for row in rows]).repeat(len(pairs))

    held_out = torch.zeros_like(x)
    for k in range(1, 6):
        slope, offset = fit(x[fold != k], y[fold != k])
        held_out[fold == k] = torch.sigmoid(slope * x[fold == k] + offset)
    slope, offset = fit(x, y)
    moved = offset + float(
        torch.logit(torch.tensor(AUDIOSET_RATE)) - torch.logit(torch.tensor(ESC_RATE))
    )
    floor = spec.spaces["audioset"].floor
    written = torch.sigmoid(slope * x + moved) >= floor
    print(
        json.dumps(
            {
                "slope": round(slope, 3),
                "offset_on_esc10": round(offset, 3),
                "offset": round(moved, 2),
                "calibration_error_held_out": round(calibration_error(held_out, y), 4),
                "calibration_error_uncalibrated": round(calibration_error(torch.sigmoid(x), y), 4),
                "at_floor": floor,
                "precision_at_floor": round(float(y[written].mean()), 3),
                "recall_at_floor": round(float((written & (y == 1)).sum() / y.sum()), 3),
                "n_sounds": len(rows),
                "n_classes": len(pairs),
            }
        )
    )


if __name__ == "__main__":
    main()
