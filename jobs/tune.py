"""How many looks, workers and units at once suit this machine, found by trying them on the user's own videos.

One process decodes, one model encodes, each alone; what they cost a second of video says how many of one keep
the other busy. Nothing of it changes a result.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from pipeline.bundles.kinds import is_stateless
from pipeline.bundles.model import Model
from pipeline.bundles.spec import find_bundle
from pipeline.config import Config
from pipeline.media.guard import Guard, Limits
from pipeline.records import ClipBatch, MediaError, Unit
from pipeline.sources import InputError, Listing
from pipeline.transport import unpack

_DECODE = "pipeline.understand:decode_packed"
_TRIED = {"cpu": (1, 2, 4, 8, 16), "cuda": (8, 16, 32, 64, 128, 256)}
_ENOUGH_S = 60.0  # of video
_CHUNKS_PER_CALL = 4  # of looks, so that the filled-up last one is a small share
_MOST_UNITS = 16
_ROUNDS = 3


@dataclass(frozen=True)
class Tuned:
    """What was measured, and what to set."""

    bundle: str
    device: str
    video_s: float  # that was tried
    decode_s_per_video_s: float  # of one process
    encode_s_per_video_s: float  # of one model, with the best number of looks
    encode_cpu_s_per_video_s: float  # processor time of it, all its threads
    looks: dict[int, float]  # at once → seconds a second of video to see it
    reader: str  # of pictures, the faster one
    settings: dict[str, int]  # keys of `run`

    @property
    def rates(self) -> dict[str, float | str]:
        """Keys of `rates`, by which reeltable plan reckons; rounded as a person reads them."""
        names = ("decode_s_per_video_s", "encode_s_per_video_s", "encode_cpu_s_per_video_s")
        measured = {name: float(f"{getattr(self, name):.4g}") for name in names}
        return {"bundle": self.bundle, "device": self.device} | measured


def tune(listing: Listing, config: Config, device: str, tell: Callable[[str], None]) -> Tuned:
    """Measure on the first minute or so of what `listing` names.

    Raises:
        InputError: none of it could be decoded.
        BundleError: the bundle cannot be used.
    """
    spec = find_bundle(config.bundle)
    spec.check_files()
    config = spec.at_its_place(spec.fitted(config))
    tell("decoding")
    batches, video_s, decode_s = _decoded(listing, config, spec.sample_rate_hz)
    reader = config.clips.reader
    if device == "cuda" and reader == "auto":
        tell("decoding on the GPU")
        clips = config.clips.model_copy(update={"reader": "nvdec"})
        there = config.model_copy(update={"clips": clips})
        _, _, gpu_s = _decoded(listing, there, spec.sample_rate_hz)
        if gpu_s < decode_s:
            reader, decode_s = "nvdec", gpu_s
    if device == "cpu" and is_stateless(spec):
        torch.set_num_threads(1)  # as each of the calls that a run's encoder takes at once
    tell(f"loading {spec.name} on {device}")
    model = Model(spec, config, device)
    looks: dict[int, float] = {}
    for n, seconds in _tried(model, batches, tell):
        looks[n] = seconds / video_s
    best = min(looks, key=lambda n: looks[n]) if looks else None
    if best is not None:
        model.sight.chunk = best  # type: ignore[union-attr]
    encode_s, encode_cpu_s = _best_of(lambda: model.understand(batches))
    work_s = (
        encode_s if device == "cuda" else encode_s * torch.get_num_threads()
    )  # of a GPU, or of cores
    settings = _settings(decode_s, work_s, device, best, sum(map(len, batches)) / len(batches))
    return Tuned(
        bundle=spec.name,
        device=device,
        video_s=video_s,
        decode_s_per_video_s=decode_s / video_s,
        encode_s_per_video_s=encode_s / video_s,
        encode_cpu_s_per_video_s=encode_cpu_s / video_s,
        looks=looks,
        reader=reader,
        settings=settings,
    )


def _decoded(listing: Listing, config: Config, rate_hz: int) -> tuple[list[ClipBatch], float, float]:
    """Units of the first videos that can be decoded, their seconds, and the seconds it took."""
    run = config.run
    guard = Guard(_DECODE, Limits(run.decode_deadline_s, run.decode_memory_mb))
    batches: list[ClipBatch] = []
    video_s = decode_s = 0.0
    try:
        for source in listing.sources:
            unit = Unit("", "", source.uri, "", 0.0, min(config.clips.unit_s, _ENOUGH_S / 2))
            try:
                decoded, buffer = guard.call(unit, config, rate_hz)
            except MediaError:
                continue  # a run would write it down; here it is of no use
            if buffer is None:
                continue
            batch = unpack(buffer)
            batches.append(batch)
            video_s += float((batch.end_s - batch.start_s).sum())
            decode_s += decoded.decode_s
            if video_s >= _ENOUGH_S:
                break
    finally:
        guard.close()
    if not batches:
        raise InputError("none of the videos could be decoded; nothing to measure on")
    return batches, video_s, decode_s


def _tried(
    model: Model, batches: list[ClipBatch], tell: Callable[[str], None]
) -> Iterator[tuple[int, float]]:
    """Looks at once, and the seconds to see all; until more at once has been slower twice, or does not fit."""
    sight = model.sight
    if sight is None:
        return
    frames = [model.runtime.upload(batch.frames) for batch in batches]
    best, n_worse = math.inf, 0
    for n in _TRIED[model.device.type]:
        sight.chunk = n
        try:
            seconds, _ = _best_of(lambda: sight.perceive(batches, frames))
        except RuntimeError as e:  # a GPU's memory is full
            tell(f"{n} looks at once: {str(e).partition(chr(10))[0]}")
            return
        tell(f"{n} looks at once: {seconds:.2f} s")
        yield n, seconds
        n_worse = n_worse + 1 if seconds > best else 0
        best = min(best, seconds)
        if n_worse == 2:
            return


def _best_of(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the fastest of some calls, and its processor time."""
    times = []
    for _ in itertools.repeat(None, _ROUNDS):
        started, cpu_started = time.perf_counter(), time.process_time()
        call()
        times.append((time.perf_counter() - started, time.process_time() - cpu_started))
    return min(times)


def _settings(
    decode_s: float, work_s: float, device: str, looks_at_once: int | None, clips_per_unit: float
) -> dict[str, int]:
    n_cpus = len(os.sched_getaffinity(0))
    if device == "cuda":  # as many as keep the GPU busy
        n_decoders = min(n_cpus, math.ceil(decode_s / work_s))
    else:  # both want the CPUs: in proportion to what they need of them
        n_decoders = round(n_cpus * decode_s / (decode_s + work_s))
    settings = {"decode_workers": max(1, n_decoders)}
    if looks_at_once is not None:
        settings["looks_at_once"] = looks_at_once
        units = math.ceil(_CHUNKS_PER_CALL * looks_at_once / max(1.0, clips_per_unit))
        settings["units_per_batch"] = min(_MOST_UNITS, max(2, units))
    return settings
