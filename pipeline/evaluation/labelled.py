"""How often a bundle is right over labelled videos: by sight, by sound, and by all that a video has.

Each video, or span of one, is one clip and passes the senses once. A video network looks at it as papers look:
views of its own length, spread over time and over the long side of the picture, their probabilities averaged
(temporal × spatial, "10 × 3" on Kinetics). What removing a sense costs is told from the same pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.bundles.learned import Learned
from pipeline.bundles.model import Model, told
from pipeline.bundles.senses import ClipSight, PatchHearing, Sensed, Senses, Tokens
from pipeline.bundles.spec import BundleError, BundleSpec
from pipeline.config import Config, LimitConfig
from pipeline.evaluation.records import (
    Figure,
    Measured,
    Plot,
    confusion_plot,
    precision_recall_plot,
    reliability_plot,
    share,
)
from pipeline.media.probe import probe
from pipeline.metrics.calibration import expected_calibration_error
from pipeline.metrics.classify import mean_average_precision, ranks
from pipeline.metrics.intervals import bootstrap
from pipeline.records import ClipBatch, MediaError, MediaInfo, Unit
from pipeline.understand import Decoded, decode

_LONGEST_S = 600.0
_MOST_CONFUSED = 30  # classes that a drawn confusion can hold
_MOST_CURVES = 8
ALL, SIGHT, SOUND = "all senses", "sight", "sound"
BETWEEN = "|"  # of several labels
Decode = Callable[[Unit, Config, int], Decoded]
Examine = Callable[[str, str, LimitConfig], MediaInfo]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Example:
    """A video, or a span of it, and the class it is of, or the classes with `|` between."""

    uri: str
    label: str
    start_s: float = 0.0
    end_s: float | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Each of its classes."""
        return tuple(part for x in self.label.split(BETWEEN) if (part := x.strip()))


@dataclass(frozen=True)
class Answer:
    """What was said of an example, best first, or why nothing was."""

    uri: str
    label: str
    rank: int | None  # of the right class, 1 is best
    best: tuple[tuple[str, float], ...] = ()
    problem: str | None = None
    scores: dict[str, Array] = field(default_factory=dict, repr=False)  # (C,) by what was given


@dataclass(frozen=True)
class Accuracy:
    """What all answers come to; examples that could not be read are counted apart."""

    bundle: str
    bundle_digest: str
    space: str
    views: str  # temporal × spatial
    n: int
    n_unreadable: int
    top1: float | None
    top5: float | None


@dataclass(frozen=True)
class Vocabulary:
    """Classes that answers are given in."""

    space: str
    names: tuple[str, ...]
    told_by: str  # SIGHT, SOUND, or ALL
    learned: Learned | None = None  # what tells it, where it was learned


class Examiner:
    """A bundle, loaded, and the vocabulary that the examples' labels are of."""

    def __init__(
        self,
        spec: BundleSpec,
        config: Config,
        examples: Sequence[Example],
        *,
        n_temporal: int,
        n_spatial: int,
        space: str | None = None,
        device: str = "cpu",
    ) -> None:
        """
        Args:
            n_temporal, n_spatial: looks of a video network.
            space: the vocabulary; the first that has all labels where it is not given.

        Raises:
            BundleError: the bundle does not load, or knows no such vocabulary or class.
        """
        self.spec, self.config = spec, config
        self.n_temporal, self.n_spatial = n_temporal, n_spatial
        self.model = Model(spec, config, device)
        if isinstance(self.model.hearing, PatchHearing):
            self.model.hearing.chunk = 1  # one example at a time: no rows to fill up
        self.vocabulary = _vocabulary(self.model, examples, space)

    def answers(
        self, examples: Sequence[Example], decode_unit: Decode = decode, examine: Examine = probe
    ) -> Iterator[Answer]:
        """In the order of the examples."""
        for example in examples:
            try:
                unit, fitted = _as_one_clip(example, self.spec, self.config, examine)
            except MediaError as e:
                yield Answer(example.uri, example.label, None, problem=e.failure.message)
                continue
            decoded = decode_unit(unit, fitted, self.spec.sample_rate_hz)
            if decoded.batch is None:
                why = decoded.failure.message if decoded.failure else f"{example.uri}: not decoded"
                yield Answer(example.uri, example.label, None, problem=why)
                continue
            yield self._answer(example, decoded.batch, fitted.clips.length_s)

    def _answer(self, example: Example, batch: ClipBatch, length_s: float) -> Answer:
        """Of a batch of one clip."""
        scores = self._scores(batch, length_s)
        if not scores:
            lacking = "sound" if self.vocabulary.told_by == SOUND else "picture"
            return Answer(example.uri, example.label, None, problem=f"{example.uri}: no {lacking}")
        if not all(np.isfinite(found).all() for found in scores.values()):
            problem = f"{example.uri}: the network gives no number"
            return Answer(example.uri, example.label, None, problem=problem)
        names, main = self.vocabulary.names, next(iter(scores.values()))
        truth = np.isin(np.array(names), example.labels)[None]
        rank = int(ranks(main[None], truth)[0])
        best = np.argsort(-main, kind="stable")[:5]
        top = tuple((names[i], float(main[i])) for i in best)
        return Answer(example.uri, example.label, rank, top, scores=scores)

    @torch.inference_mode()
    def _scores(self, batch: ClipBatch, length_s: float) -> dict[str, Array]:
        """(C,) by what is given, what counts first; nothing of a sense that is not there."""
        senses = self._sense(batch, length_s)
        known = self.vocabulary
        if known.learned is not None:
            tokens = known.learned.tokens(told(senses), lambda name: self.model.pieces(name, [batch]))
            return _learned_scores(known.learned, known.space, tokens, batch)
        has_video = bool(batch.has_video.any()) and senses.seen is not None
        has_audio = bool(batch.has_audio.any()) and senses.heard is not None
        if known.told_by != ALL:
            there = has_video if known.told_by == SIGHT else has_audio
            spaces = {k: v for sensed in senses if sensed is not None for k, v in sensed.spaces.items()}
            return {known.told_by: spaces[known.space][0].numpy()} if there else {}
        present = torch.tensor([[has_video, has_audio]])
        found = self.model.meaning.action_scores(senses.seen, senses.heard, present)
        by_sense = {SIGHT: found["video"]} if has_video else {}
        by_sense |= {SOUND: found["audio"]} if has_audio else {}
        if not by_sense:
            return {}
        # Where one is absent, what is there is all.
        both = found["fused"] if len(by_sense) == 2 else next(iter(by_sense.values()))
        return {way: scores[0].numpy() for way, scores in ({ALL: both} | by_sense).items()}

    def _sense(self, batch: ClipBatch, length_s: float) -> Senses:
        """As a run does; a video network whose own answer is asked for looks as often as it was told to."""
        sight, hearing = self.model.sight, self.model.hearing
        if not isinstance(sight, ClipSight) or self.vocabulary.learned is not None:
            return self.model.sense([batch])
        frames = [self.model.runtime.upload(batch.frames)]
        fine = sight.look([batch], frames, length_s, self.n_temporal, self.n_spatial)
        heard = hearing.perceive([batch]) if hearing and self.vocabulary.told_by != SIGHT else None
        return Senses(Sensed({sight.space: fine}, fine), heard, None)


def _learned_scores(
    part: Learned, space: str, tokens: Mapping[str, Tokens], batch: ClipBatch
) -> dict[str, Array]:
    """Of a vocabulary that was learned: with all tokens, and with those of one sense hidden."""
    found, has = part.scores(tokens, [batch])
    if not has.any():
        return {}
    scores = {ALL: found[space][0].numpy()}
    for way, modality, there in zip((SIGHT, SOUND), ("video", "audio"), has[0].tolist(), strict=True):
        if there:
            shown = {
                name: t if part.spec.streams[name].modality == modality else _hidden(t)
                for name, t in tokens.items()
                if name in part.spec.streams
            }
            scores[way] = part.scores(shown, [batch])[0][space][0].numpy()
    return scores


def _hidden(tokens: Tokens) -> Tokens:
    return dataclasses.replace(tokens, valid=torch.zeros_like(tokens.valid))


def _vocabulary(model: Model, examples: Sequence[Example], space: str | None) -> Vocabulary:
    """The first that has all labels, learned ones before others; where none has, the nearest tells its lack."""
    spec, known = model.spec, []
    told_by_senses = ((model.sight, SIGHT), (model.hearing, SOUND), (model.movement, SIGHT))
    for sense, told_by in told_by_senses:
        if sense is not None:
            known += [Vocabulary(name, names, told_by) for name, names in sense.names.items()]
    learned = [
        Vocabulary(name, tuple(of.names), ALL, part)
        for part in model.learned
        for name, of in part.spec.spaces.items()
    ]
    known = [*learned, *known, Vocabulary("actions", tuple(model.meaning.names), ALL)]
    if space is not None:
        known = [vocabulary for vocabulary in known if vocabulary.space == space]
        if not known:
            raise BundleError(f"{spec.name}: there is no vocabulary {space!r}")
    labels = {label for example in examples for label in example.labels}
    found = min(known, key=lambda vocabulary: len(labels - set(vocabulary.names)))
    unknown = sorted(labels - set(found.names))
    if unknown:
        raise BundleError(f"{spec.name}: {found.space} has no class {unknown[0]!r}")
    return found


def _as_one_clip(
    example: Example, spec: BundleSpec, config: Config, examine: Examine
) -> tuple[Unit, Config]:
    """The example as a unit of one clip, with as many pictures as the encoder wants of its length."""
    end_s = example.end_s
    if end_s is None:
        end_s = examine(example.uri, config.audio.track, config.limits).duration_s
        if end_s is None:
            raise MediaError("probe", "no_duration", f"{example.uri}: its duration is not known")
    length_s = end_s - example.start_s
    if length_s > _LONGEST_S:
        what = f"{example.uri}: {length_s:g} s are too long for one example; expected {_LONGEST_S:g} at most"
        raise MediaError("probe", "too_long", what)
    if length_s <= 0:
        what = f"{example.uri}: nothing from {example.start_s:g} s to {end_s:g} s"
        raise MediaError("probe", "no_span", what)
    clips = config.clips.model_copy(
        update={"mode": "stride", "length_s": length_s, "stride_s": length_s, "unit_s": length_s}
    )
    fitted = spec.fitted(config.model_copy(update={"clips": clips}))
    unit = Unit("", "", example.uri, "", example.start_s, example.start_s + length_s)
    return unit, fitted


def accuracy(answers: Sequence[Answer], examiner: Examiner) -> Accuracy:
    """Top-1 and top-5 over the examples that could be read."""
    places = np.array([answer.rank for answer in answers if answer.rank is not None])
    return Accuracy(
        bundle=examiner.spec.name,
        bundle_digest=examiner.spec.digest(),
        space=examiner.vocabulary.space,
        views=f"{examiner.n_temporal} × {examiner.n_spatial}",
        n=len(places),
        n_unreadable=len(answers) - len(places),
        top1=float((places <= 1).mean()) if len(places) else None,
        top5=float((places <= 5).mean()) if len(places) else None,
    )


def measured(answers: Sequence[Answer], examiner: Examiner) -> Measured:
    """Figures by what was given, confusion, reliability; mAP where examples have several labels.

    Raises:
        ValueError: no example could be read.
    """
    read = [answer for answer in answers if answer.rank is not None]
    if not read:
        raise ValueError("no example could be read")
    names = np.array(examiner.vocabulary.names)
    truth = np.array([np.isin(names, Example("", a.label).labels) for a in read])  # (N, C)
    is_multi = bool((truth.sum(1) > 1).any())
    with_all = np.array([len(a.scores) == 3 for a in read])
    figures = []
    for way in dict.fromkeys(way for a in read for way in a.scores):
        has = np.array([way in a.scores for a in read])
        figures += _of_way(way, way, read, has, truth, is_multi)
        if len(read[0].scores) > 1 and with_all.any() and not with_all.all():
            figures += _of_way(
                f"{way} of both", f"{way}, where there are both", read, with_all, truth, is_multi
            )
    main = next(iter(read[0].scores))
    scores = np.stack([a.scores[main] for a in read])
    return Measured(
        how=(
            f"{len(read)} examples of the manifest in the vocabulary {examiner.vocabulary.space}; "
            f"{len(answers) - len(read)} could not be read. Each is one clip and passes the senses once."
        ),
        figures=tuple(figures),
        plots=tuple(_plots(examiner.vocabulary.space, names, scores, truth, is_multi)),
    )


def _of_way(
    key: str, told: str, read: Sequence[Answer], has: Array, truth: Array, is_multi: bool
) -> list[Figure]:
    """Of the examples at which `has` (N,) is True."""
    way = key.removesuffix(" of both")
    scores = np.stack([a.scores[way] for a, there in zip(read, has, strict=True) if there])
    true = truth[has]
    places = ranks(scores, true)
    key = key.replace(" ", "_")
    figures = [
        share(f"{key}_top1", f"{told}: top-1", places <= 1),
        share(f"{key}_top5", f"{told}: top-5", places <= 5),
    ]
    if is_multi:
        low, high = bootstrap(lambda at: mean_average_precision(scores[at], true[at]), len(true))
        value = mean_average_precision(scores, true)
        figures.append(
            Figure(key=f"{key}_map", told=f"{told}: mAP", value=value, low=low, high=high, n=len(true))
        )
    sure, right = _said(scores, true, is_multi)
    error = expected_calibration_error(sure, right)
    what = f"{told}: expected calibration error"
    return [*figures, Figure(key=f"{key}_calibration_error", told=what, value=error, n=len(true))]


def _said(scores: Array, truth: Array, is_multi: bool) -> tuple[Array, Array]:
    """What is said and whether it is so: the answer's score; with several labels, each class's that occurs."""
    if is_multi:
        there = truth.any(0)
        return scores[:, there].ravel(), truth[:, there].ravel()
    best = scores.argmax(1)
    at = np.arange(len(scores))
    return scores[at, best], truth[at, best]


def _plots(space: str, names: Array, scores: Array, truth: Array, is_multi: bool) -> list[Plot]:
    plots: list[Plot] = [reliability_plot("reliability", space, *_said(scores, truth, is_multi))]
    there = np.flatnonzero(truth.any(0))
    if is_multi:
        most = there[np.argsort(-truth[:, there].sum(0), kind="stable")][:_MOST_CURVES]
        curves = {str(names[c]): (scores[:, c], truth[:, c]) for c in most}
        return [*plots, precision_recall_plot("precision_recall", space, curves)]
    if len(there) <= _MOST_CONFUSED:
        place = {int(c): k for k, c in enumerate(there)}
        answer = np.array([place.get(int(c), len(there)) for c in scores.argmax(1)])
        labels = [*map(str, names[there]), "others"]
        true = np.array([place[int(c)] for c in truth.argmax(1)])
        plots.append(confusion_plot("confusion", space, labels, true, answer))
    return plots
