"""Sound classifiers of the Hugging Face hub: the Audio Spectrogram Transformer (AST)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.bundles.families.hf import class_names, folder_of, load_model, load_processor
from pipeline.bundles.spec import PartSpec


class HuggingFaceAudioNet(nn.Module):
    """A sound classifier of `transformers`, trained on AudioSet's independent labels."""

    OPTIONS = ()

    def __init__(self, part: PartSpec, directory: Path) -> None:
        super().__init__()
        from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

        folder = folder_of(part, directory)
        self.net = load_model(AutoModelForAudioClassification, folder)
        self.extractor = load_processor(AutoFeatureExtractor, folder)
        self.names = class_names(self.net)
        self.sample_rate_hz = int(self.extractor.sampling_rate)

    def forward(self, samples: list[npt.NDArray[np.float32]]) -> Tensor:
        """Logits, (B, C), of mono sound at `sample_rate_hz`."""
        features = self.extractor(samples, sampling_rate=self.sample_rate_hz, return_tensors="pt")
        device = next(self.net.parameters()).device
        return self.net(features["input_values"].to(device)).logits

    def scores(self, samples: list[npt.NDArray[np.float32]]) -> Tensor:
        """Independent class probabilities, (B, C): AudioSet's labels do not exclude each other."""
        return torch.sigmoid(self(samples).float())
