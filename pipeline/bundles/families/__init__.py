"""Families of published models: one small adapter each over the library that owns the family.

A part of a bundle names its family as `kind`. The adapter builds the library's own model, loads the
published file strictly, and keeps the family's own preprocessing. A new family is one class, one line in
`FAMILIES` and one in `KINDS`; or it comes with an installed package (docs/encoders.md).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.bundles.families.base import Option
from pipeline.bundles.kinds import added_family
from pipeline.bundles.spec import EXTRA_PACKAGES, BundleError, PartSpec

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
    "vllm": "offline:OfflineCaptioner",
    "text_decoder": "sentences:TextDecoder",
    "whisper": "speech:Whisper",
    "wav2vec2": "speech:Wav2Vec2",
    "faster_whisper": "speech:FasterWhisper",
}


def check_options(kind: str, given: Mapping[str, object], known: Mapping[str, Option]) -> None:
    """Raise BundleError for an option that the family does not have, or of another type or range."""
    for name, value in given.items():
        if name not in known:
            there = ", ".join(known) or "none"
            raise BundleError(f"{kind}: unknown option {name!r}; it has: {there}")
        kind_of, least = known[name]
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = (
            is_number and (kind_of is float or isinstance(value, int)) if kind_of is not str else True
        )
        if not fits or (least is not None and is_number and value < least):  # type: ignore[operator]
            expected = (
                "text" if kind_of is str else f"a number of type {kind_of.__name__}, {least:g} or more"
            )
            raise BundleError(f"{kind}: option {name} is {value!r}; expected {expected}")


def _family(kind: str) -> Any:
    """The family's class; a shipped name is that family, whatever is installed."""
    if kind not in FAMILIES:
        return added_family(kind)
    module, _, name = FAMILIES[kind].partition(":")
    return getattr(importlib.import_module(f"{_HERE}.{module}"), name)


def load_part(part: PartSpec, directory: Path) -> Any:
    """The family's adapter with its weights loaded; its kind was checked.

    Raises:
        BundleError: weights are absent, altered or do not fit, or the family's library is not installed.
    """
    family = _family(part.kind)
    check_options(part.kind, part.options, family.OPTIONS)
    try:
        return family(part, directory)
    except ModuleNotFoundError as e:
        package, extra = EXTRA_PACKAGES.get(part.kind, (e.name, e.name))
        raise BundleError(f"{part.kind} needs the package {package}: pip install '{extra}'") from e
