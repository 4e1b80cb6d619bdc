"""2D picture encoders, applied to each sampled frame of a clip.

`EfficientNetLite0` follows the published EfficientNet-Lite recipe (Tan & Le 2019,
https://arxiv.org/abs/1905.11946, "Lite" variant: no squeeze-and-excitation, ReLU6, fixed stem and
head), with TensorFlow's asymmetric "same" padding, which the published weights expect.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# (repeats, kernel, stride of the first, expansion, channels out), EfficientNet-B0 at width 1, depth 1.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_BN_EPS = 1e-3
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_convolution_pointwise"
)


class ConvNormAct(nn.Module):
    """Convolution, batch norm and, unless it projects, ReLU6, padded as TensorFlow's "same" pads."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        super().__init__()
        # With an even input, "same" at stride 2 puts the odd pixel of padding behind, never before.
        extra = kernel - stride
        before = extra // 2
        self.pad: nn.Module = nn.ZeroPad2d((before, extra - before, before, extra - before))
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(c_out, eps=_BN_EPS)
        self.act = nn.ReLU6(inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pad(x)
        if self._is_one_call(x):
            conv = self.conv
            sizes = (conv.padding, conv.stride, conv.dilation, conv.groups)
            after = ("hardtanh", [0.0, 6.0]) if isinstance(self.act, nn.ReLU6) else ("none", [])
            return torch.ops.mkldnn._convolution_pointwise(
                x, conv.weight, conv.bias, *sizes, *after, ""
            )
        return self.act(self.norm(self.conv(x)))

    def _is_one_call(self, x: Tensor) -> bool:
        """Whether convolution and activation are one call to oneDNN, which learns nothing. With one thread
        `nn.Conv2d` asks another library, which takes half as long again."""
        is_folded = isinstance(self.norm, nn.Identity) and x.numel() > 0
        return is_folded and _HAS_ONEDNN and x.device.type == "cpu" and not torch.is_grad_enabled()

    def fold(self) -> None:
        """Put the batch norm into the convolution, and even padding too: the same function, faster."""
        if not isinstance(self.norm, nn.BatchNorm2d) or not isinstance(self.pad, nn.ZeroPad2d):
            return  # folded already
        self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()
        left, right, *_ = self.pad.padding
        if left == right:
            self.conv.padding, self.pad = (left, left), nn.Identity()


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project (MobileNetV2, https://arxiv.org/abs/1801.04381)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = c_in * expansion
        self.expand = ConvNormAct(c_in, width, 1) if expansion != 1 else nn.Identity()
        self.depthwise = ConvNormAct(width, width, kernel, stride, groups=width)
        self.project = ConvNormAct(width, c_out, 1, act=False)
        self.is_residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.is_residual else y


class EfficientNetLite0(nn.Module):
    """ImageNet-1k classifier of 4.7 M parameters.

    Takes uint8 crops of 224×224 and returns class logits; `features` gives the pooled vector.
    """

    size_px = 224
    feature_dim = 1280
    mean, std = 127.0, 128.0  # of the published TensorFlow Lite models, on a 0..255 scale

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, 32, 3, stride=2)
        blocks, c_in = [], 32
        for repeats, kernel, stride, expansion, c_out in _STAGES:
            for i in range(repeats):
                blocks.append(InvertedResidual(c_in, c_out, kernel, stride if i == 0 else 1, expansion))
                c_in = c_out
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNormAct(c_in, self.feature_dim, 1)
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def fold(self) -> EfficientNetLite0:
        """Fold all batch norms, once the weights are loaded; not to be trained afterwards."""
        for module in self.modules():
            if isinstance(module, ConvNormAct):
                module.fold()
        return self

    def features(self, crops: Tensor) -> Tensor:
        """Pooled features, (B, 1280) float32, of uint8 crops (B, 224, 224, 3)."""
        x = crops.permute(0, 3, 1, 2)  # (B, 3, 224, 224), channels-last in memory already
        x = (x.to(self.head.conv.weight.dtype) - self.mean) / self.std
        return self.head(self.blocks(self.stem(x))).mean(dim=(2, 3))

    def forward(self, crops: Tensor) -> Tensor:
        """Class logits, (B, classes), of uint8 crops (B, 224, 224, 3)."""
        return self.classifier(self.features(crops))


# Names in the published PyTorch file → names here. An entry that matches no rule is an error.
_EFFICIENTNET_LITE_KEYS = (
    (r"_conv_stem\.(.+)", r"stem.conv.\1"),
    (r"_bn0\.(.+)", r"stem.norm.\1"),
    (r"_blocks\.(\d+)\._expand_conv\.(.+)", r"blocks.\1.expand.conv.\2"),
    (r"_blocks\.(\d+)\._bn0\.(.+)", r"blocks.\1.expand.norm.\2"),
    (r"_blocks\.(\d+)\._depthwise_conv\.(.+)", r"blocks.\1.depthwise.conv.\2"),
    (r"_blocks\.(\d+)\._bn1\.(.+)", r"blocks.\1.depthwise.norm.\2"),
    (r"_blocks\.(\d+)\._project_conv\.(.+)", r"blocks.\1.project.conv.\2"),
    (r"_blocks\.(\d+)\._bn2\.(.+)", r"blocks.\1.project.norm.\2"),
    (r"_conv_head\.(.+)", r"head.conv.\1"),
    (r"_bn1\.(.+)", r"head.norm.\1"),
    (r"_fc\.(.+)", r"classifier.\1"),
)


def rename_efficientnet_lite(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published checkpoint's tensors under this module's names.

    Raises:
        KeyError: a name that no rule of the key table knows.
    """
    renamed = {}
    for name, tensor in published.items():
        for pattern, ours in _EFFICIENTNET_LITE_KEYS:
            if re.fullmatch(pattern, name):
                renamed[re.sub(pattern, ours, name)] = tensor
                break
        else:
            raise KeyError(f"unknown key {name!r} in an EfficientNet-Lite checkpoint")
    return renamed


def square_crops(frames: Tensor, size_px: int, most: int) -> Tensor:
    """Squares of `size_px` evenly spaced along the long side, as many as it takes to see it all.

    Args:
        frames: uint8 (B, H, W, 3) whose short side is at least `size_px`.
        most: no more squares than this; 1 is the centre crop.

    Returns:
        uint8 (B, n, size_px, size_px, 3).
    """
    _, height, width, _ = frames.shape
    if min(height, width) < size_px:
        raise ValueError(f"frames of {width}x{height} are smaller than a crop of {size_px}")
    n = min(most, math.ceil(max(height, width) / size_px))
    free_y, free_x = height - size_px, width - size_px

    def place(free: int, i: int) -> int:
        return round(i * free / (n - 1)) if n > 1 else free // 2

    corners = [
        (place(free_y, i), free_x // 2) if height > width else (free_y // 2, place(free_x, i))
        for i in range(n)
    ]
    return torch.stack([frames[:, y : y + size_px, x : x + size_px] for y, x in corners], dim=1)
