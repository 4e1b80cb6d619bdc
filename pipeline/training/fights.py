"""The fight head: a linear classifier over motion statistics, its strength chosen by folds within the folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.encoders.motion import SIZE_PX, levels
from pipeline.encoders.motion_energy import statistics
from pipeline.training.footage import Footage, Windows, picture_steps, read_table

Array = npt.NDArray[np.float64]
_PHASES = 2  # a clip is learned from as a run sees it, from its first picture on, and a 24th of a second later
_NEWTON_STEPS = 50


@dataclass(frozen=True)
class Clips:
    """Statistics of clips, and what is true of them."""

    seen: Array  # (N, P, S) each P times; the first is how a run sees the clip
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


def read_clips(footage: Footage, windows: Windows, table: Path) -> Clips:
    """Statistics of all clips of `table`, a CSV with `file`, `label` and `fold`.

    Args:
        windows: the same clips as a run sees them; of each file the first counts, and one without is left out.

    Raises:
        ValueError: a clip of the footage has no row.
    """
    rows, place = read_table(table), {file: i for i, file in reversed(list(enumerate(windows.files)))}
    missing = sorted(set(footage.files) - rows.keys())
    if missing:
        raise ValueError(f"{table}: no row for {missing[0]}; expected one for each clip")
    known = [i for i, file in enumerate(footage.files) if file in place]
    files = [footage.files[i] for i in known]
    seen = [_numbers(torch.from_numpy(windows.pictures[[place[file] for file in files]]))]
    seen += [_numbers(_shrunk(footage.pictures[known, k:])) for k in range(_PHASES)]
    is_fight = np.array([rows[file]["label"] == "fight" for file in files])
    fold = np.array([int(rows[file]["fold"]) for file in files])
    return Clips(np.stack(seen, axis=1), is_fight, fold)


def _shrunk(pictures: npt.NDArray[np.uint8]) -> Tensor:
    """What a network looks at of windows of footage, (N, N_PICTURES, *SIZE_PX)."""
    steps = picture_steps()
    small = [
        F.interpolate(torch.from_numpy(np.array(window[steps])).float()[:, None], SIZE_PX, mode="area")
        for window in pictures
    ]
    return torch.stack(small)[:, :, 0].round()


def _numbers(pictures: Tensor) -> Array:
    return torch.cat([statistics(levels(part)) for part in pictures.split(16)]).double().numpy()


def fit(clips: Clips, strength: float) -> Linear:
    """Logistic regression over standardised statistics, by Newton's method: the minimum of
    |w|²/2 + strength · (mean over a clip's phases of its loss, summed over clips)."""
    n_seen = clips.seen.shape[1]
    x = clips.seen.reshape(-1, clips.seen.shape[-1])
    y = np.repeat(clips.is_fight, n_seen).astype(np.float64)
    mean, spread = x.mean(0), x.std(0) + 1e-9
    z = np.concatenate([(x - mean) / spread, np.ones((len(x), 1))], axis=1)
    penalty = np.eye(z.shape[1])
    penalty[-1, -1] = 1e-9  # not of the bias
    w = np.zeros(z.shape[1])
    for _ in range(_NEWTON_STEPS):
        p = 1 / (1 + np.exp(-(z @ w).clip(-30, 30)))
        slope = strength / n_seen * (z.T @ (p - y)) + penalty @ w
        bend = strength / n_seen * (z.T * (p * (1 - p))) @ z + penalty
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


def calibrate(logits: Array, is_fight: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset of the chance of a fight over logits (N,) of clips that were left out (Platt 1999)."""
    z, w = np.stack([logits, np.ones(len(logits))], axis=1), np.array([1.0, 0.0])
    for _ in range(_NEWTON_STEPS):
        p = 1 / (1 + np.exp(-(z @ w).clip(-30, 30)))
        step = np.linalg.solve((z.T * (p * (1 - p) + 1e-9)) @ z, z.T @ (p - is_fight))
        w -= step
        if np.abs(step).max() < 1e-8:
            break
    return float(w[0]), float(w[1])
