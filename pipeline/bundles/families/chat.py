"""What a vision-language model is asked about a clip, however it is reached; its answer, tidied."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt

from pipeline.bundles.families.base import Sampling, frame_places

PROMPT = "These pictures are from one short video clip, in order. Say in one sentence what happens."
_MOST_CHARACTERS = 1_000
_MOST_OF_A_PROBLEM = 200
_JPEG_QUALITY = 85


def content(clip: npt.NDArray[np.uint8], sampling: Sampling, prompt: str) -> list[dict[str, object]]:
    """A chat message's parts: the prompt, then the clip's pictures, uint8 (T, H, W, 3), in order."""
    places = frame_places(sampling, len(clip), 1.0, 1)[0].tolist()
    pictures = [_jpeg(clip[at], sampling.side_px) for at in dict.fromkeys(places)]
    parts: list[dict[str, object]] = [{"type": "text", "text": prompt}]
    return parts + [{"type": "image_url", "image_url": {"url": url}} for url in pictures]


def sentence(text: str) -> str:
    """What a model says, on one line and of a length that a table may hold."""
    return " ".join(text.split())[:_MOST_CHARACTERS]


def short(text: str) -> str:
    """The beginning of a complaint, on one line."""
    return " ".join(text.split())[:_MOST_OF_A_PROBLEM]


def _jpeg(picture: npt.NDArray[np.uint8], side_px: int) -> str:
    from PIL import Image

    image = Image.fromarray(picture)
    scale = side_px / min(image.size)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
