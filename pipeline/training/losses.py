"""Losses that more than one task uses.

info_nce      pairs of vectors: each finds its partner among those of the whole batch, on all workers
Contrastive   the same with a learned temperature: fused embeddings are drawn to their sentences
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

_FIRST_TEMPERATURE, _LOWEST_TEMPERATURE = 0.07, 0.01


def info_nce(a: Tensor, b: Tensor, scale: Tensor | float, ids: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE as in CLIP (https://arxiv.org/abs/2103.00020): the mean over this worker's pairs of
    −log softmax of the likeness of partners, once among all `b` and once among all `a`.

    The others of the batch on all workers of an initialised `torch.distributed` group are the negatives,
    and gradients reach them there. So the mean over workers of gradients is that of the whole batch.

    Args:
        a, b: (B, D) of any length; row i of one belongs to row i of the other. B may differ by worker.
        scale: cosines are multiplied by this, 1 / temperature.
        ids: (B,) integers; rows of equal id are partners all alike, as where a sentence stands twice in
            a batch. None: each row has one partner.
    """
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    sizes = _sizes(len(a), a.device)
    first = sum(sizes[: _rank()])
    if ids is None:
        ids = torch.arange(first, first + len(a), device=a.device)
    all_a, all_b = gather(a, sizes), gather(b, sizes)
    alike = (ids[:, None] == gather(ids, sizes)[None]).to(a.dtype)  # (B, all)
    target = alike / alike.sum(1, keepdim=True)
    return (
        F.cross_entropy(scale * (a @ all_b.T), target) + F.cross_entropy(scale * (b @ all_a.T), target)
    ) / 2


class Contrastive(nn.Module):
    """`info_nce` with a learned temperature, which never falls below 0.01: likeness is scaled by ≤ 100."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(_FIRST_TEMPERATURE)))

    @property
    def scale(self) -> Tensor:
        """1 / temperature."""
        return self.log_scale.clamp(max=-math.log(_LOWEST_TEMPERATURE)).exp()

    def forward(self, a: Tensor, b: Tensor, ids: Tensor | None = None) -> Tensor:
        """The loss over pairs (B, D); see `info_nce`."""
        return info_nce(a, b, self.scale, ids)


def gather(x: Tensor, sizes: list[int]) -> Tensor:
    """Rows of all workers in their order, `sizes` of them from each; gradients flow back to their worker."""
    return x if len(sizes) == 1 else _Gather.apply(x, sizes)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        padded = x.new_zeros(max(sizes), *x.shape[1:])  # workers send alike shapes
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous()
        dist.all_reduce(total)  # every worker's loss looked at these rows
        first = sum(ctx.sizes[: _rank()])
        return total[first : first + ctx.sizes[_rank()]], None


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _sizes(n: int, device: torch.device) -> list[int]:
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [n]
    mine = torch.tensor([n], device=device)
    sizes = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, mine)
    return [int(size) for size in sizes]
