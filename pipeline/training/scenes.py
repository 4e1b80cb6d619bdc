"""Train the scene encoder: clips of composed units find the sentences that describe them.

    python -m pipeline.training.scenes DATA --work DIR [--config configs/train/scenes.yaml] [--out FILE]

DATA holds `text/` (captions of COCO), `esc10/`, `fights/`, `gmdcsa/` and `grid/`. What clips are composed of,
and how, stands in `pipeline.training.scene_pairs`; what is held out, in the recipe. The loss is the symmetric
InfoNCE of clips and sentences with a learned temperature; a clip whose own evidence is missing is to find its
scene's sentence by its neighbours. Resumes from DIR.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.bundles.meaning import TextMeaning
from pipeline.bundles.model import Model
from pipeline.bundles.spec import find_bundle
from pipeline.config import CONFIG_DIR, load_config, read_as
from pipeline.fusion.scene import Clips, SceneEncoder, SceneSize
from pipeline.training.coco import Sentences, read_sentences
from pipeline.training.loop import LoopConfig, fit
from pipeline.training.losses import Contrastive
from pipeline.training.motion import WEIGHTS
from pipeline.training.plain import PEOPLE, Grammar
from pipeline.training.scene_pairs import (
    MOTION_CLAUSES,
    SOUND_CLAUSES,
    Composer,
    Damage,
    Lexicon,
    Script,
    clause_of,
    sentence_of,
)
from pipeline.training.scene_sources import Sources, kinship_of, read_material
from pipeline.training.vectors import embedded

RECIPE = CONFIG_DIR / "train" / "scenes.yaml"
N_WATCHED = 500


class Recipe(BaseModel):
    """All settings of the training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: SceneSize
    sources: Sources
    captions: int = Field(ge=1, description="of COCO that are told as they are")
    composed: int = Field(
        ge=0, description="of them that are told again with a sound, a motion, or both"
    )
    damage: Damage = Damage()
    loop: LoopConfig


class Learner(nn.Module):
    """The encoder and the temperature of its likeness to text."""

    def __init__(self, encoder: SceneEncoder) -> None:
        super().__init__()
        self.encoder, self.contrastive = encoder, Contrastive()

    def forward(self, clips: Clips, vectors: Tensor, ids: Tensor) -> Tensor:
        """The loss of clips and their sentences' vectors (N, TEXT_DIM); those of equal `ids` (N,) are one."""
        return self.contrastive(self.encoder(clips).float(), vectors, ids)


@dataclass(frozen=True)
class Told:
    """Scripts and the vectors of the sentences that tell them."""

    scripts: Sequence[Script]
    vectors: Tensor  # (n, TEXT_DIM)

    def where(self, kept: Sequence[bool]) -> Told:
        """Those that are kept."""
        scripts = [script for script, keep in zip(self.scripts, kept, strict=True) if keep]
        return Told(scripts, self.vectors[torch.tensor(kept)])


class SceneTask:
    """What the encoder learns, for the training loop."""

    def __init__(
        self,
        recipe: Recipe,
        told: Told,
        composer: Composer,
        watched: Told,
        watched_composer: Composer,
        kin: Tensor,
    ) -> None:
        """Args:
        watched: never trained on, staged in footage that is never trained on.
        kin: see `SceneEncoder`.
        """
        self.recipe, self.told, self.composer, self.kin = recipe, told, composer, kin
        self.n_examples = len(told.scripts)
        random = np.random.default_rng(7)
        self.watched_units = watched_composer.units(watched.scripts, recipe.damage, random)
        self.watched_singles = watched_composer.singles(watched.scripts, random)
        self.watched_vectors = watched.vectors.float()

    def make_net(self) -> nn.Module:
        encoder = SceneEncoder(self.recipe.size)
        motion = torch.cat(list(self.composer.material.motions.values()))
        encoder.moves_mean.copy_(motion.mean(0))
        encoder.moves_scale.copy_(motion.std(0).clamp(min=1e-3))
        encoder.kin.copy_(self.kin)
        encoder.typical.data.copy_(F.normalize(self.told.vectors.float().mean(0), dim=-1))
        return Learner(encoder)

    def loss(self, net: nn.Module, indices: Tensor, random: np.random.Generator) -> Tensor:
        scripts = [self.told.scripts[i] for i in indices.tolist()]
        clips, owners = self.composer.units(scripts, self.recipe.damage, random)
        device = next(net.parameters()).device
        vectors = self.told.vectors[indices][owners].float().to(device)
        return net(clips.to(device), vectors, indices[owners].to(device))

    @torch.inference_mode()
    def validate(self, net: nn.Module) -> dict[str, float]:
        """Recall of sentences never trained on."""
        device = next(net.parameters()).device
        clips, owners = self.watched_units
        assert isinstance(net, Learner)  # the task made it
        found = net.encoder(clips.to(device)).float().cpu()
        single = net.encoder(self.watched_singles.to(device)).float().cpu()
        vectors = self.watched_vectors
        ranks = ranks_of(vectors, single)
        # Clips of units search among sentences, since many show one scene.
        own = (found @ vectors.T).gather(1, owners[:, None])
        unit_ranks = ((found @ vectors.T) > own).sum(1)
        measures = {
            "R@1": share(ranks < 1), "R@10": share(ranks < 10), "median": float(ranks.float().median()),
            "units R@1": share(unit_ranks < 1), "units R@10": share(unit_ranks < 10),
        }  # fmt: skip
        return measures | {"score": measures["R@10"] + measures["units R@10"]}


# Cosines from which on a name means a thing, and others may be taken for it too.
_SAME, _LIKE = 0.65, 0.55
_PERSONS = PEOPLE | {"people", "men", "women", "boys", "girls", "children", "kids"}
_HEARD, _BOTH = 0.7, 0.25  # shares of captions told with a sound, and with both
_REAL_SOUNDS = 0.6  # of the sounds; of the others only the name is known
_N_RELATED = 20  # names that a scene may be mistaken for
_MOST_LIKE = 4  # names that a thing may be taken for


def named_things(things: Sequence[str], phrases: Tensor, names: Tensor) -> dict[str, tuple[int, ...]]:
    """What the bundle may take each thing for: its names that mean about the same, the nearest first.

    Args:
        phrases, names: unit vectors of the things, and of the names of the bundle's sight.
    """
    best = (phrases.float() @ names.T).topk(_MOST_LIKE, dim=1)
    return {
        thing: tuple(i for i, cosine in zip(ids, cosines, strict=True) if cosine >= _LIKE)
        if cosines[0] >= _SAME
        else ()
        for thing, ids, cosines in zip(things, best.indices.tolist(), best.values.tolist(), strict=True)
    }


def things_of(sentence: str, grammar: Grammar) -> tuple[list[str], bool]:
    """The things that a caption names, wherever they stand in it, and whether it names a person."""
    things, has_person = [], False
    words = sentence.split()
    for before, word in zip(["", *words], words, strict=False):
        if word in _PERSONS:
            has_person = True
        elif word in grammar.things:
            is_compound = (before, word) in grammar.compounds
            things.append(grammar.named(f"{before} {word}" if is_compound else word))
    return list(dict.fromkeys(things)), has_person


def script_of(
    sentence: str, grammar: Grammar, known: Mapping[str, tuple[int, ...]], related: Sequence[int]
) -> Script:
    """What of a caption may be recognised, and what it may be mistaken for."""
    things, has_person = things_of(sentence, grammar)
    return Script(tuple(known[t] for t in things if known.get(t)), has_person, related)


def lexicon_of(model: Model) -> Lexicon:
    """The names of the bundle's senses."""
    meaning = model.meaning
    assert isinstance(meaning, TextMeaning)  # the embedded bundle fuses text
    assert model.hearing is not None
    likeness = meaning.sight_vectors @ meaning.sight_vectors.T
    likeness.fill_diagonal_(-1)
    names = model.hearing.evidence_names
    phrases = {
        i: model.sound_phrases[name]
        for i, name in enumerate(names)
        if name in model.sound_phrases and name not in model.background
    }
    nearest = likeness.topk(_MOST_LIKE, dim=1).indices.numpy()
    return Lexicon(
        meaning.sight_vectors, meaning.sound_vectors, nearest, phrases, meaning.is_foreground
    )


class Writer:
    """Turns captions into scripts, and tells them again with sounds and motions."""

    def __init__(self, model: Model, sentences: Sentences, work: Path) -> None:
        assert isinstance(model.meaning, TextMeaning)  # the embedded bundle fuses text
        self.grammar = Grammar(sentences.train)
        self.lexicon, self.text, self.work = lexicon_of(model), model.meaning.text, work
        told = [
            *sentences.train,
            *sentences.scored,
            *(s for group in sentences.calibration for s in group),
        ]
        things = sorted({thing for s in told for thing in things_of(s, self.grammar)[0]})
        vectors = embedded(self.text, things, work, "things")
        self.known = named_things(things, vectors, self.lexicon.sight)

    def as_told(self, captions: Sequence[str], name: str) -> Told:
        """Captions as they are."""
        vectors = embedded(self.text, captions, self.work, name)
        return Told(self._scripts(captions, vectors), vectors)

    def with_more(self, captions: Sequence[str], seed: int, name: str) -> Told:
        """Captions with a sound, a motion, or both."""
        random = np.random.default_rng(seed)
        scripts, sentences = [], []
        plain = self.as_told(captions, f"{name}-plain")
        for caption, script in zip(captions, plain.scripts, strict=True):
            sound, motion = _drawn(self.lexicon, random)
            scripts.append(dataclasses.replace(script, sound=sound, motion=motion))
            clauses = clause_of(scripts[-1], self.lexicon, random)
            sentences.append(sentence_of(caption, clauses, random))
        return Told(scripts, embedded(self.text, sentences, self.work, name))

    def _scripts(self, captions: Sequence[str], vectors: Tensor) -> list[Script]:
        near = (vectors.float() @ self.lexicon.sight.T).topk(_N_RELATED, dim=1).indices.tolist()
        return [
            script_of(caption, self.grammar, self.known, tuple(names))
            for caption, names in zip(captions, near, strict=True)
        ]


def _drawn(lexicon: Lexicon, random: np.random.Generator) -> tuple[str | int | None, str | None]:
    """A sound, a motion, or both."""
    which = random.random()
    sound: str | int | None = None
    if which < _HEARD:
        kinds, names = list(SOUND_CLAUSES), list(lexicon.phrases)
        is_real = random.random() < _REAL_SOUNDS
        sound = kinds[random.integers(len(kinds))] if is_real else names[random.integers(len(names))]
    motions = list(MOTION_CLAUSES)
    return sound, motions[random.integers(len(motions))] if which >= _HEARD - _BOTH else None


def joined(a: Told, b: Told) -> Told:
    """Both, one behind the other."""
    return Told([*a.scripts, *b.scripts], torch.cat([a.vectors, b.vectors]))


def make_task(recipe: Recipe, data: Path, work: Path) -> SceneTask:
    """Read everything once."""
    sentences = read_sentences(data)
    learned, scored = read_material(recipe.sources, data, work / "read")
    model = Model(find_bundle("embedded"), load_config())
    writer = Writer(model, sentences, work)
    told = writer.as_told(sentences.train[:: max(1, len(sentences.train) // recipe.captions)], "told")
    told = told.where([bool(script.things) or script.has_person for script in told.scripts])
    again = sentences.train[1 :: max(1, len(sentences.train) // max(1, recipe.composed))]
    told = joined(told, writer.with_more(again[: recipe.composed], recipe.loop.seed, "told-again"))
    watched = [group[0] for group in sentences.calibration][:N_WATCHED]
    people = person_of(model)
    return SceneTask(
        recipe,
        told,
        Composer(learned, writer.lexicon, people),
        writer.as_told(watched, "watched"),
        Composer(scored, writer.lexicon, people),
        kinship_of(learned.stage, recipe.loop.seed),
    )


def person_of(model: Model) -> int:
    """The name of the bundle's sight that means a person."""
    assert model.sight is not None
    return model.sight.evidence_names.index("a person")


def write(net: nn.Module, file: Path) -> str:
    """The encoder's weights in float16, and their sum."""
    assert isinstance(net, Learner)  # the task made it
    weights = {k: v.half().contiguous() for k, v in net.encoder.state_dict().items()}
    save_file(weights, file)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the scene encoder and write its weights.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and what was read")
    parser.add_argument("--config", type=Path, default=RECIPE)
    parser.add_argument(
        "--out", type=Path, default=find_bundle("embedded").directory / "scenes.safetensors"
    )
    args = parser.parse_args()
    recipe = read_as(Recipe, args.config)
    task = make_task(recipe, args.data, args.work)
    fitted = fit(
        task,
        recipe.loop,
        args.work,
        tell=lambda step, found: print(step, json.dumps(found), flush=True),
    )
    motion = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    print(
        f"{args.out}: sha256 {write(fitted.net, args.out)}; it learned features of motion weights {motion}"
    )


def share(right: Tensor) -> float:
    return float(right.float().mean())


def ranks_of(queries: Tensor, found: Tensor) -> Tensor:
    """How many others (n,) lie nearer to each query than its own."""
    likeness = queries @ found.T
    return (likeness > likeness.diag()[:, None]).sum(1)


if __name__ == "__main__":
    main()
