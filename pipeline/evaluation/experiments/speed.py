"""What the bundle costs: a second of video, and each part of it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from pipeline.bundles.accelerate import accelerate_cnn
from pipeline.bundles.families.sentences import TextDecoder
from pipeline.bundles.model import Model
from pipeline.bundles.spec import BundleSpec
from pipeline.config import load_config
from pipeline.encoders.motion import N_PICTURES, SIZE_PX, levels
from pipeline.encoders.motion_energy import statistics
from pipeline.evaluation.experiments.base import Experiment, Lab
from pipeline.evaluation.experiments.motion import load_motion
from pipeline.evaluation.records import Figure, Measured
from pipeline.media.probe import probe
from pipeline.records import ClipBatch, Unit
from pipeline.sync.align import read_clips


class Speed(Experiment):
    """Decoding, senses and heads over the real clips; the motion network by itself. Medians."""

    kind: Literal["speed"]
    n_rounds: int = Field(3, ge=1, description="over the clips")
    n_windows: int = Field(15, ge=1, description="of motion")
    reads: ClassVar[tuple[str, ...]] = ("clips",)

    def measure(self, lab: Lab) -> Measured:
        """Milliseconds a clip and a window, on this machine."""
        model = Model(lab.bundle, load_config())
        files = [f for f in sorted((lab.media / "clips").iterdir()) if probe(str(f)).video]
        rounds, n_clips = [], 0
        for k in range(self.n_rounds):
            batches, decode_s = _timed(
                lambda: [_batch(f, model.config, model.sample_rate_hz) for f in files]
            )
            n_clips = sum(len(batch) for batch in batches)
            rounds.append({"decode": decode_s} | _encoded(lab, model, batches))
            lab.tell(f"round {k + 1} of {self.n_rounds}")
        took = {name: [1000 * r[name] / n_clips for r in rounds] for name in rounds[0]}
        ms = {name: float(np.median(values)) for name, values in took.items()}
        encode_ms = ms["sense"] + ms["conclude"]
        shown = (
            ("decode", "decoding, a clip of 4 s", ms["decode"]),
            ("sense", "senses, a clip", ms["sense"]),
            ("conclude", "fusion and heads, a clip", ms["conclude"]),
            ("captions", "– of it the caption decoder", ms["captions"]),
        )
        figures = [Figure(key=k, told=t, value=v, unit="ms", n=n_clips) for k, t, v in shown]
        figures.append(
            Figure(
                key="captions_share",
                told="the caption decoder's share of encoding",
                value=ms["captions"] / encode_ms,
                n=n_clips,
            )
        )
        return Measured(
            how=(
                f"{n_clips} clips of {len(files)} videos in this process, without Ray; medians of "
                f"{self.n_rounds} rounds. A motion window is 2 s, two at once; medians of "
                f"{self.n_windows}. On {machine()}."
            ),
            figures=(*figures, *self._motion(lab.bundle)),
        )

    @torch.no_grad()
    def _motion(self, bundle: BundleSpec) -> list[Figure]:
        net = load_motion(bundle)
        accelerate_cnn(net.trunk, (), torch.device("cpu"))
        x = torch.randint(0, 255, (2, N_PICTURES, *SIZE_PX), dtype=torch.uint8)
        return [
            Figure(
                key=key, told=told, value=self._median_ms(work) / len(x), unit="ms", n=self.n_windows
            )
            for key, told, work in (
                ("motion", "motion network, a window", lambda: net(x)),
                ("statistics", "motion statistics, a window", lambda: statistics(levels(x))),
            )
        ]

    def _median_ms(self, work: Callable[[], Any]) -> float:
        work()
        return 1000 * float(np.median([_timed(work)[1] for _ in range(self.n_windows)]))


def _batch(file: Path, config: Any, rate_hz: int) -> ClipBatch:
    return read_clips(Unit("", "", str(file), "", 0.0, 60.0), probe(str(file)), config, rate_hz)[0]


def _encoded(lab: Lab, model: Model, batches: list[ClipBatch]) -> dict[str, float]:
    """Seconds of the senses, of what stands behind them, and of the caption decoder, which begins anew."""
    sense_s = sum(_timed(partial(model.sense, [batch]))[1] for batch in batches)
    told_s = [0.0]
    if model.teller is not None:
        assert lab.bundle.captions is not None
        model.teller = TextDecoder(lab.bundle.captions, lab.bundle.directory)
        tell = model.teller.tell

        def timed_tell(*asked: Any, **named: Any) -> Any:
            found, seconds = _timed(partial(tell, *asked, **named))
            told_s.append(seconds)
            return found

        model.teller.tell = timed_tell  # type: ignore[method-assign]
    all_s = sum(_timed(partial(model.understand, [batch]))[1] for batch in batches)
    return {"sense": sense_s, "conclude": max(0.0, all_s - sense_s), "captions": sum(told_s)}


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    found = work()
    return found, time.perf_counter() - began


def machine() -> str:
    """The processor's name, and how much of it there is."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{os.cpu_count()} cores of {name}, torch with {torch.get_num_threads()} threads"
