"""Video transformers of the Hugging Face hub: VideoMAE, TimeSformer, ViViT, V-JEPA 2."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from pipeline.bundles.families.base import Option, Sampling, VideoNet, cut
from pipeline.bundles.families.hf import class_names, load_model, load_processor, opened_folder
from pipeline.bundles.spec import PartSpec

# Pictures a second, by the stride that each family was fine-tuned with at 30 fps; 0: spread over the clip.
_RATES_HZ = {"videomae": 7.5, "timesformer": 0.0, "vivit": 15.0, "vjepa2": 7.5}


class HuggingFaceVideoNet(VideoNet):
    """A video classifier of `transformers`, with the checkpoint's own preprocessing and class names."""

    OPTIONS: ClassVar[dict[str, Option]] = VideoNet.OPTIONS | {"rate_hz": (float, 0)}

    def __init__(self, part: PartSpec, directory: Path) -> None:
        super().__init__()
        from transformers import AutoModelForVideoClassification, AutoVideoProcessor

        with opened_folder(part, directory) as folder:
            self.net = load_model(AutoModelForVideoClassification, folder)
            self.processor = load_processor(AutoVideoProcessor, folder)
        self.names = class_names(self.net)
        config = self.net.config
        self.n_classes = int(config.num_labels)
        n_frames = getattr(config, "num_frames", None) or config.frames_per_clip
        self.input = "pixel_values_videos" if config.model_type == "vjepa2" else "pixel_values"
        rate_hz = float(part.options.get("rate_hz", _RATES_HZ.get(config.model_type, 0.0)))
        self.sampling = Sampling(n_frames, rate_hz, _short_side(self.processor.size))

    def prepare(self, frames: Tensor, crop: int = 0, n_crops: int = 1) -> Tensor:
        """The checkpoint's own processor; one of several crops is cut out before it."""
        channels_first = frames.permute(0, 1, 4, 2, 3)  # (B, T, 3, H, W)
        if n_crops > 1:
            channels_first = cut(channels_first, min(channels_first.shape[-2:]), crop, n_crops)
        return self.processor(channels_first, return_tensors="pt")[self.input].to(frames.device)

    def forward(self, frames: Tensor, crop: int = 0, n_crops: int = 1) -> Tensor:
        return self.net(**{self.input: self.prepare(frames, crop, n_crops)}).logits


def _short_side(size: object) -> int:
    """The side that a processor scales to, however it says so."""
    values = dict(size or {})  # type: ignore[call-overload]
    found = values.get("shortest_edge") or values.get("height")
    return int(found) if found else 224
