"""The fight head: a linear classifier over motion statistics, its strength chosen by folds within the folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from pipeline.encoders.motion import N_PICTURES, SIZE_PX, levels
from pipeline.encoders.motion_energy import statistics
from pipeline.training.footage import Footage, picture_steps, read_table

Array = npt.NDArray[np.float64]
_PHASES = 2  # a clip is learned from as seen from its first picture on, and a 24th of a second later
_NEWTON_STEPS = 50


@dataclass(frozen=True)
class Clips:
    """Statistics of clips, and what is true of them."""

    seen: Array  # (N, _PHASES, S); the first is how inference sees the clip
    is_fight: npt.NDArray[np.bool_]  # (N,)
    fold: npt.NDArray[np.int64]  # (N,) contiguous, as `fights.csv` deals them

    def of(self, which: npt.NDArray[np.bool_]) -> Clips:
        """Those at which `which` (N,) is True."""
        return Clips(self.seen[which], self.is_fight[which], self.fold[which])


@dataclass(frozen=True)
class Linear:
    """logit = weight · statistics + bias."""

    weight: Array  # (S,)
    bias: float
    strength: float

    def logits(self, clips: Clips) -> Array:
        """Of clips as inference sees them, (N,)."""
        return np.asarray(clips.seen[:, 0] @ self.weight + self.bias)


def read_clips(footage: Footage, table: Path) -> Clips:
    """Statistics of all clips of `table`, a CSV with `file`, `label` and `fold`.

    Raises:
        ValueError: a clip of the footage has no row.
    """
    rows = read_table(table)
    missing = sorted(set(footage.files) - rows.keys())
    if missing:
        raise ValueError(f"{table}: no row for {missing[0]}; expected one for each clip")
    seen = np.stack([_statistics(footage.pictures[:, k:]) for k in range(_PHASES)], axis=1)
    is_fight = np.array([rows[file]["label"] == "fight" for file in footage.files])
    fold = np.array([int(rows[file]["fold"]) for file in footage.files])
    return Clips(seen, is_fight, fold)


def _statistics(pictures: npt.NDArray[np.uint8]) -> Array:
    found = []
    for window in pictures:
        x = torch.from_numpy(np.array(window[picture_steps()])).float()[:, None]
        small = F.interpolate(x, SIZE_PX, mode="area")[:, 0].round()
        found.append(statistics(levels(small.view(1, N_PICTURES, *SIZE_PX)))[0])
    return torch.stack(found).double().numpy()


def fit(clips: Clips, strength: float) -> Linear:
    """Logistic regression over standardised statistics, by Newton's method: the minimum of
    |w|²/2 + strength · (mean over a clip's phases of its loss, summed over clips)."""
    x = clips.seen.reshape(-1, clips.seen.shape[-1])
    y = np.repeat(clips.is_fight, _PHASES).astype(np.float64)
    mean, spread = x.mean(0), x.std(0) + 1e-9
    z = np.concatenate([(x - mean) / spread, np.ones((len(x), 1))], axis=1)
    penalty = np.eye(z.shape[1])
    penalty[-1, -1] = 1e-9  # not of the bias
    w = np.zeros(z.shape[1])
    for _ in range(_NEWTON_STEPS):
        p = 1 / (1 + np.exp(-(z @ w).clip(-30, 30)))
        slope = strength / _PHASES * (z.T @ (p - y)) + penalty @ w
        bend = strength / _PHASES * (z.T * (p * (1 - p))) @ z + penalty
        step = np.linalg.solve(bend, slope)
        w -= step
        if np.abs(step).max() < 1e-8:
            break
    weight = w[:-1] / spread
    return Linear(weight, float(w[-1] - weight @ mean), strength)


def choose_strength(clips: Clips, strengths: Sequence[float]) -> float:
    """The one that is right most often on folds left out in turn; of equals the weakest."""
    return max(strengths, key=lambda s: (held_out_right(clips, s).mean(), -s))


def held_out_right(clips: Clips, strength: float) -> npt.NDArray[np.bool_]:
    """Whether each clip is answered rightly by a fit to the other folds, (N,)."""
    right = np.zeros(len(clips.fold), bool)
    for fold in np.unique(clips.fold):
        apart = clips.fold == fold
        found = fit(clips.of(~apart), strength).logits(clips.of(apart)) > 0
        right[apart] = found == clips.is_fight[apart]
    return right


def nested_logits(clips: Clips, strengths: Sequence[float]) -> tuple[Array, dict[int, float]]:
    """Logits (N,) of each clip by a fit whose strength, too, was chosen on the other folds alone; the strengths
    by fold."""
    logits, chosen = np.zeros(len(clips.fold)), {}
    for fold in np.unique(clips.fold):
        apart = clips.fold == fold
        rest = clips.of(~apart)
        chosen[int(fold)] = choose_strength(rest, strengths)
        logits[apart] = fit(rest, chosen[int(fold)]).logits(clips.of(apart))
    return logits, chosen
