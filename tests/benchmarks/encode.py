"""Clips a second of each family: as its library's tutorial runs it, and as a run does, on the same pictures.

    make bench-encode

Both sides take turns in one process; ratios are of medians. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers as hf
from torchvision.models import get_model
from transformers.utils import logging

from pipeline.bundles.accelerate import fast_dtype
from pipeline.bundles.families import load_part
from pipeline.bundles.families.base import VideoNet
from tests.pipeline.bundles.families.published import file_part, folder_part, randomised
from tests.pipeline.bundles.families.test_clip_networks import hub_model, pictures

ZOO = (
    "x3d_xs",
    "x3d_s",
    "x3d_m",
    "slow_r50",
    "slowfast_r50",
    "r2plus1d_r50",
    "csn_r101",
    "mvit_base_16x4",
)
TORCHVISION = ("r2plus1d_18", "s3d", "mvit_v2_s", "swin3d_t")
HUB = ("videomae", "timesformer")
AT_ONCE = 2  # clips that a run encodes together on a CPU


def zoo(name: str, folder: Path) -> VideoNet:
    path = folder / f"{name}.pyth"
    torch.save({"model_state": randomised(hub_model(name, 400)).state_dict()}, path)
    return load_part(file_part("pytorchvideo", path, model=name), folder)


def torchvision(name: str, folder: Path) -> VideoNet:
    path = folder / f"{name}.pth"
    torch.save(randomised(get_model(name, weights=None)).state_dict(), path)
    options = {"frames": 60} if name == "s3d" else {}
    return load_part(file_part("torchvision", path, model=name, **options), folder)


def hub(name: str, folder: Path) -> VideoNet:
    made = {
        "videomae": lambda: hf.VideoMAEForVideoClassification(hf.VideoMAEConfig(num_labels=400)),
        "timesformer": lambda: hf.TimesformerForVideoClassification(
            hf.TimesformerConfig(num_labels=400)
        ),
    }
    (folder / name).mkdir()
    randomised(made[name]()).save_pretrained(folder / name)
    hf.VideoMAEImageProcessor().save_pretrained(folder / name)
    return load_part(folder_part("hf_video", folder / name), folder)


def seconds(net: VideoNet, batches: tuple[torch.Tensor, ...]) -> float:
    started = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            net.scores(batch)
    return time.perf_counter() - started


def measure(name: str, rounds: int) -> dict[str, float]:
    """Clips a second of both sides, and how alike their answers are."""
    make = zoo if name in ZOO else torchvision if name in TORCHVISION else hub
    with tempfile.TemporaryDirectory() as folder:
        tutorial = make(name, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        ours = make(name, Path(folder)).accelerate(torch.device("cpu"))
    n_frames = tutorial.sampling.n_frames
    clips = torch.cat([pictures(n_frames, (256, 340), seed) for seed in range(AT_ONCE)])
    with torch.inference_mode():
        a, b = tutorial.scores(clips), ours.scores(clips)
    times: dict[str, list[float]] = {"tutorial": [], "ours": []}
    for _ in range(rounds):
        times["tutorial"].append(seconds(tutorial, clips.split(1)) / AT_ONCE)
        times["ours"].append(seconds(ours, (clips,)) / AT_ONCE)
    medians = {side: statistics.median(values) for side, values in times.items()}
    return {
        "tutorial_ms": round(1000 * medians["tutorial"], 1),
        "ours_ms": round(1000 * medians["ours"], 1),
        "ratio": round(medians["tutorial"] / medians["ours"], 2),
        "cosine": round(float(torch.cosine_similarity(a, b).min()), 5),
        "same_first": int((a.argmax(1) == b.argmax(1)).all()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("families", nargs="*", default=[*ZOO, *TORCHVISION, *HUB])
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    found = {}
    for name in arguments.families:
        found[name] = measure(name, arguments.rounds)
        print(name, found[name], flush=True)
    ratio = {name: case["ratio"] for name, case in found.items()}
    told = {"ratio": ratio, "peers": "each family's own library, fp32, batch 1", "cases": found}
    print(
        json.dumps(
            told | {"dtype": str(fast_dtype(torch.device("cpu"))), "threads": torch.get_num_threads()}
        )
    )


if __name__ == "__main__":
    main()
