"""3D CNN encoders over the frames of a clip: X3D (Feichtenhofer 2020, https://arxiv.org/abs/2004.04730).

The network is pytorchvideo's; here it is given our input (uint8 frames of any count), logits
instead of softmax, its features, and the memory format that CPUs and GPUs run it fastest in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class X3DSize:
    """How one published size of X3D is built and what it looks at."""

    n_frames: int
    size_px: int
    depth_factor: float


X3D_SIZES = {
    "xs": X3DSize(n_frames=4, size_px=160, depth_factor=2.2),
    "s": X3DSize(n_frames=13, size_px=160, depth_factor=2.2),
    "m": X3DSize(n_frames=16, size_px=224, depth_factor=2.2),
    "l": X3DSize(n_frames=16, size_px=312, depth_factor=5.0),
}
# Kinetics models of this family were trained on pictures normalised so, on a 0..1 scale.
_MEAN, _STD = 0.45, 0.225


class X3D(nn.Module):
    """Clips of frames → class logits, with `features` for the vector before the classifier."""

    feature_dim = 2048

    def __init__(self, size: str = "s", num_classes: int = 400) -> None:
        """Raises ValueError for a size that does not exist."""
        super().__init__()
        if size not in X3D_SIZES:
            raise ValueError(f"X3D size {size!r} is unknown; expected one of {sorted(X3D_SIZES)}")
        from pytorchvideo.models.x3d import create_x3d

        self.size = X3D_SIZES[size]
        self.n_frames, self.size_px = self.size.n_frames, self.size.size_px
        self.net = create_x3d(
            input_clip_length=self.n_frames,
            input_crop_size=self.size_px,
            depth_factor=self.size.depth_factor,
            model_num_class=num_classes,
            dropout_rate=0.5,
            head_activation=None,  # logits: softmax belongs to whoever reads them
        ).to(memory_format=torch.channels_last_3d)

    def _input(self, frames: Tensor) -> Tensor:
        """uint8 (B, T, H, W, 3) → normalised (B, 3, n_frames, size, size), channels last."""
        if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
            raise ValueError(
                f"expected uint8 frames (B, T, H, W, 3), got {frames.dtype} {tuple(frames.shape)}"
            )
        n_given = frames.shape[1]
        # Each of the network's frames is the given one nearest in time; few are repeated.
        take = ((torch.arange(self.n_frames) + 0.5) * n_given / self.n_frames).long()
        x = frames[:, take.to(frames.device)].permute(0, 4, 1, 2, 3)
        x = x.to(next(self.parameters()).dtype)
        x = (
            nn.functional.interpolate(
                x.flatten(0, 1).float(), size=(self.size_px, self.size_px), mode="bilinear"
            ).unflatten(0, x.shape[:2])
            if x.shape[-2:] != (self.size_px,) * 2
            else x
        )
        return ((x / 255.0 - _MEAN) / _STD).contiguous(memory_format=torch.channels_last_3d)

    def features(self, frames: Tensor) -> Tensor:
        """Features (B, 2048) of uint8 frames (B, T, H, W, 3)."""
        x = self._input(frames)
        for stage in self.net.blocks[:-1]:
            x = stage(x)
        return self.net.blocks[-1].pool(x).mean(dim=(2, 3, 4))

    def forward(self, frames: Tensor) -> Tensor:
        """Class logits (B, classes) of uint8 frames (B, T, H, W, 3)."""
        head = self.net.blocks[-1]
        return head.proj(head.dropout(self.features(frames)))
