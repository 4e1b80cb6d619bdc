"""Sight and hearing of a bundle: clips in, scores over vocabularies out.

A sense encodes the clips of several units together in chunks of one shape, and joins the scores back
by the place of their clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
from pipeline.encoders.cnn3d import X3D
from pipeline.encoders.frames import EfficientNetLite0, rename_efficientnet_lite, square_crops
from pipeline.records import ClipBatch

_BEST_SHARE = 3  # a thing counts as seen by its best third of the pictures


@dataclass(frozen=True)
class Sensed:
    """Scores of N clips, in 0..1; zero where the sense is absent."""

    spaces: dict[str, Tensor]  # vocabulary → (N, C)
    evidence: Tensor  # (N, E) over the sense's `evidence_names`


class Sight:
    """What is looked at: single pictures (`efficientnet_lite0`) or moving ones (`x3d`)."""

    modality = "video"

    def __init__(self, bundle: BundleSpec, spec: EncoderSpec, device: torch.device) -> None:
        self.device = device
        classes = _class_names(bundle, spec)
        self.names: dict[str, tuple[str, ...]] = {spec.labels: classes}
        self.space = spec.labels
        self.objects: Objects | None = None
        self.chunk = 4 if device.type == "cpu" else 256  # a CPU's cache holds no more
        tensors = read_tensors(spec.weights, bundle.directory)
        if spec.kind == "efficientnet_lite0":
            net = EfficientNetLite0(len(classes))
            load_strictly(net, rename_efficientnet_lite(tensors), bundle.name)
            net.fold().to(device)
            self.net: EfficientNetLite0 | X3D = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.most_crops = int(spec.options.get("crops", 1))
        else:
            net3d = X3D(str(spec.options.get("size", "s")), len(classes))
            load_strictly(net3d, tensors, bundle.name)
            self.net = net3d.to(device)
        if bundle.objects_file:
            self.objects = read_objects(bundle.directory / bundle.objects_file, classes)
            self.names["objects"] = self.objects.words
        self.evidence_names, self.is_for_actions = self._evidence_vocabulary(classes)

    def _evidence_vocabulary(self, classes: tuple[str, ...]) -> tuple[tuple[str, ...], Tensor]:
        if self.objects is None:
            return classes, torch.ones(len(classes), dtype=torch.bool)
        rest = tuple(classes[i] for i in self.objects.ungrouped)
        counts = torch.cat([~self.objects.is_worn, torch.ones(len(rest), dtype=torch.bool)])
        return self.objects.phrases + rest, counts

    @torch.inference_mode()
    def perceive(self, batches: Sequence[ClipBatch]) -> Sensed:
        """Scores of all clips of all `batches`, one batch's clips behind the other's."""
        if isinstance(self.net, X3D):
            fine = self._watch(batches)
            return Sensed({self.space: fine}, self._evidence(fine, None))
        return self._look(batches)

    def _look(self, batches: Sequence[ClipBatch]) -> Sensed:
        """Each picture alone; a clip's score is the mean of the class's best third of pictures."""
        valid = torch.cat([torch.from_numpy(b.frame_valid) for b in batches])  # (N, T)
        n_classes = len(self.names[self.space])
        n_words = len(self.objects.words) if self.objects else 0
        per_frame = torch.zeros(*valid.shape, n_classes + n_words)  # (N, T, C + G)
        flat = per_frame.view(-1, n_classes + n_words)
        owners = torch.nonzero(valid.flatten())[:, 0]  # which row of `flat` each picture is
        for places, crops in self._chunks(batches):
            scores = self.net(crops.to(self.device)).float().softmax(-1).cpu()
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

    def _chunks(self, batches: Sequence[ClipBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        """Squares of all pictures, at most `chunk` at once, with the number of their picture."""
        size = EfficientNetLite0.size_px
        places: list[Tensor] = []
        squares: list[Tensor] = []
        n_waiting, n_pictures = 0, 0
        for batch in batches:
            frames = torch.from_numpy(batch.frames[batch.frame_valid])  # (V, H, W, 3)
            if not len(frames):
                continue
            crops = square_crops(frames, size, self.most_crops)  # (V, n, size, size, 3)
            place = torch.arange(len(frames)) + n_pictures
            n_pictures += len(frames)
            places.append(place.repeat_interleave(crops.shape[1]))
            squares.append(crops.flatten(0, 1))
            n_waiting += len(places[-1])
        if n_waiting:
            all_places, all_squares = torch.cat(places), torch.cat(squares)
            yield from zip(all_places.split(self.chunk), all_squares.split(self.chunk), strict=True)

    def _watch(self, batches: Sequence[ClipBatch]) -> Tensor:
        """Each clip as a whole; zero where it has no picture."""
        rows = []
        for batch in batches:
            scores = torch.zeros(len(batch), len(self.names[self.space]))
            seen = torch.from_numpy(batch.has_video)
            for at in _chunks_of(seen, max(1, self.chunk // 4)):
                frames = torch.from_numpy(batch.frames[at.numpy()]).to(self.device)
                scores[at] = self.net(frames).float().softmax(-1).cpu()
            rows.append(scores)
        return torch.cat(rows)

    def _evidence(self, fine: Tensor, words: Tensor | None) -> Tensor:
        if self.objects is None or words is None:
            return fine
        return torch.cat([words, fine[:, list(self.objects.ungrouped)]], dim=1)


class Hearing:
    """What is heard, by YAMNet; scores are calibrated as the bundle says."""

    modality = "audio"

    def __init__(self, bundle: BundleSpec, spec: EncoderSpec, device: torch.device) -> None:
        self.device = device
        self.space = spec.labels
        classes = _class_names(bundle, spec)
        self.names = {spec.labels: classes}
        self.evidence_names = classes
        net = YamNet(len(classes))
        load_strictly(net, read_yamnet(spec.weights, bundle.directory), bundle.name)
        self.net = net.to(device)
        self.sample_rate_hz = net.sample_rate_hz
        calibration = bundle.spaces[spec.labels]
        self.slope, self.offset = calibration.slope, calibration.offset
        self.chunk = 16 if device.type == "cpu" else 128

    @torch.inference_mode()
    def perceive(self, batches: Sequence[ClipBatch]) -> Sensed:
        """Scores of all clips of all `batches`, one batch's clips behind the other's."""
        rows = []
        for batch in batches:
            scores = torch.zeros(len(batch), len(self.evidence_names))
            heard = torch.from_numpy(batch.has_audio)
            for at in _chunks_of(heard, self.chunk):
                samples = torch.from_numpy(batch.samples[at.numpy()]).to(self.device)
                logits = self.net(samples)[0].float().cpu()  # (n, P, C)
                valid = self.valid_patches(torch.from_numpy(batch.audio_valid[at.numpy()]), logits)
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


def _class_names(bundle: BundleSpec, spec: EncoderSpec) -> tuple[str, ...]:
    if spec.label_file is not None:
        return read_labels(spec.label_file, bundle.directory)
    names = label_space(spec.labels)
    if not names:
        raise BundleError(f"bundle {bundle.name}: label space {spec.labels!r} is empty")
    return names
