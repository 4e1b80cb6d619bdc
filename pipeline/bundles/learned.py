"""What a bundle learned from a user's labels: tokens of the senses in, scores of the user's classes out.

    tokens of each stream ─ standardised ─┬─ mean ─ a linear answer of each stream ──────────────┐
                                          └─ projected ─ fused ─ mean ─ context of the unit ─ heads ┴─ logits

A stream is the tokens of one sense under a name: pictures, sound, motion, whatever the bundle has. The linear
answers learn from few examples what there is to learn from few; the fused way adds what they cannot tell.
Networks are trained by `pipeline.training.learner` and put to use here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.bundles.senses import Tokens
from pipeline.bundles.spec import BundleError, BundleSpec, LearnedSpec, SpaceSpec
from pipeline.bundles.tuned import TunedEncoder, load_tuned, tokens_of
from pipeline.bundles.weights import load_strictly, read_tensors
from pipeline.encoders.temporal import TemporalTransformer
from pipeline.fusion import FUSIONS, FusionSize
from pipeline.records import ClipBatch

# Which side of a fusion a stream stands on, in the order in which a model's senses are told.
MODALITIES = {"video": "video", "audio": "audio", "motion": "video"}
_SIDES = ("video", "audio")
_LEAST_SPREAD = 1e-3
_SHORTEST_S, _LONGEST_S = 0.25, 60.0  # of times within a clip that a fusion tells apart


@dataclass(frozen=True)
class Clips:
    """Tokens of the clips of B units, C at most in each."""

    streams: dict[str, Tokens]  # values (B, C, K, D), middle_s and valid (B, C, K)
    middle_s: Tensor  # (B, C) float32 middle of each clip, on its video's clock
    there: Tensor  # (B, C) bool; False is padding

    def to(self, device: torch.device) -> Clips:
        """The same on a device."""
        streams = {
            name: Tokens(t.values.to(device), t.middle_s.to(device), t.valid.to(device))
            for name, t in self.streams.items()
        }
        return Clips(streams, self.middle_s.to(device), self.there.to(device))

    def present(self) -> dict[str, Tensor]:
        """Which clips have each stream, (B, C) bool."""
        return {name: t.valid.any(2) for name, t in self.streams.items()}


@dataclass(frozen=True)
class Answers:
    """What the network says of clips."""

    logits: dict[str, Tensor]  # vocabulary → (B, C, classes)
    text: Tensor | None  # (B, C, text_dim), where it was drawn to a text space


class Standard(nn.Module):
    """Tokens of one stream, each number about 0 and as spread as the others."""

    mean: Tensor
    spread: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("spread", torch.ones(dim))

    def measure(self, values: Tensor) -> None:
        """Take mean and spread from valid tokens (n, D)."""
        self.mean.copy_(values.mean(0))
        self.spread.copy_(values.std(0, correction=0).clamp(min=_LEAST_SPREAD))

    def forward(self, tokens: Tokens) -> Tensor:
        """(…, K, D); zero where not valid."""
        x = (tokens.values.float() - self.mean) / self.spread
        return torch.where(tokens.valid[..., None], x, torch.zeros_like(x))


class LearnedNet(nn.Module):
    """The network of a learned part."""

    def __init__(self, spec: LearnedSpec, dropout: float = 0.0) -> None:
        super().__init__()
        self.streams, self.spaces = dict(spec.streams), dict(spec.spaces)
        size = FusionSize(
            dim=spec.dim,
            depth=spec.depth,
            num_heads=spec.num_heads,
            dropout=dropout,
            n_apart=min(1, spec.depth - 1),
            shortest_s=_SHORTEST_S,
            longest_s=_LONGEST_S,
        )
        dims = [stream.dim for stream in self.streams.values()]
        self.standards = nn.ModuleList(Standard(dim) for dim in dims)
        self.projections = nn.ModuleList(nn.Linear(dim, spec.dim) for dim in dims)
        self.fusion = FUSIONS[spec.fusion](size)
        self.context = (
            TemporalTransformer(
                spec.dim, depth=spec.context_depth, num_heads=spec.num_heads, dropout=dropout
            )
            if spec.context_depth
            else None
        )
        counts = [len(space.names) for space in self.spaces.values()]
        self.drop = nn.Dropout(dropout)
        self.heads = nn.ModuleList(_silent(spec.dim, n) for n in counts)
        self.experts = nn.ModuleList(
            nn.ModuleList(_silent(dim, n) for n in counts) for dim in dims
        )  # [stream][space]
        self.to_text = nn.Linear(spec.dim, spec.text_dim) if spec.text_dim else None

    def forward(self, clips: Clips) -> Answers:
        """Logits of each vocabulary, and where the text space lies; anything where a clip is not there."""
        values = {
            name: standard(clips.streams[name])
            for name, standard in zip(self.streams, self.standards, strict=True)
        }
        token = self._clip_tokens(clips, values)  # (B, C, dim)
        alone = self._experts(clips, values)
        logits = {
            space: head(self.drop(token)) + alone[space]
            for space, head in zip(self.spaces, self.heads, strict=True)
        }
        return Answers(logits, None if self.to_text is None else self.to_text(token))

    def _clip_tokens(self, clips: Clips, values: Mapping[str, Tensor]) -> Tensor:
        """One fused token a clip, which has seen the others of its unit."""
        projected = {
            name: project(self.drop(values[name])).flatten(0, 1)
            for name, project in zip(self.streams, self.projections, strict=True)
        }
        sides = [self._side(side, clips, projected) for side in _SIDES]
        tokens, times_s, valid = (tuple(side[i] for side in sides) for i in range(3))
        present = torch.stack([v.any(1) for v in valid], 1)
        fused = self.fusion(*tokens, present, times_s=times_s, valid=valid)  # (B·C, K, dim)
        counted = torch.cat(valid, 1)[..., None].to(fused.dtype)
        token = (fused * counted).sum(1) / counted.sum(1).clamp(min=1)
        token = token.unflatten(0, clips.there.shape)
        if self.context is None:
            return token
        # A unit that is nothing but padding has to look at something.
        there = clips.there | ~clips.there.any(1, keepdim=True)
        return token + self.context(token, clips.middle_s, there)

    def _side(
        self, side: str, clips: Clips, projected: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, times and which are valid of all streams of one modality, (B·C, K, …); K is 1 at least."""
        names = [name for name, stream in self.streams.items() if stream.modality == side]
        n = clips.there.numel()
        if not names:
            like = next(iter(projected.values()))
            nothing = clips.there.new_zeros(n, 1)
            return like.new_zeros(n, 1, like.shape[-1]), clips.middle_s.new_zeros(n, 1), nothing
        return (
            torch.cat([projected[name] for name in names], 1),
            torch.cat([clips.streams[name].middle_s.flatten(0, 1) for name in names], 1),
            torch.cat([clips.streams[name].valid.flatten(0, 1) for name in names], 1),
        )

    def _experts(self, clips: Clips, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What each stream alone makes of a clip, the mean over those that the clip has."""
        present = clips.present()
        n_present = torch.stack([present[name] for name in self.streams]).sum(0).clamp(min=1)[..., None]
        sums = {space: torch.zeros((), device=clips.there.device) for space in self.spaces}
        for name, experts in zip(self.streams, self.experts, strict=True):
            counts = clips.streams[name].valid.sum(2).clamp(min=1)[..., None]
            mean = self.drop(values[name].sum(2) / counts)  # (B, C, D)
            for space, expert in zip(self.spaces, experts, strict=True):  # type: ignore[call-overload]
                sums[space] = sums[space] + expert(mean) * present[name][..., None]
        return {space: total / n_present for space, total in sums.items()}


def _silent(dim: int, n_classes: int) -> nn.Linear:
    """A head that says nothing until it has learned something."""
    head = nn.Linear(dim, n_classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def scores_of(logits: Tensor, is_multi: bool, slope: float, offset: float) -> Tensor:
    """Calibrated probabilities (…, C): of each class for itself, or of one of all."""
    scaled = slope * logits + offset
    return scaled.sigmoid() if is_multi else scaled.softmax(-1)


def padded(streams: Mapping[str, Sequence[Tokens]], middles_s: Sequence[Tensor]) -> Clips:
    """Units one behind the other, filled up to the longest.

    Args:
        streams: for each stream a unit's tokens, (C, K, D); K may differ.
        middles_s: for each unit (C,).
    """
    n, most = len(middles_s), max(len(m) for m in middles_s)
    middle_s, there = torch.zeros(n, most), torch.zeros(n, most, dtype=torch.bool)
    for i, mine in enumerate(middles_s):
        middle_s[i, : len(mine)], there[i, : len(mine)] = mine, True
    joined = {}
    for name, units in streams.items():
        k = max(1, *(t.valid.shape[1] for t in units))
        tail = units[0].values.shape[2:]
        all_ = Tokens(
            torch.zeros(n, most, k, *tail, dtype=units[0].values.dtype),
            torch.zeros(n, most, k),
            torch.zeros(n, most, k, dtype=torch.bool),
        )
        for i, t in enumerate(units):
            c, k = t.valid.shape
            all_.values[i, :c, :k] = t.values
            all_.middle_s[i, :c, :k], all_.valid[i, :c, :k] = t.middle_s, t.valid
        joined[name] = all_
    return Clips(joined, middle_s, there)


class Learned:
    """A learned part with its weights, ready to answer."""

    def __init__(
        self,
        spec: LearnedSpec,
        spaces: Mapping[str, SpaceSpec],
        net: LearnedNet,
        tuned: Mapping[str, TunedEncoder],
        device: torch.device,
    ) -> None:
        self.spec, self.spaces, self.tuned = spec, spaces, dict(tuned)
        self.net, self.device = net.to(device).eval(), device

    @torch.inference_mode()
    def tokens(self, told: Mapping[str, Tokens], pieces: Callable[[str], Tokens]) -> dict[str, Tokens]:
        """What it judges by: tokens `told` by the bundle's senses, and those of encoders of its own.

        Args:
            pieces: what an encoder of its own takes of the same clips, by stream.
        """
        own = {name: pieces(name) for name in self.tuned}
        return {**told, **tokens_of(self.tuned, own, self.device)}

    @torch.inference_mode()
    def scores(
        self, tokens: Mapping[str, Tokens], batches: Sequence[ClipBatch]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Scores (N, C) of each vocabulary, and which senses each clip was judged by (N, 2), video and audio.

        Args:
            tokens: of all clips of all `batches`, by stream; see `tokens`.

        Raises:
            BundleError: a stream is not told, or has another dimension.
        """
        self._check(tokens)
        sizes = [len(batch) for batch in batches]
        units = {name: _split(tokens[name], sizes) for name in self.spec.streams}
        clips = padded(units, middles_s(batches)).to(self.device)
        answers = self.net(clips)
        scores = {}
        for name, logits in answers.logits.items():
            space = self.spaces[name]
            is_multi = self.spec.spaces[name].is_multi
            found = scores_of(logits.float(), is_multi, space.slope, space.offset)
            scores[name] = found[clips.there].cpu()
        return scores, self._present(clips).cpu()

    def _check(self, told: Mapping[str, Tokens]) -> None:
        for name, stream in self.spec.streams.items():
            if name not in told:
                raise BundleError(f"learned: reads the tokens of {name!r}, which no sense tells")
            if told[name].values.shape[-1] != stream.dim:
                raise BundleError(
                    f"learned: reads tokens of {stream.dim} numbers of {name!r}, which tells "
                    f"{told[name].values.shape[-1]}"
                )

    def _present(self, clips: Clips) -> Tensor:
        present = clips.present()
        sides = []
        for side in _SIDES:
            names = [n for n, stream in self.spec.streams.items() if stream.modality == side]
            has = torch.zeros_like(clips.there)
            for name in names:
                has = has | present[name]
            sides.append(has[clips.there])
        return torch.stack(sides, 1)


def middles_s(batches: Sequence[ClipBatch]) -> list[Tensor]:
    """Middles of each unit's clips."""
    return [torch.from_numpy(((b.start_s + b.end_s) / 2).astype(np.float32)) for b in batches]


def _split(tokens: Tokens, sizes: Sequence[int]) -> list[Tokens]:
    parts = [t.split(list(sizes)) for t in (tokens.values, tokens.middle_s, tokens.valid)]
    return [Tokens(*of_unit) for of_unit in zip(*parts, strict=True)]


def load_learned(spec: LearnedSpec, bundle: BundleSpec, device: torch.device) -> Learned:
    """A learned part of a bundle with its weights, strictly.

    Raises:
        BundleError: weights are absent, altered, or do not fit.
    """
    net = LearnedNet(spec)
    load_strictly(net, read_tensors(spec.weights, bundle.directory), bundle.name)
    return Learned(spec, bundle.spaces, net, load_tuned(spec, bundle, device), device)
