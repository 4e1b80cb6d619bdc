"""Late fusion: each sense is understood alone, then the two answers are weighed and added."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.fusion.base import Fusion, FusionSize, Pair, Sense, Stream

_JUDGE_MLP_RATIO = 4.0  # what crosses has then about as many weights in the three kinds


class LateFusion(nn.Module):
    """A weighted mean of unit vectors without training, in which an absent sense weighs nothing."""

    prior: Tensor  # (2,) video, audio

    def __init__(self, video_weight: float = 0.5) -> None:
        super().__init__()
        if not 0.0 < video_weight < 1.0:
            raise ValueError(f"video_weight must lie between 0 and 1, got {video_weight}")
        self.register_buffer(
            "prior", torch.tensor([video_weight, 1.0 - video_weight]), persistent=False
        )

    def weights(self, video: Tensor, audio: Tensor, present: Tensor) -> Tensor:
        """How much each sense counts, (B, 2), summing to 1 (or 0 where both are absent).

        A token's length is the strength of its evidence, so a sense that saw nothing it knows
        hardly counts.
        """
        strength = torch.stack([video.norm(dim=-1), audio.norm(dim=-1)], dim=-1)  # (B, 2)
        raw = self.prior * strength * present.to(video.dtype)
        return raw / raw.sum(-1, keepdim=True).clamp(min=1e-12)

    def forward(self, video: Tensor, audio: Tensor, present: Tensor) -> Tensor:
        """Fuse tokens.

        Args:
            video, audio: (B, D); direction is meaning, length in 0..1 is strength of evidence.
            present: (B, 2) bool, has video, has audio. What is absent may hold anything finite.

        Returns:
            (B, D) unit vectors; zero where both senses are absent or saw nothing.
        """
        weights = self.weights(video, audio, present)
        directions = torch.stack(
            [nn.functional.normalize(video, dim=-1), nn.functional.normalize(audio, dim=-1)], dim=1
        )  # (B, 2, D)
        return nn.functional.normalize((weights[..., None] * directions).sum(1), dim=-1)


class GatedFusion(Fusion):
    """A stream for each sense; a learned gate weighs what the two say.

    For each sense a layer looks over all that its stream says and judges how far to go by it, as where noise
    left it unsure. With one sense absent the other has all the weight it has alone.
    """

    def __init__(self, size: FusionSize) -> None:
        super().__init__()
        self.size = size
        self.streams = nn.ModuleList(Stream(size) for _ in range(2))
        self.judges = nn.ModuleList(size.block(_JUDGE_MLP_RATIO) for _ in range(2))
        self.strength = nn.ModuleList(nn.Linear(size.dim, 1) for _ in range(2))
        self.opening = nn.Parameter(torch.ones(2))

    def fuse(self, video: Sense, audio: Sense) -> Pair:
        senses = (video, audio)
        seen, heard = (stream(s) for stream, s in zip(self.pair(), senses, strict=True))
        weights = self.weights(seen, heard, video, audio)
        return seen * weights[:, :1, None], heard * weights[:, 1:, None]

    def weights(self, seen: Tensor, heard: Tensor, video: Sense, audio: Sense) -> Tensor:
        """How much each sense counts, (B, 2), by its tokens; their mean over the senses present is 1."""
        strengths = []
        for judge, net, x, sense in zip(
            self.judges, self.strength, (seen, heard), (video, audio), strict=True
        ):
            judged = judge(x, sense.times_s, sense.seen | ~sense.present[:, None])
            shown = sense.seen[..., None].to(x.dtype)
            strengths.append(net((judged * shown).sum(1) / shown.sum(1).clamp(min=1)))
        strength = torch.cat(strengths, 1) * self.opening
        present = torch.stack([video.present, audio.present], 1)
        # Not −inf: where both are absent the softmax must stay finite.
        strength = strength.masked_fill(~present, torch.finfo(strength.dtype).min)
        return strength.softmax(1) * present.sum(1, keepdim=True)
