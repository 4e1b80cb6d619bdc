"""What each step of `pipeline.bundles.accelerate` gives, and by how much it moves the answer on real clips.

    make bench-encode-steps

Steps are put on top of each other. Time: median over rounds, all steps taking turns. Answers: over clips of
`../shared/media/clips`, against the library in float32; random weights, as no trained ones are at hand.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from pipeline.bundles.accelerate import (
    Runtime,
    cast_body,
    fold_norms,
    try_compiled,
    use_products,
    work_in_place,
)
from pipeline.bundles.families.base import VideoNet, frame_places
from pipeline.config import RunConfig, load_config
from pipeline.records import Unit
from pipeline.understand import decode
from tests.benchmarks.encode import answer, made

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "media" / "clips"
PER_VIDEO = 2
CPU = torch.device("cpu")
Step = tuple[str, torch.nn.Module, int]  # its name, the network with it, clips at once


def x3d_steps() -> list[Step]:
    net = made("x3d_s")
    steps = [("as its library runs it", copy.deepcopy(net), 1)]
    fold_norms(net.net)
    steps.append(("batch norms folded", copy.deepcopy(net), 1))
    net.net.to(memory_format=torch.channels_last_3d)
    net.layout = torch.channels_last_3d
    steps.append(("channels last", copy.deepcopy(net), 1))
    work_in_place(net.net)
    steps.append(("in place", copy.deepcopy(net), 1))
    runtime = Runtime.of("cpu", RunConfig(compile=True))
    if runtime.dtype == torch.float32:
        use_products(net.net)
        steps.append(("products of matrices", copy.deepcopy(net), 1))
    else:
        net.dtype = cast_body(net.net, ("blocks.5",), runtime.dtype)
        steps.append(("bfloat16, head in float32", copy.deepcopy(net), 1))
    steps.append(("two looks at once", copy.deepcopy(net), 2))
    net.is_accelerated = True
    steps.append(("pictures stay bytes until small", copy.deepcopy(net), 2))
    nothing = torch.zeros(2, 13, 182, 182, 3, dtype=torch.uint8)
    try_compiled(net, "net", runtime, lambda: net.scores(nothing))
    return [*steps, ("compiled", net, 2)]


def other_steps(name: str) -> list[Step]:
    net = made(name)
    fast = copy.deepcopy(net).accelerate(CPU)
    return [("as its library runs it", net, 1), ("accelerated", fast, 1), ("two at once", fast, 2)]


def real_clips(net: torch.nn.Module) -> list[torch.Tensor] | list[np.ndarray]:
    """The first clips of each video as the network would look at them."""
    looks, sounds = [], []
    for path in sorted(CLIPS.glob("*.mp4")):
        rate_hz = getattr(net, "sample_rate_hz", 16_000)
        config = load_config(overrides=["clips.frames_per_clip=32"])
        batch = decode(Unit("", "", str(path), "", 0.0, 4.0 * PER_VIDEO), config, rate_hz).batch
        for i in range(len(batch) if batch is not None else 0):
            if batch.frame_valid[i].all() and isinstance(net, VideoNet):
                places = frame_places(net.sampling, 32, 4.0, 1)[0]
                looks.append(torch.from_numpy(batch.frames[i])[places][None])
            if batch.has_audio[i] and not hasattr(net, "sampling"):
                sounds.append(batch.samples[i])
    return looks or sounds


def measure(steps: list[Step], rounds: int) -> list[dict[str, object]]:
    clips = real_clips(steps[0][1])
    joined: Callable = (lambda x: torch.cat(x)) if isinstance(clips[0], torch.Tensor) else (lambda x: x)
    exact = torch.cat([answer(steps[0][1], joined([clip])) for clip in clips])
    times: dict[str, list[float]] = {name: [] for name, _, _ in steps}
    same = [clip for clip in clips if np.shape(clip) == np.shape(clips[0])]
    for _ in range(rounds):
        for name, net, n in steps:
            given = joined((same * 2)[:n])
            started = time.perf_counter()
            answer(net, given)
            times[name].append(1000 * (time.perf_counter() - started) / n)
    rows = []
    for name, net, n in steps:
        found = torch.cat([answer(net, joined([clip] * n))[:1] for clip in clips])
        top = exact.topk(2, 1).values
        sure = top[:, 0] - top[:, 1] > 0.01
        alike = exact.argmax(1) == found.argmax(1)
        rows.append(
            {
                "step": name,
                "ms": round(statistics.median(times[name]), 1),
                "cosine": round(float(torch.cosine_similarity(exact, found).min()), 5),
                "same_first": round(float(alike.float().mean()), 3),
                "same_first_where_sure": round(float(alike[sure].float().mean()), 3)
                if sure.any()
                else None,
                "n": len(clips),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "families", nargs="*", default=["x3d_s", "slowfast_r50", "swin3d_t", "videomae", "ast"]
    )
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    found = {}
    for name in arguments.families:
        print(name)
        found[name] = measure(x3d_steps() if name == "x3d_s" else other_steps(name), arguments.rounds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
