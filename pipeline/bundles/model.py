"""A loaded bundle: aligned clips of several units in, what the model says of each clip out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from torch import Tensor

from pipeline.bundles.accelerate import Runtime
from pipeline.bundles.families import load_part
from pipeline.bundles.families.base import Caption, Captioner, Transcriber
from pipeline.bundles.families.sentences import TextDecoder
from pipeline.bundles.kinds import TELLER_KINDS, PartName, check_kind
from pipeline.bundles.learned import MODALITIES, load_learned
from pipeline.bundles.meaning import PairMeaning, TextMeaning
from pipeline.bundles.movement import FIGHTS, make_movement
from pipeline.bundles.scene import Scenes
from pipeline.bundles.senses import (
    PictureSight,
    Sensed,
    Senses,
    Tokens,
    make_hearing,
    make_sight,
    sound_at,
)
from pipeline.bundles.spec import BundleError, BundleSpec, PartSpec, TextEncoderSpec
from pipeline.bundles.weights import load_strictly, read_tensors
from pipeline.config import Config
from pipeline.encoders.text import SentenceEncoder, rename_sentence_bert
from pipeline.heads.actions import pick_labels
from pipeline.heads.captions import Evidence, PictureStats, asked_of, compose
from pipeline.heads.sentences import Told
from pipeline.records import ClipBatch, ClipResult, Label, Word

_SILENT_RMS = 1e-3  # −60 dB of full scale


class Model:
    """Encoders, fusion and heads of one bundle on one device."""

    def __init__(
        self, spec: BundleSpec, config: Config, device: str = "cpu", *, tells: bool = False
    ) -> None:
        """Load everything strictly.

        Args:
            tells: all senses tell tokens, as where something is to be learned from them.

        Raises:
            BundleError: weights are absent, altered, or do not fit.
        """
        self.spec, self.config, self.device = spec, spec.fitted(config), torch.device(device)
        self.runtime = Runtime.of(device, config.run)
        tells = tells or bool(spec.learned)
        self.sight = make_sight(spec, config.clips.length_s, self.runtime, tells)
        self.hearing = make_hearing(spec, self.runtime, tells)
        self.movement = make_movement(spec, self.runtime)
        self.sample_rate_hz = spec.sample_rate_hz
        self._read_phrases()
        self.meaning = self._make_meaning()
        self.dim = self.meaning.dim
        if self.dim != spec.dim:
            raise BundleError(
                f"{spec.name}: its embeddings have {self.dim} numbers, it says {spec.dim}"
            )
        self.scenes = self._load_scenes()
        captions = spec.captioner(config)
        tells = captions is not None and captions.kind in TELLER_KINDS
        self.captioner: Captioner | None = None if tells else self._load(captions, "captions")
        self.teller: TextDecoder | None = self._load(captions, "captions") if tells else None
        if self.teller and self.teller.net.config.memory_dim != self.dim:
            raise BundleError(
                f"{spec.name}: its sentences are told from vectors of {self.teller.net.config.memory_dim} "
                f"numbers, its text has {self.dim}"
            )
        self.transcriber: Transcriber | None = self._load(spec.speech, "speech")
        self.learned = [load_learned(part, spec, self.device) for part in spec.learned]

    def _read_phrases(self) -> None:
        sounds = {}
        if self.spec.sounds_file:
            sounds = yaml.safe_load(self.spec.text_file(self.spec.sounds_file).read_text("utf-8"))
        self.sound_phrases: dict[str, str] = sounds.get("phrases", {})
        learned = [space for part in self.spec.learned for space in part.spaces.values()]
        self.background = frozenset(sounds.get("background", ())).union(
            *(s.background for s in learned)
        )
        parents: dict[str, list[str]] = sounds.get("parents", {})
        self.children = {kind: frozenset(names) for kind, names in parents.items()}
        self.generic = self.background | frozenset(sounds.get("generic", ()))
        objects = self.sight.objects if isinstance(self.sight, PictureSight) else None
        self.object_phrases = dict(zip(objects.words, objects.phrases, strict=True)) if objects else {}

    def _make_meaning(self) -> TextMeaning | PairMeaning:
        actions = self.config.labels.actions
        if self.spec.text is None:
            return PairMeaning(self.spec, actions, self.sight, self.hearing)
        return TextMeaning(
            self.spec,
            actions,
            load_text(self.spec, self.spec.text, self.device),
            self.sight,
            self.hearing,
            self.sound_phrases,
            self.background,
            self.generic,
        )

    def _load_scenes(self) -> Scenes | None:
        if self.spec.scene is None:
            return None
        assert isinstance(self.meaning, TextMeaning)  # the spec was checked
        return Scenes(self.spec, self.spec.scene, self.meaning, self.device)

    def _load(self, part: PartSpec | None, name: PartName) -> Any:
        if part is None:
            return None
        check_kind(self.spec.name, part.kind, name)
        return load_part(part, self.spec.directory).to(self.device)

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
        results = self._conclude(batches_seen, self.sense(batches_seen))
        starts = np.cumsum([0, *sizes])
        return [results[a:b] for a, b in pairwise(starts)]

    @torch.inference_mode()
    def sense(self, batches: Sequence[ClipBatch]) -> Senses:
        """What is seen, what is heard and what moves in the clips of `batches`, none of which is empty."""
        seen = heard = moved = None
        if self.sight is not None:
            frames = [self.runtime.upload(batch.frames) for batch in batches]
            seen = self.sight.perceive(batches, frames)
        if self.hearing is not None:
            heard = self.hearing.perceive(batches)
        if self.movement is not None:
            moved = self.movement.perceive(batches)
        return Senses(seen, heard, moved)

    def _conclude(self, batches: Sequence[ClipBatch], senses: Senses) -> list[ClipResult]:
        seen, heard, _ = senses
        present = _presence(batches, seen is not None, heard is not None)  # (N, 2)
        embeddings, weights = self.meaning.fuse(seen, heard, present)
        if self.scenes is not None:
            embeddings = self.scenes.embed(batches, senses, present, embeddings)
        labels = self._labels(senses, present)
        self._add_learned(labels, told(senses), batches)
        stats = [s for batch in batches for s in picture_stats(batch)]
        is_silent = [s for batch in batches for s in _silence(batch)]
        evidence = [
            self._evidence(*of_clip) for of_clip in zip(labels, present, stats, is_silent, strict=True)
        ]
        captions = self._captions(batches, evidence)
        spoken = [words for batch in batches for words in self._spoken(batch)]
        return [
            self._result(*of_clip)
            for of_clip in zip(labels, captions, spoken, embeddings, weights, strict=True)
        ]

    def _captions(self, batches: Sequence[ClipBatch], evidence: Sequence[Evidence]) -> list[Caption]:
        """The captioner's sentences, or why it has none; without a captioner those made of the evidence."""
        asked = self._asked(batches)
        return [
            caption or Caption(*compose(mine, self.object_phrases, self.sound_phrases, told))
            for caption, mine, told in zip(asked, evidence, self._told(evidence), strict=True)
        ]

    def _told(self, evidence: Sequence[Evidence]) -> Sequence[Told | None]:
        """How the decoder says what is in view; None where a plain list of it is better."""
        if self.teller is None:
            return [None] * len(evidence)
        floor = self.teller.deed_floor
        asked = [asked_of(mine, self.object_phrases, floor) for mine in evidence]
        return self.teller.tell(asked, self.meaning.embed_text)

    def _asked(self, batches: Sequence[ClipBatch]) -> list[Caption | None]:
        """What the captioner says of each clip; None where it was not asked."""
        found: list[Caption | None] = [None] * sum(len(batch) for batch in batches)
        if self.captioner is None:
            return found
        clips = [
            frames[valid]
            for batch in batches
            for frames, valid in zip(batch.frames, batch.frame_valid, strict=True)
        ]
        asked = [i for i, clip in enumerate(clips) if len(clip)]
        said = self.captioner.caption([clips[i] for i in asked])
        for i, caption in zip(asked, said, strict=True):
            found[i] = caption
        return found

    def _spoken(self, batch: ClipBatch) -> list[tuple[Word, ...] | None]:
        """Each clip's words on the file's clock; None where nobody listened.

        The unit's sound is heard as a whole, so that a border between clips cuts no word; a word belongs
        to each clip that its middle lies in.
        """
        if self.transcriber is None:
            return [None] * len(batch)
        rate_hz = self.transcriber.sample_rate_hz
        words = (
            self.transcriber.transcribe(whole_sound(batch, rate_hz)) if batch.has_audio.any() else []
        )
        at_s = float(batch.start_s[0])
        words = [Word(w.word, w.start_s + at_s, w.end_s + at_s, w.score) for w in words]
        return [
            tuple(w for w in words if start <= (w.start_s + w.end_s) / 2 < end) if has_audio else None
            for start, end, has_audio in zip(batch.start_s, batch.end_s, batch.has_audio, strict=True)
        ]

    def _labels(self, senses: Senses, present: Tensor) -> list[list[Label]]:
        """All labels of each clip, best first."""
        seen, heard, _ = senses
        labels = self._own_labels(senses, present)
        has = {"fused": present.all(1), "video": present[:, 0], "audio": present[:, 1]}
        for modality, scores in self.meaning.action_scores(seen, heard, present).items():
            picked = self._pick(scores, self.meaning.names, "actions", modality, has[modality])
            for mine, more in zip(labels, picked, strict=True):
                mine += more
        return [sorted(mine, key=lambda label: -label.score) for mine in labels]

    def _add_learned(
        self,
        labels: Sequence[list[Label]],
        tokens: Mapping[str, Tokens],
        batches: Sequence[ClipBatch],
    ) -> None:
        """Labels of the vocabularies that were learned, each under the senses that it was told by."""
        for part in self.learned:
            own = part.tokens(tokens, lambda name: self.pieces(name, batches))
            scores, has = part.scores(own, batches)
            by = {"fused": has.all(1), "video": has[:, 0] & ~has[:, 1], "audio": has[:, 1] & ~has[:, 0]}
            for space, found in scores.items():
                names = part.spec.spaces[space].names
                for modality, there in by.items():
                    picked = self._pick(found, names, space, modality, there)
                    for mine, more in zip(labels, picked, strict=True):
                        mine += more
        for mine in labels:
            mine.sort(key=lambda label: -label.score)

    @torch.inference_mode()
    def pieces(self, stream: str, batches: Sequence[ClipBatch]) -> Tokens:
        """What the encoder of a stream takes of the clips of `batches`, for one that is tuned.

        Raises:
            BundleError: the bundle has no such encoder, or one that tells no pieces.
        """
        if stream == "video" and isinstance(self.sight, PictureSight):
            return self.sight.pieces(batches, [torch.from_numpy(b.frames) for b in batches])
        sense = {"audio": self.hearing, "motion": self.movement}.get(stream)
        if not hasattr(sense, "pieces"):
            raise BundleError(f"{self.spec.name}: its encoder of {stream} cannot be tuned")
        return sense.pieces(batches)  # type: ignore[union-attr]

    def _own_labels(self, senses: Senses, present: Tensor) -> list[list[Label]]:
        """Labels of the encoders' own vocabularies."""
        labels: list[list[Label]] = [[] for _ in range(len(present))]
        moved = senses.moved
        moves = (
            moved.tokens.valid.any(1) if moved and moved.tokens else torch.zeros(len(present)).bool()
        )
        for sense, sensed, has in (
            (self.sight, senses.seen, present[:, 0]),
            (self.hearing, senses.heard, present[:, 1]),
            (self.movement, moved, moves),
        ):
            if sense is not None and sensed is not None:
                for space, scores in sensed.spaces.items():
                    picked = self._pick(scores, sense.names[space], space, sense.modality, has)
                    for mine, more in zip(labels, picked, strict=True):
                        mine += more
        return labels

    def _pick(
        self, scores: Tensor, names: Sequence[str], space: str, modality: str, has: Tensor
    ) -> list[list[Label]]:
        """The best labels of each clip; none of a sense that the clip has not, whatever the floor."""
        floor = self.config.labels.min_score.get(space, self.spec.spaces[space].floor)
        most = self.config.labels.max_per_space
        picked = pick_labels(scores, names, space, modality, floor=floor, most=most)
        return [mine if there else [] for mine, there in zip(picked, has.tolist(), strict=True)]

    def _told_sounds(self, foreground: Sequence[Label]) -> list[Label]:
        """Heard labels for the sentence: a kind of sound is not said beside one of its own."""
        heard = [label for label in foreground if self.hearing and label.space == self.hearing.space]
        names = {label.label for label in heard}
        return [label for label in heard if not names & self.children.get(label.label, frozenset())]

    def _evidence(
        self,
        labels: Sequence[Label],
        present: Tensor,
        stats: PictureStats | None,
        is_silent: bool,
    ) -> Evidence:
        """What a caption may be made of."""
        foreground = self._foreground(labels)
        return Evidence(
            actions=self._best_actions(foreground),
            objects=self._things(foreground),
            sounds=self._told_sounds(foreground),
            stats=stats,
            has_audio=bool(present[1]),
            is_silent=is_silent,
            camera=next((x for x in labels if self.spec.role(x.space) == "camera"), None),
        )

    def _foreground(self, labels: Sequence[Label]) -> list[Label]:
        """What happens: neither the background nor what the camera does."""
        told = [label for label in labels if label.label not in self.background]
        return [label for label in told if self.spec.role(label.space) != "camera"]

    def _best_actions(self, labels: Sequence[Label]) -> list[Label]:
        """Actions for the sentence: fights first, which were learned from fights and not from texts; else by
        both senses where there are such, else by sight, else by sound."""
        fights = [label for label in labels if label.space == FIGHTS]
        if fights:
            return fights
        actions = [label for label in labels if self.spec.role(label.space) == "actions"]
        for modality in ("fused", "video", "audio"):
            found = [label for label in actions if label.modality == modality]
            if found:
                return found
        return []

    def _things(self, labels: Sequence[Label]) -> list[Label]:
        """Objects for the sentence: everyday words first, a fine class only where no word stands."""
        things = [x for x in labels if x.modality == "video" and self.spec.role(x.space) == "things"]
        return [label for label in things if label.space == "objects"] or things

    def _result(
        self,
        labels: list[Label],
        caption: Caption,
        words: tuple[Word, ...] | None,
        embedding: Tensor,
        weights: Tensor,
    ) -> ClipResult:
        foreground = self._foreground(labels)
        is_evident = bool(embedding.norm() > 0.5)
        return ClipResult(
            labels=tuple(labels),
            top=foreground[0] if foreground else None,
            caption=caption.text,
            caption_score=caption.score,
            caption_problem=caption.problem,
            words=words,
            embedding=embedding.numpy().astype(np.float32) if is_evident else None,
            video_weight=float(weights[0]) if is_evident else None,
            audio_weight=float(weights[1]) if is_evident else None,
        )


def told(senses: Sequence[Sensed | None]) -> dict[str, Tokens]:
    """Tokens by stream, of the senses in the order in which `Model.sense` gives them."""
    found = zip(MODALITIES, senses, strict=False)
    return {name: s.tokens for name, s in found if s is not None and s.tokens is not None}


def whole_sound(batch: ClipBatch, rate_hz: int) -> npt.NDArray[np.float32]:
    """A unit's sound from the start of its first clip, put together from its clips."""
    samples, spans = sound_at(batch, rate_hz)
    starts = np.round((batch.start_s - batch.start_s[0]) * rate_hz).astype(np.int64)
    whole = np.zeros(int((starts + spans[:, 1]).max()), np.float32)
    for sound, at, (first, last) in zip(samples, starts, spans, strict=True):
        whole[at + first : at + last] = sound[first:last]
    return whole


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


def load_text(spec: BundleSpec, text: TextEncoderSpec, device: torch.device) -> SentenceEncoder:
    directory = spec.directory
    encoder = SentenceEncoder(text.config.path(directory), text.tokenizer.path(directory))
    tensors = rename_sentence_bert(read_tensors(text.weights, directory))
    load_strictly(encoder.bert, tensors, spec.name)
    return encoder.to(device).eval()
