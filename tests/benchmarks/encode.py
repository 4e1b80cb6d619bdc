"""Clips a second of each family: as its library's tutorial runs it, and as a run does, on the same pictures.

    make bench-encode

Each way has a process of its own, as it has in use, and they take turns; ratios are of medians, of wall time
and, for a machine that others use too, of the process's CPU time. On an NVIDIA GPU also eager float32, ours,
and ours compiled there, in batches, of pictures that are uploaded. A network's share of the limit is its
floating-point operations a second (the library's, counted) by those of a large product of matrices in the
device's fastest type, measured in the same rounds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model
from transformers.utils import logging

from pipeline.bundles.accelerate import Runtime, keep_memory, settle
from pipeline.bundles.families import load_part
from pipeline.bundles.families.base import VideoNet
from pipeline.config import RunConfig
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
ON_GPU = 32  # clips at once
CPU_SIDE, GPU_SIDE = 2048, 8192  # of the matrices whose product is the limit


@dataclass(frozen=True)
class Way:
    """One way to run a family's network."""

    device: str
    at_once: int
    is_ours: bool
    compiles: bool = False


@dataclass(frozen=True)
class Round:
    """What one round of one way took, a clip."""

    wall_s: float
    cpu_s: float
    limit: float | None  # floating-point operations a second


LIBRARY, OURS = "library", "ours"
ON_CPU = {LIBRARY: Way("cpu", 1, False), OURS: Way("cpu", 2, True)}
ON_NVIDIA = {
    "gpu_eager": Way("cuda", ON_GPU, False),
    "gpu_ours": Way("cuda", ON_GPU, True),
    "gpu_compiled": Way("cuda", ON_GPU, True, True),
}


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


def made(name: str) -> torch.nn.Module:
    """The family's network as its library runs it, behind our adapter."""
    make = next(make for names, make in MAKERS.items() if name in names)
    with tempfile.TemporaryDirectory() as folder:
        return make(name, Path(folder))


def answer(net: torch.nn.Module, clips: Clips) -> torch.Tensor:
    """What a run asks of a network about clips."""
    with torch.inference_mode():
        if isinstance(net, VideoNet):
            return net.scores(clips).cpu()
        return (net.embed(clips).tokens if hasattr(net, "embed") else torch.sigmoid(net(clips))).cpu()


def inputs(net: torch.nn.Module, n: int, device: str = "cpu") -> Clips:
    """Clips of 340×256 at the network's own rate, or 4 s of sound; the first two of them, over and over."""
    if hasattr(net, "sampling"):
        two = [pictures(net.sampling.n_frames, (256, 340), seed) for seed in range(2)]
        return torch.cat([two[i % 2] for i in range(n)]).to(device)
    random = np.random.default_rng(0)
    sounds = (0.1 * random.standard_normal((2, 4 * net.sample_rate_hz))).astype(np.float32)
    return [sounds[i % 2] for i in range(n)]


def flops(net: torch.nn.Module) -> int:
    """Floating-point operations of the network on one clip; attention as the products that it is made of."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        net(inputs(net, 1)) if isinstance(net, VideoNet) else answer(net, inputs(net, 1))
    return counter.get_total_flops()


def limit(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large product of matrices."""
    n = GPU_SIDE if device.type == "cuda" else CPU_SIDE
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    out = a @ b
    n_times = 20 if device.type == "cuda" else 1
    _wait(device)
    started = time.perf_counter()
    for _ in range(n_times):
        torch.mm(a, b, out=out)
    _wait(device)
    return n_times * 2 * n**3 / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def serve(name: str, way: Way, pipe: Connection) -> None:
    """Tell operations and answers of a network, then run it each time that the other end asks: seconds of wall
    and of CPU a clip, and the limit."""
    logging.set_verbosity_error()
    net, runtime, n = made(name), Runtime.of(way.device, RunConfig(compile=way.compiles)), way.at_once
    pipe.send(flops(net) if not way.is_ours and way.device == "cpu" else 0)
    if way.is_ours:
        keep_memory()
        net = net.accelerate(runtime.device)
        n = settle(net, runtime, n) if isinstance(net, VideoNet) else n
    net = net.to(runtime.device)
    clips = inputs(net, n, way.device)
    found = torch.cat([answer(net, inputs(net, 2, way.device)[i : i + 1]) for i in range(2)])
    if n > 1:
        found = answer(net, clips)[:2]
    pipe.send(found.float().numpy())
    while pipe.recv():
        started, cpu_started = time.perf_counter(), time.process_time()
        answer(net, clips)
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
        most = limit(runtime.device, runtime.dtype) if way.is_ours else None
        pipe.send(Round(wall_s / n, cpu_s / n, most))


def measure(name: str, rounds: int) -> dict[str, object]:
    """Milliseconds a clip of each way, ratios, and how alike their answers are to the library's."""
    ways = ON_CPU | (ON_NVIDIA if torch.cuda.is_available() else {})
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for way, how in ways.items():
        pipes[way], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(name, how, theirs), daemon=True))
        processes[-1].start()
        theirs.close()
    try:
        n_flops = {way: pipe.recv() for way, pipe in pipes.items()}[LIBRARY]
        answers = {way: torch.from_numpy(pipe.recv()) for way, pipe in pipes.items()}
        told: dict[str, list[Round]] = {way: [] for way in ways}
        for _ in range(rounds + 1):
            for way, pipe in pipes.items():
                pipe.send(True)
                told[way].append(pipe.recv())
        for pipe in pipes.values():
            pipe.send(False)
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    # The first round is to warm up.
    return _summary({way: rounds_of[1:] for way, rounds_of in told.items()}, answers, n_flops)


def _summary(
    told: dict[str, list[Round]], answers: dict[str, torch.Tensor], n_flops: int
) -> dict[str, object]:
    medians = {way: statistics.median(r.wall_s for r in rounds) for way, rounds in told.items()}
    cpu = {way: statistics.median(r.cpu_s for r in rounds) for way, rounds in told.items()}
    case: dict[str, object] = {f"{way}_ms": round(1000 * s, 2) for way, s in medians.items()}
    case["ratio"] = round(medians[LIBRARY] / medians[OURS], 2)
    case |= {f"{way}_cpu_ms": round(1000 * cpu[way], 2) for way in ON_CPU}
    case["cpu_ratio"] = round(cpu[LIBRARY] / cpu[OURS], 2)
    case["gflop"] = round(n_flops / 1e9, 1)
    for way, rounds in told.items():
        if way.startswith("gpu") and way != "gpu_eager":
            case[f"{way}_ratio"] = round(medians["gpu_eager"] / medians[way], 2)
        if rounds[0].limit is not None:
            case[f"{way}_tflops"] = round(n_flops / medians[way] / 1e12, 3)
            shares = [n_flops / r.wall_s / r.limit for r in rounds if r.limit]
            case[f"{way}_share"] = round(statistics.median(shares), 3)
        if way != LIBRARY:
            exact, found = answers[LIBRARY], answers[way]
            case[f"{way}_cosine"] = round(float(torch.cosine_similarity(exact, found).min()), 5)
            case[f"{way}_same_first"] = int((exact.argmax(1) == found.argmax(1)).all())
    return case


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
    found = {}
    for name in arguments.families:
        found[name] = measure(name, arguments.rounds)
        print(name, found[name], flush=True)
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    runtimes = {device: Runtime.of(device, RunConfig()) for device in devices}
    limits = {
        device: {
            "dtype": str(runtime.dtype).removeprefix("torch."),
            "tflops": round(max(limit(runtime.device, runtime.dtype) for _ in range(3)) / 1e12, 3),
        }
        for device, runtime in runtimes.items()
    }
    shares = {
        name: {key: v for key, v in case.items() if key.endswith("_share")}
        for name, case in found.items()
    }
    told = {
        "ratio": {name: case["ratio"] for name, case in found.items()},
        "peers": {name: {LIBRARY: round(1000 / case["library_ms"], 2)} for name, case in found.items()},
        "limit": {"product_of_matrices": limits, "share": shares},
        "cases": found,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
