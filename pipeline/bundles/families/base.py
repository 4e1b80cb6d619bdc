"""What the families have in common: when a clip is looked at, and what an adapter answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.bundles.spec import BundleError
from pipeline.encoders.precision import fast_dtype
from pipeline.records import ClipBatch, Word

# What an option may be: its type, and the least that a number may be.
Option = tuple[type, float | None]


@dataclass(frozen=True)
class Sampling:
    """The pictures that a network was trained to see at once."""

    n_frames: int
    rate_hz: float  # pictures a second; 0: spread over the clip, however long it is
    side_px: int  # pictures are best given with a short side of this

    @property
    def window_s(self) -> float:
        """Time that one look takes in; 0: all of the clip."""
        return self.n_frames / self.rate_hz if self.rate_hz else 0.0

    def views(self, length_s: float) -> int:
        """Looks that it takes to see all of a clip."""
        return max(1, math.ceil(length_s / self.window_s - 1e-6)) if self.rate_hz else 1


def frame_places(sampling: Sampling, n_given: int, length_s: float, n_views: int) -> Tensor:
    """Which of a clip's evenly spread pictures each look takes, (views, n_frames) int64.

    A look goes at the network's own rate and begins on a given picture; looks are spread from one end of the
    clip to the other, a single one lies in the middle. A network whose window is longer than the clip looks at
    all of it, faster than it was trained to.
    """
    spacing_s = length_s / n_given
    window_s = min(sampling.window_s or length_s, length_s)
    step = window_s / sampling.n_frames / spacing_s  # in given pictures
    free = max(0.0, n_given - window_s / spacing_s)
    starts = [free / 2] if n_views == 1 else [free * v / (n_views - 1) for v in range(n_views)]
    places = [[int(s + (j + 0.5) * step) for j in range(sampling.n_frames)] for s in map(round, starts)]
    return torch.tensor(places).clamp(max=n_given - 1)


def shown(batch: ClipBatch) -> npt.NDArray[np.int64]:
    """For each place of a clip the last valid picture up to it, else the first one: (N, T)."""
    n_places = batch.frame_valid.shape[1]
    at = np.where(batch.frame_valid, np.arange(n_places), -1)
    last = np.maximum.accumulate(at, axis=1)
    first = np.where(batch.frame_valid.any(1), batch.frame_valid.argmax(1), 0)
    return np.where(last >= 0, last, first[:, None])


def valid_until(batch: ClipBatch) -> npt.NDArray[np.int64]:
    """How many of each clip's pictures there are up to its last valid one, (N,); 0 where it has none."""
    n_places = batch.frame_valid.shape[1]
    last = n_places - batch.frame_valid[:, ::-1].argmax(1)
    return np.where(batch.frame_valid.any(1), last, 0)


def offset(free: int, crop: int, n_crops: int) -> int:
    """Where a crop begins along a side that has `free` pixels more than it."""
    return round(free / 2) if n_crops == 1 else round(free * crop / (n_crops - 1))


def cut(x: Tensor, crop_px: int, crop: int, n_crops: int) -> Tensor:
    """A square of (…, H, W): along the long side the chosen one, along the other the middle."""
    height, width = x.shape[-2:]
    along = (crop, n_crops)
    top = offset(height - crop_px, *(along if height > width else (0, 1)))
    left = offset(width - crop_px, *(along if height <= width else (0, 1)))
    return x[..., top : top + crop_px, left : left + crop_px]


def quick_squares(
    frames: Tensor,
    size: tuple[int, int],
    crop_px: int,
    place: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: torch.dtype,
) -> Tensor:
    """Scaled, cut and normalised pictures in `dtype`, (B, 3, T, crop_px, crop_px), channels last.

    For CPUs: pictures stay bytes until they are small, and are nowhere laid out anew, since uint8 frames are
    channels last as they come. Rounding to bytes after scaling moves a value by less than bfloat16 does.

    Args:
        frames: uint8 (B, T, H, W, 3).
        size: height and width to scale to, bilinear without smoothing.
        place: which crop along the long side, of how many.
        mean, std: of the colours, on a 0..1 scale.
    """
    flat = frames.flatten(0, 1).permute(0, 3, 1, 2)  # (B·T, 3, H, W), channels last
    if flat.shape[-2:] != size:
        flat = nn.functional.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    lines = cut(flat, crop_px, *place).permute(0, 2, 3, 1).flatten(2).to(dtype)  # (B·T, H, 3·W)
    # Colours of a whole line at once: processors are slow over an innermost length of three.
    by, to = (
        torch.tensor([255 * v for v in values], dtype=dtype).repeat(crop_px) for values in (mean, std)
    )
    squares = lines.sub_(by).div_(to).view(*frames.shape[:2], crop_px, crop_px, 3)
    return squares.permute(0, 4, 1, 2, 3)


class Network(nn.Module):
    """The library's network behind its own preprocessing; it runs as there until it is accelerated."""

    dtype = torch.float32
    is_accelerated = False
    casts = False  # matrix products in `dtype`, the rest in float32

    def accelerate(self, device: torch.device) -> Self:
        """Move to a device and run as fast there as the answers allow (`pipeline.bundles.accelerate`)."""
        self.is_accelerated, self.dtype = True, fast_dtype(device)
        self.casts = self.dtype != torch.float32
        return self.to(device)

    def casting(self) -> torch.autocast:
        """Within it the network runs; preprocessing stays outside."""
        device = next(self.parameters()).device
        return torch.autocast(device.type, self.dtype, enabled=self.casts)


class VideoNet(Network):
    """A clip classifier."""

    OPTIONS: ClassVar[dict[str, Option]] = {"temporal_views": (int, 0), "spatial_crops": (int, 1)}
    sampling: Sampling
    n_classes: int
    names: tuple[str, ...] | None = None  # of the classes, where the checkpoint says them
    gives_probabilities = False  # the library's forward ends in a softmax already
    layout: torch.memory_format | None = None

    def is_quick(self, frames: Tensor) -> bool:
        """Whether pictures may be prepared by `quick_squares`: on CPUs, where rounding is of no account."""
        return self.is_accelerated and frames.device.type == "cpu"

    def prepare(self, frames: Tensor, crop: int = 0, n_crops: int = 1) -> Tensor | list[Tensor]:
        """uint8 (B, n_frames, H, W, 3) → the network's input.

        Args:
            crop: which of `n_crops` along the long side, from one end to the other; of one, the middle.
        """
        raise NotImplementedError

    def forward(self, frames: Tensor, crop: int = 0, n_crops: int = 1) -> Tensor:
        """What the library's own forward gives, (B, C), of uint8 frames (B, n_frames, H, W, 3)."""
        raise NotImplementedError

    def typed(self, x: Tensor) -> Tensor:
        """A prepared input in the type and layout that the network runs in."""
        return x if self.layout is None else x.to(self.dtype, memory_format=self.layout)

    def scores(self, frames: Tensor, crop: int = 0, n_crops: int = 1) -> Tensor:
        """Class probabilities, (B, C) float32."""
        with self.casting():
            out = self(frames, crop, n_crops)
        return out.float() if self.gives_probabilities else out.float().softmax(-1)


class Overheard:
    """What a network's classifier is given, as it is given it: the features that its answer is made of."""

    def __init__(self, net: nn.Module, n_classes: int, bundle: str) -> None:
        """Listen in to the last linear layer that answers for `n_classes`.

        Raises:
            BundleError: there is none.
        """
        layers = [m for m in net.modules() if isinstance(m, nn.Linear) and m.out_features == n_classes]
        if not layers:
            raise BundleError(
                f"{bundle}: the classifier of {type(net).__name__} is not a linear layer, so it has no "
                "features to learn from; expected another encoder"
            )
        self.dim = layers[-1].in_features
        self._heard: list[Tensor] = []
        layers[-1].register_forward_pre_hook(lambda _, given: self._heard.append(given[0]))

    def take(self) -> Tensor:
        """The features of all rows since the last time, (n, dim) float32, the mean over places."""
        rows = [x.reshape(len(x), -1, self.dim).float().mean(1).cpu() for x in self._heard]
        self._heard.clear()
        return torch.cat(rows)


@dataclass(frozen=True)
class Caption:
    """A sentence on a clip, or why there is none."""

    text: str | None
    score: float | None = None  # mean probability of its words; None where the model tells none
    problem: str | None = None


class Captioner(Protocol):
    """Says one sentence on each clip."""

    sampling: Sampling

    def caption(self, clips: list[npt.NDArray[np.uint8]]) -> list[Caption]:
        """Sentences in the order of the clips, each uint8 (T, H, W, 3)."""


class Transcriber(Protocol):
    """Writes down what is said."""

    sample_rate_hz: int

    def transcribe(self, samples: npt.NDArray[np.float32]) -> list[Word]:
        """Words, in order, of mono sound of any length."""
