"""3D CNNs and video transformers as pytorchvideo's model zoo and torchvision publish them.

Sampling, crop and normalisation are those that the accuracies of the model zoo were measured with
(https://github.com/facebookresearch/pytorchvideo/blob/main/docs/source/model_zoo.md) and torchvision's own
presets (https://docs.pytorch.org/vision/stable/models.html#video-classification).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torchvision.transforms.functional import convert_image_dtype, normalize, resize

from pipeline.bundles.accelerate import accelerate_cnn, cast_body
from pipeline.bundles.families.base import Option, Sampling, VideoNet, cut, quick_squares
from pipeline.bundles.spec import BundleError, PartSpec
from pipeline.bundles.weights import load_strictly, read_tensors
from pipeline.encoders.precision import fast_dtype

_MEAN, _STD = 0.45, 0.225  # of all Kinetics models in pytorchvideo's zoo, on a 0..1 scale


@dataclass(frozen=True)
class _Published:
    """How a model of the zoo is fed: frames × stride at 30 fps, short side, crop."""

    n_frames: int
    stride: int
    side_px: int
    crop_px: int
    alpha: int | None = None  # SlowFast: every so many pictures go to the slow path
    has_softmax: bool = False  # its head ends in one
    rounds_well: bool = True  # stays within the tolerance in bfloat16 (docs/speed.md)


_ZOO = {
    "x3d_xs": _Published(4, 12, 182, 182, has_softmax=True),
    "x3d_s": _Published(13, 6, 182, 182, has_softmax=True),
    "x3d_m": _Published(16, 5, 256, 256, has_softmax=True),
    "x3d_l": _Published(16, 5, 356, 356, has_softmax=True),
    "slow_r50": _Published(8, 8, 256, 256),
    "c2d_r50": _Published(8, 8, 256, 256),
    "i3d_r50": _Published(8, 8, 256, 256),
    "slowfast_r50": _Published(32, 2, 256, 256, alpha=4),
    "slowfast_r101": _Published(32, 2, 256, 256, alpha=4),
    "slowfast_16x8_r101_50_50": _Published(64, 2, 256, 256, alpha=4),
    "r2plus1d_r50": _Published(16, 4, 256, 256, has_softmax=True),
    "csn_r101": _Published(32, 2, 256, 256, rounds_well=False),
    "mvit_base_16x4": _Published(16, 4, 224, 224),
    "mvit_base_32x3": _Published(32, 3, 224, 224),
}
_FPS = 30.0
_CLASSES_OPTION = {"mvit": "head_num_classes"}  # what the builder calls the number of classes


class HubVideoNet(VideoNet):
    """A Kinetics model of pytorchvideo's zoo, from its `.pyth`; `options.model` says which.

    Files of PySlowFast's wrapper of these models (names begin with `model.`) load too; PySlowFast's own
    networks have other names and are refused.
    """

    OPTIONS: ClassVar[dict[str, Option]] = VideoNet.OPTIONS | {
        "model": (str, None),
        "classes": (int, 1),
    }

    def __init__(self, part: PartSpec, directory: Path) -> None:
        super().__init__()
        name = str(part.options.get("model"))
        if name not in _ZOO:
            raise BundleError(f"options.model {name!r} is unknown; expected one of: {', '.join(_ZOO)}")
        from pytorchvideo.models import hub

        self.published = p = _ZOO[name]
        n_classes = {
            _CLASSES_OPTION.get(name[:4], "model_num_class"): int(part.options.get("classes", 400))
        }
        self.net: nn.Module = getattr(hub, name)(pretrained=False, **n_classes)
        if part.weights is None:
            raise BundleError(f"{name}: expected weights: a .pyth of the model zoo")
        tensors = read_tensors(part.weights, directory, inside="model_state")
        tensors = {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
        load_strictly(self.net, tensors, f"{name} of {part.weights.file}")
        self.gives_probabilities = p.has_softmax
        self.n_classes = next(iter(n_classes.values()))
        self.is_convolutional = not name.startswith("mvit")
        self.sampling = Sampling(p.n_frames, _FPS / p.stride, p.side_px)

    def prepare(self, frames: Tensor, crop: int = 0, n_crops: int = 1) -> Tensor | list[Tensor]:
        """Normalise, scale the short side, crop; SlowFast gets its two paths, slow first."""
        p = self.published
        if self.is_quick(frames):
            size = scaled_size(frames.shape[2], frames.shape[3], p.side_px)
            colours = ((_MEAN,) * 3, (_STD,) * 3)
            x = quick_squares(frames, size, p.crop_px, (crop, n_crops), *colours, self.dtype)
        else:
            x = frames.permute(0, 4, 1, 2, 3).float() / 255.0  # (B, 3, T, H, W)
            x = cut(scale_short_side((x - _MEAN) / _STD, p.side_px), p.crop_px, crop, n_crops)
        if p.alpha is None:
            return x
        slow = torch.linspace(0, p.n_frames - 1, p.n_frames // p.alpha).long()
        return [x[:, :, slow.to(x.device)], x]

    def forward(self, frames: Tensor, crop: int = 0, n_crops: int = 1) -> Tensor:
        x = self.prepare(frames, crop, n_crops)
        return self.net([self.typed(part) for part in x] if isinstance(x, list) else self.typed(x))

    def accelerate(self, device: torch.device) -> Self:
        """As `VideoNet`; the convolutional ones are folded, laid out and cast."""
        if not self.is_convolutional:
            return super().accelerate(device)
        n_blocks, n_heads = len(self.net.blocks), 2 if self.published.alpha else 1  # type: ignore[arg-type]
        heads = [f"blocks.{i}" for i in range(n_blocks - n_heads, n_blocks)]
        is_tame, self.is_accelerated = self.published.rounds_well, True
        self.dtype = accelerate_cnn(self.net, heads, device, casts=is_tame)
        self.layout = torch.channels_last_3d
        return self


def scaled_size(height: int, width: int, side_px: int) -> tuple[int, int]:
    """Height and width with a short side of `side_px`."""
    if min(height, width) == side_px:
        return height, width
    longer = math.floor(max(height, width) / min(height, width) * side_px)
    return (side_px, longer) if height <= width else (longer, side_px)


def scale_short_side(x: Tensor, side_px: int) -> Tensor:
    """(B, 3, T, H, W) with a short side of `side_px`, bilinear without smoothing, as the zoo's models
    were tested."""
    size = scaled_size(x.shape[-2], x.shape[-1], side_px)
    if size == tuple(x.shape[-2:]):
        return x
    flat = x.transpose(1, 2).flatten(0, 1)  # (B·T, 3, H, W)
    scaled = nn.functional.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    return scaled.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


# Model → weights of torchvision, pictures, and pictures a second that its accuracies were measured with.
_TORCHVISION = {
    "r3d_18": ("R3D_18_Weights", 16, 15.0),
    "mc3_18": ("MC3_18_Weights", 16, 15.0),
    "r2plus1d_18": ("R2Plus1D_18_Weights", 16, 15.0),
    "s3d": ("S3D_Weights", 128, 15.0),
    "mvit_v1_b": ("MViT_V1_B_Weights", 16, 7.5),
    "mvit_v2_s": ("MViT_V2_S_Weights", 16, 7.5),
    "swin3d_t": ("Swin3D_T_Weights", 32, 15.0),
    "swin3d_s": ("Swin3D_S_Weights", 32, 15.0),
    "swin3d_b": ("Swin3D_B_Weights", 32, 15.0),
}


# The convolutional ones, with the parts that pool and classify.
_POOL_AND_CLASSIFIER = dict.fromkeys(("r3d_18", "mc3_18", "r2plus1d_18"), ("avgpool", "fc")) | {
    "s3d": ("avgpool", "classifier")
}


class TorchvisionVideoNet(VideoNet):
    """A video model of torchvision, from its `.pth`; `options.model` says which.

    `options.frames` gives S3D, which takes any number from 14, fewer than the 128 it was tested with.
    """

    OPTIONS: ClassVar[dict[str, Option]] = HubVideoNet.OPTIONS | {"frames": (int, 1)}

    def __init__(self, part: PartSpec, directory: Path) -> None:
        super().__init__()
        from torchvision.models import get_model, get_weight

        name = str(part.options.get("model"))
        if name not in _TORCHVISION:
            known = ", ".join(_TORCHVISION)
            raise BundleError(f"options.model {name!r} is unknown; expected one of: {known}")
        weights_name, n_frames, rate_hz = _TORCHVISION[name]
        published = get_weight(f"{weights_name}.KINETICS400_V1")
        n_classes = int(part.options.get("classes", 400))
        self.net: nn.Module = get_model(name, weights=None, num_classes=n_classes)
        if part.weights is None:
            raise BundleError(f"{name}: expected weights: a .pth of torchvision")
        load_strictly(self.net, read_tensors(part.weights, directory), f"{name} of {part.weights.file}")
        self.preset, self.n_classes = published.transforms(), n_classes
        self.heads, self.is_swin = _POOL_AND_CLASSIFIER.get(name), name.startswith("swin")
        if n_classes == len(published.meta["categories"]):
            self.names = tuple(published.meta["categories"])
        sampling = Sampling(n_frames, rate_hz, min(self.preset.resize_size))
        self.sampling = replace(sampling, n_frames=int(part.options.get("frames", n_frames)))

    def prepare(self, frames: Tensor, crop: int = 0, n_crops: int = 1) -> Tensor:
        """torchvision's own preset; for several crops its steps one by one, with another place of the crop."""
        p = self.preset
        if self.is_quick(frames):
            colours = (tuple(p.mean), tuple(p.std))
            size = (
                (p.resize_size[0], p.resize_size[1])
                if len(p.resize_size) == 2
                else scaled_size(frames.shape[2], frames.shape[3], p.resize_size[0])
            )
            return quick_squares(frames, size, p.crop_size[0], (crop, n_crops), *colours, self.dtype)
        x = frames.permute(0, 1, 4, 2, 3)  # (B, T, 3, H, W)
        if n_crops == 1:
            return self.preset(x)
        shape = x.shape[:2]
        flat = resize(x.flatten(0, 1), p.resize_size, interpolation=p.interpolation, antialias=False)
        squares = convert_image_dtype(cut(flat, p.crop_size[0], crop, n_crops), torch.float)
        return normalize(squares, p.mean, p.std).unflatten(0, shape).transpose(1, 2)

    def forward(self, frames: Tensor, crop: int = 0, n_crops: int = 1) -> Tensor:
        return self.net(self.typed(self.prepare(frames, crop, n_crops)))

    def accelerate(self, device: torch.device) -> Self:
        """As `VideoNet`; the convolutional ones are folded, laid out and cast, Swin is cast as a whole: its
        many windows are short of memory bandwidth, not of products."""
        self.is_accelerated = True
        if self.is_swin:
            self.dtype = cast_body(self.net.to(device), ("head",), fast_dtype(device))
            self.layout = torch.contiguous_format
            return self
        if self.heads is None:
            return super().accelerate(device)
        self.dtype = accelerate_cnn(self.net, self.heads, device)
        self.layout = torch.channels_last_3d
        return self
