"""What the trained fusions share: one signature, and that an absent sense can say nothing at all.

    tokens of each sense ─ what is absent or padding is blanked ─ a fusion's layers ─ the same tokens, fused

A token keeps its place and its time; heads pool the tokens for whatever they answer.

Every kind has one `Stream` for each sense, and what crosses between the two. What crosses comes only from a
sense that is there, so with the other absent a stream answers as it would alone, to the bit; and it comes
through `opening`, so that a fusion can begin with nothing crossing (`pipeline.fusion.start`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.encoders.temporal import TimeBlock, rotate_by_time

SENSES = ("video", "audio")
Pair = tuple[Tensor, Tensor]  # video, audio


@dataclass(frozen=True)
class FusionSize:
    """Shape of a fusion. The three kinds have about as many weights at the same size."""

    dim: int = 64  # of a token
    depth: int = 3  # layers
    num_heads: int = 4
    mlp_ratio: float = 2.0  # of a stream's layers: how much wider than a token they are inside
    dropout: float = 0.1
    n_shared: int = (
        4  # learned tokens of each sense in place of the other; they carry news (bottleneck)
    )
    n_apart: int = 1  # layers before the first exchange (bottleneck)
    # In how long the fastest and the slowest channel of a position turn once: the finest time told
    # apart, and more than the longest clip.
    shortest_s: float = 0.25
    longest_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.n_apart < self.depth:
            raise ValueError(f"n_apart must lie in 0..{self.depth - 1} (depth - 1), got {self.n_apart}")

    def block(self, mlp_ratio: float | None = None) -> TimeBlock:
        """One layer; as wide inside as those of a stream unless told."""
        mlp_ratio = self.mlp_ratio if mlp_ratio is None else mlp_ratio
        periods_s = (self.shortest_s, self.longest_s)
        return TimeBlock(self.dim, self.num_heads, mlp_ratio, self.dropout, periods_s)

    def learned(self, n: int) -> nn.Parameter:
        """`n` learned tokens, (n, dim)."""
        return nn.Parameter(torch.randn(n, self.dim) * self.dim**-0.5)


@dataclass(frozen=True)
class Sense:
    """Tokens of one sense; those that nobody may see are zero and stand at time 0."""

    tokens: Tensor  # (B, N, dim)
    times_s: Tensor  # (B, N)
    seen: Tensor  # (B, N) bool
    present: Tensor  # (B,) bool

    def with_first(self, first: Tensor) -> Sense:
        """With tokens `first` (n, dim) at the clip's start before all others, always seen."""
        b, n = len(self.tokens), len(first)
        return Sense(
            torch.cat([first.to(self.tokens.dtype).expand(b, -1, -1), self.tokens], 1),
            torch.cat([self.times_s.new_zeros(b, n), self.times_s], 1),
            torch.cat([self.seen.new_ones(b, n), self.seen], 1),
            self.present,
        )

    def holding(self, tokens: Tensor) -> Sense:
        """Other tokens (B, N, dim) in the same places."""
        return replace(self, tokens=tokens)


class Holding(nn.Module):
    """A network whose parts without a weight to learn stay as in use: no dropout, no moving statistics."""

    def train(self, mode: bool = True) -> Holding:
        super().train(mode)
        for part in self.modules() if mode else ():
            weights = list(part.parameters())
            if weights and not any(w.requires_grad for w in weights):
                part.eval()
        return self


class Stream(nn.Module):
    """The layers of one sense: a transformer over its tokens.

    Before them stand `n_shared` learned tokens in place of what the other sense would say. They are all
    that an absent sense is to this one.
    """

    def __init__(self, size: FusionSize) -> None:
        super().__init__()
        self.absent = size.learned(size.n_shared)
        self.blocks = nn.ModuleList(size.block() for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.dim)

    def forward(self, sense: Sense) -> Tensor:
        """(B, N, dim): the sense's tokens, each having seen the others, and nothing else."""
        begun = self.begin(sense)
        x = begun.tokens
        for layer in range(len(self.blocks)):
            x = self.layer(layer, x, begun)
        return self.end(x)

    def begin(self, sense: Sense) -> Sense:
        """With the learned tokens before the sense's own."""
        return sense.with_first(self.absent)

    def layer(self, number: int, x: Tensor, begun: Sense) -> Tensor:
        """Tokens `x` (B, n_shared + N, dim) after a layer; where they stand is as in `begun`."""
        return self.blocks[number](x, begun.times_s, begun.seen)

    def end(self, x: Tensor) -> Tensor:
        """The sense's own tokens (B, N, dim) of what comes out of the last layer."""
        return self.norm(x[:, len(self.absent) :])


class Across(nn.Module):
    """What some tokens take from others, by attention over true times; not added to anything yet."""

    def __init__(self, size: FusionSize) -> None:
        super().__init__()
        self.size = size
        self.norm_takers, self.norm_givers = nn.LayerNorm(size.dim), nn.LayerNorm(size.dim)
        self.q, self.kv = nn.Linear(size.dim, size.dim), nn.Linear(size.dim, 2 * size.dim)
        self.out = nn.Linear(size.dim, size.dim)

    def forward(self, x: Tensor, times_s: Tensor, givers: Sense) -> Tensor:
        """(B, N, dim) for tokens `x` (B, N, dim) at `times_s` (B, N); zero where the givers are absent."""
        b, n, dim = x.shape
        heads, width = self.size.num_heads, dim // self.size.num_heads
        periods_s = (self.size.longest_s, self.size.shortest_s)
        q = self.q(self.norm_takers(x)).view(b, n, heads, width).transpose(1, 2)
        kv = self.kv(self.norm_givers(givers.tokens)).view(b, -1, 2, heads, width)
        k, v = kv.permute(2, 0, 3, 1, 4)  # each (B, heads, M, width)
        q, k = rotate_by_time(q, times_s, *periods_s), rotate_by_time(k, givers.times_s, *periods_s)
        shown = givers.seen | ~givers.present[:, None]  # no token may have nothing to look at
        taken = nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=shown[:, None, None, :],
            dropout_p=self.size.dropout * self.training,
        )
        return only(self.out(taken.transpose(1, 2).reshape(b, n, dim)), givers.present)


def only(x: Tensor, present: Tensor) -> Tensor:
    """`x` (B, N, dim) where `present` (B,), else zero, whatever stands there."""
    return torch.where(present[:, None, None], x, torch.zeros((), dtype=x.dtype, device=x.device))


class Fusion(Holding):
    """Tokens of two senses → the same tokens, fused. A kind of fusion fills in `fuse`."""

    size: FusionSize
    # Of a kind in which senses meet:
    streams: nn.ModuleList  # `Stream` of video, of audio
    opening: nn.Parameter  # what crosses is multiplied by this

    def forward(
        self,
        video_tokens: Tensor,
        audio_tokens: Tensor,
        present: Tensor,
        *,
        times_s: Pair | None = None,
        valid: Pair | None = None,
    ) -> Tensor:
        """Fuse tokens.

        Args:
            video_tokens, audio_tokens: (B, Nv, dim), (B, Na, dim).
            present: (B, 2) bool, has video, has audio. What is absent may hold anything, also NaN.
            times_s: (B, Nv), (B, Na) seconds from the clip's start to each token; positions come from
                nothing else. None: tokens are sets without an order.
            valid: (B, Nv), (B, Na) bool; False is padding or damage and seen by nobody. A sense without
                a valid token is absent. None: all are.

        Returns:
            (B, Nv + Na, dim), those of video first; zero for tokens that nobody may see. `seen` tells
            which ones those are.

        Raises:
            ValueError: shapes that do not fit each other.
        """
        tokens = (video_tokens, audio_tokens)
        _check(tokens, present, times_s, valid, self.size.dim)
        if times_s is None:
            times_s = _pair(t.new_zeros(t.shape[:2], dtype=torch.float32) for t in tokens)
        video, audio = (
            _sense(t, at, there)
            for t, at, there in zip(tokens, times_s, _seen(tokens, present, valid), strict=True)
        )
        fused = torch.cat(self.fuse(video, audio), 1)
        seen = torch.cat([video.seen, audio.seen], 1)[..., None]
        return torch.where(seen, fused, torch.zeros_like(fused))

    def pair(self) -> tuple[Stream, Stream]:
        """The streams of video and of audio."""
        video, audio = self.streams
        return cast(Stream, video), cast(Stream, audio)

    def fuse(self, video: Sense, audio: Sense) -> Pair:
        """(B, Nv, dim), (B, Na, dim); anything finite where nothing was to be seen."""
        raise NotImplementedError


def seen(
    video_tokens: Tensor, audio_tokens: Tensor, present: Tensor, valid: Pair | None = None
) -> Tensor:
    """(B, Nv + Na) bool: which of a fusion's tokens count; see `Fusion.forward`."""
    return torch.cat(_seen((video_tokens, audio_tokens), present, valid), 1)


def _seen(tokens: Pair, present: Tensor, valid: Pair | None) -> Pair:
    if valid is None:
        valid = _pair(present.new_ones(t.shape[:2]) for t in tokens)
    return _pair(valid[k] & present[:, k, None] for k in range(2))


def _pair(values: Iterable[Tensor]) -> Pair:
    video, audio = values
    return video, audio


def _sense(tokens: Tensor, times_s: Tensor, seen: Tensor) -> Sense:
    blank = torch.zeros((), dtype=tokens.dtype, device=tokens.device)
    tokens = torch.where(seen[..., None], tokens, blank)  # not times zero: NaN would stay
    return Sense(tokens, torch.where(seen, times_s, 0.0), seen, seen.any(1))


def _check(tokens: Pair, present: Tensor, times_s: Pair | None, valid: Pair | None, dim: int) -> None:
    b = len(present)
    if present.shape != (b, 2) or present.dtype != torch.bool:
        raise ValueError(f"present must be (B, 2) bool, got {tuple(present.shape)} {present.dtype}")
    for k, sense in enumerate(SENSES):
        shape = tuple(tokens[k].shape)
        if len(shape) != 3 or shape[0] != b or shape[2] != dim:
            raise ValueError(f"{sense}_tokens must be ({b}, N, {dim}), got {shape}")
        for name, pair in (("times_s", times_s), ("valid", valid)):
            if pair is not None and tuple(pair[k].shape) != shape[:2]:
                raise ValueError(f"{name} of {sense} must be {shape[:2]}, got {tuple(pair[k].shape)}")
