"""What the motion weights are worth, as JSON: rendered motion over pictures that training never saw, fights
on folds left out, timed actions on videos left out, real clips as found, and the time that a window takes.

Run by `make bench-motion`; needs ../shared/data and ../shared/media, and reads footage into checkpoints/motion.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from pipeline.bundles.accelerate import accelerate_cnn, fold_norms
from pipeline.bundles.weights import load_strictly
from pipeline.encoders.motion import CAMERA_MOTIONS, N_PICTURES, OBJECT_MOTIONS, SIZE_PX, MotionNet
from pipeline.encoders.motion_energy import statistics
from pipeline.media.probe import probe
from pipeline.training import fights
from pipeline.training.footage import read_as_a_run, read_table
from pipeline.training.motion import (
    UNKNOWN,
    WEIGHTS,
    read_fight_clips,
    read_fights,
    read_recipe,
    watched_clips,
)

SHARED = Path(__file__).resolve().parents[3] / "shared"
WORK = Path("checkpoints/motion")
N_RENDERED, SEED = 2000, 77
FLOORS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_WEAK = 0.03  # of a fit with more numbers than examples


def interval(n_right: int, n: int) -> list[float]:
    """Wilson's 95 % interval of a share."""
    z, p = 1.96, n_right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [round(float(middle - half), 3), round(float(middle + half), 3)]


def share(right: Any) -> dict[str, Any]:
    """A share of right answers with its interval."""
    n, k = len(right), int(np.sum(right))
    return {"n": n, "right": round(k / n, 3), "interval_95": interval(k, n)}


def at_floors(score: Any, is_right: Any, is_there: Any) -> dict[str, Any]:
    """Of answers at least so sure: how many are right, and how many of those that are there are told."""
    found = {}
    for floor in FLOORS:
        told = score >= floor
        precision = float(is_right[told].mean()) if told.any() else None
        recall = float((told & is_right)[is_there].mean())
        found[str(floor)] = {"precision": precision and round(precision, 3), "recall": round(recall, 3)}
    return found


@torch.no_grad()
def rendered_motion(net: MotionNet) -> dict[str, Any]:
    """Over the pictures of `fights/`, which no training renders onto."""
    pictures = read_fights(SHARED / "data", WORK).pictures
    said: dict[str, list] = {"camera": [], "objects": []}
    told: dict[str, list] = {"camera": [], "objects": []}
    for clips, truth in watched_clips(pictures, N_RENDERED, SEED):
        answers = net(clips)
        for head in said:
            said[head].append(answers[head].softmax(1))
            told[head].append(getattr(truth, head))
    names = {"camera": CAMERA_MOTIONS, "objects": (*OBJECT_MOTIONS, "none")}
    found = {}
    for head, probabilities in said.items():
        p, truth = torch.cat(probabilities).numpy(), torch.cat(told[head]).numpy()
        known = truth != UNKNOWN
        p, truth = p[known], truth[known]
        best, is_none = p.argmax(1), truth == len(OBJECT_MOTIONS)
        of_each = {name: share(best[truth == i] == i) for i, name in enumerate(names[head])}
        table = [
            [int(((truth == i) & (best == j)).sum()) for j in range(len(names[head]))]
            for i in range(len(names[head]))
        ]
        found[head] = share(best == truth) | {"of_each": of_each, "truth_by_answer": table}
        if head == "objects":
            told_best = p[:, :-1].argmax(1)
            found["objects_without_none"] = share(told_best[~is_none] == truth[~is_none])
            score, there = p[:, :-1].max(1), ~is_none
            found["objects_at_floors"] = at_floors(score, told_best == truth, there)
        else:
            found["camera_at_floors"] = at_floors(p.max(1), best == truth, np.ones(len(p), bool))
    return found


def fights_left_out() -> dict[str, Any]:
    """Each contiguous fold, as a run sees it, answered by a fit to the other four, whose strength they chose
    among themselves; scores calibrated on the other four's answers."""
    clips = read_fight_clips(SHARED / "data", WORK)
    logits, chosen = fights.nested_logits(clips, read_recipe().fight_strengths)
    right = (logits > 0) == clips.is_fight
    p = np.zeros(len(logits))
    for fold in np.unique(clips.fold):
        apart = clips.fold == fold
        slope, offset = fights.calibrate(logits[~apart], clips.is_fight[~apart])
        p[apart] = 1 / (1 + np.exp(-(slope * logits[apart] + offset)))
    bins = (p * 10).astype(int).clip(0, 9)
    gaps = [
        abs(float(p[bins == b].mean() - clips.is_fight[bins == b].mean())) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    return share(right) | {
        "of_folds": {
            int(k): round(float(right[clips.fold == k].mean()), 3) for k in np.unique(clips.fold)
        },
        "strengths": chosen,
        "slope_offset": fights.calibrate(logits, clips.is_fight),
        "fight_told": at_floors(p, clips.is_fight, clips.is_fight),
        "expected_calibration_error": round(float(np.sum(gaps)), 3),
    }


@torch.no_grad()
def timed_actions(net: MotionNet) -> dict[str, Any]:
    """GMDCSA's actions, told of windows by their motion tokens: each video by heads fitted to the others."""
    files = sorted((SHARED / "data" / "gmdcsa").glob("*.mp4"))
    seen = read_as_a_run(files, WORK / "footage", "gmdcsa")
    rows = read_table(SHARED / "data" / "gmdcsa.csv")
    done = [
        {name for name, a, b in timed(rows[file]["classes"]) if a <= start_s + 1 < b}
        for file, start_s in zip(seen.files, seen.start_s, strict=True)
    ]
    known = [i for i, names in enumerate(done) if names]
    tokens = torch.cat([net.tell(part).tokens for part in torch.from_numpy(seen.pictures).split(16)])
    x = tokens.double().numpy()[known][:, None]
    video = np.array([files.index(SHARED / "data" / "gmdcsa" / seen.files[i]) for i in known])
    names = sorted(set().union(*done))
    logits = np.full((len(known), len(names)), -np.inf)
    often = np.zeros((len(known), len(names)))
    for left_out, (k, name) in itertools.product(np.unique(video), enumerate(names)):
        apart = video == left_out
        is_done = np.array([name in done[i] for i in known])
        often[apart, k] = is_done[~apart].mean()
        if is_done[~apart].any():
            clips = fights.Clips(x, is_done, video)
            logits[apart, k] = fights.fit(clips.of(~apart), _WEAK).logits(clips.of(apart))
    right, usual = (
        [names[best] in done[i] for i, best in zip(known, scores.argmax(1), strict=True)]
        for scores in (logits, often)
    )
    return share(right) | {"the_most_frequent_one": share(usual), "classes": names}


def timed(classes: str) -> list[tuple[str, float, float]]:
    """Actions with their seconds, of a text such as "Falling (SW) [1.8 to 6] ; Sitting [0 to 2]"."""
    found = []
    for name, spans in re.findall(r"([A-Z][a-z]+)[^\[;]*\[([^\]]*)\]", classes):
        for span in spans.split(";"):
            first, last = span.split("to")
            found.append(("Falling" if name == "Fall" else name, float(first), float(last)))
    return found


@torch.no_grad()
def real_clips(net: MotionNet) -> dict[str, list]:
    """What is said of the clips of `media/clips`, window by window as a run sees them."""
    files = [f for f in sorted((SHARED / "media" / "clips").iterdir()) if probe(str(f)).video]
    seen = read_as_a_run(files, WORK / "footage", "clips")
    found: dict[str, list] = {}
    for file, start_s, window in zip(seen.files, seen.start_s, seen.pictures, strict=True):
        said = net.tell(torch.from_numpy(window)[None])
        camera, objects = said.camera[0].softmax(0), said.objects[0].softmax(0)
        told = [round(start_s, 1), CAMERA_MOTIONS[int(camera.argmax())], round(float(camera.max()), 2)]
        told += [(*OBJECT_MOTIONS, "none")[int(objects.argmax())], round(float(objects.max()), 2)]
        told += [round(float(torch.sigmoid(said.fight)[0]), 2), round(float(said.least_alike[0]), 2)]
        found.setdefault(file, []).append(told)
    return found


@torch.no_grad()
def speed() -> dict[str, float]:
    """Milliseconds a window of two seconds, two at once as a clip of four gives them; medians of 15."""
    found = {}
    x = torch.randint(0, 255, (2, N_PICTURES, *SIZE_PX), dtype=torch.uint8)
    for name in ("float32, folded", "as accelerated here"):
        net = load()
        if name == "float32, folded":
            fold_norms(net.trunk)
            net.to(memory_format=torch.channels_last_3d)
        else:
            accelerate_cnn(net.trunk, (), torch.device("cpu"))
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            found[f"{name}, {n_threads} threads"] = _median_ms(lambda net=net: net(x)) / len(x)
    from pipeline.encoders.motion import levels

    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        found[f"statistics, {n_threads} threads"] = _median_ms(lambda: statistics(levels(x))) / len(x)
    return {name: round(ms, 1) for name, ms in found.items()}


def _median_ms(work: Any) -> float:
    took = []
    for _ in range(16):
        begun = time.perf_counter()
        work()
        took.append(1000 * (time.perf_counter() - begun))
    return float(np.median(took[1:]))


def load() -> MotionNet:
    """The shipped network."""
    net = MotionNet()
    load_strictly(net, load_file(WEIGHTS), WEIGHTS.name)
    return net


def main() -> None:
    net = load()
    figures = {
        "rendered": rendered_motion(net),
        "fights": fights_left_out(),
        "timed_actions": timed_actions(net),
        "clips": real_clips(net),
        "ms": speed(),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
