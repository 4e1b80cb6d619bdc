"""What captions are worth: told from a sentence's own vector, from what a picture is known to hold, and on real
clips, judged one by one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from torch import Tensor

from pipeline.bundles.families.sentences import TextDecoder
from pipeline.bundles.model import Model, load_text
from pipeline.bundles.spec import BundleError
from pipeline.config import load_config
from pipeline.encoders.text import SentenceEncoder
from pipeline.evaluation.experiments.base import Experiment, Lab
from pipeline.evaluation.experiments.motion import floors_table
from pipeline.evaluation.records import Figure, Measured, Table, reliability_plot, share
from pipeline.heads.decoder import KINDS, beam_search
from pipeline.heads.sentences import ARTICLES, Asked, SentenceTeller, Sureness, Told
from pipeline.media.probe import probe
from pipeline.metrics.calibration import Platt, at_floors, expected_calibration_error, fit_platt
from pipeline.metrics.captions import cider_d_each, score_captions, words
from pipeline.metrics.intervals import bootstrap
from pipeline.records import ClipResult, Unit
from pipeline.sync.align import read_clips
from pipeline.training.captions import Phrases, bundle_names, bundle_things
from pipeline.training.coco import Sentences, read_sentences
from pipeline.training.plain import Grammar, Part
from pipeline.training.vectors import embedded

_VAGUE = {"with", "near", "next to", "by"}  # among these people choose freely
_FLOORS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_AT_ONCE = 50
_NOT_JUDGED = "not judged yet"


class CaptionsFromEmbedding(Experiment):
    """Held-out sentences of COCO, each decoded from its own vector."""

    kind: Literal["captions_from_embedding"]
    n_beams: int = Field(4, ge=1)
    n_shown: int = Field(
        10, ge=0, description="sentences printed beside what was decoded, evenly spread"
    )
    reads: ClassVar[tuple[str, ...]] = ("coco",)

    def measure(self, lab: Lab) -> Measured:
        """Decoding against retrieval, over all scored sentences and those of known pictures."""
        teller, encoder = _teller(lab), _encoder(lab)
        sentences = read_sentences(lab.data)
        lab.tell(f"{len(sentences.train)} sentences to train on, {len(sentences.scored)} scored")
        work = lab.work / "captions"
        vectors = embedded(encoder, sentences.scored, work, "scored")
        train = embedded(encoder, sentences.train, work, "train")
        lab.tell("sentences are decoded")
        said = {
            "decoder": tell_whole(teller, vectors, self.n_beams),
            "nearest": nearest(vectors, train, sentences.train),
        }
        known = [i for i, told in enumerate(sentences.references) if len(told) > 1]
        five = [sentences.references[i] for i in known]
        figures = []
        for name, answers in said.items():
            own = [(s,) for s in sentences.scored]
            figures += _scores(f"{name}_own", f"{name}, against the sentence", answers, own)
            some = [answers[i] for i in known]
            figures += _scores(f"{name}_five", f"{name}, all captions of its picture", some, five)
            cosine = (encoder.encode(answers) * vectors.float()).sum(1)
            for key, told, value in (
                ("cosine", "cosine to the vector, mean", cosine.mean()),
                ("cosine_tenth", "cosine to the vector, a tenth is below", cosine.quantile(0.1)),
            ):
                figures.append(_number(f"{name}_{key}", f"{name}: {told}", float(value), len(cosine)))
        every = max(1, len(vectors) // self.n_shown) if self.n_shown else len(vectors) + 1
        shown = [
            (sentences.scored[i], said["decoder"][i], said["nearest"][i])
            for i in range(0, every * self.n_shown, every)
        ]
        return Measured(
            how=(
                f"{len(vectors):,} sentences of coco_val2017 that were never trained on, nor their "
                f"near duplicates ({sentences.n_near:,} left out); words as "
                f"pipeline/metrics/captions.py cuts them, beam {self.n_beams}, no word barred. "
                "Nearest is the training caption nearest in MiniLM's space, of "
                f"{len(sentences.train):,}."
            ),
            figures=tuple(figures),
            tables=(
                Table(
                    title="Some of them, evenly spread",
                    columns=("sentence", "decoder", "nearest"),
                    rows=tuple(shown),
                ),
            ),
        )


class CaptionsFromNames(Experiment):
    """Held-out pictures with five sentences: does one of the five say that things stand so?"""

    kind: Literal["captions_from_names"]
    reads: ClassVar[tuple[str, ...]] = ("coco",)

    def measure(self, lab: Lab) -> Measured:
        """Share of sentences that stand as people say, and the calibration of their score."""
        teller, encoder = _teller(lab), _encoder(lab)
        shipped = teller.sureness
        teller.sureness = Sureness(
            shipped.slope, shipped.offset, 0.0
        )  # whatever its floor, all is told
        sentences = read_sentences(lab.data)
        lab.tell("captions are taken apart")
        grammar = Grammar(sentences.train)
        found = judged(teller, lab, sentences, grammar, encoder)
        log_prob = np.array([j.told.log_prob for j in found.told])
        is_right = np.array([j.is_right for j in found.told])
        fitted = fit_platt(log_prob[::2], is_right[::2])
        p, right = Platt(shipped.slope, shipped.offset)(log_prob[1::2]), is_right[1::2]
        n_asked = len(found.told) + found.n_none
        (at_floor,) = at_floors(p, right, [shipped.floor])
        rows: tuple[tuple[str, str, float, Literal["%", "ms", ""], int, int], ...] = (
            ("told", "things put into a sentence", len(found.told) / n_asked, "%", 1, n_asked),
            ("kept_at_floor", f"kept at the floor of {shipped.floor:g}", at_floor.told, "%", 1, len(p)),
            ("right_at_floor", "right of what is kept", at_floor.precision or 0.0, "%", 1, len(p)),
            (
                "calibration_error",
                "expected calibration error",
                expected_calibration_error(p, right),
                "%",
                1,
                len(p),
            ),
            ("slope", "slope, fitted here", fitted.slope, "", 3, len(p)),
            ("offset", "offset, fitted here", fitted.offset, "", 3, len(p)),
            ("ms", "a set of things not told before", found.ms_each, "ms", 1, n_asked),
        )
        return Measured(
            how=(
                f"{n_asked} pictures of coco_karpathy_dev1k, never trained on, with five sentences "
                "each: two or three of the things that one sentence names are given; right is a "
                "sentence in which each thing stands to the next as one of the five says (“and” "
                "claims nothing). Slope and offset are fitted to every other picture; the rest is "
                "measured, with those that bundle.yaml holds."
            ),
            figures=(
                share("right", "sentences that stand as one of five says", is_right),
                share("right_half", "the same, pictures that calibration did not see", right),
                *(
                    Figure(key=key, told=told, value=value, unit=unit, digits=digits, n=n)
                    for key, told, value, unit, digits, n in rows
                ),
            ),
            tables=(floors_table("What a floor leaves", at_floors(p, right, _FLOORS)),),
            plots=(reliability_plot("reliability", "Chance that a sentence stands so", p, right),),
        )


class JudgedClip(BaseModel):
    """What a person says of a clip, and of the captions that it was given so far."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    start_s: float
    there: str  # what the clip shows
    judged: dict[str, Literal["right", "right, says little", "partly", "wrong"]] = Field(
        default_factory=dict, description="caption → judgement"
    )


class RealCaptions(Experiment):
    """The first clips of real videos, captioned as a run does and judged one by one."""

    kind: Literal["real_captions"]
    n_clips: int = Field(20, ge=1, description="the first clip of each video, then the second, …")
    judged: tuple[JudgedClip, ...] = Field(description="a file beside the config")
    reads: ClassVar[tuple[str, ...]] = ("clips",)

    @field_validator("judged", mode="before")
    @classmethod
    def _read(cls, judged: object, info: ValidationInfo) -> object:
        """The list in place of its file, so that figures go with what it says."""
        if not isinstance(judged, str):
            return judged
        file = Path((info.context or {}).get("beside", Path())) / judged
        if not file.is_file():
            raise ValueError(f"{file}: no such file; expected a list of judged clips")
        return yaml.safe_load(file.read_text(encoding="utf-8"))

    def measure(self, lab: Lab) -> Measured:
        """A row a clip, none left out; a caption that nobody has judged counts as not right."""
        model = Model(lab.bundle, load_config())
        clips = []
        for file in sorted((lab.media / "clips").iterdir()):
            info = probe(str(file))
            if info.video:
                unit = Unit("", "", str(file), "", 0.0, 60.0)
                batch, _ = read_clips(unit, info, model.config, model.sample_rate_hz)
                (told,) = model.understand([batch])
                clips.append((file.name, batch.start_s, told, _plain(model, batch, told)))
                lab.tell(file.name)
        chosen = _in_turns(clips, self.n_clips)
        known = {(clip.file, clip.start_s): clip for clip in self.judged}
        rows, judgements = [], []
        for file_name, start_s, result, listed in chosen:
            clip = known.get((file_name, start_s))
            caption = result.caption or ""
            judgement = clip.judged.get(caption, _NOT_JUDGED) if clip else _NOT_JUDGED
            judgements.append(judgement)
            same = "the same" if listed == caption else listed
            there = clip.there if clip else ""
            rows.append((f"{file_name} {start_s:g} s", caption, same, judgement, there))
        n_videos = len(clips)
        return Measured(
            how=(
                f"The first clip of each of the {n_videos} sample videos, then the second of the "
                f"first that have one, {len(rows)} in all; judged by looking at four pictures of "
                "each clip. “Plain” is the list that stands where the decoder tells nothing. A "
                "caption that changed since it was judged is “not judged yet”, and not counted as "
                "right."
            ),
            figures=_counted(judgements),
            tables=(
                Table(
                    title="Real clips",
                    columns=("clip", "caption", "plain", "judged", "what is there"),
                    rows=tuple(rows),
                ),
            ),
        )


def _counted(judgements: Sequence[str]) -> tuple[Figure, ...]:
    """How many captions were judged how."""
    counts = Counter(judgements)
    is_right = [judgement.startswith("right") for judgement in judgements]
    rows = (
        ("right_says_little", "– of these, say little", counts["right, says little"]),
        ("partly", "partly", counts["partly"]),
        ("wrong", "wrong", counts["wrong"]),
        ("not_judged_yet", "not judged yet", counts[_NOT_JUDGED]),
    )
    return (
        share("right", "captions judged right", is_right),
        *(
            Figure(key=key, told=told, value=n, unit="", digits=0, n=len(judgements))
            for key, told, n in rows
        ),
    )


def _in_turns(
    clips: Sequence[tuple[str, Any, Sequence[ClipResult], Sequence[str]]], n: int
) -> list[tuple[str, float, ClipResult, str]]:
    """The first clip of each video, then the second, …: `n` of them."""
    found: list[tuple[str, float, ClipResult, str]] = []
    for k in range(max(len(told) for _, _, told, _ in clips)):
        for name, start_s, told, plain in clips:
            if k < len(told) and len(found) < n:
                found.append((name, float(start_s[k]), told[k], plain[k]))
    return found


def _plain(model: Model, batch: Any, told: Sequence[ClipResult]) -> list[str]:
    """The captions without the decoder."""
    teller, model.teller = model.teller, None
    try:
        (plain,) = model.understand([batch])
    finally:
        model.teller = teller
    assert len(plain) == len(told)
    return [result.caption or "" for result in plain]


@dataclass(frozen=True)
class Judged:
    """A sentence on a held-out picture, and whether one of five people says it so."""

    asked: Asked
    told: Told
    is_right: bool


@dataclass(frozen=True)
class AllJudged:
    """Of all pictures."""

    told: list[Judged]
    n_none: int  # for how many there was no sentence
    ms_each: float


def tell_whole(teller: SentenceTeller, vectors: Tensor, n_beams: int) -> list[str]:
    """Sentences from sentence vectors (n, D), with all words allowed."""
    said = []
    for part in vectors.float().split(_AT_ONCE):
        kinds = torch.full((len(part), 1), KINDS.index("sentence"))
        there = torch.ones(len(part), 1, dtype=torch.bool)
        found = beam_search(teller.net, part[:, None], kinds, there, n_beams=n_beams)
        said += [teller.text.decode(best[0].tokens) for best in found]
    return said


def nearest(vectors: Tensor, train: Tensor, sentences: Sequence[str]) -> list[str]:
    """The training caption nearest to each vector."""
    all_of_them = train.float().T
    return [
        sentences[i]
        for part in vectors.float().split(200)
        for i in (part @ all_of_them).argmax(1).tolist()
    ]


def relations(parts: Iterable[Part], rename: dict[str, str]) -> set[tuple[str, str, str]]:
    """How the things of a caption stand to each other, without what is done."""
    told = [part for part in parts if part.thing]
    return {(_name(a, rename), b.relation, _name(b, rename)) for a, b in pairwise(told) if b.relation}


def _name(part: Part, rename: dict[str, str]) -> str:
    return "a person" if part.is_person else rename.get(part.thing, part.thing)


def is_right(text: str, asked: Asked, stated: set[tuple[str, str, str]]) -> bool:
    """Whether each thing stands to the next as somebody said."""
    line = f" {' '.join(word for word in text.split() if word not in ARTICLES)} "
    places = []
    for thing in asked.things:
        name = " ".join(word for word in thing.lower().split() if word not in ARTICLES)
        places.append((line.index(f" {name} "), len(name), thing))
    places.sort()
    for (at, size, a), (after, _, b) in pairwise(places):
        link = line[at + size + 1 : after + 1].strip()
        vague = _VAGUE if link in _VAGUE else {link}
        if link != "and" and not any(
            (a, one, b) in stated or (one in _VAGUE and (b, one, a) in stated) for one in vague
        ):
            return False
    return True


def judged(
    teller: SentenceTeller, lab: Lab, sentences: Sentences, grammar: Grammar, encoder: SentenceEncoder
) -> AllJudged:
    """A sentence for each held-out picture that names two things."""
    parsed = [[grammar.parse(s) for s in group] for group in sentences.calibration]
    things = sorted({p.thing for group in parsed for parts in group for p in parts if p.thing})
    work = lab.work / "captions"
    phrases = Phrases({*things, *bundle_things(lab.bundle)}, encoder, work)
    rename = dict(bundle_names(lab.bundle, grammar, things, phrases).of)
    asked, stated = [], []
    for i, group in enumerate(parsed):
        for parts in group:
            named = list(dict.fromkeys(_name(p, rename) for p in parts if p.thing))[: 2 + i % 2]
            if len(named) > 1:
                asked.append(Asked(tuple(named)))
                stated.append({r for other in group for r in relations(other, rename)})
                break
    lab.tell(f"{len(asked)} pictures are told")
    began = time.perf_counter()
    told = teller.tell(asked, encoder.encode)
    ms_each = 1000 * (time.perf_counter() - began) / len(asked)
    found = [
        Judged(a, t, is_right(t.text, a, s)) for a, t, s in zip(asked, told, stated, strict=True) if t
    ]
    return AllJudged(found, len(asked) - len(found), ms_each)


def _teller(lab: Lab) -> TextDecoder:
    if lab.bundle.captions is None or lab.bundle.captions.kind != "text_decoder":
        raise BundleError(f"{lab.bundle.name}: expected captions of the kind text_decoder")
    return TextDecoder(lab.bundle.captions, lab.bundle.directory)


def _encoder(lab: Lab) -> SentenceEncoder:
    if lab.bundle.text is None:
        raise BundleError(f"{lab.bundle.name}: expected a text encoder")
    return load_text(lab.bundle, lab.bundle.text, torch.device("cpu"))


def _scores(
    key: str, told: str, said: Sequence[str], references: Sequence[Sequence[str]]
) -> list[Figure]:
    """BLEU-4, ROUGE-L and CIDEr-D; the last with a bootstrap interval over sentences."""
    scores, n = score_captions(said, references), len(said)
    each = np.array(
        cider_d_each([words(s) for s in said], [[words(r) for r in told] for told in references])
    )
    low, high = bootstrap(lambda at: float(each[at].mean()), n)
    cider = _number(f"{key}_cider_d", f"CIDEr-D: {told}", scores.cider_d, n)
    return [
        cider.model_copy(update={"low": low, "high": high, "digits": 2}),
        _number(f"{key}_bleu4", f"BLEU-4: {told}", scores.bleu4, n),
        _number(f"{key}_rouge_l", f"ROUGE-L: {told}", scores.rouge_l, n),
    ]


def _number(key: str, told: str, value: float, n: int) -> Figure:
    return Figure(key=key, told=told, value=value, unit="", digits=3, n=n)
