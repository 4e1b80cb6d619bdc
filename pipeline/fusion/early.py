"""Early fusion: tokens of both senses stand side by side before the first layer, and all see all."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from pipeline.fusion.base import Across, Fusion, FusionSize, Pair, Sense, Stream


class EarlyFusion(Fusion):
    """From the first layer on each token sees all tokens of both senses.

    Every layer has weights of its own for each sense and for looking from each to the other, as in
    Mixture-of-Transformers (https://arxiv.org/abs/2411.04996). Attention to the own sense and to the other
    are summed, each with a softmax of its own, so that nothing is taken from the one by looking at the other.
    """

    def __init__(self, size: FusionSize) -> None:
        super().__init__()
        self.size = size
        self.streams = nn.ModuleList(Stream(size) for _ in range(2))
        self.across = nn.ModuleList(
            nn.ModuleList(Across(size) for _ in range(2)) for _ in range(size.depth)
        )
        self.opening = nn.Parameter(torch.ones(size.depth, 2, size.dim))

    def fuse(self, video: Sense, audio: Sense) -> Pair:
        streams = self.pair()
        begun = [stream.begin(s) for stream, s in zip(streams, (video, audio), strict=True)]
        tokens = [s.tokens for s in begun]
        for layer in range(self.size.depth):
            across = cast(nn.ModuleList, self.across[layer])
            taken = [
                across[k](tokens[k], begun[k].times_s, begun[1 - k].holding(tokens[1 - k]))
                for k in range(2)
            ]
            tokens = [
                stream.layer(layer, x + news * opening, s)
                for stream, x, news, opening, s in zip(
                    streams, tokens, taken, self.opening[layer], begun, strict=True
                )
            ]
        seen, heard = (stream.end(x) for stream, x in zip(streams, tokens, strict=True))
        return seen, heard
