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
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from torchvision.models import get_model
from transformers.utils import logging

from pipeline.bundles.families import load_part
from pipeline.bundles.families.base import VideoNet
from pipeline.encoders.precision import fast_dtype
from tests.pipeline.bundles.families.published import file_part, folder_part, randomised
from tests.pipeline.bundles.families.test_clip_networks import hub_model, pictures
from tests.pipeline.bundles.families.test_hub_folders import word_tokenizer

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
PAIRS = ("clip", "siglip", "clap")
SOUND = ("ast",)
SQUARE = {"height": 224, "width": 224}
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


def pair(name: str, folder: Path) -> torch.nn.Module:
    """CLIP, SigLIP and CLAP at published sizes; text is not measured, it is embedded once."""
    made = {
        "clip": lambda: (hf.CLIPModel(hf.CLIPConfig()), hf.CLIPImageProcessor()),
        "siglip": lambda: (hf.SiglipModel(hf.SiglipConfig()), hf.SiglipImageProcessor(size=SQUARE)),
        "clap": lambda: (
            hf.ClapModel(hf.ClapConfig()),
            hf.ClapFeatureExtractor(truncation="rand_trunc"),
        ),
    }
    (folder / name).mkdir()
    model, preprocessing = made[name]()
    randomised(model).save_pretrained(folder / name)
    preprocessing.save_pretrained(folder / name)
    word_tokenizer().save_pretrained(folder / name)
    return load_part(folder_part(name, folder / name), folder)


def ast(_: str, folder: Path) -> torch.nn.Module:
    (folder / "ast").mkdir()
    model = hf.ASTForAudioClassification(hf.ASTConfig(num_labels=527))
    randomised(model).save_pretrained(folder / "ast")
    hf.ASTFeatureExtractor().save_pretrained(folder / "ast")
    return load_part(folder_part("hf_audio", folder / "ast"), folder)


def answer(net: torch.nn.Module, clips: Clips) -> torch.Tensor:
    """What a run asks of a network about clips."""
    with torch.inference_mode():
        if isinstance(net, VideoNet):
            return net.scores(clips)
        return net.embed(clips).tokens if hasattr(net, "embed") else torch.sigmoid(net(clips))


def inputs(net: torch.nn.Module, n: int) -> Clips:
    """Clips of 340×256 at the network's own rate, or 4 s of sound."""
    if hasattr(net, "sampling"):
        return torch.cat([pictures(net.sampling.n_frames, (256, 340), seed) for seed in range(n)])
    random = np.random.default_rng(0)
    return list((0.1 * random.standard_normal((n, 4 * net.sample_rate_hz))).astype(np.float32))


def seconds(net: torch.nn.Module, batches: Sequence[Clips]) -> float:
    started = time.perf_counter()
    for batch in batches:
        answer(net, batch)
    return time.perf_counter() - started


def measure(name: str, rounds: int) -> dict[str, float]:
    """Clips a second of both sides, and how alike their answers are."""
    make = next(make for names, make in MAKERS.items() if name in names)
    with tempfile.TemporaryDirectory() as folder:
        tutorial = make(name, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        ours = make(name, Path(folder)).accelerate(torch.device("cpu"))
    clips = inputs(ours, AT_ONCE)
    one_by_one = [clips[i : i + 1] for i in range(AT_ONCE)]
    a = torch.cat([answer(tutorial, clip) for clip in one_by_one])
    b = answer(ours, clips)
    times: dict[str, list[float]] = {"tutorial": [], "ours": []}
    for _ in range(rounds):
        times["tutorial"].append(seconds(tutorial, one_by_one) / AT_ONCE)
        times["ours"].append(seconds(ours, [clips]) / AT_ONCE)
    medians = {side: statistics.median(values) for side, values in times.items()}
    return {
        "tutorial_ms": round(1000 * medians["tutorial"], 1),
        "ours_ms": round(1000 * medians["ours"], 1),
        "ratio": round(medians["tutorial"] / medians["ours"], 2),
        "cosine": round(float(torch.cosine_similarity(a, b).min()), 5),
        "same_first": int((a.argmax(1) == b.argmax(1)).all()),
    }


Clips = torch.Tensor | list[np.ndarray]
MAKERS: dict[tuple[str, ...], Callable[[str, Path], torch.nn.Module]] = {
    ZOO: zoo,
    TORCHVISION: torchvision,
    HUB: hub,
    PAIRS: pair,
    SOUND: ast,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("families", nargs="*", default=[n for names in MAKERS for n in names])
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
