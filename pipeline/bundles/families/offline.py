"""Captions by a vision-language model that vLLM runs in batches, as a stage of its own behind the encoders.

Here is only what is asked about each clip. `jobs/offline.py` asks, since `ray.data.llm` owns the engine; who
calls the library without Ray has the other columns, and the reason why captions are null.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from pipeline.bundles.families.base import Caption, Option, Sampling
from pipeline.bundles.families.chat import PROMPT, content
from pipeline.bundles.spec import BundleError, PartSpec
from pipeline.records import ClipBatch

_NOT_ASKED = "vllm: captions come from a stage of `reeltable run`, which did not answer"


class OfflineCaptioner:
    """What the model is asked about clips; `captions.model` is its name on the hub, or a folder."""

    OPTIONS: ClassVar[dict[str, Option]] = {
        "base_url": (str, None),
        "model": (str, None),
        "prompt": (str, None),
        "max_tokens": (int, 1),
        "frames": (int, 1),
        "side_px": (int, 16),
        "clips_per_batch": (int, 1),
        "gpus_per_engine": (int, 1),
        "engines": (int, 1),
        "max_model_len": (int, 256),
    }

    def __init__(self, part: PartSpec, directory: Path) -> None:  # noqa: ARG002 (all families are made alike)
        options = part.options
        self.model = str(options.get("model", ""))
        if not self.model:
            raise BundleError("expected captions.model=NAME, on the hub or a folder")
        self.prompt = str(options.get("prompt", PROMPT))
        self.most_tokens = int(options.get("max_tokens", 80))
        self.sampling = Sampling(int(options.get("frames", 4)), 0.0, int(options.get("side_px", 336)))

    def to(self, device: torch.device) -> OfflineCaptioner:  # noqa: ARG002 (the engine chooses its own)
        return self

    def caption(self, clips: list[npt.NDArray[np.uint8]]) -> list[Caption]:
        """Nothing yet, and why."""
        return [Caption(None, None, _NOT_ASKED) for _ in clips]

    def requests(self, batch: ClipBatch) -> list[list[dict[str, object]] | None]:
        """What is asked about each clip, as a chat message's parts; None where it has no picture."""
        return [
            content(frames[valid], self.sampling, self.prompt) if valid.any() else None
            for frames, valid in zip(batch.frames, batch.frame_valid, strict=True)
        ]
