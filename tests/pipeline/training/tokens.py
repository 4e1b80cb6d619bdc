"""Tokens that say of which class they are, for tests of what learns from them."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.bundles.senses import Tokens


def told_tokens(
    which: np.ndarray, *, dim: int = 12, n_pieces: int = 4, noise: float = 1.0, seed: int = 0
) -> Tokens:
    """Tokens (N, K, D) of clips of classes `which` (N,): a direction for each class, under noise."""
    random = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(0, 1, (int(which.max()) + 1, dim))
    values = directions[which][:, None] + random.normal(0, noise, (len(which), n_pieces, dim))
    times_s = np.tile(np.arange(n_pieces) * 0.5 + 0.25, (len(which), 1))
    return Tokens(
        torch.from_numpy(values).float(),
        torch.from_numpy(times_s).float(),
        torch.ones(len(which), n_pieces, dtype=torch.bool),
    )
