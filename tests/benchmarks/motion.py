"""What the motion weights are worth, as JSON: rendered motion over pictures that training never saw, fights
on folds left out, real clips as found, and the time that a window takes.

Run by `make bench-motion`; needs ../shared/data and ../shared/media, and reads footage into checkpoints/motion.
"""

from __future__ import annotations

import json
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
from pipeline.training.footage import picture_steps, read_footage
from pipeline.training.motion import UNKNOWN, WEIGHTS, read_fights, read_recipe, watched_clips

SHARED = Path(__file__).resolve().parents[3] / "shared"
WORK = Path("checkpoints/motion")
N_RENDERED, SEED = 2000, 77
FLOORS = (0.5, 0.6, 0.7, 0.8, 0.9)


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
    """Each contiguous fold answered by a fit to the other four, whose strength they chose among themselves."""
    footage = read_fights(SHARED / "data", WORK)
    clips = fights.read_clips(footage, SHARED / "data" / "fights.csv")
    logits, chosen = fights.nested_logits(clips, read_recipe().fight_strengths)
    right = (logits > 0) == clips.is_fight
    p = 1 / (1 + np.exp(-logits))
    sure = np.maximum(p, 1 - p)
    of_folds = {str(k): round(float(right[clips.fold == k].mean()), 3) for k in np.unique(clips.fold)}
    bins = np.clip((sure * 10).astype(int), 5, 9)
    gaps = [
        abs(float(sure[bins == b].mean() - right[bins == b].mean())) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    return share(right) | {
        "of_folds": of_folds,
        "strengths": chosen,
        "fight_told": at_floors(p, clips.is_fight, clips.is_fight),
        "expected_calibration_error": round(float(np.sum(gaps)), 3),
    }


@torch.no_grad()
def real_clips(net: MotionNet) -> dict[str, list]:
    """What is said of the clips of `media/clips`, windows of two seconds."""
    files = [f for f in sorted((SHARED / "media" / "clips").iterdir()) if probe(str(f)).video]
    footage = read_footage(files, 8, WORK / "footage", "clips")
    found: dict[str, list] = {}
    for file, start_s, window in zip(footage.files, footage.start_s, footage.pictures, strict=True):
        x = torch.from_numpy(np.array(window[picture_steps()])).float()[:, None]
        x = torch.nn.functional.interpolate(x, SIZE_PX, mode="area")[:, 0].round()[None]
        said = net(x)
        camera, objects = said["camera"][0].softmax(0), said["objects"][0].softmax(0)
        told = [round(start_s, 1), CAMERA_MOTIONS[int(camera.argmax())], round(float(camera.max()), 2)]
        told += [(*OBJECT_MOTIONS, "none")[int(objects.argmax())], round(float(objects.max()), 2)]
        found.setdefault(file, []).append([*told, round(float(torch.sigmoid(net.tell(x).fight)[0]), 2)])
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
        "clips": real_clips(net),
        "ms": speed(),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
