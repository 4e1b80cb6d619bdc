"""Early fusion: tokens of both senses stand side by side before the first layer, and all see all."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.fusion.base import Fusion, FusionSize, Pair, Sense

_MLP_RATIO = 6.0  # one layer for both senses has then the weights of two layers for one each


class EarlyFusion(Fusion):
    """One transformer over all tokens; a learned token stands for an absent sense."""

    def __init__(self, size: FusionSize) -> None:
        super().__init__()
        self.size = size
        self.blocks = nn.ModuleList(size.block(_MLP_RATIO) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.dim)
        self.absent = size.learned(2)
        self.kind = size.learned(2)  # added to a sense's tokens, so that the two are told apart

    def fuse(self, video: Sense, audio: Sense) -> Pair:
        marked = [
            Sense(s.tokens + self.kind[k], s.times_s, s.seen, s.present).with_first(
                self.absent[k : k + 1], ~s.present
            )
            for k, s in enumerate((video, audio))
        ]
        x = torch.cat([s.tokens for s in marked], 1)
        times_s, seen = (
            torch.cat([s.times_s for s in marked], 1),
            torch.cat([s.seen for s in marked], 1),
        )
        for block in self.blocks:
            x = block(x, times_s, seen)
        n_video = marked[0].tokens.shape[1]
        x = self.norm(x)
        return x[:, 1:n_video], x[:, n_video + 1 :]
