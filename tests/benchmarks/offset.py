"""How well the content tells the offset of sound and picture: known shifts, and pairs that do not belong.

    make bench-offset

The talking heads are the folds of GRID that training never saw, and the real clips with sound; each is
moved by known amounts from −500 to +500 ms. A stranger is a picture with the sound of another file: an
answer there is wrong by definition. The last line is JSON.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.media.audio import AudioTrack, read_audio
from pipeline.media.probe import probe
from pipeline.media.video import Motion, index_packets, read_motion
from pipeline.records import MediaError
from pipeline.sync.offset import estimate_offset, loudest_span
from pipeline.training.lips import TEST_FOLDS, fold_of

SHIFTS_MS = (-500, -320, -170, -80, 0, 80, 170, 320, 500)
CLOSE_MS = 40
Read = tuple[Motion, AudioTrack]


def read(path: Path, config: Config) -> Read | None:
    """Pictures and sound of the part that a run would look at; None without both."""
    uri = str(path)
    try:
        info = probe(uri)
    except MediaError:
        return None
    if not (info.video and info.audio):
        return None
    unit = Fraction(0), Fraction(str(config.clips.unit_s))
    index, track = index_packets(uri, info, *unit), read_audio(uri, info, *unit)
    last = min(track.end_s, Fraction(index.end_pts * info.video.time_base - info.origin_s))
    window = loudest_span(track, Fraction(0), last, Fraction(str(config.sync.window_s)))
    return read_motion(uri, info, index, *window), track


def answers(pairs: Sequence[Read], shifts_ms: Sequence[int]) -> list[tuple[float, float]]:
    """Error in ms and confidence of every answer, sure or not."""
    found = []
    for motion, track in pairs:
        for shift in shifts_ms:
            moved = dataclasses.replace(track, start_s=track.start_s + Fraction(shift, 1000))
            offset = estimate_offset(motion, moved)
            found.append((offset.offset_ms - shift, offset.confidence) if offset else (np.nan, 0.0))
    return found


def summary(found: Sequence[tuple[float, float]], least: float) -> dict[str, Any]:
    error, sure = np.abs(np.array([f[0] for f in found])), np.array([f[1] for f in found]) >= least
    told = error[sure]
    return {
        "n": len(found),
        "answered": round(float(sure.mean()), 3),
        "within_40_ms": round(float((told <= CLOSE_MS).mean()), 3) if len(told) else None,
        "median_error_ms": round(float(np.median(told)), 1) if len(told) else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--every", type=int, default=1, help="take every n-th talking head")
    arguments = parser.parse_args()
    config = Config()
    heads = [
        p for p in sorted((arguments.shared / "data/grid").glob("*")) if fold_of(p.name) in TEST_FOLDS
    ]
    with (arguments.shared / "media/manifest.csv").open() as file:
        clips = [arguments.shared / "media" / row["file"] for row in csv.DictReader(file)]
    sets = {
        "grid": heads[:: arguments.every],
        "clips": [p for p in clips if p.parent.name == "clips"],
        "falls": sorted((arguments.shared / "data/gmdcsa").glob("*.mp4")),
    }
    result: dict[str, Any] = {"min_confidence": config.sync.min_confidence}
    for name, paths in sets.items():
        pairs = [pair for pair in (read(path, config) for path in paths) if pair is not None]
        found = answers(pairs, SHIFTS_MS)
        result[name] = summary(found, config.sync.min_confidence)
        strangers = [(pairs[i][0], pairs[i - 1][1]) for i in range(len(pairs))]
        wrong = answers(strangers, (0, 250)) if len(pairs) > 1 else [(0.0, 0.0)]
        result[f"{name}_strangers_answered"] = summary(wrong, config.sync.min_confidence)["answered"]
        print(
            name, result[name], "strangers answered", result[f"{name}_strangers_answered"], flush=True
        )
        if name == "grid":
            for least in (0.5, 0.6, 0.7, 0.8, 0.9):
                print(
                    f"  at confidence {least}:",
                    summary(found, least),
                    summary(wrong, least)["answered"],
                )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
