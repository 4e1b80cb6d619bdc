"""Bottleneck fusion (hybrid): each sense has its own layers, and a few shared tokens carry news between
them layer by layer (Multimodal Bottleneck Transformer, https://arxiv.org/abs/2107.00135)."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.fusion.base import Fusion, FusionSize, Pair, Sense, streams


class BottleneckFusion(Fusion):
    """Two transformers that meet in `n_shared` tokens from layer `n_apart` on.

    In a layer each sense updates its tokens and its own copy of the shared ones; the mean of the two
    copies goes on. An absent sense is one learned token, so that the other can know that it is alone.
    """

    def __init__(self, size: FusionSize) -> None:
        super().__init__()
        self.size = size
        self.streams = streams(size)
        self.norms = nn.ModuleList(nn.LayerNorm(size.dim) for _ in range(2))
        self.absent, self.shared = size.learned(2), size.learned(size.n_shared)

    def fuse(self, video: Sense, audio: Sense) -> Pair:
        n = self.size.n_shared
        senses = [
            sense.with_first(self.absent[k : k + 1], ~sense.present).with_first(self.shared)
            for k, sense in enumerate((video, audio))
        ]
        shared, tokens = senses[0].tokens[:, :n], [sense.tokens[:, n:] for sense in senses]
        for layer, blocks in enumerate(self.layers()):
            if layer < self.size.n_apart:
                tokens = [
                    block(x, s.times_s[:, n:], s.seen[:, n:])
                    for block, x, s in zip(blocks, tokens, senses, strict=True)
                ]
                continue
            met = [
                block(torch.cat([shared, x], 1), s.times_s, s.seen)
                for block, x, s in zip(blocks, tokens, senses, strict=True)
            ]
            shared, tokens = (met[0][:, :n] + met[1][:, :n]) / 2, [x[:, n:] for x in met]
        seen, heard = (norm(x[:, 1:]) for norm, x in zip(self.norms, tokens, strict=True))
        return seen, heard

    def layers(self) -> zip[tuple[nn.Module, ...]]:
        """The layers of both senses side by side."""
        return zip(*self.streams, strict=True)
