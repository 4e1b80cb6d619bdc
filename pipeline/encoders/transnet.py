"""Shot transitions: TransNet V2, as a network over any number of pictures.

    pictures 27×48 ─ 3 blocks of dilated convolutions over time ─┬─ flattened ──────────────────────┐
                   │                                             └─ likeness to the 50 on each side ─┤
                   └─ colour histograms ─ likeness to the 50 on each side ──────────────────────────┴─ 2 logits

Souček and Lokoč, "TransNet V2: An effective deep network architecture for fast shot transition detection"
(https://arxiv.org/abs/2008.04838). The published code shows it windows of 100 pictures and keeps the 50 in
the middle. Here every picture is the middle of its own window: it is told apart by the 98 pictures on each
side of it and by nothing else, so that an answer does not depend on where a film was cut into work, and no
picture is convolved twice.

The four dilations of a layer share one spatial convolution, batch norm is folded into the temporal ones, and
pictures lie channels last: the same numbers in a fifth of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEIGHT, WIDTH = 27, 48
_DILATIONS = (1, 2, 4, 8)
_FILTERS = (16, 32, 64)  # of a dilation, by block
_LAYERS = 2  # in a block
_REACH = 50  # pictures on each side to which one is compared
_CONV_CONTEXT = len(_FILTERS) * _LAYERS * max(_DILATIONS)
CONTEXT = _CONV_CONTEXT + _REACH
_CHUNK = 160  # pictures convolved at once: 150 MB in float32
_NORM_EPS = 1e-3
_LIKENESS, _HIDDEN, _BINS = 128, 1024, 512
_POOLED = 3 * 6  # what three halvings leave of a picture


class _Layer(nn.Module):
    """Each picture's neighbourhood, then its past and future at four distances."""

    def __init__(self, c_in: int, filters: int) -> None:
        super().__init__()
        self.filters = filters
        self.spatial = nn.Conv2d(c_in, 2 * filters * len(_DILATIONS), 3, padding=1, bias=False)
        self.temporal = nn.ModuleList(
            nn.Conv2d(2 * filters, filters, (3, 1), padding=(d, 0), dilation=(d, 1)) for d in _DILATIONS
        )

    def forward(self, x: Tensor) -> Tensor:
        """(T, C, H, W) → (T, 4 · filters, H, W), both channels last."""
        y = self.spatial(x)
        n, _, height, width = y.shape
        lines = y.permute(0, 2, 3, 1).reshape(1, n, height * width, -1)  # (1, T, H·W, C)
        parts = lines.permute(0, 3, 1, 2).split(2 * self.filters, dim=1)
        z = torch.cat([conv(part) for conv, part in zip(self.temporal, parts, strict=True)], dim=1)
        return z.permute(0, 2, 3, 1).reshape(n, height, width, -1).permute(0, 3, 1, 2)


class _Block(nn.Module):
    def __init__(self, c_in: int, filters: int) -> None:
        super().__init__()
        self.first, self.second = _Layer(c_in, filters), _Layer(4 * filters, filters)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return F.avg_pool2d(F.relu(self.second(x)) + x, 2)


class TransNet(nn.Module):
    """Whether a transition lies at a picture; 7.6 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        channels = [4 * f for f in _FILTERS]
        self.blocks = nn.ModuleList(
            _Block(c_in, f) for c_in, f in zip([3, *channels], _FILTERS, strict=False)
        )
        self.projection = nn.Linear(sum(channels), _LIKENESS)
        self.likeness = nn.Linear(2 * _REACH + 1, _LIKENESS)
        self.colours = nn.Linear(2 * _REACH + 1, _LIKENESS)
        self.hidden = nn.Linear(2 * _LIKENESS + _POOLED * channels[-1], _HIDDEN)
        self.cut = nn.Linear(_HIDDEN, 1)
        self.during = nn.Linear(_HIDDEN, 1)

    def placed(self, device: torch.device, dtype: torch.dtype) -> Self:
        """This network on a device, its convolutions in `dtype`; what compares and decides stays float32."""
        self.to(device=device)
        self.blocks.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def forward(self, pictures: Tensor) -> Tensor:
        """Probabilities (T, 2): a transition's middle lies between this picture and the next; this
        picture belongs to a transition.

        Args:
            pictures: (`CONTEXT` + T + `CONTEXT`, 27, 48, 3) uint8, RGB.
        """
        looks, projected, histograms = [], [], []
        for first in range(0, len(pictures) - 2 * _CONV_CONTEXT, _CHUNK):
            chunk = pictures[first : first + _CHUNK + 2 * _CONV_CONTEXT].to(self.hidden.weight.device)
            look, means = self._convolved(chunk)
            looks.append(look)
            projected.append(F.normalize(self.projection(means), dim=1))
            histograms.append(_histograms(chunk[_CONV_CONTEXT : len(chunk) - _CONV_CONTEXT]))
        like, colours = _likeness(torch.cat(projected)), _likeness(torch.cat(histograms))  # (T, 101)
        sides = F.relu(torch.cat([self.colours(colours), self.likeness(like)], dim=1))
        look = torch.cat(looks)[_REACH : len(sides) + _REACH]
        x = F.relu(look + F.linear(sides, self.hidden.weight[:, : sides.shape[1]], self.hidden.bias))
        return torch.sigmoid(torch.cat([self.cut(x), self.during(x)], dim=1))

    def _convolved(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The middle pictures' share of the hidden layer, (n, 1024), and their blocks' means, (n, 448)."""
        dtype = next(self.blocks.parameters()).dtype
        x = pictures.permute(0, 3, 1, 2).to(dtype) / 255
        middle = slice(_CONV_CONTEXT, len(pictures) - _CONV_CONTEXT)
        means = []
        for block in self.blocks:
            x = block(x)
            means.append(x[middle].mean(dim=(2, 3), dtype=torch.float32))
        flat = x[middle].permute(0, 2, 3, 1).flatten(1).float()  # (n, 18 · 256)
        return F.linear(flat, self.hidden.weight[:, 2 * _LIKENESS :]), torch.cat(means, dim=1)


def _histograms(pictures: Tensor) -> Tensor:
    """How often each of 8×8×8 colours is in each picture, of unit length. (n, 512)"""
    levels = (pictures >> 5).long().flatten(1, 2)  # (n, 1296, 3)
    bins = levels[..., 0] * 64 + levels[..., 1] * 8 + levels[..., 2]
    counts = torch.zeros(len(pictures), _BINS, device=pictures.device)
    return F.normalize(counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=counts.dtype)), dim=1)


def _likeness(vectors: Tensor) -> Tensor:
    """Each vector's product with the 50 before it, itself and the 50 behind. (50 + T + 50, D) → (T, 101)"""
    n, rows = len(vectors) - 2 * _REACH, []
    for first in range(0, n, _CHUNK):
        around = vectors[first : first + _CHUNK + 2 * _REACH]
        products = around[_REACH : len(around) - _REACH] @ around.T  # (m, m + 100)
        rows.append(
            products.as_strided((len(products), 2 * _REACH + 1), (products.shape[1] + 1, 1))
        )  # row i from column i on
    return torch.cat(rows)


def from_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the published names (`SDDCNN.0.DDCNN.0.Conv3D_1.layers.0.weight`, …) as ours.

    Raises:
        ValueError: a key is missing or unexpected.
    """
    given = {k: v for k, v in tensors.items() if not k.endswith(".num_batches_tracked")}
    ours: dict[str, Tensor] = {}
    try:
        for block in range(len(_FILTERS)):
            for layer, name in enumerate(("first", "second")):
                theirs = f"SDDCNN.{block}.DDCNN.{layer}"
                found = _published_layer(given, theirs)
                ours |= {f"blocks.{block}.{name}.{k}": v for k, v in found.items()}
        for name, theirs in _LINEAR.items():
            ours |= {f"{name}.{k}": given.pop(f"{theirs}.{k}") for k in ("weight", "bias")}
    except KeyError as e:
        raise ValueError(f"weights lack {e.args[0]}") from e
    if given:
        raise ValueError("unexpected weights: " + ", ".join(sorted(given)))
    return ours


_LINEAR = {
    "projection": "frame_sim_layer.projection",
    "likeness": "frame_sim_layer.fc",
    "colours": "color_hist_layer.fc",
    "hidden": "fc1",
    "cut": "cls_layer1",
    "during": "cls_layer2",
}


def _published_layer(given: dict[str, Tensor], theirs: str) -> dict[str, Tensor]:
    """One layer: spatial kernels of all dilations as one, the norm within the temporal ones."""
    norm = {k: given.pop(f"{theirs}.bn.{k}") for k in ("weight", "bias", "running_mean", "running_var")}
    scale = norm["weight"] / torch.sqrt(norm["running_var"] + _NORM_EPS)
    shift = norm["bias"] - norm["running_mean"] * scale
    spatial, ours = [], {}
    shares = zip(scale.chunk(len(_DILATIONS)), shift.chunk(len(_DILATIONS)), strict=True)
    for i, (d, (factor, bias)) in enumerate(zip(_DILATIONS, shares, strict=True)):
        spatial.append(given.pop(f"{theirs}.Conv3D_{d}.layers.0.weight")[:, :, 0])
        temporal = given.pop(f"{theirs}.Conv3D_{d}.layers.1.weight")[..., 0]  # (F, 2F, 3, 1)
        ours[f"temporal.{i}.weight"] = temporal * factor[:, None, None, None]
        ours[f"temporal.{i}.bias"] = bias
    return ours | {"spatial.weight": torch.cat(spatial)}
