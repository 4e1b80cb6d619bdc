"""Real footage for networks that look at motion: windows of small grey pictures, read once and kept.

Files are read as inference reads them, by `pipeline.media`, and kept as one array on disk.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from pipeline.bundles.movement import windows
from pipeline.config import load_config
from pipeline.encoders import motion
from pipeline.media.probe import probe
from pipeline.media.video import index_packets, read_motion
from pipeline.records import Unit, short_hash
from pipeline.sync.align import read_clips
from pipeline.understand import SAMPLE_RATE_HZ

RATE_HZ = 24  # three pictures for each that a network looks at, so that speeds can be varied
WINDOW_S = 2
_A_STEP = RATE_HZ // motion.RATE_HZ
SIZE_PX = (144, 192)  # height and width; larger than what networks see, so that a view can move over it


@dataclass(frozen=True)
class Footage:
    """N windows of `WINDOW_S` seconds."""

    pictures: npt.NDArray[np.uint8]  # (N, RATE_HZ · WINDOW_S, *SIZE_PX), on disk
    files: tuple[str, ...]  # (N,) the file that each is of
    start_s: tuple[float, ...]  # (N,)

    def __len__(self) -> int:
        return len(self.files)

    def without(self, names: Sequence[str]) -> npt.NDArray[np.uint8]:
        """Pictures of the windows that are of none of the files `names`."""
        return self.pictures[[file not in names for file in self.files]]


def listing(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    """What tells files from others of the same names: size in bytes, time of the last change in ns."""
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def read_footage(files: Sequence[Path], most_windows: int, work: Path, name: str) -> Footage:
    """The first `most_windows` windows of each file, from `work` where these were read before.

    Raises:
        MediaError: a file cannot be opened.
        ValueError: no file has a picture.
    """
    name = f"{name}-{short_hash(listing(files), most_windows)}"
    array, index = work / f"{name}.npy", work / f"{name}.json"
    if not index.is_file():
        windows, names, starts = [], [], []
        for file in files:
            for start_s, pictures in _windows(str(file), most_windows):
                windows.append(pictures)
                names.append(file.name)
                starts.append(start_s)
        if not windows:
            raise ValueError(f"{name}: none of {len(files)} files has a picture")
        work.mkdir(parents=True, exist_ok=True)
        np.save(array, np.stack(windows))
        part = index.with_suffix(".part")
        part.write_text(json.dumps({"files": names, "start_s": starts}), encoding="utf-8")
        os.replace(part, index)
    known = json.loads(index.read_text(encoding="utf-8"))
    return Footage(np.load(array, mmap_mode="r"), tuple(known["files"]), tuple(known["start_s"]))


@dataclass(frozen=True)
class Windows:
    """N windows, picture for picture as a run of the embedded bundle looks at them."""

    pictures: npt.NDArray[np.uint8]  # (N, N_PICTURES, *motion.SIZE_PX)
    files: tuple[str, ...]  # (N,)
    start_s: tuple[float, ...]  # (N,)


def read_as_a_run(files: Sequence[Path], work: Path, name: str) -> Windows:
    """All windows of the first minute of each file, from `work` where these were read before."""
    kept = work / f"{name}-as-a-run-{short_hash(listing(files))}.npz"
    if not kept.is_file():
        config = load_config(overrides=["sync.window_s=0"])
        small = {"motion_rate_hz": motion.RATE_HZ, "motion_height_px": motion.SIZE_PX[0]}
        config = config.model_copy(update={"clips": config.clips.model_copy(update=small)})
        found: list[tuple[str, float, npt.NDArray[np.uint8]]] = []
        for file in files:
            unit = Unit("", "", str(file), "", 0.0, config.clips.unit_s)
            batch, _ = read_clips(unit, probe(str(file)), config, SAMPLE_RATE_HZ)
            for w in windows([batch]):
                at_s = float(batch.start_s[w.row]) + w.start / motion.RATE_HZ
                found.append((file.name, at_s, w.pictures))
        names, starts, pictures = zip(*found, strict=True)
        work.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part.npz")
        np.savez(part, files=names, start_s=starts, pictures=np.stack(pictures))
        os.replace(part, kept)
    with np.load(kept) as known:
        return Windows(
            known["pictures"], tuple(known["files"].tolist()), tuple(known["start_s"].tolist())
        )


def picture_steps() -> npt.NDArray[np.int64]:
    """Which pictures of a window a network looks at that begins with it."""
    return np.arange(motion.N_PICTURES) * _A_STEP


def varied_steps(random: np.random.Generator) -> npt.NDArray[np.int64]:
    """As `picture_steps`, from somewhere on, at a speed of 0.8 to 1.2, unevenly by up to half a picture."""
    n = RATE_HZ * WINDOW_S
    at = picture_steps() * random.uniform(0.8, 1.2) + random.uniform(-0.5, 0.5, motion.N_PICTURES)
    spare = n - 1 - at.max()
    at = at + (random.uniform(0, spare) if spare > 0 else 0)
    return at.round().clip(0, n - 1).astype(np.int64)


def read_table(file: Path) -> dict[str, dict[str, str]]:
    """Rows of a data set's CSV by the name of their file."""
    with file.open(encoding="utf-8", newline="") as lines:
        return {Path(row["file"]).name: row for row in csv.DictReader(lines)}


def _windows(uri: str, most: int) -> list[tuple[float, npt.NDArray[np.uint8]]]:
    """Windows of a file from its first picture on; the last picture may stay for up to half a second."""
    info = probe(uri)
    span = (Fraction(0), Fraction(most * WINDOW_S + 1))
    index = index_packets(uri, info, *span)
    seen = read_motion(uri, info, index, *span, rate_hz=RATE_HZ, short_side_px=SIZE_PX[0])
    if not len(seen.grey):
        return []
    x = torch.from_numpy(seen.grey).float()[:, None]
    small = F.interpolate(x, SIZE_PX, mode="area")[:, 0].round().byte().numpy()
    windows = []
    for k in range(most):
        start_s = seen.times_s[0] + k * WINDOW_S
        if k and seen.times_s[-1] < start_s + WINDOW_S - 0.5:
            break
        instants = start_s + np.arange(RATE_HZ * WINDOW_S) / RATE_HZ
        nearest = np.abs(seen.times_s[:, None] - instants).argmin(0)
        windows.append((float(start_s), small[nearest]))
    return windows
