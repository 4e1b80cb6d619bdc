"""How often a bundle's picture encoder names the right class, looked at as the papers look: many views a video.

A view is a look of the network's own length. Views are spread over time and over the long side of the picture,
and their probabilities are averaged: temporal clips × spatial crops, as in evaluations on Kinetics ("10 × 3").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.bundles.model import Model
from pipeline.bundles.senses import ClipSight
from pipeline.bundles.spec import BundleError, BundleSpec
from pipeline.config import Config, LimitConfig
from pipeline.media.probe import probe
from pipeline.records import MediaError, MediaInfo, Unit
from pipeline.understand import Decoded, decode

_LONGEST_S = 600.0
Decode = Callable[[Unit, Config, int], Decoded]
Examine = Callable[[str, str, LimitConfig], MediaInfo]


@dataclass(frozen=True)
class Example:
    """A video, or a span of it, and the class it is of."""

    uri: str
    label: str
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True)
class Answer:
    """What the encoder said of an example, best first, or why it said nothing."""

    uri: str
    label: str
    rank: int | None  # of the right class, 1 is best
    best: tuple[tuple[str, float], ...] = ()
    problem: str | None = None


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


def evaluate(
    spec: BundleSpec,
    config: Config,
    examples: Sequence[Example],
    *,
    n_temporal: int,
    n_spatial: int,
    device: str = "cpu",
    decode_unit: Decode = decode,
    examine: Examine = probe,
) -> Iterator[Answer]:
    """Answers in the order of the examples.

    Raises:
        BundleError: the bundle does not load, has no video network, or knows no such class.
    """
    sight = Model(spec, config, device).sight
    if not isinstance(sight, ClipSight):
        raise BundleError(f"{spec.name}: expected a video network, which looks at clips, as its video")
    names = sight.names[sight.space]
    unknown = sorted({example.label for example in examples} - set(names))
    if unknown:
        raise BundleError(f"{spec.name}: {sight.space} has no class {unknown[0]!r}")
    for example in examples:
        try:
            unit, fitted = _as_one_clip(example, spec, config, examine)
        except MediaError as e:
            yield Answer(example.uri, example.label, None, problem=e.failure.message)
            continue
        decoded = decode_unit(unit, fitted, spec.sample_rate_hz)
        if decoded.batch is None or not decoded.batch.has_video.any():
            why = decoded.failure.message if decoded.failure else f"{example.uri}: no picture"
            yield Answer(example.uri, example.label, None, problem=why)
            continue
        frames = [sight.runtime.upload(decoded.batch.frames)]
        length_s = fitted.clips.length_s
        scores = sight.look([decoded.batch], frames, length_s, n_temporal, n_spatial)[0].numpy()
        if not np.isfinite(scores).all():
            problem = f"{example.uri}: the network gives no number"
            yield Answer(example.uri, example.label, None, problem=problem)
            continue
        own = scores[names.index(example.label)]
        best = np.argsort(-scores, kind="stable")[:5]
        yield Answer(
            example.uri,
            example.label,
            int((scores >= own).sum()),
            tuple((names[i], float(scores[i])) for i in best),
        )


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


def accuracy(answers: Sequence[Answer], spec: BundleSpec, n_temporal: int, n_spatial: int) -> Accuracy:
    """Top-1 and top-5 over the examples that could be read."""
    ranks = np.array([answer.rank for answer in answers if answer.rank is not None])
    return Accuracy(
        bundle=spec.name,
        bundle_digest=spec.digest(),
        space=spec.video.labels if spec.video else "",
        views=f"{n_temporal} × {n_spatial}",
        n=len(ranks),
        n_unreadable=len(answers) - len(ranks),
        top1=float((ranks <= 1).mean()) if len(ranks) else None,
        top5=float((ranks <= 5).mean()) if len(ranks) else None,
    )
