"""What is said: Whisper and wav2vec2 by `transformers`, Whisper by faster-whisper; words with their times."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from pipeline.bundles.families.base import Option
from pipeline.bundles.families.hf import load_model, load_processor, opened_folder, real_place
from pipeline.bundles.spec import BundleError, PartSpec
from pipeline.records import Word

_SAMPLE_RATE_HZ = 16_000
_LEAST_S = 0.1  # less sound than this holds no word
_CHUNK_S = 30.0  # what Whisper hears at once


class _Recognizer:
    """A speech model behind the library's own chunking and alignment."""

    UNUSED: tuple[str, ...] = ()
    sample_rate_hz = _SAMPLE_RATE_HZ

    def __init__(self, part: PartSpec, directory: Path, auto_model: Any, **generate: Any) -> None:
        from transformers import AutoFeatureExtractor, AutoTokenizer, pipeline

        with opened_folder(part, directory) as folder:
            self.net = load_model(auto_model, folder, self.UNUSED)
            extractor = load_processor(AutoFeatureExtractor, folder)
            tokenizer = load_processor(AutoTokenizer, folder)
        self.sample_rate_hz = int(extractor.sampling_rate)
        self.generate = {k: v for k, v in generate.items() if v is not None}
        self.pipeline = pipeline(
            "automatic-speech-recognition",
            model=self.net,
            tokenizer=tokenizer,
            feature_extractor=extractor,
        )

    def to(self, device: torch.device) -> Any:
        self.net.to(device)
        self.pipeline.device = device
        return self

    @torch.inference_mode()
    def transcribe(self, samples: npt.NDArray[np.float32]) -> list[Word]:
        """Words of mono sound at `sample_rate_hz`, in order, with their times in it."""
        if len(samples) < _LEAST_S * self.sample_rate_hz:
            return []
        options: dict[str, Any] = {"generate_kwargs": self.generate} if self.generate else {}
        heard: Any = self.pipeline(
            {"raw": samples, "sampling_rate": self.sample_rate_hz},
            return_timestamps="word",
            chunk_length_s=_CHUNK_S,
            **options,
        )
        length_s = len(samples) / self.sample_rate_hz
        return list(_timed(heard["chunks"], length_s))


def _timed(chunks: Iterable[dict[str, Any]], length_s: float) -> Iterable[Word]:
    """Words that have a start; one whose end the model does not tell ends with the sound."""
    for chunk in chunks:
        start_s, end_s = chunk["timestamp"]
        if chunk["text"].strip() and start_s is not None:
            yield Word(
                chunk["text"].strip(), float(start_s), float(length_s if end_s is None else end_s)
            )


class Whisper(_Recognizer):
    """Whisper (https://arxiv.org/abs/2212.04356); word times from its attention to the sound."""

    OPTIONS: ClassVar[dict[str, Option]] = {"language": (str, None)}

    def __init__(self, part: PartSpec, directory: Path) -> None:
        from transformers import AutoModelForSpeechSeq2Seq

        language = part.options.get("language")
        super().__init__(part, directory, AutoModelForSpeechSeq2Seq, language=language)


class Wav2Vec2(_Recognizer):
    """wav2vec 2.0 with CTC (https://arxiv.org/abs/2006.11477); each letter has its instant."""

    OPTIONS: ClassVar[dict[str, Option]] = {}
    UNUSED = ("wav2vec2.masked_spec_embed",)  # hides sound in training; no published file has it

    def __init__(self, part: PartSpec, directory: Path) -> None:
        from transformers import AutoModelForCTC

        super().__init__(part, directory, AutoModelForCTC)


class FasterWhisper:
    """Whisper by CTranslate2 (the `speech` extra), from a folder, with its own search for speech."""

    OPTIONS: ClassVar[dict[str, Option]] = {
        "language": (str, None),
        "beams": (int, 1),
        "compute_type": (str, None),
    }

    sample_rate_hz = _SAMPLE_RATE_HZ

    def __init__(self, part: PartSpec, directory: Path) -> None:
        import faster_whisper

        self.part, self.directory, self.library = part, directory, faster_whisper
        self.net: Any = None

    def to(self, device: torch.device) -> FasterWhisper:
        """Load where it will run.

        Raises:
            BundleError: the folder is damaged, or the device cannot compute in `compute_type`.
        """
        fastest = "float16" if device.type == "cuda" else "float32"
        kind = str(self.part.options.get("compute_type", fastest))
        with opened_folder(self.part, self.directory) as folder:
            try:
                self.net = self.library.WhisperModel(
                    str(folder), device=device.type, compute_type=kind, local_files_only=True
                )
            except Exception as e:  # a damaged file makes the library fail in any way
                raise BundleError(f"{real_place(folder)}: not loaded: {e}") from e
        return self

    def transcribe(self, samples: npt.NDArray[np.float32]) -> list[Word]:
        """Words of mono sound at 16 kHz, in order, with times and probabilities; none where nobody speaks."""
        if len(samples) < _LEAST_S * self.sample_rate_hz:
            return []
        options = self.part.options
        segments, _ = self.net.transcribe(
            samples,
            language=options.get("language"),
            beam_size=int(options.get("beams", 5)),
            word_timestamps=True,
            vad_filter=True,
            condition_on_previous_text=False,  # one slip must not become the rest of the film
        )
        return glued(
            (word.word, float(word.start), float(word.end), float(word.probability))
            for segment in segments
            for word in segment.words or ()
        )


def glued(parts: Iterable[tuple[str, float, float, float]]) -> list[Word]:
    """Whole words: a part that begins with a hyphen or an apostrophe goes on from the one before."""
    words: list[Word] = []
    for text, start_s, end_s, score in parts:
        if words and text[:1] in ("-", "'", "’"):
            last = words.pop()
            least = score if last.score is None else min(last.score, score)
            words.append(Word(last.word + text.strip(), last.start_s, end_s, least))
        elif text.strip():
            words.append(Word(text.strip(), start_s, end_s, score))
    return words
