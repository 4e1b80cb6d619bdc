"""Temporal transformer: clip tokens of a unit, each given the context of its neighbours.

Positions come from true times in seconds, not from indices, so a gap between clips is a gap to the
model (rotary embeddings over continuous time, after https://arxiv.org/abs/2104.09864).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def rotate_by_time(
    x: Tensor, times_s: Tensor, longest_s: float = 600.0, shortest_s: float = 2.0
) -> Tensor:
    """Turn each pair of channels of `x` by an angle that grows with time.

    Args:
        x: (B, heads, N, D), D even.
        times_s: (B, N) seconds; only differences between them matter to attention.
        longest_s, shortest_s: the slowest channel turns once in the one, the fastest once in the other.
    """
    half = x.shape[-1] // 2
    ratio = longest_s / shortest_s
    periods = torch.logspace(0, 1, half, base=ratio, device=x.device) * shortest_s  # (D/2,)
    angle = (2 * torch.pi * times_s[:, None, :, None].float() / periods).to(x.dtype)
    cos, sin = angle.cos(), angle.sin()  # (B, 1, N, D/2)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class TimeBlock(nn.Module):
    """A transformer block (pre-norm) over tokens that stand at times.

    Args:
        periods_s: in how long the fastest and the slowest channel of a position turn once.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        dropout: float,
        periods_s: tuple[float, float] = (2.0, 600.0),
    ) -> None:
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(f"dim {dim} must be divisible by twice num_heads ({num_heads})")
        self.num_heads, self.periods_s = num_heads, periods_s
        self.norm_attn, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
        )
        self.dropout = dropout

    def forward(self, x: Tensor, times_s: Tensor, present: Tensor, kin: Tensor | None = None) -> Tensor:
        """Tokens (B, N, dim) at `times_s` (B, N), each having seen those that are `present` (B, N).

        Args:
            kin: (B, N, N) added to how much the one heeds the other; −inf: not at all.
        """
        b, n, dim = x.shape
        qkv = self.qkv(self.norm_attn(x)).view(b, n, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, D)
        shortest_s, longest_s = self.periods_s
        q = rotate_by_time(q, times_s, longest_s, shortest_s)
        k = rotate_by_time(k, times_s, longest_s, shortest_s)
        heeded = present[:, None, None, :]  # (B, 1, 1, N)
        if kin is not None:
            heeded = kin[:, None].to(q.dtype).masked_fill(~heeded, float("-inf"))
        attended = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=heeded, dropout_p=self.dropout * self.training
        )
        x = x + self.out(attended.transpose(1, 2).reshape(b, n, dim))
        return x + self.mlp(self.norm_mlp(x))


class TemporalTransformer(nn.Module):
    """Tokens (B, N, dim) → tokens of the same shape, each having seen the others in its unit."""

    def __init__(
        self,
        dim: int,
        *,
        depth: int = 2,
        num_heads: int = 4,
        mlp_ratio: float = 2.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TimeBlock(dim, num_heads, mlp_ratio, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, times_s: Tensor, present: Tensor) -> Tensor:
        """Context for each token.

        Args:
            tokens: (B, N, dim).
            times_s: (B, N) middle of each clip in seconds.
            present: (B, N) bool; False is padding, seen by nobody. Each row has at least one True.

        Returns:
            (B, N, dim); zero where `present` is False.
        """
        for block in self.blocks:
            tokens = block(tokens, times_s, present)
        return self.norm(tokens) * present[..., None].to(tokens.dtype)
