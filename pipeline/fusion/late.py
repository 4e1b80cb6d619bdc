"""Late fusion: each sense is understood alone, then the two vectors are weighed and added."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LateFusion(nn.Module):
    """A weighted mean of unit vectors, in which an absent sense weighs nothing."""

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
