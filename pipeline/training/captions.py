"""Train the caption decoder: a sentence from its own vector, and from the vectors of what it names.

    python -m pipeline.training.captions DATA --work DIR [--config configs/train/captions.yaml] [--out DIR]

DATA holds `text/` (captions of COCO; `pipeline.training.coco` says which are kept apart). An example is
one of two kinds. Either the memory is the whole sentence's vector with noise, and the sentence is to be told
word by word (CapDec, https://arxiv.org/abs/2211.00575); or it is the vectors of a few things and deeds that
the sentence names, some by the names that the bundle gives them, and the plain sentence that says these and
no more is to be told (`pipeline.training.plain`). The second kind is what a bundle asks for. Resumes from DIR.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.bundles.model import load_text
from pipeline.bundles.objects import read_objects
from pipeline.bundles.spec import BundleSpec, find_bundle
from pipeline.bundles.weights import label_space
from pipeline.config import CONFIG_DIR, load_config, read_as
from pipeline.encoders.text import SentenceEncoder
from pipeline.heads.captions import with_article
from pipeline.heads.decoder import BEGIN, END, KINDS, PAD, CaptionDecoder, CaptionText, DecoderConfig
from pipeline.heads.sentences import deed_phrase
from pipeline.training.coco import Sentences, read_sentences
from pipeline.training.loop import LoopConfig, fit
from pipeline.training.plain import Grammar, Names, Part, Plain, retold
from pipeline.training.vectors import embedded

RECIPE = CONFIG_DIR / "train" / "captions.yaml"
WHOLE, THING, DEED = (KINDS.index(kind) for kind in ("sentence", "thing", "deed"))
_PEOPLE = ("a person", "someone in a suit", "a ball player", "a diver")
_ALIKE = (
    0.7  # cosine from which on a thing and a bundle's name mean the same; below it they often do not
)
_N_NEAR = 5  # things that each of the bundle's names stands for in training
_TRIVIAL_SHARE = 0.2  # of captions that name one thing, how many are told plainly
_N_WATCHED = 600


class Recipe(BaseModel):
    """All settings of the training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocabulary: int = Field(ge=300)
    dim: int = Field(ge=8)
    depth: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    max_tokens: int = Field(ge=4)
    whole_share: float = Field(ge=0, le=1)
    whole_noise: float = Field(ge=0)
    thing_noise: float = Field(ge=0)
    loop: LoopConfig

    def sizes(self, vocabulary: int, memory_dim: int) -> DecoderConfig:
        return DecoderConfig(
            vocabulary, memory_dim, self.dim, self.depth, self.num_heads, self.max_tokens
        )


@dataclass(frozen=True)
class Memory:
    """What a batch of sentences is told from."""

    vectors: Tensor  # (B, N, D) unit length
    kinds: Tensor  # (B, N) int64
    present: Tensor  # (B, N) bool


class Phrases:
    """Vectors of all phrases that may stand in a memory."""

    def __init__(self, phrases: Iterable[str], text: SentenceEncoder, work: Path) -> None:
        known = sorted(set(phrases))
        self.vectors = embedded(text, known, work, "phrases").float()
        self.at = {phrase: i for i, phrase in enumerate(known)}

    def __getitem__(self, phrase: str) -> Tensor:
        return self.vectors[self.at[phrase]]


def memory_of(plain: Plain, phrases: Phrases) -> tuple[Tensor, list[int]]:
    """The tokens (N, D) of what would be recognised, and their kinds."""
    told = [*plain.things, *plain.deeds]
    kinds = [THING] * len(plain.things) + [DEED] * len(plain.deeds)
    return torch.stack([phrases[phrase] for phrase in told]), kinds


def padded(rows: Sequence[tuple[Tensor, Sequence[int]]]) -> Memory:
    """Sets of different sizes side by side."""
    longest = max(len(kinds) for _, kinds in rows)
    vectors = torch.zeros(len(rows), longest, rows[0][0].shape[-1])
    kinds = torch.zeros(len(rows), longest, dtype=torch.int64)
    present = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (mine, which) in enumerate(rows):
        vectors[i, : len(which)], present[i, : len(which)] = mine, True
        kinds[i, : len(which)] = torch.tensor(which)
    return Memory(vectors, kinds, present)


class CaptionTask:
    """What the decoder learns, for the training loop."""

    def __init__(
        self,
        recipe: Recipe,
        text: CaptionText,
        sentences: Sentences,
        vectors: Tensor,
        watched_vectors: Tensor,
        grammar: Grammar,
        names: Names,
        phrases: Phrases,
    ) -> None:
        """
        Args:
            vectors: (n, D), of `sentences.train`.
            watched_vectors: (m, D), of the sentences of `sentences.calibration` in their order.
        """
        self.recipe, self.text, self.names, self.phrases = recipe, text, names, phrases
        self.sentences, self.vectors = sentences.train, vectors
        self.parts = [grammar.parse(s) for s in sentences.train]
        self.n_examples = len(self.sentences)
        told = [s for group in sentences.calibration for s in group]
        every = max(1, len(told) // _N_WATCHED)
        self.watched = [(s, grammar.parse(s), v) for s, v in zip(told, watched_vectors, strict=True)][
            ::every
        ]

    def make_net(self) -> nn.Module:
        return CaptionDecoder(self.recipe.sizes(self.text.n, self.vectors.shape[1]))

    def loss(self, net: nn.Module, indices: Tensor, random: np.random.Generator) -> Tensor:
        rows = []
        for i in indices.tolist():
            is_whole = random.random() < self.recipe.whole_share
            is_whole |= len(self.parts[i]) < 2 and random.random() > _TRIVIAL_SHARE
            rows.append(
                self._example(self.sentences[i], self.parts[i], self.vectors[i], is_whole, random)
            )
        return self._loss(net, rows)

    @torch.inference_mode()
    def validate(self, net: nn.Module) -> dict[str, float]:
        """Cross-entropy a token of both kinds on captions that are never trained on."""
        measures = {}
        for name, is_whole in (("whole", True), ("plain", False)):
            random = np.random.default_rng(0)
            rows = [
                self._example(s, p, v, is_whole, random) for s, p, v in self.watched if is_whole or p
            ]
            losses = [self._loss(net, rows[i : i + 100]).item() for i in range(0, len(rows), 100)]
            measures[name] = sum(losses) / len(losses)
        return measures | {"score": -measures["plain"] - measures["whole"]}

    def _example(
        self,
        sentence: str,
        parts: Sequence[Part],
        vector: Tensor,
        is_whole: bool,
        random: np.random.Generator,
    ) -> tuple[Tensor, Sequence[int], str]:
        """A memory (N, D), its kinds, and what is to be told."""
        plain = None if is_whole or not parts else retold(parts, self.names, random)
        if plain is None:
            return _noisy(vector.float()[None], self.recipe.whole_noise, random), [WHOLE], sentence
        memory, kinds = memory_of(plain, self.phrases)
        return _noisy(memory, self.recipe.thing_noise, random), kinds, plain.sentence

    def _loss(self, net: nn.Module, rows: Sequence[tuple[Tensor, Sequence[int], str]]) -> Tensor:
        memory = padded([(vectors, kinds) for vectors, kinds, _ in rows])
        told = self.text.encode([sentence for _, _, sentence in rows])
        longest = self.recipe.max_tokens
        lines = [[BEGIN, *ids, END][: longest + 1] for ids in told]
        tokens = torch.full((len(lines), max(map(len, lines))), PAD)
        for i, line in enumerate(lines):
            tokens[i, : len(line)] = torch.tensor(line)
        device = next(net.parameters()).device
        tokens = tokens.to(device)
        scores = net(
            tokens[:, :-1],
            memory.vectors.to(device),
            memory.kinds.to(device),
            memory.present.to(device),
        )
        return F.cross_entropy(scores.flatten(0, 1).float(), tokens[:, 1:].flatten(), ignore_index=PAD)


def _noisy(vectors: Tensor, most: float, random: np.random.Generator) -> Tensor:
    """Unit vectors near `vectors` (N, D), each moved by up to `most` in any direction."""
    away = torch.from_numpy(random.standard_normal(vectors.shape)).float()
    by = torch.from_numpy(random.uniform(0, most, (len(vectors), 1))).float()
    return F.normalize(vectors + F.normalize(away, dim=-1) * by, dim=-1)


def train_tokenizer(sentences: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE of lower-case text; every word begins with a space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<begin>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


def bundle_names(spec: BundleSpec, grammar: Grammar, things: Sequence[str], phrases: Phrases) -> Names:
    """How the bundle names things and deeds."""
    labels = bundle_things(spec)
    mine = torch.stack([phrases[label] for label in labels])
    alike = torch.stack([phrases[thing] for thing in things]) @ mine.T
    best = alike.max(1)
    near: dict[str, list[str]] = {}
    for label, at in zip(labels, alike.T.topk(_N_NEAR).indices.tolist(), strict=True):
        if label not in _PEOPLE:  # every name has its place somewhere
            for i in at:
                near.setdefault(things[i], []).append(label)
    return Names(
        of={
            thing: labels[at]
            for thing, cosine, at in zip(
                things, best.values.tolist(), best.indices.tolist(), strict=True
            )
            if cosine >= _ALIKE and labels[at] not in _PEOPLE
        },
        near=near,
        people=_PEOPLE,
        actions=bundle_deeds(grammar),
    )


def bundle_things(spec: BundleSpec) -> list[str]:
    """Names of all that the bundle's sight may recognise, as they read in a sentence."""
    classes = label_space("imagenet1k")
    assert spec.objects_file is not None  # the embedded bundle has one
    objects = read_objects(spec.text_file(spec.objects_file), classes)
    rest = (with_article(classes[i].lower()) for i in objects.ungrouped)
    return list(dict.fromkeys([*objects.phrases, *rest]))


def bundle_deeds(grammar: Grammar) -> list[tuple[str, str]]:
    """Each action as a memory holds it and as it is told: "driving car", "driving a car"."""
    names = [line.partition(":")[0].strip() for line in load_config().labels.actions]
    deeds = [deed for deed in map(deed_phrase, names) if deed is not None]
    return [(deed, grammar.told_deed(deed)) for deed in deeds]


def make_task(recipe: Recipe, data: Path, work: Path) -> CaptionTask:
    """Read the captions, train the tokenizer, embed everything once."""
    sentences = read_sentences(data)
    spec = find_bundle("embedded")
    assert spec.text is not None  # the embedded bundle has one
    encoder = load_text(spec, spec.text, torch.device("cpu"))
    grammar = Grammar(sentences.train)
    calibration = [s for group in sentences.calibration for s in group]
    parsed = [grammar.parse(s) for s in (*sentences.train, *calibration)]
    things = sorted({part.thing for parts in parsed for part in parts if part.thing})
    labels = bundle_things(spec)
    deeds = {part.deed for parts in parsed for part in parts}
    done_to = {(part.deed, part.thing) for parts in parsed for part in parts if part.to_it}
    combined = {f"{deed} {thing}" for deed, thing in done_to}
    phrases = Phrases(
        {*things, *labels, *deeds, *combined, *_PEOPLE, *(deed for deed, _ in bundle_deeds(grammar))}
        - {""},
        encoder,
        work,
    )
    names = bundle_names(spec, grammar, things, phrases)
    file = work / "tokenizer.json"
    if not file.is_file():
        told = [deed for _, deed in names.actions]
        train_tokenizer([*sentences.train, *labels * 5, *told * 5], recipe.vocabulary).save(str(file))
    return CaptionTask(
        recipe,
        CaptionText(Tokenizer.from_file(str(file))),
        sentences,
        embedded(encoder, sentences.train, work, "train"),
        embedded(encoder, calibration, work, "calibration"),
        grammar,
        names,
        phrases,
    )


def write(net: CaptionDecoder, text: CaptionText, out: Path) -> None:
    """The decoder's folder: sizes, weights in float16, tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    sizes = json.dumps(dataclasses.asdict(net.config), indent=1)
    (out / "config.json").write_text(sizes + "\n", encoding="utf-8")
    save_file(
        {k: v.half().contiguous() for k, v in net.state_dict().items()}, out / "model.safetensors"
    )
    text.tokenizer.save(str(out / "tokenizer.json"), pretty=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the caption decoder and write its weights.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and embeddings")
    parser.add_argument("--config", type=Path, default=RECIPE)
    parser.add_argument("--out", type=Path, default=find_bundle("embedded").directory / "captions")
    args = parser.parse_args()
    recipe = read_as(Recipe, args.config)
    task = make_task(recipe, args.data, args.work)
    fitted = fit(
        task,
        recipe.loop,
        args.work,
        tell=lambda step, found: print(step, json.dumps(found), flush=True),
    )
    assert isinstance(fitted.net, CaptionDecoder)  # the task made it
    write(fitted.net, task.text, args.out)


if __name__ == "__main__":
    main()
