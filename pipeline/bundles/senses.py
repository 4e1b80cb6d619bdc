"""Sight and hearing of a bundle: clips in, scores over vocabularies out.

A sense encodes the clips of several units together in chunks of one shape, and joins the scores back
by the place of their clip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torchaudio
from torch import Tensor

from pipeline.bundles.accelerate import Runtime, settle
from pipeline.bundles.families import check_options, load_part
from pipeline.bundles.families.base import Overheard, VideoNet, frame_places, shown, valid_until
from pipeline.bundles.families.pairs import Sights
from pipeline.bundles.kinds import check_kind
from pipeline.bundles.objects import Objects, read_objects
from pipeline.bundles.spec import BundleError, BundleSpec, EncoderSpec
from pipeline.bundles.weights import (
    label_space,
    load_strictly,
    read_labels,
    read_tensors,
    read_yamnet,
)
from pipeline.encoders.audio import YamNet
from pipeline.encoders.frames import EfficientNetLite0, rename_efficientnet_lite, square_crops
from pipeline.records import ClipBatch

_BEST_SHARE = 3  # a thing counts as seen by its best third of the pictures
_SCORED_AT_ONCE = 32
_PAIRS = ("clip", "siglip", "xclip", "clap")


@dataclass(frozen=True)
class Tokens:
    """What a sense took in, piece by piece: pictures, patches of sound, or windows of motion."""

    values: Tensor  # (N, K, D) float32; zero where not valid
    middle_s: Tensor  # (N, K) float32, seconds from the clip's start to the middle of the piece
    valid: Tensor  # (N, K) bool


@dataclass(frozen=True)
class Sensed:
    """Scores of N clips, in 0..1; zero where the sense is absent."""

    spaces: dict[str, Tensor]  # vocabulary → (N, C)
    evidence: Tensor  # (N, E) over the sense's `evidence_names`
    sights: Sights | None = None  # of the clips at `places`, where the encoder shares a space with text
    places: Tensor | None = None  # (n,) int64
    tokens: Tokens | None = None  # features of N clips, where the encoder tells them


class Senses(NamedTuple):
    """What each sense says of the same clips; None where the bundle has it not."""

    seen: Sensed | None
    heard: Sensed | None
    moved: Sensed | None


class Sense(Protocol):
    """What is common to all encoders of one modality."""

    modality: str
    names: dict[str, tuple[str, ...]]  # of each vocabulary it scores
    space: str  # its own vocabulary
    token_dim: int  # of the tokens that `perceive` tells; 0: it tells none
    evidence_names: tuple[str, ...]  # how what it recognises reads


class Sight(Sense, Protocol):
    """An encoder of pictures."""

    def perceive(self, batches: Sequence[ClipBatch], frames: Sequence[Tensor]) -> Sensed:
        """Scores of all clips of all `batches`, one batch's clips behind the other's.

        Args:
            frames: each batch's pictures on the device, uint8 (N, T, H, W, 3): uploaded once for all who look.
        """


class Hearing(Sense, Protocol):
    """An encoder of sound."""

    def perceive(self, batches: Sequence[ClipBatch]) -> Sensed:
        """Scores of all clips of all `batches`, one batch's clips behind the other's."""


def make_sight(
    bundle: BundleSpec, length_s: float, runtime: Runtime, tells: bool = False
) -> PictureSight | ClipSight | PairSight | None:
    """The bundle's sense of pictures, for clips of `length_s`.

    Args:
        tells: tokens are asked for; senses that have them at no cost tell them anyway.

    Raises:
        BundleError: weights do not fit, or `tells` and the network has no token to tell.
    """
    if bundle.video is None:
        return None
    kind = bundle.video.kind
    check_kind(bundle.name, kind, "video")
    if kind == "efficientnet_lite0":
        check_options(kind, bundle.video.options, {"crops": (int, 1)})
        return PictureSight(bundle, bundle.video, runtime)
    if kind in _PAIRS:
        return PairSight(bundle, bundle.video, runtime)
    return ClipSight(bundle, bundle.video, length_s, runtime, tells)


def make_hearing(
    bundle: BundleSpec, runtime: Runtime, tells: bool = False
) -> PatchHearing | SoundHearing | PairHearing | None:
    """The bundle's sense of sound; as `make_sight`."""
    if bundle.audio is None:
        return None
    kind = bundle.audio.kind
    check_kind(bundle.name, kind, "audio")
    if kind == "yamnet":
        check_options(kind, bundle.audio.options, {})
        return PatchHearing(bundle, bundle.audio, runtime)
    if kind in _PAIRS:
        return PairHearing(bundle, bundle.audio, runtime)
    return SoundHearing(bundle, bundle.audio, runtime, tells)


class PictureSight:
    """What is seen in single pictures, by EfficientNet-Lite0."""

    modality = "video"

    def __init__(self, bundle: BundleSpec, spec: EncoderSpec, runtime: Runtime) -> None:
        self.runtime = runtime
        classes = _class_names(bundle, spec, None)
        self.names: dict[str, tuple[str, ...]] = {spec.labels: classes}
        self.space = spec.labels
        self.objects: Objects | None = None
        self.chunk = runtime.at_once(4, 256)  # a CPU's cache holds no more
        net = EfficientNetLite0(len(classes))
        assert spec.weights is not None  # the bundle's files were checked
        tensors = rename_efficientnet_lite(read_tensors(spec.weights, bundle.directory))
        load_strictly(net, tensors, bundle.name)
        net.fold().to(runtime.device)
        self.net: EfficientNetLite0 = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.token_dim = net.feature_dim
        self.most_crops = int(spec.options.get("crops", 1))
        if bundle.objects_file:
            self.objects = read_objects(bundle.text_file(bundle.objects_file), classes)
            self.names["objects"] = self.objects.words
        self.evidence_names, self.is_for_actions = self._evidence_vocabulary(classes)

    def _evidence_vocabulary(self, classes: tuple[str, ...]) -> tuple[tuple[str, ...], Tensor]:
        if self.objects is None:
            return classes, torch.ones(len(classes), dtype=torch.bool)
        rest = tuple(classes[i] for i in self.objects.ungrouped)
        counts = torch.cat([~self.objects.is_worn, torch.ones(len(rest), dtype=torch.bool)])
        return self.objects.phrases + rest, counts

    @torch.inference_mode()
    def perceive(self, batches: Sequence[ClipBatch], frames: Sequence[Tensor]) -> Sensed:
        """Each picture alone; a clip's score is the mean of the class's best third of pictures."""
        valid = torch.cat([torch.from_numpy(b.frame_valid) for b in batches])  # (N, T)
        n_classes = len(self.names[self.space])
        n_words = len(self.objects.words) if self.objects else 0
        per_frame = torch.zeros(*valid.shape, n_classes + n_words)  # (N, T, C + G)
        flat = per_frame.view(-1, n_classes + n_words)
        looks = torch.zeros(
            *valid.shape, self.net.feature_dim
        )  # (N, T, D), sums over a picture's squares
        n_looks = torch.zeros(valid.numel())
        owners = torch.nonzero(valid.flatten())[:, 0]  # which row of `flat` each picture is
        for places, crops in self._chunks(batches, frames):
            # In bfloat16 some clips' scores leave the tolerance: cosine 0.978 (docs/speed.md).
            features = self.net.features(filled(crops, self.chunk))[: len(crops)]
            scores = self.net.classifier(features).softmax(-1).cpu()
            looks.view(len(n_looks), -1).index_add_(0, owners[places], features.cpu())
            n_looks.index_add_(0, owners[places], torch.ones(len(places)))
            if self.objects is not None:
                scores = scores * self.objects.is_told
                words = (scores @ self.objects.member).clamp(max=1.0)
                scores = torch.cat([scores, words], dim=1)
            # A thing in any of a picture's squares is in the picture.
            rows = owners[places][:, None].expand_as(scores)
            flat.scatter_reduce_(0, rows, scores, "amax")
        pooled = best_share(per_frame, valid)
        fine, words = pooled[:, :n_classes], pooled[:, n_classes:]
        spaces = {self.space: fine} | ({"objects": words} if self.objects else {})
        looks /= n_looks.clamp(min=1).view(*valid.shape, 1)
        tokens = Tokens(looks, picture_times(batches), valid)
        return Sensed(spaces, self._evidence(fine, words), tokens=tokens)

    def pieces(self, batches: Sequence[ClipBatch], frames: Sequence[Tensor]) -> Tokens:
        """Squares of all pictures, for an encoder that is tuned: values (N, K, side, side, 3) uint8."""
        told = []
        for batch, mine in zip(batches, frames, strict=True):
            valid = torch.from_numpy(batch.frame_valid)
            squares = square_crops(mine.cpu().flatten(0, 1), self.net.size_px, self.most_crops)
            n = squares.shape[1]
            told.append(
                Tokens(
                    squares.unflatten(0, valid.shape).flatten(1, 2),  # (N, T·n, side, side, 3)
                    picture_times([batch]).repeat_interleave(n, 1),
                    valid.repeat_interleave(n, 1),
                )
            )
        return joined(told)

    def _chunks(
        self, batches: Sequence[ClipBatch], frames: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Squares of all pictures, at most `chunk` at once, with the number of their picture."""
        size = EfficientNetLite0.size_px
        places: list[Tensor] = []
        squares: list[Tensor] = []
        n_waiting, n_pictures = 0, 0
        for batch, mine in zip(batches, frames, strict=True):
            pictures = mine[torch.from_numpy(batch.frame_valid).to(mine.device)]  # (V, H, W, 3)
            if not len(pictures):
                continue
            crops = square_crops(pictures, size, self.most_crops)  # (V, n, size, size, 3)
            place = torch.arange(len(pictures)) + n_pictures
            n_pictures += len(pictures)
            places.append(place.repeat_interleave(crops.shape[1]))
            squares.append(crops.flatten(0, 1))
            n_waiting += len(places[-1])
        if n_waiting:
            all_places, all_squares = torch.cat(places), torch.cat(squares)
            yield from zip(all_places.split(self.chunk), all_squares.split(self.chunk), strict=True)

    def _evidence(self, fine: Tensor, words: Tensor | None) -> Tensor:
        if self.objects is None or words is None:
            return fine
        return torch.cat([words, fine[:, list(self.objects.ungrouped)]], dim=1)


def _placed(net: Any, runtime: Runtime) -> Any:
    return net.accelerate(runtime.device) if runtime.is_fast else net.to(runtime.device)


@dataclass(frozen=True)
class _Look:
    """One look at a clip: which of its pictures a network is shown together."""

    row: int  # of the clip, among those of all batches
    number: int  # among the clip's looks
    batch: int
    clip: int
    places: Tensor  # (T,) of the batch's pictures


class ClipSight:
    """What happens in a clip as a whole, by a video network of a published family."""

    modality = "video"

    def __init__(
        self,
        bundle: BundleSpec,
        spec: EncoderSpec,
        length_s: float,
        runtime: Runtime,
        tells: bool = False,
    ) -> None:
        self.runtime, self.length_s = runtime, length_s
        self.net: VideoNet = _placed(load_part(spec, bundle.directory), runtime)
        self.space = spec.labels
        classes = _class_names(bundle, spec, self.net.names)
        _check_head(bundle, spec, classes, self.net.n_classes)
        self.names = {spec.labels: classes}
        self.evidence_names, self.is_for_actions = classes, torch.ones(len(classes), dtype=torch.bool)
        self.n_views = int(spec.options.get("temporal_views", 0))
        self.n_crops = int(spec.options.get("spatial_crops", 1))
        # A network that is listened in to runs as it is: neither compiled nor recorded.
        self.chunk = runtime.at_once(2, 32)
        if not tells:
            self.chunk = settle(self.net, runtime, self.chunk)
        self.overheard = Overheard(self.net, self.net.n_classes, bundle.name) if tells else None
        self.token_dim = self.overheard.dim if self.overheard else 0

    @torch.inference_mode()
    def perceive(self, batches: Sequence[ClipBatch], frames: Sequence[Tensor]) -> Sensed:
        """Mean probabilities over the looks at each clip, zero where it has no picture; a token a look."""
        fine, tokens = self._look(batches, frames, self.length_s, self.n_views, self.n_crops)
        return Sensed({self.space: fine}, fine, tokens=tokens)

    @torch.inference_mode()
    def look(
        self,
        batches: Sequence[ClipBatch],
        frames: Sequence[Tensor],
        length_s: float,
        n_views: int,
        n_crops: int,
    ) -> Tensor:
        """Mean probabilities over looks at each clip, (N, C): `n_views` in time (0: as many as it takes to see
        all) × `n_crops` along the long side. A clip that ends early is looked at as far as it goes.

        Looks of all clips fill the network's batches together, and are joined back by their clip.
        """
        return self._look(batches, frames, length_s, n_views, n_crops)[0]

    def _look(
        self,
        batches: Sequence[ClipBatch],
        frames: Sequence[Tensor],
        length_s: float,
        n_views: int,
        n_crops: int,
    ) -> tuple[Tensor, Tokens | None]:
        n_clips = sum(len(batch) for batch in batches)
        rows: list[int] = []
        found: list[
            Tensor
        ] = []  # stays on the device, so that it need not wait for us between two batches
        by_shape: dict[torch.Size, list[_Look]] = {}
        all_looks = list(self._looks(batches, length_s, n_views))
        tokens = _token_a_look(all_looks, batches, n_clips, self.token_dim) if self.overheard else None
        for look in all_looks:
            by_shape.setdefault(frames[look.batch].shape[2:], []).append(look)
        for looks in by_shape.values():
            for i in range(0, len(looks), self.chunk):
                part = looks[i : i + self.chunk]
                pictures = torch.stack([frames[x.batch][x.clip][x.places] for x in part])
                pictures = filled(pictures, self.chunk)
                for crop in range(n_crops):
                    # A copy, since a recorded graph writes its next answer over this one.
                    found.append(self.net.scores(pictures, crop, n_crops)[: len(part)].clone())
                    rows += [look.row for look in part]
                    if tokens is not None and self.overheard is not None:
                        at = [look.row for look in part], [look.number for look in part]
                        tokens.values[at] += self.overheard.take()[: len(part)] / n_crops
        scores, n_looks = torch.zeros(n_clips, len(self.evidence_names)), torch.zeros(n_clips)
        if found:
            clips = torch.tensor(rows)
            scores.index_add_(0, clips, torch.cat(found).cpu())
            n_looks.index_add_(0, clips, torch.ones(len(clips)))
        return scores / n_looks.clamp(min=1)[:, None], tokens

    def _looks(self, batches: Sequence[ClipBatch], length_s: float, n_views: int) -> Iterator[_Look]:
        first = 0
        for number, batch in enumerate(batches):
            n_places = batch.frame_valid.shape[1]
            use, n_valid = shown(batch), valid_until(batch)
            for i in np.flatnonzero(n_valid).tolist():
                valid_s = length_s * n_valid[i] / n_places
                n_looks = n_views or self.net.sampling.views(valid_s)
                asked = frame_places(self.net.sampling, int(n_valid[i]), valid_s, n_looks)
                for k, places in enumerate(asked):
                    yield _Look(first + i, k, number, i, torch.from_numpy(use[i][places.numpy()]))
            first += len(batch)


def _token_a_look(
    looks: Sequence[_Look], batches: Sequence[ClipBatch], n_clips: int, dim: int
) -> Tokens:
    """Tokens of so many clips, zero still, each at the middle of its look."""
    most = max((look.number for look in looks), default=0) + 1
    middle_s = torch.zeros(n_clips, most)
    valid = torch.zeros(n_clips, most, dtype=torch.bool)
    for look in looks:
        batch = batches[look.batch]
        times_s = batch.frame_time_s[look.clip][look.places.numpy()] - batch.start_s[look.clip]
        middle_s[look.row, look.number] = float(times_s.mean())
        valid[look.row, look.number] = True
    return Tokens(torch.zeros(n_clips, most, dim), middle_s, valid)


def filled(chunk: Tensor, size: int) -> Tensor:
    """`chunk` with its last row repeated up to `size`: networks are only ever called with one shape, so that
    what they say of a row does not depend on how many others there are."""
    missing = size - len(chunk)
    return torch.cat([chunk, chunk[-1:].expand(missing, *chunk.shape[1:])]) if missing > 0 else chunk


class PairSight:
    """What is seen, by an encoder that shares a space with text; scores any vocabulary."""

    modality = "video"

    def __init__(self, bundle: BundleSpec, spec: EncoderSpec, runtime: Runtime) -> None:
        self.runtime = runtime
        self.net = _placed(load_part(spec, bundle.directory), runtime)
        self.dim: int = self.net.dim
        self.token_dim = self.dim
        self.space = spec.labels
        self.names = {spec.labels: _class_names(bundle, spec, None)}
        self.evidence_names = self.names[spec.labels]
        self.is_for_actions = torch.ones(len(self.evidence_names), dtype=torch.bool)
        self.chunk = runtime.at_once(2, 32)
        self.texts = embed_names(self.net, self.evidence_names)
        self.nothing = embed_names(self.net, self.net.nothing, prompt="{}")

    @torch.inference_mode()
    def perceive(self, batches: Sequence[ClipBatch], frames: Sequence[Tensor]) -> Sensed:
        """Every name of the vocabulary against each clip."""
        found, places, first = [], [], 0
        for batch, mine in zip(batches, frames, strict=True):
            use, n_valid = shown(batch), valid_until(batch)
            for at in _chunks_of(torch.from_numpy(n_valid > 0), self.chunk):
                which = [
                    use[i][frame_places(self.net.sampling, int(n_valid[i]), 1.0, 1)[0].numpy()]
                    for i in at.tolist()
                ]
                pictures = mine[at[:, None], torch.from_numpy(np.stack(which))]
                found.append(self.net.embed(filled(pictures, self.chunk)).first(len(at)))
                places.append(at + first)
            first += len(batch)
        return _paired(self, found, places, batches)


def embed_names(net: object, names: Sequence[str], prompt: str | None = None) -> Tensor:
    """Text vectors of names in a pair's own prompt, (n, D)."""
    pattern = prompt or net.prompt  # type: ignore[attr-defined]
    if not names:
        return torch.zeros(0, net.dim, device=net.device)  # type: ignore[attr-defined]
    with torch.inference_mode():
        return net.embed_text([pattern.format(name) for name in names])  # type: ignore[attr-defined]


def scored(sense: PairSight | PairHearing, sights: Sights, texts: Tensor) -> Tensor:
    """How well each text fits each clip, (n, C), some clips at once: X-CLIP changes every text for each."""
    rows = []
    for i in range(0, len(sights.tokens), _SCORED_AT_ONCE):
        context = None if sights.context is None else sights.context[i : i + _SCORED_AT_ONCE]
        part = Sights(sights.tokens[i : i + _SCORED_AT_ONCE], context)
        rows.append(sense.net.score(part, texts, sense.nothing).cpu())
    return torch.cat(rows)


def _paired(
    sense: PairSight | PairHearing,
    found: list[Sights],
    places: list[Tensor],
    batches: Sequence[ClipBatch],
) -> Sensed:
    """Scores of the sense's vocabulary from what was embedded, back at the clips' places; a token a clip."""
    half_s = torch.cat([torch.from_numpy(b.end_s - b.start_s) for b in batches]).float() / 2
    n = len(half_s)
    scores = torch.zeros(n, len(sense.evidence_names))
    values = torch.zeros(n, 1, sense.dim)
    tokens = Tokens(values, half_s[:, None], torch.zeros(n, 1, dtype=torch.bool))
    if not found:
        return Sensed({sense.space: scores}, scores, tokens=tokens)
    contexts = [part.context for part in found if part.context is not None]
    sights = Sights(
        torch.cat([part.tokens for part in found]), torch.cat(contexts) if contexts else None
    )
    at = torch.cat(places)
    scores[at] = scored(sense, sights, sense.texts)
    tokens.values[at, 0], tokens.valid[at] = sights.tokens.float().cpu(), True
    return Sensed({sense.space: scores}, scores, sights, at, tokens)


def sound_at(batch: ClipBatch, rate_hz: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """A batch's sound (N, S) and its valid spans (N, 2) at another rate."""
    spans = batch.audio_valid.astype(np.int64)
    if batch.sample_rate_hz == rate_hz:
        return batch.samples, spans
    samples = torchaudio.functional.resample(
        torch.from_numpy(batch.samples), batch.sample_rate_hz, rate_hz
    )
    return samples.numpy(), np.round(spans * (rate_hz / batch.sample_rate_hz)).astype(np.int64)


class SoundHearing:
    """What is heard, by a sound classifier of a published family; scores calibrated as the bundle says."""

    modality = "audio"

    def __init__(
        self, bundle: BundleSpec, spec: EncoderSpec, runtime: Runtime, tells: bool = False
    ) -> None:
        self.net = _placed(load_part(spec, bundle.directory), runtime)
        self.space = spec.labels
        self.names = {spec.labels: _class_names(bundle, spec, self.net.names)}
        self.evidence_names = self.names[spec.labels]
        _check_head(bundle, spec, self.evidence_names, self.net.n_classes)
        self.sample_rate_hz: int = _checked_rate(bundle, spec, self.net.sample_rate_hz)
        self.calibration = bundle.spaces[spec.labels]
        self.chunk = 4 if runtime.device.type == "cpu" else 64
        self.overheard = Overheard(self.net, self.net.n_classes, bundle.name) if tells else None
        self.token_dim = self.overheard.dim if self.overheard else 0

    @torch.inference_mode()
    def perceive(self, batches: Sequence[ClipBatch]) -> Sensed:
        """Scores of the sound that each clip has, zero where it has none; a token a part heard at once."""
        rows, tokens = [], []
        for batch in batches:
            scores = torch.zeros(len(batch), len(self.evidence_names))
            samples, spans = sound_at(batch, self.sample_rate_hz)
            mine = self._no_parts(batch, spans) if self.overheard else None
            for at in _chunks_of(torch.from_numpy(batch.has_audio), self.chunk):
                logits = self.net([samples[i, spans[i, 0] : spans[i, 1]] for i in at.tolist()])
                logits = logits.float().cpu() * self.calibration.slope + self.calibration.offset
                scores[at] = torch.sigmoid(logits)
                if mine is not None and self.overheard is not None:
                    row, part = mine.valid[at].nonzero(as_tuple=True)
                    mine.values[at[row], part] = self.overheard.take()
            rows.append(scores)
            tokens += [mine] if mine is not None else []
        scores = torch.cat(rows)
        return Sensed({self.space: scores}, scores, tokens=joined(tokens) if tokens else None)

    def _no_parts(self, batch: ClipBatch, spans: npt.NDArray[np.int64]) -> Tokens:
        """The parts that each clip's sound is heard in, not heard yet."""
        most = self.net.most_samples
        lengths = torch.from_numpy(spans[:, 1] - spans[:, 0])[:, None]
        n_parts = max(1, math.ceil(int(lengths.max()) / most))
        begin = torch.arange(n_parts) * most
        end = torch.minimum(begin + most, lengths)
        middle_s = (torch.from_numpy(spans[:, :1]) + (begin + end) / 2) / self.sample_rate_hz
        valid = ((begin < lengths) | (begin == 0)) & torch.from_numpy(batch.has_audio)[:, None]
        return Tokens(torch.zeros(*valid.shape, self.token_dim), middle_s.float() * valid, valid)


class PairHearing:
    """What is heard, by an encoder that shares a space with text; scores any vocabulary."""

    modality = "audio"

    def __init__(self, bundle: BundleSpec, spec: EncoderSpec, runtime: Runtime) -> None:
        self.runtime = runtime
        self.net = _placed(load_part(spec, bundle.directory), runtime)
        self.dim: int = self.net.dim
        self.token_dim = self.dim
        self.space = spec.labels
        self.names = {spec.labels: _class_names(bundle, spec, None)}
        self.evidence_names = self.names[spec.labels]
        self.sample_rate_hz: int = _checked_rate(bundle, spec, self.net.sample_rate_hz)
        self.chunk = 4 if runtime.device.type == "cpu" else 64
        self.texts = embed_names(self.net, self.evidence_names)
        self.nothing = embed_names(self.net, self.net.nothing, prompt="{}")

    @torch.inference_mode()
    def perceive(self, batches: Sequence[ClipBatch]) -> Sensed:
        """Every name of the vocabulary against each clip's sound."""
        found, places, first = [], [], 0
        for batch in batches:
            samples, spans = sound_at(batch, self.sample_rate_hz)
            for at in _chunks_of(torch.from_numpy(batch.has_audio), self.chunk):
                found.append(
                    self.net.embed([samples[i, spans[i, 0] : spans[i, 1]] for i in at.tolist()])
                )
                places.append(at + first)
            first += len(batch)
        return _paired(self, found, places, batches)


class PatchHearing:
    """What is heard, by YAMNet; scores are calibrated as the bundle says."""

    modality = "audio"

    def __init__(self, bundle: BundleSpec, spec: EncoderSpec, runtime: Runtime) -> None:
        self.runtime = runtime
        self.space = spec.labels
        classes = _class_names(bundle, spec, None)
        self.names = {spec.labels: classes}
        self.evidence_names = classes
        net = YamNet(len(classes))
        assert spec.weights is not None  # the bundle's files were checked
        load_strictly(net, read_yamnet(spec.weights, bundle.directory), bundle.name)
        self.net = net.to(runtime.device)
        self.sample_rate_hz, self.token_dim = net.sample_rate_hz, net.feature_dim
        calibration = bundle.spaces[spec.labels]
        self.slope, self.offset = calibration.slope, calibration.offset
        self.chunk = 16 if runtime.device.type == "cpu" else 128

    @torch.inference_mode()
    def perceive(self, batches: Sequence[ClipBatch]) -> Sensed:
        """Scores of all clips of all `batches`, one batch's clips behind the other's."""
        rows, tokens = [], []
        for batch in batches:
            scores = torch.zeros(len(batch), len(self.evidence_names))
            samples, spans = sound_at(batch, self.sample_rate_hz)
            mine = self._no_patches(len(batch), samples.shape[1])
            for at in _chunks_of(torch.from_numpy(batch.has_audio), self.chunk):
                heard = filled(torch.from_numpy(samples[at.numpy()]), self.chunk)
                patches = self.net.patches(heard.to(self.runtime.device))  # (n, P, 96, 64)
                with self.runtime.autocast():
                    found = self.net.classify(patches.flatten(0, 1))
                logits, features = (  # (n, P, C), (n, P, D)
                    x.float().cpu().unflatten(0, patches.shape[:2])[: len(at)] for x in found
                )
                valid = self.valid_patches(torch.from_numpy(spans[at.numpy()]), patches.shape[1])
                scores[at] = torch.sigmoid(self.slope * loudest(logits, valid) + self.offset)
                mine.values[at], mine.valid[at] = features * valid[..., None], valid
            rows.append(scores)
            tokens.append(mine)
        scores = torch.cat(rows)
        return Sensed({self.space: scores}, scores, tokens=joined(tokens))

    def pieces(self, batches: Sequence[ClipBatch]) -> Tokens:
        """Patches of all clips, for an encoder that is tuned: values (N, K, 96, 64) float16."""
        told = []
        for batch in batches:
            samples, spans = sound_at(batch, self.sample_rate_hz)
            patches = self.net.patches(torch.from_numpy(samples).to(self.runtime.device)).half().cpu()
            valid = self.valid_patches(torch.from_numpy(spans), patches.shape[1])
            valid &= torch.from_numpy(batch.has_audio)[:, None]
            times_s = self._no_patches(len(batch), samples.shape[1]).middle_s
            told.append(Tokens(patches, times_s, valid))
        return joined(told)

    def _no_patches(self, n: int, n_samples: int) -> Tokens:
        """Patches of `n` clips of so many samples, not heard yet."""
        n_patches = self.net.patches.n_patches(n_samples)
        middle_s = torch.arange(n_patches) * self.net.patch_hop_s + self.net.patch_s / 2
        return Tokens(
            torch.zeros(n, n_patches, self.net.feature_dim),
            middle_s.expand(n, -1),
            torch.zeros(n, n_patches, dtype=torch.bool),
        )

    def valid_patches(self, spans: Tensor, n_patches: int) -> Tensor:
        """Which patches (n, P) hold sound of the file by half at least; always the fullest one."""
        starts = torch.arange(n_patches) * self.net.patch_hop_s * self.sample_rate_hz
        ends = starts + self.net.patch_s * self.sample_rate_hz
        overlap = torch.minimum(ends, spans[:, 1:]) - torch.maximum(starts, spans[:, :1])
        is_half = overlap >= 0.5 * (ends - starts)
        fullest = torch.nn.functional.one_hot(overlap.argmax(1), n_patches).bool()
        return is_half | fullest


def picture_times(batches: Sequence[ClipBatch]) -> Tensor:
    """When each picture is shown, (N, T) seconds from its clip's start; 0 where there is none."""
    times = [torch.from_numpy(b.frame_time_s - b.start_s[:, None]) for b in batches]
    return torch.cat(times).nan_to_num(0.0).float()


def joined(tokens: Sequence[Tokens]) -> Tokens:
    """Tokens of several batches, one behind the other, filled up to the longest."""
    most = max(t.valid.shape[1] for t in tokens)

    def filled_up(values: Sequence[Tensor]) -> Tensor:
        shapes = [(len(v), most - v.shape[1], *v.shape[2:]) for v in values]
        return torch.cat(
            [torch.cat([v, v.new_zeros(s)], 1) for v, s in zip(values, shapes, strict=True)]
        )

    return Tokens(
        filled_up([t.values for t in tokens]),
        filled_up([t.middle_s for t in tokens]),
        filled_up([t.valid for t in tokens]),
    )


def _chunks_of(which: Tensor, size: int) -> Iterator[Tensor]:
    """Indices at which `which` is True, `size` at a time."""
    at = torch.nonzero(which)[:, 0]
    return iter(at.split(size)) if len(at) else iter(())


def best_share(scores: Tensor, valid: Tensor) -> Tensor:
    """Mean of each class's best third of the valid pictures: (N, T, C), (N, T) → (N, C)."""
    ranked = scores.masked_fill(~valid[..., None], -1.0).sort(dim=1, descending=True).values
    n_best = torch.ceil(valid.sum(1) / _BEST_SHARE)  # (N,)
    counts = (torch.arange(scores.shape[1]) < n_best[:, None])[..., None]  # (N, T, 1)
    return (ranked * counts).sum(1) / n_best.clamp(min=1)[:, None]


def loudest(logits: Tensor, valid: Tensor) -> Tensor:
    """Each class's best valid patch: (N, P, C), (N, P) → (N, C)."""
    return logits.masked_fill(~valid[..., None], float("-inf")).amax(1)


def _check_head(bundle: BundleSpec, spec: EncoderSpec, names: tuple[str, ...], n_classes: int) -> None:
    if len(names) != n_classes:
        raise BundleError(
            f"{bundle.name}: {spec.labels!r} has {len(names)} names, the classifier {n_classes} classes"
        )


def _checked_rate(bundle: BundleSpec, spec: EncoderSpec, rate_hz: int) -> int:
    if spec.sample_rate_hz != rate_hz:
        raise BundleError(
            f"{bundle.name}: audio.sample_rate_hz is {spec.sample_rate_hz}, the checkpoint hears at {rate_hz}"
        )
    return rate_hz


def _class_names(
    bundle: BundleSpec, spec: EncoderSpec, told: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Names of a vocabulary: of the bundle's file, else as the checkpoint tells, else as libraries know."""
    if spec.label_file is not None:
        names = read_labels(spec.label_file, bundle.directory)
    else:
        names = told or label_space(spec.labels)
    if not names:
        raise BundleError(f"bundle {bundle.name}: label space {spec.labels!r} is empty")
    return names
