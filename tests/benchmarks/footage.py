"""Footage for benchmarks: pictures that move as a camera's do, in the codecs that lakes are full of."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS = 30


def footage(path: Path, *, codec: str, width: int, height: int, seconds: int, gop: int = 250) -> Path:
    """Write a panning, zooming view over a textured picture with things moving across it."""
    options = {"g": str(gop)}
    if codec in ("libx264", "libx265"):
        options |= {"preset": "medium" if codec == "libx264" else "fast", "crf": "23"}
    if codec == "libx265":
        options["x265-params"] = "log-level=error"
    if codec == "libvpx-vp9":
        options |= {"deadline": "realtime", "cpu-used": "8", "b": "3M"}
    scene = _scene(width, height)
    rng = np.random.default_rng(1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = options
        for i in range(seconds * FPS):
            picture = _view(scene, i, width, height)
            picture = picture + rng.integers(-4, 5, picture.shape[:2], np.int16)[..., None]
            frame = av.VideoFrame.from_ndarray(
                np.clip(picture, 0, 255).astype(np.uint8), format="rgb24"
            )
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _scene(width: int, height: int) -> np.ndarray:
    """A large picture with structure at all scales. (2H, 2W, 3) int16"""
    rng = np.random.default_rng(0)
    scene = np.zeros((2 * height, 2 * width, 3), np.float32)
    for cells in (8, 24, 80, 240):
        coarse = rng.normal(0, 1, (cells, cells, 3)).astype(np.float32)
        rows = np.linspace(0, cells - 1, 2 * height).astype(int)
        columns = np.linspace(0, cells - 1, 2 * width).astype(int)
        scene += coarse[rows][:, columns] * (60.0 / cells**0.35)
    return np.clip(scene + 120, 0, 255).astype(np.int16)


def _view(scene: np.ndarray, i: int, width: int, height: int) -> np.ndarray:
    y = round((0.5 + 0.4 * np.sin(i / 70)) * height)
    x = round((0.5 + 0.4 * np.sin(i / 110)) * width)
    view = scene[y : y + height, x : x + width].copy()
    for k in range(3):  # things that cross the picture
        cx, cy = (37 * i // (k + 3)) % width, (k + 1) * height // 5
        view[cy : cy + height // 8, cx : cx + width // 10] = 60 * (k + 1)
    return view
