"""Captioners of the Hugging Face hub: GIT, BLIP, BLIP-2 and their like."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.bundles.families.base import Caption, Option, Sampling, frame_places
from pipeline.bundles.families.hf import load_model, load_processor, opened_folder
from pipeline.bundles.spec import PartSpec

# Published files carry the name that the release of their day misspelt; left alone it would stay random.
RENAMED = {"git": {"img_temperal_embedding": "img_temporal_embedding"}}
_MOST_TOKENS = 40


class HuggingFaceCaptioner:
    """A captioner of `transformers`: the middle picture, or several where the checkpoint takes video."""

    OPTIONS: ClassVar[dict[str, Option]] = {
        "prompt": (str, None),
        "max_tokens": (int, 1),
        "beams": (int, 1),
        "batch": (int, 1),
    }

    def __init__(self, part: PartSpec, directory: Path) -> None:
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

        with opened_folder(part, directory) as folder:
            kind = load_processor(AutoConfig, folder).model_type
            self.net = load_model(AutoModelForImageTextToText, folder, key_mapping=RENAMED.get(kind))
            self.processor = load_processor(AutoProcessor, folder)
        self.prompt = str(part.options["prompt"]) if "prompt" in part.options else None
        self.most_tokens = int(part.options.get("max_tokens", _MOST_TOKENS))
        self.n_beams = int(part.options.get("beams", 1))
        self.batch = int(part.options.get("batch", 8))
        n_frames = getattr(self.net.config, "num_image_with_embedding", None) or 1
        self.sampling = Sampling(int(n_frames), 0.0, 224)

    def to(self, device: torch.device) -> HuggingFaceCaptioner:
        self.net.to(device)
        return self

    @torch.inference_mode()
    def caption(self, clips: list[npt.NDArray[np.uint8]]) -> list[Caption]:
        """A sentence on each clip, uint8 (T, H, W, 3), with the mean probability of its words."""
        captions: list[Caption] = []
        for start in range(0, len(clips), self.batch):
            captions += self._say(clips[start : start + self.batch])
        return captions

    def inputs(self, clips: list[npt.NDArray[np.uint8]]) -> dict[str, Tensor]:
        """The checkpoint's own preprocessing of each clip's pictures."""
        n = self.sampling.n_frames
        pictures = []
        for clip in clips:
            places = frame_places(self.sampling, len(clip), 1.0, 1)[0].tolist()
            pictures += [torch.from_numpy(clip[at]).permute(2, 0, 1) for at in places]
        text = {"text": [self.prompt] * len(clips)} if self.prompt is not None else {}
        found = dict(self.processor(images=pictures, return_tensors="pt", **text).to(self.net.device))
        if n > 1:
            pixels = found["pixel_values"]  # a video's processor puts all pictures into one video
            found["pixel_values"] = pixels.reshape(len(clips), n, *pixels.shape[-3:])
        return found

    def _say(self, clips: list[npt.NDArray[np.uint8]]) -> list[Caption]:
        said = self.net.generate(
            **self.inputs(clips),
            max_new_tokens=self.most_tokens,
            num_beams=self.n_beams,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
        texts = self.processor.batch_decode(said.sequences, skip_special_tokens=True)
        return [
            Caption(_sentence(text), score)
            if text.strip()
            else Caption(None, None, "the model said nothing")
            for text, score in zip(texts, self._scores(said), strict=True)
        ]

    def _scores(self, said: object) -> list[float | None]:
        """The geometric mean of the probabilities of the words that were said."""
        speaker = getattr(self.net, "text_decoder", None) or getattr(
            self.net, "language_model", self.net
        )
        logs = speaker.compute_transition_scores(
            said.sequences,  # type: ignore[attr-defined]
            said.scores,  # type: ignore[attr-defined]
            getattr(said, "beam_indices", None),
            normalize_logits=True,
        )
        tokens = said.sequences[:, -logs.shape[1] :]  # type: ignore[attr-defined]
        is_end = torch.isin(tokens, torch.tensor(sorted(self._ends()), device=tokens.device))
        is_said = (
            is_end.cumsum(1) - is_end.long()
        ) == 0  # what fills up a shorter sentence is not of it
        scores = []
        for row, mine in zip(logs.float(), is_said, strict=True):
            words = row[mine & row.isfinite()]
            scores.append(float(words.mean().exp()) if len(words) else None)
        return scores

    def _ends(self) -> set[int]:
        """Tokens that end a sentence; families name them in different places."""
        places = (
            self.net.generation_config,
            self.net.config,
            getattr(self.net.config, "text_config", None),
        )
        found: set[int] = set()
        for place in places:
            for name in ("eos_token_id", "sep_token_id"):
                ids = getattr(place, name, None)
                found |= set(ids if isinstance(ids, list) else [ids]) - {None}
        return found


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
