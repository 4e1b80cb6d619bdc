"""How well cuts are found, what single shots are mistaken for, and what looking costs.

    make bench-shots

Films of 61 shots of real footage are rendered with cuts and dissolves of known places; files that hold one
shot each are looked at for cuts that are not there; a minute of 720p is decoded with and without looking.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from pipeline.config import load_config
from pipeline.media.probe import probe
from pipeline.media.video import index_packets, read_every
from pipeline.records import Unit
from pipeline.sync.align import read_clips
from pipeline.sync.shots import find_cuts, transitions
from tests.benchmarks.footage import footage
from tests.films import FPS, Join, join, shots_of_pieces, write_film

FOREVER = Fraction(10**5)
KINDS = {"hard": (0, 0), "4 to 12 pictures": (4, 12), "16 to 24": (16, 24), "30": (30, 30)}
COST_S = 60


def found_in_films(clips: Path, work: Path, n_films: int) -> dict[str, object]:
    """Recall by kind of transition, precision over all, and how far off the cuts lie."""
    config, every, hits, off = load_config(), [], [], []
    n_found = n_true = 0
    for seed in range(100, 100 + n_films):  # none that thresholds were chosen on
        rng = np.random.default_rng(seed)
        dissolves = [int(rng.choice([0, 0, 0, 4, 8, 12, 16, 20, 24, 30])) for _ in range(60)]
        film, joins = join(shots_of_pieces(rng, clips, 61), dissolves)
        path = str(write_film(work / "film.mp4", film))
        left = [
            round(float(t) * FPS) for t in find_cuts(path, probe(path), (Fraction(0), FOREVER), config)
        ]
        n_found += len(left)
        for one in joins:
            near = [f for f in left if one.distance(f) <= 2]
            every.append(one)
            hits.append(bool(near))
            if near:
                left.remove(near[0])
                off.append(abs(near[0] - (one.first + one.end) / 2))
        n_true = sum(hits)
    return {
        "n_cuts": len(every),
        "recall": round(n_true / len(every), 4),
        "precision": round(n_true / n_found, 4),
        "recall_by_kind": {k: _recall(every, hits, *span) for k, span in KINDS.items()},
        "off_middle_p50_p95_max": [float(np.percentile(off, q)) for q in (50, 95, 100)],
    }


def _recall(joins: list[Join], hits: list[bool], least: int, most: int) -> str:
    of = [hit for one, hit in zip(joins, hits, strict=True) if least <= one.end - one.first <= most]
    return f"{sum(of)} of {len(of)}"


def cuts_in_single_shots(data: Path) -> dict[str, object]:
    """Cuts told of files that were taken to hold one shot each."""
    config, told, n_pictures = load_config(), {}, 0
    files = sorted((data / "gmdcsa").glob("*.mp4")) + sorted((data / "fights").glob("*.mp4"))
    for file in files:
        info = probe(str(file))
        cuts = find_cuts(str(file), info, (Fraction(0), FOREVER), config)
        n_pictures += len(index_packets(str(file), info, Fraction(0), FOREVER).pts)
        if cuts:
            told[file.name] = [round(float(t), 2) for t in cuts]
    return {"n_files": len(files), "n_pictures": n_pictures, "told": told}


def cost(work: Path) -> dict[str, object]:
    """CPU milliseconds a second of 720p, on one thread, medians of 3 in turn."""
    path = str(footage(work / "cost.mp4", codec="libx264", width=1280, height=720, seconds=COST_S))
    info, unit = probe(path), Unit("u", "v", path, "1", 0.0, None)
    stride, shots = load_config(), load_config(overrides=["clips.mode=shots"])
    index = index_packets(path, info, Fraction(0), FOREVER)
    pictures = read_every(path, info, index, 48, 27).rgb
    exact = shots.run.model_copy(update={"precision": "float32"})
    n = len(pictures)
    work_of: dict[str, Callable[[], object]] = {
        "clips, stride": lambda: read_clips(unit, info, stride, 16_000),
        "clips, shots": lambda: read_clips(unit, info, shots, 16_000),
        "every picture, 48×27": lambda: read_every(path, info, index, 48, 27),
        "network, auto": lambda: transitions(pictures, 0, n, shots.run),
        "network, float32": lambda: transitions(pictures, 0, n, exact),
    }
    times: dict[str, list[float]] = {name: [] for name in work_of}
    for turn in range(4):
        for name, call in work_of.items():
            started = time.process_time()
            call()
            if turn:  # the first loads
                times[name].append((time.process_time() - started) * 1000 / COST_S)
    fps = info.video.fps if info.video else None
    return {"fps": fps, "ms_per_s": {k: round(float(np.median(v)), 1) for k, v in times.items()}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[3] / "shared")
    parser.add_argument("--films", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, object] = {"cpus": os.cpu_count()}
    with tempfile.TemporaryDirectory() as work:
        results["cost"] = cost(Path(work))
        print(results["cost"], flush=True)
        results["films"] = found_in_films(options.shared / "media" / "clips", Path(work), options.films)
        print(results["films"], flush=True)
    results["single"] = cuts_in_single_shots(options.shared / "data")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
