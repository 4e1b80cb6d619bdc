"""Fusion of what is seen and what is heard: `fuse(video_tokens, audio_tokens, present) → tokens`.

    late        each sense is understood alone; a learned gate weighs what the two say
    early       tokens of both senses stand side by side before the first layer
    bottleneck  each sense has its own layers; a few shared tokens carry news between them

All begin best as two models of one sense each (`OneSense`, `start_from`).

`LateFusion` is the weighing without training that bundles use over evidence vectors.
"""

from __future__ import annotations

from pipeline.fusion.alone import OneSense
from pipeline.fusion.base import SENSES, Fusion, FusionSize, Holding, seen
from pipeline.fusion.bottleneck import BottleneckFusion
from pipeline.fusion.early import EarlyFusion
from pipeline.fusion.late import GatedFusion
from pipeline.fusion.start import hold_still, start_from

FUSIONS: dict[str, type[Fusion]] = {
    "late": GatedFusion,
    "early": EarlyFusion,
    "bottleneck": BottleneckFusion,
}

__all__ = [
    "FUSIONS",
    "SENSES",
    "Fusion",
    "FusionSize",
    "Holding",
    "OneSense",
    "hold_still",
    "seen",
    "start_from",
]
