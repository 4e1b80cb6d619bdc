"""Encoders that share a space with text: CLIP, SigLIP and X-CLIP for pictures, CLAP for sound.

Any vocabulary is a label space to them: a name is put into the family's prompt and compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.bundles.families.audio import pieces
from pipeline.bundles.families.base import Network, Option, Sampling
from pipeline.bundles.families.hf import load_model, load_processor, opened_folder
from pipeline.bundles.spec import PartSpec

_LONGEST_SOUND_S = 10.0  # of what CLAP hears at once; it would cut a longer one at a random place


@dataclass(frozen=True)
class Sights:
    """Clips in the space of the encoder."""

    tokens: Tensor  # (B, D) unit length
    context: Tensor | None = None  # what X-CLIP changes its texts by

    def first(self, n: int) -> Sights:
        """The first `n` clips."""
        return Sights(self.tokens[:n], None if self.context is None else self.context[:n])


class _Pair(Network):
    """What the four have in common: the library's model, and text through it."""

    prompt: str
    nothing: tuple[str, ...] = ()  # texts that fit when no name does, where scores are a softmax
    text_padding: str | bool = True

    def __init__(self, part: PartSpec, directory: Path) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer

        with opened_folder(part, directory) as folder:
            self.net = load_model(AutoModel, folder)
            self.tokenizer = load_processor(AutoTokenizer, folder)
            self._load_preprocessing(folder)
        self.prompt = str(part.options.get("prompt", self.prompt))

    def _load_preprocessing(self, folder: Path) -> None:
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def embed_text(self, texts: list[str]) -> Tensor:
        """Vectors of texts, (n, D); not of unit length, as X-CLIP still adds to them."""
        most = getattr(getattr(self.net.config, "text_config", None), "max_position_embeddings", 77)
        parts = []
        for start in range(0, len(texts), 64):
            tokens = self.tokenizer(
                texts[start : start + 64],
                padding=self.text_padding,
                truncation=True,
                max_length=min(most, self.tokenizer.model_max_length),
                return_tensors="pt",
            ).to(self.device)
            parts.append(_vectors(self.net.get_text_features(**tokens)))
        return torch.cat(parts)

    def logits(self, seen: Sights, texts: Tensor) -> Tensor:
        """The library's scaled similarities, (B, n)."""
        return self.net.logit_scale.exp() * seen.tokens @ nn.functional.normalize(texts, dim=-1).T

    def score(self, seen: Sights, texts: Tensor, nothing: Tensor) -> Tensor:
        """How well each text fits, (B, n) in 0..1: a softmax in which "nothing of these" takes part."""
        logits = self.logits(seen, torch.cat([texts, nothing])).float()
        return logits.softmax(-1)[:, : len(texts)]


class _PicturePair(_Pair):
    """Pictures one by one; a clip is the mean of them."""

    prompt = "a video of {}"
    OPTIONS: ClassVar[dict[str, Option]] = {"prompt": (str, None), "frames": (int, 1)}
    nothing: tuple[str, ...] = ("a video", "a picture of something else", "a blurred picture")

    def __init__(self, part: PartSpec, directory: Path) -> None:
        super().__init__(part, directory)
        self.sampling = Sampling(int(part.options.get("frames", 8)), 0.0, _side(self.processor))

    def _load_preprocessing(self, folder: Path) -> None:
        from transformers import AutoImageProcessor

        self.processor = load_processor(AutoImageProcessor, folder)

    @property
    def dim(self) -> int:
        return int(self.net.config.projection_dim)

    def pixels(self, frames: Tensor) -> Tensor:
        """The checkpoint's own preprocessing: uint8 (B, T, H, W, 3) → (B·T, 3, h, w)."""
        flat = frames.flatten(0, 1).permute(0, 3, 1, 2)
        pixels = self.processor(list(flat), return_tensors="pt")["pixel_values"]
        return pixels.reshape(len(flat), *pixels.shape[-3:]).to(self.device)

    def embed(self, frames: Tensor) -> Sights:
        """Clips, uint8 (B, T, H, W, 3), in the space."""
        pixels = self.pixels(frames)
        with self.casting():
            each = _vectors(self.net.get_image_features(pixel_values=pixels)).float()
        each = nn.functional.normalize(each, dim=-1).unflatten(0, frames.shape[:2])
        return Sights(nn.functional.normalize(each.mean(1), dim=-1))


class Clip(_PicturePair):
    """CLIP (https://arxiv.org/abs/2103.00020)."""


class Siglip(_PicturePair):
    """SigLIP (https://arxiv.org/abs/2303.15343): every text is scored for itself, by a sigmoid."""

    nothing = ()
    text_padding = "max_length"  # as it was trained

    @property
    def dim(self) -> int:
        return int(self.net.config.vision_config.hidden_size)

    def logits(self, seen: Sights, texts: Tensor) -> Tensor:
        return super().logits(seen, texts) + self.net.logit_bias

    def score(self, seen: Sights, texts: Tensor, nothing: Tensor) -> Tensor:  # noqa: ARG002
        return torch.sigmoid(self.logits(seen, texts).float())


class XClip(_PicturePair):
    """X-CLIP (https://arxiv.org/abs/2208.02816): pictures see each other; the video changes the texts."""

    OPTIONS: ClassVar[dict[str, Option]] = {"prompt": (str, None)}

    def __init__(self, part: PartSpec, directory: Path) -> None:
        super().__init__(part, directory)
        self.sampling = Sampling(
            int(self.net.config.vision_config.num_frames), 0.0, _side(self.processor)
        )

    def embed(self, frames: Tensor) -> Sights:
        net, n_clips, n_frames = self.net, *frames.shape[:2]
        pixels = self.pixels(frames)
        with self.casting():
            seen = net.vision_model(pixel_values=pixels)
        seen = (seen[0].float(), seen[1].float())
        each = net.visual_projection(seen[1]).view(n_clips, n_frames, -1)
        video = net.mit(each)[1]
        patches = net.prompts_visual_layernorm(seen[0][:, 1:]) @ net.prompts_visual_projection
        context = patches.view(n_clips, n_frames, -1, video.shape[-1]).mean(1)
        return Sights(nn.functional.normalize(video, dim=-1), context)

    def logits(self, seen: Sights, texts: Tensor) -> Tensor:
        assert seen.context is not None
        each = texts[None].expand(len(seen.tokens), -1, -1)
        told = nn.functional.normalize(each + self.net.prompts_generator(each, seen.context), dim=-1)
        return torch.einsum("bd,bkd->bk", seen.tokens, self.net.logit_scale.exp() * told)


class Clap(_Pair):
    """CLAP (https://arxiv.org/abs/2211.06687): sound and text."""

    OPTIONS: ClassVar[dict[str, Option]] = {"prompt": (str, None)}
    prompt = "the sound of {}"
    nothing = ("a sound", "noise", "silence")

    def __init__(self, part: PartSpec, directory: Path) -> None:
        super().__init__(part, directory)
        self.sample_rate_hz = int(self.extractor.sampling_rate)
        self.dim = int(self.net.config.projection_dim)

    def _load_preprocessing(self, folder: Path) -> None:
        from transformers import AutoFeatureExtractor

        self.extractor = load_processor(AutoFeatureExtractor, folder)

    def embed(self, samples: list[npt.NDArray[np.float32]]) -> Sights:
        """Mono sounds of any lengths in the space; one that is longer than 10 s is the mean of its parts."""
        most = int(_LONGEST_SOUND_S * self.sample_rate_hz)
        parts, counts = pieces(samples, most, self.sample_rate_hz)
        features = self.extractor(parts, sampling_rate=self.sample_rate_hz, return_tensors="pt")
        features = features.to(self.device)
        with self.casting():
            each = _vectors(self.net.get_audio_features(**features)).float()
        each = nn.functional.normalize(each, dim=-1)
        means = torch.stack([part.mean(0) for part in each.split(counts)])
        return Sights(nn.functional.normalize(means, dim=-1))

    def logits(self, seen: Sights, texts: Tensor) -> Tensor:
        return self.net.logit_scale_a.exp() * seen.tokens @ nn.functional.normalize(texts, dim=-1).T


def _vectors(output: Any) -> Tensor:
    """The vectors of the library's answer, which is a record or the vectors themselves by its release."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _side(processor: Any) -> int:
    size = dict(processor.size or {})
    return int(size.get("shortest_edge") or size.get("height") or 224)
