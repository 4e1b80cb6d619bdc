"""Families of published models: one small adapter each over the library that owns the family.

A part of a bundle names its family as `kind`. The adapter builds the library's own model, loads the
published file strictly, and keeps the family's own preprocessing. A new family is one class and one line
in `FAMILIES`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from pipeline.bundles.spec import BundleError, PartSpec

_HERE = "pipeline.bundles.families"
# kind → module and class
FAMILIES = {
    "pytorchvideo": "hub3d:HubVideoNet",
    "torchvision": "hub3d:TorchvisionVideoNet",
    "hf_video": "video:HuggingFaceVideoNet",
    "hf_audio": "audio:HuggingFaceAudioNet",
    "clip": "pairs:Clip",
    "siglip": "pairs:Siglip",
    "xclip": "pairs:XClip",
    "clap": "pairs:Clap",
    "hf_caption": "captions:HuggingFaceCaptioner",
    "endpoint": "endpoint:EndpointCaptioner",
    "whisper": "speech:Whisper",
    "wav2vec2": "speech:Wav2Vec2",
    "faster_whisper": "speech:FasterWhisper",
}
PICTURE_KINDS = (
    "efficientnet_lite0",
    "pytorchvideo",
    "torchvision",
    "hf_video",
    "clip",
    "siglip",
    "xclip",
)
SOUND_KINDS = ("yamnet", "hf_audio", "clap")
CAPTION_KINDS = ("hf_caption", "endpoint")
SPEECH_KINDS = ("whisper", "wav2vec2", "faster_whisper")


def load_part(part: PartSpec, directory: Path) -> Any:
    """The family's adapter with its weights loaded.

    Raises:
        BundleError: weights are absent, altered or do not fit, or the family's library is not installed.
    """
    module, _, name = FAMILIES[part.kind].partition(":")
    family = getattr(importlib.import_module(f"{_HERE}.{module}"), name)
    unknown = sorted(set(part.options) - set(family.OPTIONS))
    if unknown:
        known = ", ".join(family.OPTIONS) or "none"
        raise BundleError(f"{part.kind}: unknown option {unknown[0]!r}; it has: {known}")
    try:
        return family(part, directory)
    except ModuleNotFoundError as e:
        raise BundleError(f"{part.kind} needs the package {e.name}, which is not installed") from e
