"""Sentence embeddings for training, computed once and kept in the work folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.encoders.text import SentenceEncoder


def embedded(text: SentenceEncoder, sentences: Sequence[str], work: Path, name: str) -> Tensor:
    """Unit vectors (n, dim) float16 of `sentences`, from `work` where these very sentences were seen before."""
    digest = hashlib.blake2b("\n".join(sentences).encode(), digest_size=8).hexdigest()
    file = work / f"{name}-{digest}.safetensors"
    if not file.is_file():
        work.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        save_file({"vectors": text.encode(sentences).half()}, part)
        os.replace(part, file)
    return load_file(file)["vectors"]
