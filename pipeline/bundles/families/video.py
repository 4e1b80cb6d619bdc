"""Video transformers of the Hugging Face hub: VideoMAE, TimeSformer, ViViT, V-JEPA 2."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pipeline.bundles.families.base import Sampling, VideoNet
from pipeline.bundles.families.hf import class_names, folder_of, load_model, load_processor
from pipeline.bundles.spec import PartSpec

# Pictures a second, by the stride that each family was fine-tuned with at 30 fps; 0: spread over the clip.
_RATES_HZ = {"videomae": 7.5, "timesformer": 0.0, "vivit": 15.0, "vjepa2": 7.5}


class HuggingFaceVideoNet(VideoNet):
    """A video classifier of `transformers`, with the checkpoint's own preprocessing and class names."""

    OPTIONS = (*VideoNet.OPTIONS, "rate_hz")

    def __init__(self, part: PartSpec, directory: Path) -> None:
        super().__init__()
        from transformers import AutoModelForVideoClassification, AutoVideoProcessor

        folder = folder_of(part, directory)
        self.net = load_model(AutoModelForVideoClassification, folder)
        self.processor = load_processor(AutoVideoProcessor, folder)
        self.names = class_names(self.net)
        config = self.net.config
        n_frames = getattr(config, "num_frames", None) or config.frames_per_clip
        self.input = "pixel_values_videos" if config.model_type == "vjepa2" else "pixel_values"
        rate_hz = float(part.options.get("rate_hz", _RATES_HZ.get(config.model_type, 0.0)))
        self.sampling = Sampling(n_frames, rate_hz, _short_side(self.processor.size))

    def prepare(self, frames: Tensor) -> Tensor:
        """The checkpoint's own processor."""
        channels_first = frames.permute(0, 1, 4, 2, 3)  # (B, T, 3, H, W)
        return self.processor(channels_first, return_tensors="pt")[self.input].to(frames.device)

    def forward(self, frames: Tensor) -> Tensor:
        return self.net(**{self.input: self.prepare(frames)}).logits


def _short_side(size: object) -> int:
    """The side that a processor scales to, however it says so."""
    values = dict(size)  # type: ignore[call-overload]
    found = values.get("shortest_edge") or values.get("height")
    return int(found) if found else 224
