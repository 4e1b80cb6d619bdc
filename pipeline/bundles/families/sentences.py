"""The caption decoder that is trained here: a sentence of what was recognised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from safetensors.torch import load_file
from tokenizers import Tokenizer

from pipeline.bundles.families.base import Option
from pipeline.bundles.families.hf import opened_folder
from pipeline.bundles.spec import BundleError, PartSpec
from pipeline.bundles.weights import load_strictly
from pipeline.heads.decoder import CaptionDecoder, CaptionText, DecoderConfig
from pipeline.heads.sentences import SentenceTeller, Sureness


class TextDecoder(SentenceTeller):
    """A folder with `config.json` (sizes), `model.safetensors` (float16) and `tokenizer.json`."""

    OPTIONS: ClassVar[dict[str, Option]] = {
        "beams": (int, 1),
        "slope": (float, None),
        "offset": (float, None),
        "floor": (float, 0),
        "deed_floor": (float, 0),
    }

    def __init__(self, part: PartSpec, directory: Path) -> None:
        absent = sorted(self.OPTIONS.keys() - part.options.keys())
        if absent:
            raise BundleError(f"{part.kind}: option {absent[0]} is missing; expected a number")
        with opened_folder(part, directory) as folder:
            try:
                sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
                text = CaptionText(Tokenizer.from_file(str(folder / "tokenizer.json")))
                tensors = load_file(folder / "model.safetensors")
                net = CaptionDecoder(DecoderConfig(**sizes))
            except Exception as e:  # a damaged file makes the readers fail in any way
                raise BundleError(f"{part.kind}: damaged: {type(e).__name__}: {e}") from e
        if text.n != net.config.vocabulary:
            raise BundleError(
                f"{part.kind}: the tokenizer has {text.n} tokens, the decoder {net.config.vocabulary}"
            )
        load_strictly(net, {name: tensor.float() for name, tensor in tensors.items()}, part.kind)
        told = {name: float(part.options[name]) for name in ("slope", "offset", "floor")}
        super().__init__(net, text, Sureness(**told), int(part.options["beams"]))
        self.deed_floor = float(part.options["deed_floor"])
