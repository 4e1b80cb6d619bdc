"""What a clip shows, says and does, as one vector of the text space, in the context of its unit.

    names seen, motion ─┐ fusion      mean ┐ context     ┌ what it adds to the
    names heard        ─┘ in a clip  token ┘ in the unit └ evidence's own vector → unit vectors

A residual: with nothing learned the vectors are those of the evidence, as version 1 of the bundle had them.
Clips of a unit look at each other by their true times and by how alike they look, which tells one scene from
the next; see `kinship`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.encoders.temporal import TimeBlock
from pipeline.fusion import FUSIONS, FusionSize

TEXT_DIM, MOTION_DIM = 384, 256
N_NAMES, LEAST_SURE = 5, 0.05  # names of a sense that a clip may have, and how sure each must be
NAME_AT_S = 2.0  # where names stand in a clip: what is recognised is told of the clip as a whole
_LEAST_LOG = -12.0  # of a chance: a stranger is hardly heard, but never a reason for NaN
_UNKNOWN_KINSHIP = 0.5  # of two clips without pictures to compare
_T = TypeVar("_T")


@dataclass(frozen=True)
class Pieces:
    """K pieces of each of N clips; what is not valid may hold anything."""

    values: Tensor  # (N, K, D)
    sure: Tensor  # (N, K) in 0..1
    valid: Tensor  # (N, K) bool
    middle_s: Tensor  # (N, K) seconds from the clip's start

    def where(self, present: Tensor) -> Pieces:
        """Without those of clips that are not `present` (N,)."""
        return dataclasses.replace(self, valid=self.valid & present[:, None])


@dataclass(frozen=True)
class Clips:
    """What was taken in of N clips, those of a unit one behind the other."""

    seen: Pieces  # names of what was recognised by sight, as vectors of the text space
    moves: Pieces  # features of windows of motion
    heard: Pieces  # names of what was recognised by ear
    present: Tensor  # (N, 2) bool, has video, has audio
    evidence: Tensor  # (N, TEXT_DIM) unit vectors of the evidence alone, zero where there is none
    looks: Tensor  # (N, L) features of the pictures' look, zero where there are none
    middle_s: Tensor  # (N,) on the file's clock
    shots: Tensor  # (N,) int64; clips of different shots never see each other
    unit: Tensor  # (N,) int64, ascending: which unit a clip is of

    def part(self, first: int, end: int) -> Clips:
        """Clips [first, end)."""
        return _each(self, lambda value: value[first:end])

    def to(self, device: torch.device) -> Clips:
        """The same on a device."""
        return _each(self, lambda value: value.to(device))


def _each(value: _T, change: Callable[[Tensor], Tensor]) -> _T:
    """`value` with every tensor in it changed."""
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}  # type: ignore[arg-type]
    changed = {k: change(v) if isinstance(v, Tensor) else _each(v, change) for k, v in fields.items()}
    return type(value)(**changed)


@dataclass(frozen=True)
class SceneSize:
    """Shape of a scene encoder."""

    fusion: str = "bottleneck"  # of FUSIONS
    dim: int = 192
    depth: int = 2  # layers of the fusion
    num_heads: int = 4
    context_depth: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion {self.fusion!r} is unknown; expected one of {', '.join(FUSIONS)}")


class SceneEncoder(nn.Module):
    """Pieces of clips → a unit vector of the text space for each clip."""

    moves_mean: Tensor  # (MOTION_DIM,)
    moves_scale: Tensor  # (MOTION_DIM,)
    kin: Tensor  # (2,) slope and offset from the cosine of two looks to the log-odds that they are one scene

    def __init__(self, size: SceneSize) -> None:
        super().__init__()
        self.size = size
        dim = size.dim
        fusion = FusionSize(dim, size.depth, size.num_heads, size.dropout, n_apart=0)
        self.name, self.sure = nn.Linear(TEXT_DIM, dim), nn.Linear(3, dim)
        self.move = nn.Linear(MOTION_DIM, dim)
        self.kind, self.nothing = fusion.learned(3), fusion.learned(1)
        self.fusion = FUSIONS[size.fusion](fusion)
        self.context = nn.ModuleList(
            TimeBlock(dim, size.num_heads, 2.0, size.dropout) for _ in range(size.context_depth)
        )
        # What a clip without evidence begins from: of length 0 it would have no direction to learn.
        self.typical = nn.Parameter(F.normalize(torch.randn(TEXT_DIM), dim=-1))
        told = nn.Linear(dim, TEXT_DIM)
        self.out = nn.Sequential(nn.LayerNorm(dim), told)
        # What names and neighbours' evidence count for beyond the evidence's own reckoning: nothing at first.
        self.heed, self.borrows = nn.Linear(dim, 1), nn.Linear(dim, 1)
        self.asks, self.answers = nn.Linear(dim, dim), nn.Linear(dim, dim)
        for begun in (told, self.heed, self.borrows):
            nn.init.zeros_(begun.weight)
            nn.init.zeros_(begun.bias)
        self.register_buffer("moves_mean", torch.zeros(MOTION_DIM))
        self.register_buffer("moves_scale", torch.ones(MOTION_DIM))
        self.register_buffer("kin", torch.tensor([0.0, 0.0]))

    def forward(self, clips: Clips) -> Tensor:
        """Unit vectors (N, TEXT_DIM)."""
        tokens, named = self.clip_tokens(clips)
        tokens, borrowed = self.in_context(tokens, clips.evidence + named, clips)
        has_own = clips.evidence.abs().amax(-1, keepdim=True) > 0
        begun = torch.where(has_own, clips.evidence, self.typical)
        return F.normalize(begun + named + borrowed + _at_most_one(self.out(tokens)), dim=-1)

    def clip_tokens(self, clips: Clips) -> tuple[Tensor, Tensor]:
        """Each clip alone: (N, dim), and (N, TEXT_DIM) its names as far as they count more or less."""
        seen, moves = clips.seen.where(clips.present[:, 0]), clips.moves.where(clips.present[:, 0])
        heard = clips.heard.where(clips.present[:, 1])
        video = torch.cat([self._named(seen, 0), self._moving(moves)], 1)
        audio = self._named(heard, 2)
        valid = (torch.cat([seen.valid, moves.valid], 1), heard.valid)
        times_s = (torch.cat([seen.middle_s, moves.middle_s], 1), heard.middle_s)
        fused = self.fusion(video, audio, clips.present, times_s=times_s, valid=valid)
        shown = torch.cat(valid, 1)[..., None]
        count = shown.sum(1)
        pooled = (fused * shown).sum(1) / count.clamp(min=1)
        more = self.heed(fused) * shown  # (N, pieces, 1)
        n_seen, n_video = seen.valid.shape[1], valid[0].shape[1]
        named = (more[:, :n_seen] * _blanked(seen)).sum(1) + (more[:, n_video:] * _blanked(heard)).sum(
            1
        )
        return torch.where(count > 0, pooled, self.nothing.to(pooled.dtype)), named

    def in_context(self, tokens: Tensor, told: Tensor, clips: Clips) -> tuple[Tensor, Tensor]:
        """Tokens (N, dim) that have seen those of their unit, and what each heeds of what is told there
        (N, TEXT_DIM)."""
        if not self.size.context_depth:
            return tokens, torch.zeros_like(told)
        places = _Places(clips.unit)
        there = places.laid_out(torch.ones_like(clips.unit, dtype=torch.bool))
        kin = self.kinship(places.laid_out(clips.looks), places.laid_out(clips.shots))
        kin = kin.masked_fill(~there[:, :, None], 0.0)  # padding must see something
        x, times_s = places.laid_out(tokens), places.laid_out(clips.middle_s).float()
        for block in self.context:
            x = block(x, times_s, there, kin)
        likeness = self.asks(x) @ self.answers(x).mT / x.shape[-1] ** 0.5 + kin
        heeded = likeness.masked_fill(~there[:, None], float("-inf")).softmax(-1)
        borrowed = self.borrows(x) * (heeded @ places.laid_out(told))
        return places.back(x), places.back(borrowed)

    def evident(self, clips: Clips, least: float) -> Tensor:
        """Which clips (N,) have evidence, or are by a chance of `least` of one scene with one that has."""
        places = _Places(clips.unit)
        own = places.laid_out(clips.evidence).abs().amax(-1) > 0  # (B, n)
        kin = self.kinship(places.laid_out(clips.looks), places.laid_out(clips.shots))
        is_kin = kin >= torch.tensor(least, device=kin.device).log()
        return places.back((is_kin & own[:, None]).any(-1))

    def kinship(self, looks: Tensor, shots: Tensor) -> Tensor:
        """Logarithm of the chance that two clips show one scene, (B, N, N), from their looks (B, N, L)."""
        alike = F.normalize(looks.float(), dim=-1) @ F.normalize(looks.float(), dim=-1).mT
        kin = F.logsigmoid(self.kin[0] * alike + self.kin[1]).clamp(min=_LEAST_LOG)
        seen = looks.abs().amax(-1) > 0
        known = seen[:, :, None] & seen[:, None]
        kin = torch.where(known, kin, torch.full_like(kin, _UNKNOWN_KINSHIP).log())
        kin = kin.masked_fill(shots[:, :, None] != shots[:, None], float("-inf"))
        own = torch.eye(looks.shape[1], dtype=torch.bool, device=looks.device)
        return kin.masked_fill(own, 0.0)

    def _named(self, pieces: Pieces, kind: int) -> Tensor:
        sure = torch.where(pieces.valid, pieces.sure, 1.0)[..., None]
        about = self.sure(torch.cat([sure, sure.square(), sure.clamp(min=1e-3).log()], -1))
        return self.name(_blanked(pieces)) + about + self.kind[kind]

    def _moving(self, pieces: Pieces) -> Tensor:
        return self.move((_blanked(pieces) - self.moves_mean) / self.moves_scale) + self.kind[1]


def _at_most_one(x: Tensor) -> Tensor:
    """Vectors (N, D) no longer than 1: what is added never outweighs the evidence."""
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1.0)


class _Places:
    """Where clips stand when units lie side by side, padded to the longest."""

    def __init__(self, unit: Tensor) -> None:
        _, row, n_clips = torch.unique_consecutive(unit, return_inverse=True, return_counts=True)
        self.shape = (len(n_clips), int(n_clips.max()))
        self.row = row
        self.place = torch.arange(len(unit), device=unit.device) - (n_clips.cumsum(0) - n_clips)[row]

    def laid_out(self, values: Tensor) -> Tensor:
        """(N, …) → (B, n, …), zero where there is no clip."""
        out = values.new_zeros(*self.shape, *values.shape[1:])
        out[self.row, self.place] = values
        return out

    def back(self, values: Tensor) -> Tensor:
        """(B, n, …) → (N, …)."""
        return values[self.row, self.place]


def _blanked(pieces: Pieces) -> Tensor:
    values = pieces.values
    return torch.where(pieces.valid[..., None], values, torch.zeros((), dtype=values.dtype))
