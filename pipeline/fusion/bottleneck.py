"""Bottleneck fusion (hybrid): each sense has its own layers, and a few shared tokens carry news between
them layer by layer (Multimodal Bottleneck Transformer, https://arxiv.org/abs/2107.00135)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from pipeline.fusion.base import Across, Fusion, FusionSize, Pair, Sense, Stream, only


class BottleneckFusion(Fusion):
    """Two streams that meet in their `n_shared` first tokens, before each layer from `n_apart` on.

    Each sense has its own copy of the shared tokens, as in the paper. There the mean of both copies goes on;
    here a copy stays and what the other's has gathered is added, so that with the other absent it is as it
    would be alone.
    """

    def __init__(self, size: FusionSize) -> None:
        super().__init__()
        self.size = size
        self.streams = nn.ModuleList(Stream(size) for _ in range(2))
        n_met = size.depth - size.n_apart
        self.gather = nn.ModuleList(nn.ModuleList(_News(size) for _ in range(2)) for _ in range(n_met))
        self.opening = nn.Parameter(torch.ones(n_met, 2, size.dim))

    def fuse(self, video: Sense, audio: Sense) -> Pair:
        streams = self.pair()
        begun = [stream.begin(s) for stream, s in zip(streams, (video, audio), strict=True)]
        tokens = [s.tokens for s in begun]
        for layer in range(self.size.depth):
            if layer >= self.size.n_apart:
                tokens = self._met(layer - self.size.n_apart, tokens, begun)
            tokens = [
                stream.layer(layer, x, s) for stream, x, s in zip(streams, tokens, begun, strict=True)
            ]
        seen, heard = (stream.end(x) for stream, x in zip(streams, tokens, strict=True))
        return seen, heard

    def _met(self, time: int, tokens: list[Tensor], begun: list[Sense]) -> list[Tensor]:
        """Tokens of both senses (B, n_shared + N, dim) once the shared ones have met."""
        n, gather = self.size.n_shared, cast(nn.ModuleList, self.gather[time])
        news = [gather[k](begun[k].holding(tokens[k]), n) for k in range(2)]
        return [
            torch.cat([x[:, :n] + news[1 - k] * self.opening[time, k], x[:, n:]], 1)
            for k, x in enumerate(tokens)
        ]


class _News(nn.Module):
    """What the shared tokens of one sense have to tell the other."""

    def __init__(self, size: FusionSize) -> None:
        super().__init__()
        self.across = Across(size)
        self.tell = nn.Sequential(
            nn.LayerNorm(size.dim),
            nn.Linear(size.dim, size.dim),
            nn.GELU(),
            nn.Linear(size.dim, size.dim),
        )

    def forward(self, giver: Sense, n_shared: int) -> Tensor:
        """(B, n_shared, dim): the first tokens of `giver`, having looked at all of it; zero where absent."""
        shared, at_s = giver.tokens[:, :n_shared], giver.times_s[:, :n_shared]
        return only(self.tell(shared + self.across(shared, at_s, giver)), giver.present)
