"""What moves: a small X3D over grey pictures, with a head for each thing that it is asked.

    pictures   uint8 grey, 8 a second, 16 a window of 2 s, 72×96 whatever the video's shape
    levels     each picture less its own mean, in units of the window's spread; and its change since the last
    trunk      X3D (https://arxiv.org/abs/2004.04730), stem 16 channels wide, 128 features a window
    heads      camera, objects: logits; fight: of `motion_energy`, which tells it better than the trunk

Grey, because colour does not move; its own mean off, because flicker is no motion.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.encoders.motion_energy import N_STATISTICS, statistics

RATE_HZ, N_PICTURES, SIZE_PX = 8, 16, (72, 96)
CAMERA_MOTIONS = ("pan", "tilt", "zoom", "roll", "shake", "static")
OBJECT_MOTIONS = ("approach", "fall", "bounce", "swing", "spin", "collide")
N_FEATURES = 128
TOKEN_DIM = 2 * N_FEATURES + N_STATISTICS  # the trunk's features, then the statistics
N_LOCAL = 32
_LEAST_SPREAD = 0.03  # of levels in 0..1; a darker window is not blown up to noise
_CHANGE_GAIN = 4.0
_LOCAL_BLOCKS = 3  # of the trunk: stem and two stages


class Pointwise(nn.Conv3d):
    """A 1×1×1 convolution as a matrix product, which CPUs train several times faster."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) → (B, C', T', H', W')."""
        t, h, w = self.stride
        last = x[:, :, ::t, ::h, ::w].permute(0, 2, 3, 4, 1)
        return F.linear(last, self.weight.flatten(1), self.bias).permute(0, 4, 1, 2, 3)


class Spatial(nn.Conv3d):
    """A 1×k×k convolution picture by picture, for the same reason."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) → (B, C', T, H', W')."""
        pictures = x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        y = F.conv2d(
            pictures,
            self.weight[:, :, 0],
            self.bias,
            self.stride[1:],
            self.padding[1:],
        )
        return y.unflatten(0, (len(x), -1)).transpose(1, 2)


@dataclass(frozen=True)
class Told:
    """What windows show."""

    camera: Tensor  # (B, 6) logits
    objects: Tensor  # (B, 7) logits, the last: none of them
    fight: Tensor  # (B,) logits
    tokens: Tensor  # (B, TOKEN_DIM) what all of these are told from
    least_alike: Tensor  # (B,) the least correlation between a picture and the next


class MotionNet(nn.Module):
    """Windows of grey pictures → logits of each head."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = _make_trunk()
        self.drop = nn.Dropout(0.2)
        self.camera = nn.Linear(2 * N_FEATURES, len(CAMERA_MOTIONS))
        self.objects = nn.Linear(2 * N_FEATURES, len(OBJECT_MOTIONS) + 1)  # the last: none of them
        self.flow = Pointwise(N_LOCAL, 8, 1)  # taught beside the others; nothing else reads it
        self.fight = nn.Linear(N_STATISTICS, 1)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits by head, (B, C); of the flow (B, 8, T/4, H/8, W/8), see `pipeline.training.motion`.

        Args:
            pictures: (B, T, H, W) uint8, or float in 0..255.
        """
        local, last = self.see(levels(pictures))
        y = self.drop(_pooled(last))
        return {"camera": self.camera(y), "objects": self.objects(y), "flow": self.flow(local)}

    def tell(self, pictures: Tensor) -> Told:
        """What windows of `pictures`, as `forward` takes them, show."""
        x = levels(pictures)
        features, numbers = _pooled(self.see(x)[1]), statistics(x)
        return Told(
            self.camera(features),
            self.objects(features),
            self.fight(numbers)[:, 0],
            torch.cat([features, numbers], dim=1),
            _least_alike(x),
        )

    def see(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What moves at each place (B, N_LOCAL, T/4, H/8, W/8), and what that comes to, at each place of
        (B, N_FEATURES, T/4, H/32, W/32).

        Args:
            x: (B, T, H, W) of `levels`.
        """
        both = with_changes(x).to(next(self.trunk.parameters()).dtype)
        local = self.trunk[:_LOCAL_BLOCKS](both.contiguous(memory_format=torch.channels_last_3d))
        return local.float(), self.trunk[_LOCAL_BLOCKS:](local).float()


def _pooled(last: Tensor) -> Tensor:
    """(B, C, T, h, w) → (B, 2C): each feature's mean, and its mean at the instant where that is highest."""
    return torch.cat([last.mean((2, 3, 4)), last.mean((3, 4)).amax(2)], dim=1)


def _least_alike(x: Tensor) -> Tensor:
    flat = F.normalize(x.flatten(2), dim=2)
    return (flat[:, 1:] * flat[:, :-1]).sum(2).amin(1)


def levels(pictures: Tensor) -> Tensor:
    """(B, T, H, W) in 0..255 → the same, free of exposure and flicker: mean 0 a picture, spread 1 a window."""
    x = pictures.float() / 255.0
    x = x - x.mean((2, 3), keepdim=True)
    return x / x.std((1, 2, 3), keepdim=True).clamp(min=_LEAST_SPREAD)


def with_changes(x: Tensor) -> Tensor:
    """(B, T, H, W) → (B, 2, T, H, W): levels, and how they changed since the picture before."""
    change = F.pad(x[:, 1:] - x[:, :-1], (0, 0, 0, 0, 1, 0))
    return torch.stack([x, _CHANGE_GAIN * change], dim=1)


def _make_trunk() -> nn.Sequential:
    from pytorchvideo.models.x3d import create_x3d

    net = create_x3d(
        input_channel=2,
        input_clip_length=N_PICTURES,
        input_crop_size=min(SIZE_PX),
        stem_dim_in=8,
        depth_factor=1.0,
        bottleneck_factor=2.0,
        stage_temporal_stride=(2, 2, 1, 1),
    )
    trunk = nn.Sequential(*net.blocks[:-1])  # its own head would pool for one size of picture only
    for module in trunk.modules():
        if type(module) is nn.Conv3d and module.groups == 1:
            module.__class__ = Pointwise if module.kernel_size == (1, 1, 1) else Spatial
    return trunk
