"""Lips against speech: how far the sound lies from the picture, by a small network that ships with us.

    grey pictures, 25 a second ─ less their own second's mean ─ convolutions ─ looked at where they move
                                                              like a mouth ─ 32 numbers a picture ┐
    sound ─ log-mel bands, 100 a second ─ convolutions ─ 32 numbers a column ─────────────────────┤
                                        how alike they are at each offset, and "nothing to tell" ◀┘

Trained by `pipeline.training.lips` to find by how much a talking head's sound was moved, among all offsets
and "the sound is somebody else's". Only differences from the second around count, so that faces and
rooms do not matter, only what moves. NumPy, because decode workers do not load torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy

Array = npt.NDArray[np.float32]

RATE_HZ = 16_000
COLUMNS_HZ = 100
OFFSETS_MS = np.arange(-800, 801, 20)
N_BANDS = 40
MIN_PICTURES = 25  # of an offset's overlap: a second
EVIDENCE_PICTURES = 75  # longer spans make the likeness surer, not the scale larger
_WINDOW, _HOP, _FFT = 400, 160, 512
_BAND_EDGES_HZ = (60.0, 7600.0)
_SLOW_PICTURES = 12  # to each side: the second around
_CHUNK = 16  # pictures convolved at once: some 40 MB


@dataclass(frozen=True)
class Curve:
    """How likely each offset is; they and `p_none` sum to 1."""

    p_offset: Array  # (len(OFFSETS_MS),)
    p_none: float  # sound and picture have nothing to do with each other


def lip_curve(
    pictures: npt.NDArray[np.uint8], times_s: npt.NDArray[np.float64], sound: Array, start_s: float
) -> Curve:
    """How likely each offset is, positive where the sound is late.

    Args:
        pictures: (T, H, W) grey, as `pipeline.media.video.read_motion` gives them.
        times_s: (T,) when each was shown.
        sound: (n,) at `RATE_HZ`, beginning at `start_s`.
    """
    net = _network()
    seen = see(net, moving(pictures))
    heard = hear(net, normalised(log_mel(sound)))
    return Curve(*_softmax(logits(net, seen, heard, times_s - start_s)))


@cache
def _network() -> dict[str, Array]:
    return safetensors.numpy.load_file(Path(__file__).with_suffix(".safetensors"))


def moving(pictures: npt.NDArray[np.uint8]) -> Array:
    """Pictures (T, H, W) less the mean of the second around each, scaled to a common strength."""
    x = pictures.astype(np.float32) / 255
    n = len(x)
    sums = np.concatenate([np.zeros_like(x[:1]), np.cumsum(x, axis=0, dtype=np.float32)])
    first = np.maximum(np.arange(n) - _SLOW_PICTURES, 0)
    last = np.minimum(np.arange(n) + _SLOW_PICTURES + 1, n)
    x = x - (sums[last] - sums[first]) / (last - first)[:, None, None].astype(np.float32)
    return x / (np.sqrt(np.mean(x**2)) + np.float32(0.004))


def log_mel(sound: Array) -> Array:
    """(columns, N_BANDS) at `COLUMNS_HZ`; column i is centred on i / `COLUMNS_HZ` seconds."""
    padded = np.pad(sound, _WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    window = np.hanning(_WINDOW + 1)[:_WINDOW].astype(np.float32)
    power = np.abs(np.fft.rfft(frames * window, _FFT)).astype(np.float32) ** 2
    return np.log(power @ _mel_bands().T + 1e-5)


def normalised(columns: Array) -> Array:
    """Bands less their mean over the span: loudness and the microphone's colour do not matter."""
    return (columns - columns.mean(axis=0)) / 2.5


@cache
def _mel_bands() -> Array:
    """Triangles evenly spaced in mel, (N_BANDS, bins)."""
    low, high = (2595 * np.log10(1 + f / 700) for f in _BAND_EDGES_HZ)
    edges = 700 * (10 ** (np.linspace(low, high, N_BANDS + 2) / 2595) - 1)
    bins = np.arange(_FFT // 2 + 1) * RATE_HZ / _FFT
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def speaking_at(pictures: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """Where pictures (T, H, W) move like a mouth: row and column as shares of height and width.

    Told to some 8 px of pictures as `pipeline.media.video.read_motion` gives them.
    """
    _, where = _looked_at(_network(), moving(pictures))
    rows, columns = ((np.arange(n) + 0.5) / n for n in where.shape)
    return float(where.sum(axis=1) @ rows), float(where.sum(axis=0) @ columns)


def see(net: dict[str, Array], x: Array) -> Array:
    """(T, H, W) → (T, 32), of length 1."""
    y, where = _looked_at(net, x)
    pooled = np.einsum("tchw,hw->tc", y, where)
    return _unit(_conv1d(np.maximum(0, _conv1d(pooled, net, "v1")), net, "v2"))


def _looked_at(net: dict[str, Array], x: Array) -> tuple[Array, Array]:
    """Features (T, C, h, w) of pictures (T, H, W), and how much each place counts (h, w)."""
    reach = net["c1.weight"].shape[1] // 2
    padded = np.pad(x, ((reach, reach), (0, 0), (0, 0)))
    stacks = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=0)
    parts = []
    for at in range(0, len(x), _CHUNK):
        y = stacks[at : at + _CHUNK].transpose(0, 3, 1, 2)
        for name in ("c1", "c2", "c3"):
            y = np.maximum(0, _conv2d(y, net[f"{name}.weight"], net[f"{name}.bias"]))
        parts.append(y)
    y = np.concatenate(parts)
    return y, _softmax_of(np.einsum("chw,c->hw", y.mean(axis=0), net["att.weight"].reshape(-1)))


def hear(net: dict[str, Array], columns: Array) -> Array:
    """(n, N_BANDS) → (n, 32), of length 1."""
    y = np.maximum(0, _conv1d(columns, net, "a1"))
    y = np.maximum(0, _conv1d(y, net, "a2"))
    return _unit(_conv1d(y, net, "a3"))


def logits(net: dict[str, Array], seen: Array, heard: Array, times_s: npt.NDArray[np.float64]) -> Array:
    """One for each offset and, last, one for none of them."""
    alike = seen @ heard.T  # (T, columns)
    at = np.round((times_s[:, None] + OFFSETS_MS / 1000) * COLUMNS_HZ).astype(int)
    inside = (at >= 0) & (at < len(heard))
    values = np.take_along_axis(alike, np.clip(at, 0, len(heard) - 1), axis=1) * inside
    n_met = inside.sum(axis=0)
    mean = values.sum(axis=0) / np.maximum(1, n_met)
    weight = min(len(seen), EVIDENCE_PICTURES)
    found = np.where(n_met >= MIN_PICTURES, net["alpha"] * weight * mean, -1e4)
    none = net["null"] + net["nulls"] * weight * mean.mean()
    return np.append(found, none).astype(np.float32)


def _softmax(values: Array) -> tuple[Array, float]:
    p = _softmax_of(values)
    return p[:-1], float(p[-1])


def _softmax_of(values: Array) -> Array:
    e = np.exp(values - values.max())
    return np.asarray(e / e.sum(), np.float32)


def _unit(x: Array) -> Array:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12), np.float32)


def _conv2d(x: Array, weight: Array, bias: Array) -> Array:
    """Stride 2, padded by half the kernel. (n, C, H, W) → (n, O, H/2, W/2)."""
    size = weight.shape[-1]
    edge = size // 2
    padded = np.pad(x, ((0, 0), (0, 0), (edge, edge), (edge, edge)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
    patches = patches[:, :, ::2, ::2].transpose(0, 2, 3, 1, 4, 5)
    n, height, width = patches.shape[:3]
    flat = patches.reshape(n * height * width, -1) @ weight.reshape(len(weight), -1).T + bias
    return flat.reshape(n, height, width, -1).transpose(0, 3, 1, 2)


def _conv1d(x: Array, net: dict[str, Array], name: str) -> Array:
    """(n, C) → (n, O), padded by half the kernel."""
    weight, bias = net[f"{name}.weight"], net[f"{name}.bias"]
    size = weight.shape[-1]
    padded = np.pad(x, ((size // 2, size // 2), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, size, axis=0)  # (n, C, size)
    return np.asarray(patches.reshape(len(x), -1) @ weight.reshape(len(weight), -1).T + bias)
