"""GRID's talking heads as a paired task: six words from lips, from sound under noise, or from both.

A file's name is its sentence: `bbaf2n` is "bin blue at f two now" (corpus: https://doi.org/10.1121/1.2229005).
Where each word lies is not given, so a sentence is read whole. Files are dealt to folds by their names as
in `pipeline.training.lips`: 0–6 to train, 7 to watch, 8–9 to measure. Noises are dealt so too: babble is
made of sentences of the same folds, and ESC-10's folds 1–3 train, 4 watches, 5 measures.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from pipeline.media.audio import read_audio, resample
from pipeline.media.probe import probe
from pipeline.media.video import MOTION_SHORT_SIDE_PX, Motion, index_packets, read_motion
from pipeline.records import MediaError, short_hash
from pipeline.sync import lips
from pipeline.training.lips import TEST_FOLDS, TRAIN_FOLDS, WATCH_FOLD, fold_of

Array = npt.NDArray[np.float32]

WORDS: dict[str, tuple[str, ...]] = {
    "command": ("bin", "lay", "place", "set"),
    "colour": ("blue", "green", "red", "white"),
    "preposition": ("at", "by", "in", "with"),
    "letter": tuple("abcdefghijklmnopqrstuvxyz"),  # no w: it has three syllables
    "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "adverb": ("again", "now", "please", "soon"),
}
CLIP_S, N_PICTURES, N_SAMPLES = 3, 75, 3 * lips.RATE_HZ
MOUTH_PX = (40, 56)  # height, width of what is kept of a picture, two thirds of its size in the file
_SHORT_SIDE_PX = 288  # of the file
_SPAN_PX = (60, 84)
_NEAR_PX = (56, 40)  # how far from where lips move is looked at, first and then
_BABBLE_VOICES = 3
_FOLDS = {"train": tuple(TRAIN_FOLDS), "watch": (WATCH_FOLD,), "test": TEST_FOLDS}
_NOISE_FOLDS = {"train": ("1", "2", "3"), "watch": ("4",), "test": ("5",)}


@dataclass(frozen=True)
class Heads:
    """Talking heads of some folds, and noises to drown them in."""

    names: tuple[str, ...]
    words: npt.NDArray[np.int64]  # (n, 6) class in each of WORDS
    pictures: npt.NDArray[np.uint8]  # (n, N_PICTURES, *MOUTH_PX) grey
    times_s: Array  # (n, N_PICTURES) when each was shown
    shown: npt.NDArray[np.bool_]  # (n, N_PICTURES) which there are
    sounds: Array  # (n, N_SAMPLES) at lips.RATE_HZ
    noises: Array  # (k, N_SAMPLES)

    def __len__(self) -> int:
        return len(self.names)

    def sentences(self) -> list[str]:
        """What is said, in words."""
        spoken = list(WORDS.values())
        return [" ".join(spoken[k][w] for k, w in enumerate(row)) for row in self.words]

    def noise_for(self, i: int, kind: str, random: np.random.Generator) -> Array:
        """Three seconds to put under sentence `i`: `babble` of others, or a `sound` of ESC-10."""
        if kind == "babble":
            others = np.delete(np.arange(len(self)), i)
            chosen = self.sounds[random.choice(others, _BABBLE_VOICES, replace=False)]
            moved = [np.roll(x, random.integers(N_SAMPLES)) for x in chosen]
            return np.asarray(np.sum(moved, axis=0), np.float32)
        return np.roll(self.noises[random.integers(len(self.noises))], random.integers(N_SAMPLES))


def mixed(sound: Array, noise: Array, snr_db: float) -> Array:
    """`sound` with `noise` under it, so loud that their mean powers stand in the ratio `snr_db`."""
    power, noise_power = (float(np.mean(np.square(x, dtype=np.float64))) for x in (sound, noise))
    if not noise_power:
        return sound
    gain = (power / noise_power * 10 ** (-snr_db / 10)) ** 0.5
    return np.asarray(sound + np.float32(gain) * noise, np.float32)


def words_of(name: str) -> list[int]:
    """Class of each of the six words, by the file's name such as `bbaf2n.mp4`.

    Raises:
        ValueError: the name is no sentence of GRID.
    """
    stem = Path(name).stem
    found = []
    for letter, (slot, words) in zip(stem, WORDS.items(), strict=False):
        spelled = "z123456789" if slot == "digit" else [word[0] for word in words]
        if letter in spelled:
            found.append(list(spelled).index(letter))
    if len(stem) != len(WORDS) or len(found) != len(WORDS):
        raise ValueError(f"{name}: expected a sentence of GRID such as bbaf2n.mp4")
    return found


def load(data: Path, work: Path, part: str, tell: Callable[[str], None] = print) -> Heads:
    """Talking heads of `part` (train, watch, test) in `data`, read once and kept in `work`.

    Raises:
        FileNotFoundError: `data` holds no talking heads or no noises of that part.
    """
    files = [f for f in sorted((data / "grid").glob("*.mp4")) if fold_of(f.name) in _FOLDS[part]]
    with (data / "esc10.csv").open(encoding="utf-8") as rows:
        noise_files = [
            data / row["file"] for row in csv.DictReader(rows) if row["fold"] in _NOISE_FOLDS[part]
        ]
    read = {f.name: _kept(f, work, read_head, tell) for f in files}
    heads = {name: found for name, found in read.items() if found}
    noises = [found for f in noise_files if (found := _kept(f, work, read_noise, tell))]
    if not heads or not noises:
        raise FileNotFoundError(
            f"{data}: expected talking heads in grid/ and noises in esc10/ ({part})"
        )
    stacked = {key: np.stack([h[key] for h in heads.values()]) for key in next(iter(heads.values()))}
    return Heads(
        names=tuple(heads),
        words=np.array([words_of(name) for name in heads]),
        noises=np.stack([noise["sound"] for noise in noises]),
        **stacked,
    )


def read_head(file: str) -> dict[str, npt.NDArray[Any]]:
    """Mouth pictures, their times and the sound of a file's first three seconds."""
    info, span = probe(file), (Fraction(0), Fraction(CLIP_S))
    if info.video is None or info.audio is None:
        raise MediaError("read", "no_stream", f"{file}: expected picture and sound")
    index = index_packets(file, info, *span)
    motion = read_motion(file, info, index, *span, short_side_px=_SHORT_SIDE_PX)
    if not len(motion.grey):
        raise MediaError("read", "undecodable", f"{file}: no picture could be decoded")
    n = len(motion.grey)
    pictures = np.zeros((N_PICTURES, *MOUTH_PX), np.uint8)
    times_s, shown = np.zeros(N_PICTURES, np.float32), np.arange(N_PICTURES) < n
    pictures[:n], times_s[:n] = mouth(motion), motion.times_s
    track = resample(read_audio(file, info, *span), lips.RATE_HZ)
    sounds = np.zeros(N_SAMPLES, np.float32)
    first = round(float(track.start_s) * lips.RATE_HZ)
    heard = track.samples[: N_SAMPLES - first]
    sounds[first : first + len(heard)] = heard
    return {"pictures": pictures, "times_s": times_s, "shown": shown, "sounds": sounds}


def read_noise(file: str) -> dict[str, npt.NDArray[Any]]:
    """The three seconds of a sound that begin where it is first heard, repeated if it is shorter."""
    track = resample(read_audio(file, probe(file), Fraction(0), Fraction(5)), lips.RATE_HZ)
    heard = np.flatnonzero(np.abs(track.samples) > 0.1 * np.abs(track.samples).max(initial=1e-6))
    return {"sound": np.resize(track.samples[heard[0] if len(heard) else 0 :], N_SAMPLES)}


def mouth(motion: Motion) -> npt.NDArray[np.uint8]:
    """(T, *MOUTH_PX): the mouth, found where the shipped lips network looks, then where most moves."""
    pictures = torch.from_numpy(np.ascontiguousarray(motion.grey)).float()[:, None]
    height, width = motion.grey.shape[1:]
    small_px = (MOTION_SHORT_SIDE_PX, round(width * MOTION_SHORT_SIDE_PX / height))
    small = F.interpolate(pictures, small_px, mode="area")[:, 0].round().byte().numpy()
    row, column = lips.speaking_at(small)
    energy = np.square(lips.moving(small)).mean(0)
    scale = height / small_px[0]
    for near_px in _NEAR_PX:
        reach = round(near_px / 2 / scale)
        row, column = _centre(energy, row, column, reach)
    top = int(np.clip(round(row * height) - _SPAN_PX[0] // 2, 0, height - _SPAN_PX[0]))
    left = int(np.clip(round(column * width) - _SPAN_PX[1] // 2, 0, width - _SPAN_PX[1]))
    cut = pictures[:, :, top : top + _SPAN_PX[0], left : left + _SPAN_PX[1]]
    return F.interpolate(cut, MOUTH_PX, mode="area")[:, 0].round().byte().numpy()


def _centre(energy: Array, row: float, column: float, reach: int) -> tuple[float, float]:
    """The centre of what moves more than usual within `reach` of a place; all as shares of the picture."""
    height, width = energy.shape
    top = int(np.clip(round(row * height) - reach, 0, height - 2 * reach))
    left = int(np.clip(round(column * width) - reach, 0, width - 2 * reach))
    near = energy[top : top + 2 * reach, left : left + 2 * reach]
    near = np.maximum(0, near - np.median(near)) + 1e-9
    inside = np.arange(2 * reach) + 0.5
    total = near.sum()
    down, right = (near.sum(1) @ inside) / total, (near.sum(0) @ inside) / total
    return float(top + down) / height, float(left + right) / width


def _kept(
    file: Path,
    work: Path,
    read: Callable[[str], dict[str, npt.NDArray[Any]]],
    tell: Callable[[str], None],
) -> dict[str, npt.NDArray[Any]] | None:
    """What `read` makes of a file, kept under a digest of the file, the network that looks and how; None
    where the file cannot be read."""
    weights = Path(lips.__file__).with_suffix(".safetensors")
    contents = [hashlib.blake2b(f.read_bytes(), digest_size=8).hexdigest() for f in (file, weights)]
    how = (read.__name__, CLIP_S, MOUTH_PX, _SHORT_SIDE_PX, _SPAN_PX, _NEAR_PX)
    kept = work / f"{short_hash(*contents, how)}.npz"
    if not kept.is_file():
        try:
            found = read(str(file))
        except MediaError as e:
            tell(f"left out: {e.failure.message}")
            return None
        work.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as out:
            np.savez(out, allow_pickle=False, **found)
        os.replace(part, kept)
    with np.load(kept) as found:
        return dict(found)
