"""Captions of COCO for training and scoring, kept apart: what is scored is never trained on, nor is its like.

    scored       2,000 sentences of `coco_val2017.txt`, chosen by their sums
    calibration  all of `coco_karpathy_dev1k.txt`: 1,000 pictures with five sentences each
    training     the other files' sentences, less all that a held-out picture is known to have been told
                 with, and less near duplicates of every held-out sentence

Files of five lines a picture tell which sentences belong together; where a scored sentence stands in one, the
picture's other sentences are held out with it and serve as further references.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

SCORED_FILE, N_SCORED = "coco_val2017.txt", 2000
CALIBRATION_FILE = "coco_karpathy_dev1k.txt"
GROUPED_FILES = ("coco_karpathy_test5k.txt", CALIBRATION_FILE)  # five lines a picture
LOOSE_FILES = ("coco_val2017.txt", "coco_texygen_train.txt", "coco_texygen_test.txt")
A_PICTURE = 5
NEAR = 0.5  # Jaccard index of words and word pairs from which on two sentences are near duplicates
_NOT_WORD = re.compile(r"[^a-z0-9' -]+")


@dataclass(frozen=True)
class Sentences:
    """Who is trained on and who is held out; sentences are normalised."""

    train: tuple[str, ...]
    scored: tuple[str, ...]
    references: tuple[
        tuple[str, ...], ...
    ]  # of each scored sentence: itself, then its picture's others
    calibration: tuple[tuple[str, ...], ...]  # of each picture its sentences
    n_near: int  # training sentences left out as near duplicates of held-out ones


def normalised(sentence: str) -> str:
    """Lower case, letters, digits, hyphens and apostrophes, one space between words."""
    words = _NOT_WORD.sub(" ", sentence.lower()).split()
    return " ".join(word.strip("-'") for word in words if word.strip("-'"))


def read_sentences(data: Path) -> Sentences:
    """Read and divide the captions below `data/text`.

    Raises:
        ValueError: a file is missing, or one of five lines a picture is not.
    """
    lines = {name: _lines(data / "text" / name) for name in {*GROUPED_FILES, *LOOSE_FILES}}
    groups = [group for name in GROUPED_FILES for group in _in_fives(lines[name], name)]
    calibration = _in_fives(lines[CALIBRATION_FILE], CALIBRATION_FILE)
    pool = sorted(set(lines[SCORED_FILE]) - {""}, key=lambda s: (zlib.crc32(s.encode()), s))
    scored = pool[:N_SCORED]
    pictures: dict[str, list[str]] = {}
    for group in groups:
        for sentence in group:
            pictures.setdefault(sentence, []).extend(group)
    references = [tuple(dict.fromkeys([s, *pictures.get(s, ())])) for s in scored]
    held_out = {s for told in (*references, *calibration) for s in told}
    rest = dict.fromkeys(s for name in sorted(lines) for s in lines[name] if s)
    train = [s for s in rest if s not in held_out]
    is_near = near_duplicates(train, sorted(held_out))
    kept = tuple(s for s, near in zip(train, is_near, strict=True) if not near)
    return Sentences(kept, tuple(scored), tuple(references), tuple(calibration), int(is_near.sum()))


def near_duplicates(
    sentences: Sequence[str], held_out: Sequence[str], least: float = NEAR
) -> npt.NDArray[np.bool_]:
    """Which of `sentences` share with one of `held_out` at least `least` of their words and word pairs.

    The Jaccard index is exact: each held-out sentence is compared through an inverted index to all that share
    a word or a pair with it.

    Returns:
        (len(sentences),) bool.
    """
    postings: dict[str, list[int]] = {}
    sizes = np.zeros(len(sentences))
    for i, sentence in enumerate(sentences):
        parts = shingles(sentence)
        sizes[i] = len(parts)
        for part in parts:
            postings.setdefault(part, []).append(i)
    index = {part: np.array(places) for part, places in postings.items()}
    is_near = np.zeros(len(sentences), bool)
    for sentence in held_out:
        parts = shingles(sentence)
        met = [index[part] for part in parts if part in index]
        if met:
            shared = np.bincount(np.concatenate(met), minlength=len(sentences))
            is_near |= shared >= least * (sizes + len(parts) - shared)
    return is_near


def shingles(sentence: str) -> set[str]:
    """Words and pairs of neighbouring words; a pair has a space in it."""
    words = sentence.split()
    return set(words) | {f"{a} {b}" for a, b in pairwise(words)}


def _lines(path: Path) -> list[str]:
    """Normalised lines; empty ones stay, as they hold a place in their picture's five."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected captions, one a line")
    return [normalised(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _in_fives(lines: Sequence[str], name: str) -> list[tuple[str, ...]]:
    if len(lines) % A_PICTURE:
        raise ValueError(f"{name}: {len(lines)} lines; expected {A_PICTURE} for each picture")
    return [tuple(s for s in lines[i : i + A_PICTURE] if s) for i in range(0, len(lines), A_PICTURE)]
