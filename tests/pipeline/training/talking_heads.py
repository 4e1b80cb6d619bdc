"""Talking heads made up: the word of a slot can be told from the pictures as well as from the sound."""

from __future__ import annotations

import numpy as np

from pipeline.sync import lips
from pipeline.training import grid


def made_up(n: int, seed: int = 0) -> grid.Heads:
    """`n` sentences; word k lights up a row of the mouth and sounds a tone in its own sixth of the time."""
    random = np.random.default_rng(seed)
    words = np.stack([random.integers(len(slot), size=n) for slot in grid.WORDS.values()], 1)
    pictures = random.integers(0, 20, (n, grid.N_PICTURES, *grid.MOUTH_PX)).astype(np.uint8)
    sounds = random.normal(0, 0.01, (n, grid.N_SAMPLES)).astype(np.float32)
    at_s = np.arange(grid.N_SAMPLES) / lips.RATE_HZ
    for i in range(n):
        for k, word in enumerate(words[i]):
            at = slice(k * grid.N_PICTURES // 6, (k + 1) * grid.N_PICTURES // 6)
            pictures[i, at, 6 + word, :] = 250
            while_said = (at_s >= k / 2) & (at_s < (k + 1) / 2)
            sounds[i, while_said] += np.sin(2 * np.pi * (300 + 200 * word) * at_s[while_said])
    return grid.Heads(
        names=tuple(f"{i:06}.mp4" for i in range(n)),
        words=words,
        pictures=pictures,
        times_s=np.tile(np.arange(grid.N_PICTURES, dtype=np.float32) / 25, (n, 1)),
        shown=np.ones((n, grid.N_PICTURES), bool),
        sounds=sounds,
        noises=random.normal(0, 1, (3, grid.N_SAMPLES)).astype(np.float32),
    )
