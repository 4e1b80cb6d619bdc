"""Sound classifiers of the Hugging Face hub: the Audio Spectrogram Transformer (AST)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.bundles.families.base import Network, Option
from pipeline.bundles.families.hf import class_names, load_model, load_processor, opened_folder
from pipeline.bundles.spec import PartSpec


def pieces(
    samples: list[npt.NDArray[np.float32]], most: int, rate_hz: int
) -> tuple[list[npt.NDArray[np.float32]], list[int]]:
    """Sounds cut into parts of `most` samples at most, and how many each gave; a shorter one than a tenth of a
    second is filled up with silence, as no spectrogram can be made of less."""
    least = rate_hz // 10
    parts = [x[i : i + most] for x in samples for i in range(0, max(1, len(x)), most)]
    parts = [np.pad(part, (0, max(0, least - len(part)))) for part in parts]
    return parts, [max(1, -(-len(x) // most)) for x in samples]


class HuggingFaceAudioNet(Network):
    """A sound classifier of `transformers`, trained on AudioSet's independent labels."""

    OPTIONS: ClassVar[dict[str, Option]] = {}

    def __init__(self, part: PartSpec, directory: Path) -> None:
        super().__init__()
        from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

        with opened_folder(part, directory) as folder:
            self.net = load_model(AutoModelForAudioClassification, folder)
            self.extractor = load_processor(AutoFeatureExtractor, folder)
        self.names = class_names(self.net)
        self.n_classes = int(self.net.config.num_labels)
        self.sample_rate_hz = int(self.extractor.sampling_rate)
        # The extractor cuts off what is longer than its spectrogram, a column every 10 ms.
        self.most_samples = int(getattr(self.extractor, "max_length", 1024) * self.sample_rate_hz / 100)

    def forward(self, samples: list[npt.NDArray[np.float32]]) -> Tensor:
        """Logits, (B, C), of mono sound at `sample_rate_hz`; of a longer one each class's loudest part."""
        parts, counts = pieces(samples, self.most_samples, self.sample_rate_hz)
        features = self.extractor(parts, sampling_rate=self.sample_rate_hz, return_tensors="pt")
        device = next(self.net.parameters()).device
        with self.casting():
            each = self.net(features["input_values"].to(device)).logits.float()
        return torch.stack([part.amax(0) for part in each.split(counts)])
