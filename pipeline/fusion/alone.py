"""One sense by itself, with the signature of a fusion: what fusions start from and are held against."""

from __future__ import annotations

import torch

from pipeline.fusion.base import SENSES, Fusion, FusionSize, Pair, Sense, Stream


class OneSense(Fusion):
    """The stream of `sense` (video, audio); the other is never looked at, and its tokens come out as zeros."""

    def __init__(self, size: FusionSize, sense: str) -> None:
        super().__init__()
        self.size, self.sense = size, SENSES.index(sense)
        self.stream = Stream(size)

    def fuse(self, video: Sense, audio: Sense) -> Pair:
        given = (video, audio)
        tokens = [torch.zeros_like(sense.tokens) for sense in given]
        tokens[self.sense] = self.stream(given[self.sense])
        return tokens[0], tokens[1]
