"""What is said: Whisper and wav2vec2 by `transformers`, Whisper by faster-whisper; words with their times."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.bundles.families.hf import folder_of, load_model, load_processor
from pipeline.bundles.spec import BundleError, PartSpec
from pipeline.records import Word

_SAMPLE_RATE_HZ = 16_000
_SAME_WORD_S = 0.5
_CHUNK_S = 30.0  # what Whisper hears at once


class _Recognizer:
    """A speech model behind the library's own chunking and alignment."""

    UNUSED: tuple[str, ...] = ()
    sample_rate_hz = _SAMPLE_RATE_HZ

    def __init__(self, part: PartSpec, directory: Path, auto_model: Any, **generate: Any) -> None:
        from transformers import AutoFeatureExtractor, AutoTokenizer, pipeline

        folder = folder_of(part, directory)
        self.net = load_model(auto_model, folder, self.UNUSED)
        extractor = load_processor(AutoFeatureExtractor, folder)
        self.sample_rate_hz = int(extractor.sampling_rate)
        self.generate = {k: v for k, v in generate.items() if v is not None}
        self.pipeline = pipeline(
            "automatic-speech-recognition",
            model=self.net,
            tokenizer=load_processor(AutoTokenizer, folder),
            feature_extractor=extractor,
        )

    def to(self, device: torch.device) -> Any:
        self.net.to(device)
        self.pipeline.device = device
        return self

    @torch.inference_mode()
    def transcribe(self, samples: npt.NDArray[np.float32]) -> list[Word]:
        """Words of mono sound at `sample_rate_hz`, in order, with their times in it."""
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

    OPTIONS = ("language",)

    def __init__(self, part: PartSpec, directory: Path) -> None:
        from transformers import AutoModelForSpeechSeq2Seq

        language = part.options.get("language")
        super().__init__(part, directory, AutoModelForSpeechSeq2Seq, language=language)


class Wav2Vec2(_Recognizer):
    """wav2vec 2.0 with CTC (https://arxiv.org/abs/2006.11477); each letter has its instant."""

    OPTIONS = ()
    UNUSED = ("wav2vec2.masked_spec_embed",)  # hides sound in training; no published file has it

    def __init__(self, part: PartSpec, directory: Path) -> None:
        from transformers import AutoModelForCTC

        super().__init__(part, directory, AutoModelForCTC)


class FasterWhisper:
    """Whisper by CTranslate2 (the `speech` extra), from a folder, with its own search for speech."""

    OPTIONS = ("language", "beams", "compute_type")

    sample_rate_hz = _SAMPLE_RATE_HZ

    def __init__(self, part: PartSpec, directory: Path) -> None:
        self.part, self.folder = part, folder_of(part, directory)
        self.net = self._open("cpu")

    def _open(self, device: str) -> Any:
        from faster_whisper import WhisperModel

        fastest = "float16" if device == "cuda" else "float32"
        kind = str(self.part.options.get("compute_type", fastest))
        try:
            return WhisperModel(
                str(self.folder), device=device, compute_type=kind, local_files_only=True
            )
        except (RuntimeError, ValueError, OSError) as e:
            raise BundleError(f"{self.folder}: not loaded: {e}") from e

    def to(self, device: torch.device) -> FasterWhisper:
        if device.type == "cuda":
            self.net = self._open("cuda")
        return self

    def transcribe(self, samples: npt.NDArray[np.float32]) -> list[Word]:
        """Words of mono sound at 16 kHz, in order, with times and probabilities; none where nobody speaks."""
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
    """Whole words: a part that does not begin with a space goes on from the one before ("Mm", "-hmm")."""
    words: list[Word] = []
    for text, start_s, end_s, score in parts:
        if words and not text.startswith(" ") and start_s - words[-1].end_s < _SAME_WORD_S:
            last = words.pop()
            words.append(
                Word(last.word + text.strip(), last.start_s, end_s, min(last.score or score, score))
            )
        elif text.strip():
            words.append(Word(text.strip(), start_s, end_s, score))
    return words
