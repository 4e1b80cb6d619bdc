"""Sight and hearing of a bundle: clips in, scores over vocabularies out.

A sense encodes the clips of several units together in chunks of one shape, and joins the scores back
by the place of their clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torchaudio
from torch import Tensor

from pipeline.bundles.accelerate import Runtime, settle
from pipeline.bundles.families import PICTURE_KINDS, SOUND_KINDS, check_kind, check_options, load_part
from pipeline.bundles.families.base import VideoNet, frame_places, shown, valid_until
from pipeline.bundles.families.pairs import Sights
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
class Sensed:
    """Scores of N clips, in 0..1; zero where the sense is absent."""

    spaces: dict[str, Tensor]  # vocabulary → (N, C)
    evidence: Tensor  # (N, E) over the sense's `evidence_names`
    sights: Sights | None = None  # of the clips at `places`, where the encoder shares a space with text
    places: Tensor | None = None  # (n,) int64


class Sense(Protocol):
    """What is common to all encoders of one modality."""

    modality: str
    names: dict[str, tuple[str, ...]]  # of each vocabulary it scores
    space: str  # its own vocabulary
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
    bundle: BundleSpec, length_s: float, runtime: Runtime
) -> PictureSight | ClipSight | PairSight | None:
    """The bundle's sense of pictures, for clips of `length_s`."""
    if bundle.video is None:
        return None
    kind = bundle.video.kind
    check_kind(bundle.name, kind, PICTURE_KINDS)
    if kind == "efficientnet_lite0":
        check_options(kind, bundle.video.options, {"crops": (int, 1)})
        return PictureSight(bundle, bundle.video, runtime)
    if kind in _PAIRS:
        return PairSight(bundle, bundle.video, runtime)
    return ClipSight(bundle, bundle.video, length_s, runtime)


def make_hearing(
    bundle: BundleSpec, runtime: Runtime
) -> PatchHearing | SoundHearing | PairHearing | None:
    """The bundle's sense of sound."""
    if bundle.audio is None:
        return None
    kind = bundle.audio.kind
    check_kind(bundle.name, kind, SOUND_KINDS)
    if kind == "yamnet":
        check_options(kind, bundle.audio.options, {})
        return PatchHearing(bundle, bundle.audio, runtime)
    return (PairHearing if kind in _PAIRS else SoundHearing)(bundle, bundle.audio, runtime)


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
        owners = torch.nonzero(valid.flatten())[:, 0]  # which row of `flat` each picture is
        for places, crops in self._chunks(batches, frames):
            # In bfloat16 some clips' scores leave the tolerance: cosine 0.978 (docs/speed.md).
            scores = self.net(filled(crops, self.chunk))[: len(crops)].softmax(-1).cpu()
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
        return Sensed(spaces, self._evidence(fine, words))

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
    batch: int
    clip: int
    places: Tensor  # (T,) of the batch's pictures


class ClipSight:
    """What happens in a clip as a whole, by a video network of a published family."""

    modality = "video"

    def __init__(
        self, bundle: BundleSpec, spec: EncoderSpec, length_s: float, runtime: Runtime
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
        self.chunk = settle(self.net, runtime, runtime.at_once(2, 32))

    @torch.inference_mode()
    def perceive(self, batches: Sequence[ClipBatch], frames: Sequence[Tensor]) -> Sensed:
        """Mean probabilities over the looks at each clip; zero where it has no picture."""
        fine = self.look(batches, frames, self.length_s, self.n_views, self.n_crops)
        return Sensed({self.space: fine}, fine)

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
        n_clips = sum(len(batch) for batch in batches)
        rows: list[int] = []
        found: list[
            Tensor
        ] = []  # stays on the device, so that it need not wait for us between two batches
        by_shape: dict[torch.Size, list[_Look]] = {}
        for look in self._looks(batches, length_s, n_views):
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
        scores, n_looks = torch.zeros(n_clips, len(self.evidence_names)), torch.zeros(n_clips)
        if found:
            at = torch.tensor(rows)
            scores.index_add_(0, at, torch.cat(found).cpu())
            n_looks.index_add_(0, at, torch.ones(len(at)))
        return scores / n_looks.clamp(min=1)[:, None]

    def _looks(self, batches: Sequence[ClipBatch], length_s: float, n_views: int) -> Iterator[_Look]:
        first = 0
        for number, batch in enumerate(batches):
            n_places = batch.frame_valid.shape[1]
            use, n_valid = shown(batch), valid_until(batch)
            for i in np.flatnonzero(n_valid).tolist():
                valid_s = length_s * n_valid[i] / n_places
                n_looks = n_views or self.net.sampling.views(valid_s)
                for places in frame_places(self.net.sampling, int(n_valid[i]), valid_s, n_looks):
                    yield _Look(first + i, number, i, torch.from_numpy(use[i][places.numpy()]))
            first += len(batch)


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
        return _paired(self, found, places, first)


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
    sense: PairSight | PairHearing, found: list[Sights], places: list[Tensor], n: int
) -> Sensed:
    """Scores of the sense's vocabulary from what was embedded, back at the clips' places."""
    scores = torch.zeros(n, len(sense.evidence_names))
    if not found:
        return Sensed({sense.space: scores}, scores)
    contexts = [part.context for part in found if part.context is not None]
    sights = Sights(
        torch.cat([part.tokens for part in found]), torch.cat(contexts) if contexts else None
    )
    at = torch.cat(places)
    scores[at] = scored(sense, sights, sense.texts)
    return Sensed({sense.space: scores}, scores, sights, at)


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

    def __init__(self, bundle: BundleSpec, spec: EncoderSpec, runtime: Runtime) -> None:
        self.net = _placed(load_part(spec, bundle.directory), runtime)
        self.space = spec.labels
        self.names = {spec.labels: _class_names(bundle, spec, self.net.names)}
        self.evidence_names = self.names[spec.labels]
        _check_head(bundle, spec, self.evidence_names, self.net.n_classes)
        self.sample_rate_hz: int = _checked_rate(bundle, spec, self.net.sample_rate_hz)
        self.calibration = bundle.spaces[spec.labels]
        self.chunk = 4 if runtime.device.type == "cpu" else 64

    @torch.inference_mode()
    def perceive(self, batches: Sequence[ClipBatch]) -> Sensed:
        """Scores of the sound that each clip has; zero where it has none."""
        rows = []
        for batch in batches:
            scores = torch.zeros(len(batch), len(self.evidence_names))
            samples, spans = sound_at(batch, self.sample_rate_hz)
            for at in _chunks_of(torch.from_numpy(batch.has_audio), self.chunk):
                logits = self.net([samples[i, spans[i, 0] : spans[i, 1]] for i in at.tolist()])
                logits = logits.float().cpu() * self.calibration.slope + self.calibration.offset
                scores[at] = torch.sigmoid(logits)
            rows.append(scores)
        scores = torch.cat(rows)
        return Sensed({self.space: scores}, scores)


class PairHearing:
    """What is heard, by an encoder that shares a space with text; scores any vocabulary."""

    modality = "audio"

    def __init__(self, bundle: BundleSpec, spec: EncoderSpec, runtime: Runtime) -> None:
        self.runtime = runtime
        self.net = _placed(load_part(spec, bundle.directory), runtime)
        self.dim: int = self.net.dim
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
        return _paired(self, found, places, first)


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
        self.sample_rate_hz = net.sample_rate_hz
        calibration = bundle.spaces[spec.labels]
        self.slope, self.offset = calibration.slope, calibration.offset
        self.chunk = 16 if runtime.device.type == "cpu" else 128

    @torch.inference_mode()
    def perceive(self, batches: Sequence[ClipBatch]) -> Sensed:
        """Scores of all clips of all `batches`, one batch's clips behind the other's."""
        rows = []
        for batch in batches:
            scores = torch.zeros(len(batch), len(self.evidence_names))
            samples, spans = sound_at(batch, self.sample_rate_hz)
            for at in _chunks_of(torch.from_numpy(batch.has_audio), self.chunk):
                heard = filled(torch.from_numpy(samples[at.numpy()]), self.chunk)
                patches = self.net.patches(heard.to(self.runtime.device))  # (n, P, 96, 64)
                with self.runtime.autocast():
                    logits = self.net.classify(patches.flatten(0, 1))[0].float().cpu()
                logits = logits.unflatten(0, patches.shape[:2])[: len(at)]  # (n, P, C)
                valid = self.valid_patches(torch.from_numpy(spans[at.numpy()]), logits)
                scores[at] = torch.sigmoid(self.slope * loudest(logits, valid) + self.offset)
            rows.append(scores)
        scores = torch.cat(rows)
        return Sensed({self.space: scores}, scores)

    def valid_patches(self, spans: Tensor, logits: Tensor) -> Tensor:
        """Which patches (n, P) hold sound of the file by half at least; always the fullest one."""
        starts = torch.arange(logits.shape[1]) * self.net.patch_hop_s * self.sample_rate_hz
        ends = starts + self.net.patch_s * self.sample_rate_hz
        overlap = torch.minimum(ends, spans[:, 1:]) - torch.maximum(starts, spans[:, :1])
        is_half = overlap >= 0.5 * (ends - starts)
        fullest = torch.nn.functional.one_hot(overlap.argmax(1), logits.shape[1]).bool()
        return is_half | fullest


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
