"""What the scene encoder is worth against the evidence alone: on composed scenes that training never saw, on
held-out sounds and motion, and on real clips."""

from __future__ import annotations

import csv
import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from pipeline.bundles.model import Model
from pipeline.bundles.scene import Scenes
from pipeline.bundles.spec import BundleError
from pipeline.config import load_config, read_as
from pipeline.encoders.text import SentenceEncoder
from pipeline.evaluation.experiments.base import Experiment, Lab
from pipeline.evaluation.experiments.speed import machine
from pipeline.evaluation.records import Figure, Measured, Table, percent, share
from pipeline.fusion.late import LateFusion
from pipeline.fusion.scene import N_NAMES, Clips, SceneEncoder
from pipeline.heads.actions import mixed_evidence
from pipeline.media.probe import probe
from pipeline.metrics.classify import average_precision
from pipeline.metrics.intervals import bootstrap
from pipeline.metrics.retrieval import places
from pipeline.records import Unit
from pipeline.sync.align import read_clips
from pipeline.training.coco import read_sentences
from pipeline.training.scene_pairs import (
    MOTION_CLAUSES,
    SOUND_CLAUSES,
    Composer,
    Damage,
    Material,
    Recognised,
    Script,
    clause_of,
    sentence_of,
)
from pipeline.training.scene_sources import read_material
from pipeline.training.scenes import RECIPE, Recipe, Told, Writer, person_of

Array = npt.NDArray[Any]
Embed = Callable[[Clips], Tensor]  # vectors (N, D) of N clips, of unit length or zero
_IS_EVIDENCE = 0.2  # from here on `mixed_evidence` counts a name
_FEWEST_SCENES = 5  # of a name that is asked for
_UNIT = 15  # clips of 4 s: a unit of a minute


class SceneVectors(Experiment):
    """Vectors of clips by the scene encoder beside those of the evidence alone, which it begins from."""

    kind: Literal["scenes"]
    recipe: Path = Field(RECIPE, description="how the encoder is trained, and what is held out")
    work: Path = Field(
        Path("checkpoints/scenes"), description="of the training: keeps what was read of the data"
    )
    n_scenes: int = Field(2000, ge=1, description="held-out sentences, a scene each")
    n_told_more: int = Field(500, ge=1, description="of them told with a sound, a motion, or both")
    n_in_units: int = Field(600, ge=1, description="of them in units of several clips")
    n_rounds: int = Field(10, ge=1, description="over a unit, for its time")
    seed: int = Field(11, ge=0, description="of the composing")
    reads: ClassVar[tuple[str, ...]] = ("coco", "esc10", "fights", "gmdcsa", "grid", "clips")

    @torch.no_grad()
    def measure(self, lab: Lab) -> Measured:
        """Figures of the trained encoder, and a table of both ways."""
        model, scenes = load_scenes(lab)
        recipe = read_as(Recipe, self.recipe)
        lab.tell("captions and footage are read")
        held = self._held_out(lab, model, recipe)
        lab.tell(f"{len(held.told.scripts)} scenes are composed")
        questions = self._questions(held, recipe.damage)
        lab.tell(f"{len(questions)} questions are put to both ways")
        evidence = [f for question in questions for f in question.figures(evidence_alone)]
        trained = [f for question in questions for f in question.figures(scenes.net)]
        lab.tell("real clips are looked for")
        real = read_real(lab.media, model, scenes)
        evidence.append(mean_reciprocal(real.evidence))
        trained.append(mean_reciprocal(real.trained))
        took = self._took(scenes.net, held.singles)
        return Measured(
            how=_how(held, recipe, len(real.files)),
            figures=(*trained, took),
            tables=(side_by_side(evidence, trained, took), real.table()),
        )

    def _held_out(self, lab: Lab, model: Model, recipe: Recipe) -> HeldOut:
        _, material = read_material(recipe.sources, lab.data, self.work / "read")
        sentences = read_sentences(lab.data)
        writer = Writer(model, sentences, self.work)
        told = writer.as_told(sentences.scored, "scored")
        told = Told(told.scripts[: self.n_scenes], told.vectors[: self.n_scenes].float())
        composer = Composer(material, writer.lexicon, person_of(model))
        singles = composer.singles(told.scripts, np.random.default_rng(self.seed))
        return HeldOut(material, writer, composer, sentences.scored[: self.n_scenes], told, singles)

    def _questions(self, held: HeldOut, damage: Damage) -> list[Question]:
        return [
            Search("scenes", "held-out scenes", held.singles, held.told.vectors),
            *held.told_more(self.n_told_more, np.random.default_rng(self.seed + 1)),
            *held.in_units(self.n_in_units, damage, np.random.default_rng(self.seed + 2)),
            held.names(),
            held.sounds(),
            held.motions(),
        ]

    def _took(self, net: SceneEncoder, singles: Clips) -> Figure:
        """Of a unit of a minute; the median."""
        unit = singles.part(0, _UNIT)
        unit = dataclasses.replace(unit, unit=torch.zeros_like(unit.unit))
        net(unit)
        took_s = []
        for _ in range(self.n_rounds):
            began = time.perf_counter()
            net(unit)
            took_s.append(time.perf_counter() - began)
        ms = 1000 * float(np.median(took_s)) / len(unit.unit)
        told = f"the encoder, a clip, in a unit of {len(unit.unit)}"
        return Figure(key="ms", told=told, value=ms, unit="ms", digits=2, n=self.n_rounds)


def load_scenes(lab: Lab) -> tuple[Model, Scenes]:
    """The bundle, and its scene encoder.

    Raises:
        BundleError: it has none, or its weights are altered or do not fit.
    """
    if lab.bundle.scene is None:
        raise BundleError(f"{lab.bundle.name}: expected a scene encoder (make train-scenes)")
    model = Model(lab.bundle, load_config())
    assert model.scenes is not None  # the spec has it
    return model, model.scenes


class Question(Protocol):
    """What is asked of vectors, whichever way they were made."""

    def figures(self, embed: Embed) -> list[Figure]:
        """How well they answer."""


@dataclass(frozen=True)
class Search:
    """Sentences look for their clips, or clips for their sentence."""

    key: str
    told: str
    clips: Clips
    sentences: Tensor  # (Q, D) unit vectors
    owners: Tensor | None = None  # (N,) the sentence of each clip; None: sentence i looks for clip i
    asked: Tensor | None = None  # (N,) bool, which clips look; goes with `owners`

    def figures(self, embed: Embed) -> list[Figure]:
        """R@1, 5, 10 and the median place."""
        vectors = embed(self.clips)
        if self.owners is None or self.asked is None:
            return retrieval(self.key, self.told, self.sentences, vectors)
        mine, right = vectors[self.asked], self.owners[self.asked]
        return retrieval(self.key, self.told, mine, self.sentences, right)


@dataclass(frozen=True)
class Names:
    """Names look for the scenes that have them."""

    clips: Clips
    vectors: Mapping[int, Tensor]  # (D,) of each name
    scenes: Mapping[int, Sequence[int]]  # of each name, clips that are of its scenes

    def figures(self, embed: Embed) -> list[Figure]:
        """The mean of the names' average precisions, with a bootstrap interval over names."""
        found, at = embed(self.clips), np.arange(len(self.clips.unit))
        each = np.array(
            [
                average_precision((found @ self.vectors[name]).numpy(), np.isin(at, scenes))
                for name, scenes in self.scenes.items()
            ]
        )
        return [_mean("names_map", "names of things as queries: mean average precision", each, "%")]


@dataclass(frozen=True)
class ToldApart:
    """Clips of which each is of one of C classes that have a text."""

    key: str
    told: str
    clips: Clips
    texts: Tensor  # (C, D) unit vectors
    truth: Tensor  # (N,) classes

    def figures(self, embed: Embed) -> list[Figure]:
        """The share whose own text is nearest; where others are as near it is not."""
        place = places((embed(self.clips) @ self.texts.T).numpy(), self.truth.numpy())
        return [share(self.key, self.told, place == 1)]


@dataclass(frozen=True)
class HeldOut:
    """Scenes that training never saw, and what they are composed of."""

    material: Material
    writer: Writer
    composer: Composer
    captions: Sequence[str]
    told: Told  # those captions, as they are
    singles: Clips  # one of each scene, alone in its unit

    def told_more(self, n: int, random: np.random.Generator) -> list[Search]:
        """The first `n` scenes with a sentence that tells a sound, a motion, or both; of the last also what
        is left with a sense removed."""
        sound = self._told_with("told_sound", "told with a sound", n, (True, False), random)
        motion = self._told_with("told_motion", "told with a motion", n, (False, True), random)
        both = self._told_with("told_both", "told with both", n, (True, True), random)
        less = {
            "sound": without(both.clips, 1),
            "motion": without_motion(both.clips),
            "picture": without(both.clips, 0),
        }
        removed = [
            dataclasses.replace(both, key=f"{both.key}_no_{x}", told=f"– {x} removed", clips=clips)
            for x, clips in less.items()
        ]
        return [sound, motion, both, *removed]

    def _told_with(
        self, key: str, told: str, n: int, more: tuple[bool, bool], random: np.random.Generator
    ) -> Search:
        """`more`: whether a sound is told, whether a motion."""
        scripts = [_with_more(script, *more, random) for script in self.told.scripts[:n]]
        sentences = [
            sentence_of(caption, clause_of(script, self.writer.lexicon, random), random)
            for caption, script in zip(self.captions[:n], scripts, strict=True)
        ]
        vectors = self.writer.text.encode(sentences)
        return Search(key, told, self.composer.singles(scripts, random), vectors)

    def in_units(self, n: int, damage: Damage, random: np.random.Generator) -> list[Search]:
        """Clips of the first `n` scenes look for their sentence: those that show nothing of their scene, and
        the others; in their unit, and alone."""
        scripts = self.told.scripts[:n]
        clips, owners = self.composer.units(scripts, damage, random)
        shown = shows(clips, owners, scripts, self.writer.lexicon.sight, people=self.composer.people)
        return [
            Search(f"{what}_{where}", f"{told}, {place}", mine, self.told.vectors[:n], owners, asked)
            for what, told, asked in (
                ("hidden", "a clip that shows nothing of its scene", ~shown),
                ("shown", "a clip that shows some of it", shown),
            )
            for where, place, mine in (
                ("in_unit", "in its unit", clips),
                ("alone", "alone", alone(clips)),
            )
        ]

    def names(self) -> Names:
        """Names that some scenes have; a scene has the name nearest to each thing in its sentence."""
        scenes: dict[int, set[int]] = {}
        for i, script in enumerate(self.told.scripts):
            for thing in script.things:
                scenes.setdefault(thing[0], set()).add(i)
        asked = {name: sorted(of) for name, of in scenes.items() if len(of) >= _FEWEST_SCENES}
        return Names(self.singles, {name: self.writer.lexicon.sight[name] for name in asked}, asked)

    def sounds(self) -> ToldApart:
        """Real sounds, told by the clauses of their class."""
        counted = self.writer.lexicon.counted
        rows = [
            (k, {"heard": heard(self.material.sounds[kind], i, counted)})
            for k, kind in enumerate(SOUND_CLAUSES)
            for i in range(len(self.material.sounds[kind].ids))
        ]
        told = f"held-out sounds, {len(SOUND_CLAUSES)} classes: right"
        return self._told_apart("sounds_right", told, rows, SOUND_CLAUSES)

    def motions(self) -> ToldApart:
        """Windows of rendered motion, told by the clauses of their class."""
        rows = [
            (k, {"motion": [window]})
            for k, kind in enumerate(MOTION_CLAUSES)
            for window in self.material.motions[kind]
        ]
        told = f"rendered motion, {len(MOTION_CLAUSES)} classes: right"
        return self._told_apart("motions_right", told, rows, MOTION_CLAUSES)

    def _told_apart(
        self,
        key: str,
        told: str,
        rows: Sequence[tuple[int, dict[str, Any]]],
        clauses: Mapping[str, Sequence[str]],
    ) -> ToldApart:
        """Rows with their class: each a clip that has nothing but what it holds."""
        looks = torch.zeros_like(self.material.stage.looks[0])
        blank: dict[str, Any] = {
            "seen": ([], []), "motion": [], "heard": ([], []), "looks": looks, "middle_s": 2.0, "shot": 0,
        }  # fmt: skip
        whole = []
        for unit, (_, row) in enumerate(rows):
            mine = blank | row
            present = (bool(mine["motion"]), bool(mine["heard"][0]))
            whole.append(mine | {"present": present, "unit": unit})
        truth = torch.tensor([k for k, _ in rows])
        texts = texts_of(clauses, self.writer.text)
        return ToldApart(key, told, self.composer.collated(whole), texts, truth)


def _with_more(script: Script, hears: bool, moves: bool, random: np.random.Generator) -> Script:
    """The same scene with a sound and a motion drawn by chance, where it is to have them."""
    sound = str(random.choice(list(SOUND_CLAUSES))) if hears else None
    motion = str(random.choice(list(MOTION_CLAUSES))) if moves else None
    return dataclasses.replace(script, sound=sound, motion=motion)


def heard(of: Recognised, i: int, counted: Tensor) -> tuple[list[int], list[float]]:
    """Names and scores of the surest sounds of clip `i`, of those that are evidence (`counted` (S,) bool)."""
    named = zip(of.ids[i].tolist(), of.scores[i].tolist(), strict=True)
    best = [(name, score) for name, score in named if counted[name]][:N_NAMES]
    return [name for name, _ in best], [score for _, score in best]


def texts_of(clauses: Mapping[str, Sequence[str]], text: SentenceEncoder) -> Tensor:
    """Unit vectors (C, D): of each class the mean of its clauses."""
    means = [text.encode(list(told)).mean(0) for told in clauses.values()]
    return F.normalize(torch.stack(means), dim=-1)


def evidence_alone(clips: Clips) -> Tensor:
    """What clips have for vectors (N, D) without the encoder."""
    return clips.evidence


def without(clips: Clips, sense: int) -> Clips:
    """The same clips with a sense (0 video, 1 audio) removed, from their evidence too."""
    present = clips.present.clone()
    present[:, sense] = False
    seen, heard = clips.seen, clips.heard
    video = mixed_evidence(seen.sure * seen.valid * present[:, :1], seen.values)
    audio = mixed_evidence(heard.sure * heard.valid * present[:, 1:], heard.values)
    looks = clips.looks * present[:, :1]
    evidence = LateFusion()(video, audio, present)
    return dataclasses.replace(clips, present=present, evidence=evidence, looks=looks)


def without_motion(clips: Clips) -> Clips:
    """The same clips with no window of motion; evidence has nothing of it."""
    hidden = torch.zeros_like(clips.moves.valid)
    return dataclasses.replace(clips, moves=dataclasses.replace(clips.moves, valid=hidden))


def alone(clips: Clips) -> Clips:
    """Each clip in a unit of its own."""
    return dataclasses.replace(clips, unit=torch.arange(len(clips.unit)))


def shows(
    clips: Clips, owners: Tensor, scripts: Sequence[Script], sight: Tensor, *, people: int
) -> Tensor:
    """Which clips (N,) have evidence by sight of something that their script names.

    Args:
        owners: (N,) the script of each clip.
        sight: (E, D) the names' vectors.
        people: the name that means a person.
    """
    named = (clips.seen.values @ sight.T).argmax(-1)  # (N, K)
    counts = clips.seen.valid & (clips.seen.sure >= _IS_EVIDENCE) & clips.present[:, :1]
    found = []
    for names, count, k in zip(named, counts, owners.tolist(), strict=True):
        true = {name for thing in scripts[k].things for name in thing}
        true |= {people} if scripts[k].has_person else set()
        found.append(not true.isdisjoint(names[count].tolist()))
    return torch.tensor(found)


def retrieval(
    key: str, told: str, queries: Tensor, found: Tensor, right: Tensor | None = None
) -> list[Figure]:
    """R@1, 5 and 10 with Wilson's intervals, and the median place with a bootstrap's.

    Args:
        queries: (Q, D).
        found: (M, D).
        right: (Q,) which of `found` is meant; None: the i-th query means the i-th.
    """
    place = places((queries @ found.T).numpy(), None if right is None else right.numpy())
    low, high = bootstrap(lambda at: float(np.median(place[at])), len(place))
    median = Figure(
        key=f"{key}_median",
        told=f"{told}: median place",
        value=float(np.median(place)),
        unit="",
        low=low,
        high=high,
        n=len(place),
    )
    shares = [share(f"{key}_r{k}", f"{told}: R@{k}", place <= k) for k in (1, 5, 10)]
    return [*shares, median]


def _mean(key: str, told: str, values: Array, unit: Literal["%", ""]) -> Figure:
    """Of values (n,), with a bootstrap interval."""
    low, high = bootstrap(lambda at: float(values[at].mean()), len(values))
    mean, digits = float(values.mean()), 1 if unit == "%" else 2
    return Figure(
        key=key, told=told, value=mean, unit=unit, low=low, high=high, n=len(values), digits=digits
    )


def side_by_side(evidence: Sequence[Figure], trained: Sequence[Figure], took: Figure) -> Table:
    """Both ways with their intervals; evidence alone takes none of the encoder's time."""
    rows = [(a.told, _cell(a), _cell(b), f"{a.n:,}") for a, b in zip(evidence, trained, strict=True)]
    return Table(
        title="Evidence alone and the trained encoder, with 95 % intervals",
        columns=("measured", "evidence alone", "trained", "n"),
        rows=(*rows, (took.told, "–", _cell(took), f"{took.n:,}")),
    )


def _cell(figure: Figure) -> str:
    return f"{figure.shown} ({figure.interval})" if figure.interval else figure.shown


@dataclass(frozen=True)
class Real:
    """Real clips that were looked for by what is told of them, each among all."""

    files: Sequence[str]
    told: Sequence[str]
    evidence: npt.NDArray[np.int64]  # (n,) places
    trained: npt.NDArray[np.int64]  # (n,) places

    def table(self) -> Table:
        """A row a file, none left out."""
        rows = zip(self.files, self.told, self.evidence, self.trained, strict=True)
        return Table(
            title="Real clips, the place of each for what is told of it",
            columns=("file", "told", "evidence alone", "trained"),
            rows=tuple((file, told, str(a), str(b)) for file, told, a, b in rows),
        )


def mean_reciprocal(place: npt.NDArray[np.int64]) -> Figure:
    """Of the places (n,) that one way gave real clips."""
    told = f"real clips, each among {len(place)}: mean reciprocal place"
    return _mean("real_mrr", told, 1 / place, "")


def read_real(media: Path, model: Model, scenes: Scenes) -> Real:
    """Every clip of `media` that something is told of; a file is as near as its nearest clip."""
    told = read_observed(media / "manifest.csv")
    queries = model.meaning.embed_text([sentence for _, sentence in told])
    near = [_nearness(media / file, model, scenes, queries) for file, _ in told]
    evidence, trained = (places(torch.stack(way, 1).numpy()) for way in zip(*near, strict=True))
    return Real([Path(f).name for f, _ in told], [s for _, s in told], evidence, trained)


def _nearness(file: Path, model: Model, scenes: Scenes, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Of each query (Q,) to the file's nearest clip, by the evidence alone and as a run embeds clips."""
    unit = Unit("", "", str(file), "", 0.0, None)
    batch, _ = read_clips(unit, probe(str(file)), model.config, model.sample_rate_hz)
    senses = model.sense([batch])
    present = torch.from_numpy(np.stack([batch.has_video, batch.has_audio], axis=1))
    evidence, _ = model.meaning.fuse(senses.seen, senses.heard, present)
    trained = scenes.embed([batch], senses, present, evidence)
    return (queries @ evidence.T).amax(1), (queries @ trained.T).amax(1)


def read_observed(manifest: Path) -> list[tuple[str, str]]:
    """Files of real clips and what they show; none of GRID, whose sentence tells what is said."""
    with manifest.open(encoding="utf-8", newline="") as lines:
        rows = [(row["file"], observed(row["label"])) for row in csv.DictReader(lines)]
    return [
        (file, told)
        for file, told in rows
        if file.startswith("clips/") and not file.startswith("clips/grid_") and told
    ]


_NOTE = re.compile(r"\([^)]*\)|\bCAPTION:|, [\d.]+ s$")


def observed(label: str) -> str:
    """What a manifest's label tells of a clip, without its notes: "(observed) a man, 122 s" → "a man"."""
    return " ".join(_NOTE.sub(" ", label.strip()).split()).strip(" ;,")


def _how(held: HeldOut, recipe: Recipe, n_real: int) -> str:
    """How the scenes are composed, and what is asked of them."""
    stage, sources, damage = held.material.stage, recipe.sources, recipe.damage
    n_sounds = sum(len(of.ids) for of in held.material.sounds.values())
    n_motions = sum(len(of) for of in held.material.motions.values())
    return (
        f"{len(held.captions):,} sentences of coco_val2017 that were never trained on, nor their near "
        "duplicates. There is little video with sentences, so their scenes are composed, by the rules "
        "that training composes by, of material that it never saw. What a sentence names is recognised "
        "as the bundle recognises things: by the bundle's names, some of it not at all, some as "
        f"something like it. Beside it stands what the pictures of {len(stage.videos)} real videos (fold "
        f"{sources.held_out_fold} of fights, {', '.join(sources.held_out)}) are taken for, under other "
        "names drawn for each scene, some of them near to the sentence. Looks, motion and sound are "
        f"those of the videos, but a sound that is told is one of {n_sounds} of ESC-10's fold "
        f"{sources.held_out_fold}, and a motion that is told one of {n_motions} windows rendered onto "
        "pictures of these fights. So the figures tell one way from the other, and not what either finds "
        "in real video. A scene is one clip, and a sentence looks for its own among all. In units, one "
        "to three scenes of one to three clips stand in a row: in "
        f"{percent(damage.unseen)} of the clips nothing of the sentence is recognised, "
        f"{percent(damage.no_video)} have no picture, {percent(damage.no_audio)} no sound, and the cuts "
        f"of {percent(damage.known_cuts)} of the units are known. There each clip looks for its scene's "
        "sentence; clips of one scene are no independent witnesses, so these intervals are on the narrow "
        "side. With the picture removed its motion is gone too. Sounds and motions are told by the "
        "nearest text, the mean of three clauses, which training has too; equally near is wrong, and "
        f"evidence alone has no motion. The {n_real} real clips are found by what their list tells, a "
        "file by its nearest clip, each file one unit embedded as a run does; they are too few to tell "
        f"much. Time is of {machine()}."
    )
