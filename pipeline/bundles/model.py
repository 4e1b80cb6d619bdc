"""A loaded bundle: aligned clips of several units in, what the model says of each clip out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import yaml
from torch import Tensor

from pipeline.bundles.senses import Hearing, Sensed, Sight
from pipeline.bundles.spec import BundleSpec
from pipeline.bundles.weights import load_strictly, read_tensors
from pipeline.config import Config
from pipeline.encoders.temporal import TemporalTransformer
from pipeline.encoders.text import SentenceEncoder, rename_sentence_bert
from pipeline.fusion.late import LateFusion
from pipeline.heads.actions import evidence_token, pick_labels, read_vocabulary, score_by_text
from pipeline.heads.captions import Evidence, PictureStats, compose
from pipeline.records import ClipBatch, ClipResult, Label

_DEFAULT_RATE_HZ = 16_000
_SILENT_RMS = 1e-3  # −60 dB of full scale


class Model:
    """Encoders, fusion and heads of one bundle on one device."""

    def __init__(self, spec: BundleSpec, config: Config, device: str = "cpu") -> None:
        """Load everything strictly.

        Raises:
            BundleError: weights are absent, altered, or do not fit.
        """
        self.spec, self.config, self.device = spec, config, torch.device(device)
        self.text = _load_text(spec, self.device)
        self.sight = Sight(spec, spec.video, self.device) if spec.video else None
        self.hearing = Hearing(spec, spec.audio, self.device) if spec.audio else None
        self.sample_rate_hz = self.hearing.sample_rate_hz if self.hearing else _DEFAULT_RATE_HZ
        self.fusion = LateFusion(spec.fusion.video_weight)
        self.temporal = _load_temporal(spec, self.device)
        self._read_phrases()
        self._embed_names()

    def _read_phrases(self) -> None:
        sounds = {}
        if self.spec.sounds_file:
            sounds = yaml.safe_load((self.spec.directory / self.spec.sounds_file).read_text("utf-8"))
        self.sound_phrases: dict[str, str] = sounds.get("phrases", {})
        self.background = frozenset(sounds.get("background", ()))
        self.children = _children(sounds.get("parents", {}), self.hearing)
        self.generic = self.background | frozenset(sounds.get("generic", ()))
        objects = self.sight.objects if self.sight else None
        self.object_phrases = dict(zip(objects.words, objects.phrases, strict=True)) if objects else {}

    def _embed_names(self) -> None:
        self.actions = read_vocabulary("actions", self.config.labels.actions, self.text)
        if self.sight:
            self.sight_vectors = self.text.encode(self.sight.evidence_names)
        if self.hearing:
            phrases = [self.sound_phrases.get(n, n) for n in self.hearing.evidence_names]
            self.sound_vectors = self.text.encode([f"the sound of {p.lower()}" for p in phrases])
            names = self.hearing.evidence_names
            self.is_foreground = torch.tensor([name not in self.background for name in names])
            self.is_telling = torch.tensor([name not in self.generic for name in names])

    @torch.inference_mode()
    def understand(self, batches: Sequence[ClipBatch]) -> list[list[ClipResult]]:
        """What is said of each clip, by unit, in the order given.

        Args:
            batches: one for each unit, with sound at `sample_rate_hz`.
        """
        sizes = [len(batch) for batch in batches]
        if not sum(sizes):
            return [[] for _ in batches]
        batches_seen = [batch for batch in batches if len(batch)]
        seen = self.sight.perceive(batches_seen) if self.sight else None
        heard = self.hearing.perceive(batches_seen) if self.hearing else None
        results = self._conclude(batches_seen, seen, heard)
        starts = np.cumsum([0, *sizes])
        return [results[a:b] for a, b in pairwise(starts)]

    def _conclude(
        self, batches: Sequence[ClipBatch], seen: Sensed | None, heard: Sensed | None
    ) -> list[ClipResult]:
        present = _presence(batches, seen is not None, heard is not None)  # (N, 2)
        video, audio = self._tokens(seen, heard, len(present), for_actions=False)
        weights = self.fusion.weights(video, audio, present)  # (N, 2)
        embeddings = self._in_context(self.fusion(video, audio, present), batches)
        spoken = self._action_labels(seen, heard, present)
        labels = self._own_labels(seen, heard)
        stats = [s for batch in batches for s in picture_stats(batch)]
        is_silent = [s for batch in batches for s in _silence(batch)]
        return [
            self._result(
                spoken[i] + labels[i], present[i], stats[i], is_silent[i], embeddings[i], weights[i]
            )
            for i in range(len(present))
        ]

    def _tokens(
        self, seen: Sensed | None, heard: Sensed | None, n: int, *, for_actions: bool
    ) -> tuple[Tensor, Tensor]:
        """What each sense recognised, in the text space, (N, D) each."""
        video = audio = torch.zeros(n, self.text.dim)
        if seen is not None and self.sight is not None:
            counted = seen.evidence * self.sight.is_for_actions if for_actions else seen.evidence
            video = evidence_token(counted, self.sight_vectors)
        if heard is not None:
            counted = heard.evidence * (self.is_telling if for_actions else self.is_foreground)
            audio = evidence_token(counted, self.sound_vectors)
        return video, audio

    def _in_context(self, tokens: Tensor, batches: Sequence[ClipBatch]) -> Tensor:
        """Tokens after the temporal transformer, where the bundle has one; unit by unit."""
        if self.temporal is None:
            return tokens
        out, start = [], 0
        for batch in batches:
            middle_s = torch.from_numpy((batch.start_s + batch.end_s) / 2)[None]
            unit = tokens[None, start : start + len(batch)].to(self.device)
            there = torch.ones(1, len(batch), dtype=torch.bool, device=self.device)
            out.append(self.temporal(unit, middle_s.to(self.device), there)[0].cpu())
            start += len(batch)
        return torch.nn.functional.normalize(torch.cat(out), dim=-1)

    def _action_labels(
        self, seen: Sensed | None, heard: Sensed | None, present: Tensor
    ) -> list[list[Label]]:
        """Actions by sight, by sound and, where a clip has both, by both together."""
        spec = self.spec.spaces["actions"]
        video, audio = self._tokens(seen, heard, len(present), for_actions=True)
        strength = torch.maximum(video.norm(dim=-1), audio.norm(dim=-1))[:, None]
        tokens = {
            "fused": self.fusion(video, audio, present) * strength * present.all(1, keepdim=True),
            "video": video * present[:, :1],
            "audio": audio * present[:, 1:],
        }
        labels: list[list[Label]] = [[] for _ in range(len(present))]
        for modality, token in tokens.items():
            scores = score_by_text(token, self.actions, spec.temperature, spec.none_cosine)
            picked = self._pick(scores, self.actions.names, "actions", modality)
            for mine, more in zip(labels, picked, strict=True):
                mine += more
        return labels

    def _own_labels(self, seen: Sensed | None, heard: Sensed | None) -> list[list[Label]]:
        """Labels of the encoders' own vocabularies."""
        per_space = []
        for sense, sensed in ((self.sight, seen), (self.hearing, heard)):
            if sense is not None and sensed is not None:
                for space, scores in sensed.spaces.items():
                    per_space.append(self._pick(scores, sense.names[space], space, sense.modality))
        return [[label for part in parts for label in part] for parts in zip(*per_space, strict=True)]

    def _pick(
        self, scores: Tensor, names: Sequence[str], space: str, modality: str
    ) -> list[list[Label]]:
        floor = self.config.labels.min_score.get(space, self.spec.spaces[space].floor)
        most = self.config.labels.max_per_space
        return pick_labels(scores, names, space, modality, floor=floor, most=most)

    def _told_sounds(self, foreground: Sequence[Label]) -> list[Label]:
        """Heard labels for the sentence: a kind of sound is not said beside one of its own."""
        heard = [label for label in foreground if self.hearing and label.space == self.hearing.space]
        names = {label.label for label in heard}
        return [label for label in heard if not names & self.children.get(label.label, frozenset())]

    def _result(
        self,
        labels: list[Label],
        present: Tensor,
        stats: PictureStats | None,
        is_silent: bool,
        embedding: Tensor,
        weights: Tensor,
    ) -> ClipResult:
        ordered = sorted(labels, key=lambda label: -label.score)
        foreground = [label for label in ordered if label.label not in self.background]
        evidence = Evidence(
            actions=best_actions(foreground),
            objects=_things(foreground),
            sounds=self._told_sounds(foreground),
            stats=stats,
            has_audio=bool(present[1]),
            is_silent=is_silent,
        )
        caption, score = compose(evidence, self.object_phrases, self.sound_phrases)
        is_evident = bool(embedding.norm() > 0.5)
        return ClipResult(
            labels=tuple(ordered),
            top=foreground[0] if foreground else None,
            caption=caption,
            caption_score=score,
            embedding=embedding.numpy().astype(np.float32) if is_evident else None,
            video_weight=float(weights[0]) if is_evident else None,
            audio_weight=float(weights[1]) if is_evident else None,
        )


def _children(parents: dict[str, str | int], hearing: Hearing | None) -> dict[str, frozenset[str]]:
    """The names below each kind of sound."""
    names = hearing.evidence_names if hearing else ()
    children = {}
    for parent, span in parents.items():
        first, _, last = str(span).partition("-")
        children[parent] = frozenset(names[int(first) : int(last or first) + 1])
    return children


def best_actions(labels: Sequence[Label]) -> list[Label]:
    """Actions for the sentence: by both senses where there are such, else by sight, else by sound."""
    for modality in ("fused", "video", "audio"):
        found = [label for label in labels if label.space == "actions" and label.modality == modality]
        if found:
            return found
    return []


def _things(labels: Sequence[Label]) -> list[Label]:
    """Objects for the sentence: everyday words first, a fine class only where no word stands."""
    words = [label for label in labels if label.space == "objects"]
    return words or [
        label for label in labels if label.modality == "video" and label.space != "actions"
    ]


def _presence(batches: Sequence[ClipBatch], sees: bool, hears: bool) -> Tensor:
    has_video = np.concatenate([batch.has_video for batch in batches]) & sees
    has_audio = np.concatenate([batch.has_audio for batch in batches]) & hears
    return torch.from_numpy(np.stack([has_video, has_audio], axis=1))


def picture_stats(batch: ClipBatch) -> list[PictureStats | None]:
    """Brightness and change of each clip's pictures, from every fourth pixel."""
    stats: list[PictureStats | None] = []
    for frames, valid in zip(batch.frames, batch.frame_valid, strict=True):
        small = frames[valid][:, ::4, ::4].astype(np.float32).mean(axis=-1)  # (V, h, w)
        if not len(small):
            stats.append(None)
            continue
        change = float(np.abs(np.diff(small, axis=0)).mean()) if len(small) > 1 else 0.0
        stats.append(PictureStats(brightness=float(small.mean()), change=change))
    return stats


def _silence(batch: ClipBatch) -> list[bool]:
    rms = np.sqrt((batch.samples.astype(np.float64) ** 2).mean(axis=1))
    return [bool(value < _SILENT_RMS) for value in rms]


def _load_text(spec: BundleSpec, device: torch.device) -> SentenceEncoder:
    directory, text = spec.directory, spec.text
    encoder = SentenceEncoder(text.config.path(directory), text.tokenizer.path(directory))
    tensors = rename_sentence_bert(read_tensors(text.weights, directory))
    load_strictly(encoder.bert, tensors, spec.name)
    return encoder.to(device).eval()


def _load_temporal(spec: BundleSpec, device: torch.device) -> TemporalTransformer | None:
    if spec.temporal is None:
        return None
    net = TemporalTransformer(
        spec.text.dim, depth=spec.temporal.depth, num_heads=spec.temporal.num_heads
    )
    load_strictly(net, read_tensors(spec.temporal.weights, spec.directory), spec.name)
    return net.to(device)
