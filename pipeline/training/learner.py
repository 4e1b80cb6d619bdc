"""Learns a user's labels from tokens of the senses, in memory; knows neither files nor Ray.

    examples = examples_of({"audio": tokens}, {"sound": names})          # Tokens of N clips, a name each
    found = learn(examples, watched, Learning(fusion="early"), LoopConfig(n_epochs=30), work)
    found.scores(others)["sound"]                                        # (clips, classes), calibrated

    examples_of(streams: Mapping[str, Tokens], labels: Mapping[str, Sequence[str | Sequence[str] | None]],
                *, classes=None, groups=None) -> list[Example]
    learn(examples, watched, learning, loop, work, *, spaces=None, texts=None, ...) -> Learner

`examples` are trained on; `watched` choose the epoch and the calibration and are never trained on (none: the
last epochs are trusted, and scores are not calibrated). `work` keeps checkpoints: the same call goes on there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.bundles.learned import MODALITIES, Answers, Clips, LearnedNet, padded, scores_of
from pipeline.bundles.senses import Tokens
from pipeline.bundles.spec import LearnedSpaceSpec, LearnedSpec, StreamSpec, WeightFile
from pipeline.bundles.tuned import TunedEncoder
from pipeline.metrics.classify import mean_average_precision
from pipeline.training.loop import LoopConfig, Tell, fit
from pipeline.training.losses import Contrastive, info_nce

NO_TEXT = -1
_MOST_WEIGHT = 20.0  # of a rare class against a common one
_ANSWERED_AT_ONCE = 16  # units
_STANDARD_PIECES = 256
_CALIBRATION_STEPS = 100


class Learning(BaseModel):
    """The network that is trained, and how hard its task is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    fusion: Literal["late", "early", "bottleneck"] = "bottleneck"
    dim: int = Field(64, ge=8, description="of a fused token; a multiple of twice num_heads")
    depth: int = Field(2, ge=1, description="layers of the fusion")
    num_heads: int = Field(4, ge=1)
    context_depth: int = Field(
        1, ge=0, description="layers over the clips of a unit; 0: each clip for itself"
    )
    dropout: float = Field(0.3, ge=0, lt=1)
    sense_dropout: float = Field(
        0.3, ge=0, lt=1, description="share of clips with picture and sound that lose one of them"
    )
    pieces: int = Field(
        6,
        ge=1,
        description="of pictures or sound that a tuned encoder sees of a clip in a training step",
    )
    class_weights: Literal["balanced", "none"] = Field(
        "balanced", description="balanced: a rare class counts as much as a common one"
    )
    align_weight: float = Field(
        0.1, ge=0, description="of drawing clips to their captions in the text space; 0: not at all"
    )


@dataclass(frozen=True)
class Example:
    """The clips of one unit, and what is known of each."""

    group: str  # its video: what one video teaches is never measured on the same
    # values (C, K, D) of any float type; of a tuned stream what its encoder takes
    streams: dict[str, Tokens]
    middle_s: Tensor  # (C,)
    labels: dict[str, Tensor]  # vocabulary → (C, classes) 0 or 1, NaN where nothing is known
    text: Tensor | None = None  # (C,) int64 number of its caption, NO_TEXT where it has none

    def known(self, space: str) -> Tensor:
        """Which clips are labelled, (C,) bool."""
        return ~self.labels[space].isnan().any(1)


def examples_of(
    streams: Mapping[str, Tokens],
    labels: Mapping[str, Sequence[str | Sequence[str] | None]],
    *,
    classes: Mapping[str, Sequence[str]] | None = None,
    groups: Sequence[str] | None = None,
) -> list[Example]:
    """N clips as N examples, each a unit of its own.

    Args:
        streams: tokens of N clips, by the stream's name (`video`, `audio`, `motion`).
        labels: for each vocabulary a name, several, or None where it is not known, N of them.
        classes: the vocabularies in order; what `labels` hold, sorted, if not given.
        groups: which clips belong together, such as those of a video.
    """
    names = dict(classes or {space: sorted(_flat(of_clips)) for space, of_clips in labels.items()})
    n = len(next(iter(labels.values())))
    examples = []
    for i in range(n):
        mine = {name: Tokens(t.values[i : i + 1], t.middle_s[i : i + 1], t.valid[i : i + 1])
                for name, t in streams.items()}  # fmt: skip
        targets = {space: target_of(labels[space][i], names[space])[None] for space in labels}
        group = str(i) if groups is None else groups[i]
        examples.append(Example(group, mine, torch.zeros(1), targets))
    return examples


def _flat(labels: Sequence[str | Sequence[str] | None]) -> set[str]:
    return {name for label in labels for name in _names(label)}


def _names(label: str | Sequence[str] | None) -> Sequence[str]:
    return () if label is None else (label,) if isinstance(label, str) else label


def target_of(label: str | Sequence[str] | None, names: Sequence[str]) -> Tensor:
    """(classes,) 1 where a class is told and 0 elsewhere; NaN where nothing is known.

    Raises:
        ValueError: a label that is none of `names`.
    """
    if label is None:
        return torch.full((len(names),), float("nan"))
    unknown = sorted(set(_names(label)) - set(names))
    if unknown:
        raise ValueError(f"label {unknown[0]!r} is none of: {', '.join(names)}")
    return torch.tensor([float(name in _names(label)) for name in names])


class Pupil(nn.Module):
    """What is trained: the network, the encoders that are tuned with it, and the temperature of alignment."""

    def __init__(self, net: LearnedNet, tuned: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.net, self.tuned = net, nn.ModuleDict(dict(tuned))
        self.contrast = Contrastive() if net.to_text is not None else None

    def forward(self, clips: Clips) -> tuple[Answers, Tensor | None]:
        """Answers, and the scale of likeness where there are captions."""
        streams = dict(clips.streams)
        for name, encoder in self.tuned.items():
            streams[name] = encoder(streams[name])
        answers = self.net(Clips(streams, clips.middle_s, clips.there))
        return answers, None if self.contrast is None else self.contrast.scale


class LearnTask:
    """A `pipeline.training.loop.Task`: units with labelled clips."""

    def __init__(
        self,
        examples: Sequence[Example],
        watched: Sequence[Example],
        spec: LearnedSpec,
        learning: Learning,
        *,
        texts: Tensor | None = None,
        make_tuned: Callable[[], Mapping[str, TunedEncoder]] = dict,
        device: torch.device | None = None,
    ) -> None:
        """Args:
        watched: for `validate`; the examples themselves if there are none.
        texts: (n, text_dim) of the captions that `Example.text` numbers.
        make_tuned: encoders to be tuned, by stream, with the weights that they begin with.
        """
        self.examples, self.watched = list(examples), list(watched) or list(examples)
        self.spec, self.learning, self.texts, self.make_tuned = spec, learning, texts, make_tuned
        self.n_examples = len(self.examples)
        self.tuned_names = tuple(make_tuned())
        self.device = device or torch.device("cpu")
        self.weights = {
            name: _class_weights(self.examples, name, space.is_multi, learning).to(self.device)
            for name, space in spec.spaces.items()
        }

    def make_net(self) -> nn.Module:
        """As it begins: standardised to the examples, silent heads."""
        net = LearnedNet(self.spec, self.learning.dropout)
        pupil = Pupil(net, self.make_tuned())
        for name, standard in zip(self.spec.streams, net.standards, strict=True):
            tokens = [e.streams[name] for e in self.examples]
            if name in pupil.tuned:
                tokens = _told_first(pupil.tuned[name].eval(), tokens)
            standard.measure(torch.cat([t.values[t.valid].float() for t in tokens]))  # type: ignore[operator]
        return pupil

    def loss(self, net: nn.Module, indices: Tensor, random: np.random.Generator) -> Tensor:
        """Cross entropy of each vocabulary over labelled clips of some units, and how far captions lie."""
        units = [self.examples[i] for i in indices.tolist()]
        for name in self.tuned_names:
            units = [_some_pieces(unit, name, self.learning.pieces, random) for unit in units]
        clips = self._without_a_sense(batch_of(units), random).to(self.device)
        answers, scale = net(clips)
        total = torch.zeros((), device=self.device)
        for name, space in self.spec.spaces.items():
            truth = _targets(units, name, clips.there.shape[1]).to(self.device)
            known = ~truth.isnan().any(-1) & clips.there
            logits, truth = answers.logits[name][known].float(), truth[known]
            total = total + _cross_entropy(logits, truth, self.weights[name], space.is_multi)
        if scale is not None and self.texts is not None:
            told = self._contrast(answers, units, scale)
            total = total + self.learning.align_weight * told
        return total

    def _contrast(self, answers: Answers, units: Sequence[Example], scale: Tensor) -> Tensor:
        assert answers.text is not None
        assert self.texts is not None
        number = _texts_of(units, answers.text.shape[1]).to(self.device)  # (B, C)
        has = number != NO_TEXT
        mine, ids = answers.text[has].float(), number[has]
        partners = self.texts.to(self.device)[ids]
        if not len(ids):  # other workers wait for this one's rows: a pair that teaches nothing
            mine = answers.text[:1, 0].float()
            partners, ids = mine.detach(), torch.full((1,), NO_TEXT, device=self.device)
            return info_nce(mine, partners, scale, ids) * 0
        return info_nce(mine, partners, scale, ids)

    def _without_a_sense(self, clips: Clips, random: np.random.Generator) -> Clips:
        """Some of the clips that have picture and sound lose one of the two."""
        modality = {name: stream.modality for name, stream in self.spec.streams.items()}
        if len(set(modality.values())) < 2 or not self.learning.sense_dropout:
            return clips
        present = clips.present()
        sides = [
            torch.stack([present[n] for n in modality if modality[n] == side]).any(0)
            for side in ("video", "audio")
        ]
        shape = clips.there.shape
        loses = torch.from_numpy(random.random(shape) < self.learning.sense_dropout)
        loses = loses & sides[0] & sides[1]
        picture = torch.from_numpy(random.random(shape) < 0.5)
        streams = {}
        for name, t in clips.streams.items():
            gone = loses & (picture if modality[name] == "video" else ~picture)
            streams[name] = Tokens(t.values, t.middle_s, t.valid & ~gone[..., None])
        return Clips(streams, clips.middle_s, clips.there)

    @torch.no_grad()
    def validate(self, net: nn.Module) -> dict[str, float]:
        """Over the watched: the loss, which decides, and each vocabulary's share of right clips (or mAP)."""
        measures, total = {}, 0.0
        logits = answer(net, self.watched, self.device)
        for name, space in self.spec.spaces.items():
            truth = torch.cat([e.labels[name] for e in self.watched])
            known = ~truth.isnan().any(1)
            plain = torch.ones_like(self.weights[name]).cpu()
            total += float(_cross_entropy(logits[name][known], truth[known], plain, space.is_multi))
            measures[name] = quality(logits[name][known], truth[known], space.is_multi)
        return measures | {"watched_loss": total, "score": -total}


@torch.no_grad()
def _told_first(encoder: nn.Module, pieces: Sequence[Tokens]) -> list[Tokens]:
    """What an encoder makes of enough of the pieces to know how far its numbers spread."""
    told, n = [], 0
    for p in pieces:
        told.append(encoder(p))
        n += int(p.valid.sum())
        if n >= _STANDARD_PIECES:
            break
    return told


def quality(logits: Tensor, truth: Tensor, is_multi: bool) -> float:
    """Share of clips whose best class is right; of several labels a clip, mean average precision."""
    if is_multi:
        return mean_average_precision(logits.numpy(), truth.numpy() > 0.5)
    return float((logits.argmax(1) == truth.argmax(1)).float().mean())


def _some_pieces(unit: Example, stream: str, most: int, random: np.random.Generator) -> Example:
    """A unit with `most` valid pieces of a tuned stream in each clip, drawn by chance."""
    all_ = unit.streams[stream]
    n_clips, n_pieces = all_.valid.shape
    if n_pieces <= most:
        return unit
    chance = torch.from_numpy(random.random((n_clips, n_pieces))) + all_.valid  # valid ones first
    at = chance.topk(most, 1).indices.sort(1).values  # (C, most)
    row = torch.arange(n_clips)[:, None]
    some = Tokens(all_.values[row, at], all_.middle_s[row, at], all_.valid[row, at])
    return replace(unit, streams={**unit.streams, stream: some})


def batch_of(units: Sequence[Example]) -> Clips:
    """Units side by side."""
    streams = {name: [unit.streams[name] for unit in units] for name in units[0].streams}
    return padded(streams, [unit.middle_s for unit in units])


def _targets(units: Sequence[Example], space: str, n_clips: int) -> Tensor:
    """(B, C, classes), NaN where nothing is known or no clip is."""
    n_classes = units[0].labels[space].shape[1]
    targets = torch.full((len(units), n_clips, n_classes), float("nan"))
    for i, unit in enumerate(units):
        targets[i, : len(unit.middle_s)] = unit.labels[space]
    return targets


def _texts_of(units: Sequence[Example], n_clips: int) -> Tensor:
    numbers = torch.full((len(units), n_clips), NO_TEXT)
    for i, unit in enumerate(units):
        if unit.text is not None:
            numbers[i, : len(unit.middle_s)] = unit.text
    return numbers


def _class_weights(
    examples: Sequence[Example], space: str, is_multi: bool, learning: Learning
) -> Tensor:
    """How much each class counts, (classes,): of one of all its examples, of several its positives."""
    truth = torch.cat([e.labels[space][e.known(space)] for e in examples])
    n = truth.sum(0).clamp(min=1)
    if learning.class_weights == "none":
        return torch.ones_like(n)
    if is_multi:
        return ((len(truth) - n) / n).clamp(1.0, _MOST_WEIGHT)
    weights = len(truth) / (len(n) * n)
    return weights.clamp(1 / _MOST_WEIGHT, _MOST_WEIGHT)


def _cross_entropy(logits: Tensor, truth: Tensor, weights: Tensor, is_multi: bool) -> Tensor:
    """The mean over clips (n, classes); 0 of none, in which every weight still has its part."""
    if not len(truth):
        return logits.sum() * 0
    if is_multi:
        return F.binary_cross_entropy_with_logits(logits, truth, pos_weight=weights)
    each = F.cross_entropy(logits, truth.argmax(1), reduction="none")
    return (each * weights[truth.argmax(1)]).mean()


@torch.no_grad()
def answer(
    net: nn.Module,
    examples: Sequence[Example],
    device: torch.device,
    senses: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Logits of all clips of all `examples`, (clips, classes) by vocabulary.

    Args:
        senses: what is shown of them, of `video` and `audio`; all if not given.
    """
    found: dict[str, list[Tensor]] = {}
    for i in range(0, len(examples), _ANSWERED_AT_ONCE):
        clips = batch_of(examples[i : i + _ANSWERED_AT_ONCE]).to(device)
        if senses is not None:
            clips = _only(clips, senses)
        answers, _ = net(clips)
        for name, logits in answers.logits.items():
            found.setdefault(name, []).append(logits.float()[clips.there].cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def _only(clips: Clips, senses: Sequence[str]) -> Clips:
    streams = {
        name: Tokens(t.values, t.middle_s, t.valid & (MODALITIES.get(name, name) in senses))
        for name, t in clips.streams.items()
    }
    return Clips(streams, clips.middle_s, clips.there)


@dataclass(frozen=True)
class Calibration:
    """score = sigmoid or softmax of slope · logit + offset."""

    slope: float = 1.0
    offset: float = 0.0


def calibrate(logits: Tensor, truth: Tensor, is_multi: bool, n_groups: int) -> Calibration:
    """The slope (and, for several labels a clip, the offset) under which scores are right as often as they say.

    Temperature scaling (https://arxiv.org/abs/1706.04599), or Platt's with one slope for all classes. As in
    Platt's own, targets stop short of 0 and 1, by 1 / (n + 2) for n videos: that a few all came out right does
    not prove that none will ever come out wrong.

    Args:
        logits, truth: (clips, classes).
        n_groups: how many videos they are of.
    """
    x, short = logits.double(), 1 / (n_groups + 2)
    y = truth.double()
    wanted = y * (1 - short) + (1 - y) * short / (1 if is_multi else max(1, y.shape[1] - 1))
    line = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # logarithm of the slope, offset
    optimiser = torch.optim.LBFGS([line], max_iter=_CALIBRATION_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        scaled = line[0].exp() * x + line[1] * is_multi
        value = (
            F.binary_cross_entropy_with_logits(scaled, wanted)
            if is_multi
            else F.cross_entropy(scaled, wanted)
        )
        value.backward()
        return value

    optimiser.step(loss)
    slope, offset = float(line[0].detach().exp()), float(line[1].detach())
    return Calibration(slope, offset) if np.isfinite([slope, offset]).all() else Calibration()


def choose_floor(scores: Tensor, truth: Tensor, precision: float) -> tuple[float, float]:
    """The lowest floor above which labels are right as often as is asked, and how often they are.

    Where no floor gives that, the one that gives most. It lies half way to the next score below it.

    Args:
        scores, truth: (clips, classes).
    """
    flat, order = scores.flatten().sort(descending=True)
    right = truth.flatten()[order].cumsum(0)
    share = right / torch.arange(1, len(flat) + 1)
    is_last = torch.cat([flat[1:] != flat[:-1], torch.tensor([True])])  # equal scores go together
    good = torch.nonzero((share >= precision) & is_last)[:, 0]
    at = int(good[-1]) if len(good) else int((share * is_last).argmax())
    below = float(flat[at + 1]) if at + 1 < len(flat) else 0.0
    return (float(flat[at]) + below) / 2, float(share[at])


@dataclass(frozen=True)
class Learner:
    """What was learned, ready to answer in memory."""

    pupil: Pupil
    spec: LearnedSpec
    calibrations: dict[str, Calibration]  # by vocabulary
    measures: dict[str, float]  # of the epoch that was best
    n_steps: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def scores(
        self, examples: Sequence[Example], senses: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Calibrated scores of all clips, (clips, classes) by vocabulary; `senses` as in `answer`."""
        logits = answer(self.pupil.eval(), examples, self.device, senses)
        return {
            name: scores_of(
                found,
                self.spec.spaces[name].is_multi,
                self.calibrations[name].slope,
                self.calibrations[name].offset,
            )
            for name, found in logits.items()
        }


def spec_of(
    examples: Sequence[Example],
    spaces: Mapping[str, LearnedSpaceSpec],
    learning: Learning,
    *,
    text_dim: int = 0,
    tuned_dims: Mapping[str, int],
) -> LearnedSpec:
    """The part that `learn` fills with weights; its file, licence and source are for who writes it down."""
    dims = {name: t.values.shape[-1] for name, t in examples[0].streams.items()} | dict(tuned_dims)
    return LearnedSpec(
        weights=WeightFile(file="learned.safetensors"),
        streams={
            name: StreamSpec.model_validate({"dim": dim, "modality": MODALITIES.get(name, "video")})
            for name, dim in dims.items()
        },
        spaces=dict(spaces),
        fusion=learning.fusion,
        dim=learning.dim,
        depth=learning.depth,
        num_heads=learning.num_heads,
        context_depth=learning.context_depth,
        text_dim=text_dim if learning.align_weight else 0,
        licence="",
        source="",
    )


def learn(
    examples: Sequence[Example],
    watched: Sequence[Example],
    learning: Learning,
    loop: LoopConfig,
    work: Path,
    *,
    spaces: Mapping[str, LearnedSpaceSpec] | None = None,
    texts: Tensor | None = None,
    make_tuned: Callable[[], Mapping[str, TunedEncoder]] = dict,
    device: torch.device | None = None,
    rank: int = 0,
    n_ranks: int = 1,
    tell: Tell = lambda _step, _measures: None,
) -> Learner:
    """Train on `examples`, from the last checkpoint in `work` on; see the module's first lines.

    Args:
        spaces: the vocabularies; classes without names, one a clip, if not given.
        texts: (n, text_dim) what captions mean, where `Example.text` numbers them.
        make_tuned: the encoders that are tuned too, by stream, with the weights that they begin with.
        rank, n_ranks: as in `pipeline.training.loop.fit`.

    Raises:
        ValueError: no example, or `work` holds a training of other settings.
    """
    if not examples:
        raise ValueError("no example to train on")
    if spaces is None:
        counts = {name: y.shape[1] for name, y in examples[0].labels.items()}
        spaces = {name: LearnedSpaceSpec(names=tuple(map(str, range(n)))) for name, n in counts.items()}
    text_dim = 0 if texts is None else texts.shape[1]
    tuned_dims = {name: encoder.dim for name, encoder in make_tuned().items()}
    spec = spec_of(examples, spaces, learning, text_dim=text_dim, tuned_dims=tuned_dims)
    device = device or torch.device("cpu")
    task = LearnTask(
        examples, watched, spec, learning, texts=texts, make_tuned=make_tuned, device=device
    )
    fitted = fit(task, loop, work, device=device, rank=rank, n_ranks=n_ranks, tell=tell)
    assert isinstance(fitted.net, Pupil)
    calibrations = dict.fromkeys(spaces, Calibration())
    if watched and rank == 0:
        logits = answer(fitted.net.eval(), watched, device)
        for name, space in spaces.items():
            truth = torch.cat([e.labels[name] for e in watched])
            known = ~truth.isnan().any(1)
            n_groups = len({e.group for e in watched if e.known(name).any()})
            calibrations[name] = calibrate(logits[name][known], truth[known], space.is_multi, n_groups)
    return Learner(fitted.net, spec, calibrations, fitted.measures, fitted.n_steps, device)
