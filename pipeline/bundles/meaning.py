"""What both senses mean together: one vector a clip, and how well each action fits.

`TextMeaning` reads what was recognised as text, in the space of a sentence encoder. `PairMeaning` keeps the
encoders' own spaces with text, side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.bundles.families.pairs import Sights
from pipeline.bundles.senses import Hearing, PairHearing, PairSight, Sensed, Sight, embed_names, scored
from pipeline.bundles.spec import BundleError, BundleSpec
from pipeline.encoders.text import SentenceEncoder
from pipeline.fusion.late import LateFusion
from pipeline.heads.actions import evidence_token, read_vocabulary, score_by_text


class TextMeaning:
    """Recognised names as text; late fusion there; any action is scored by its own text."""

    def __init__(
        self,
        spec: BundleSpec,
        actions: Sequence[str],
        text: SentenceEncoder,
        sight: Sight | None,
        hearing: Hearing | None,
        sound_phrases: dict[str, str],
        background: frozenset[str],
        generic: frozenset[str],
    ) -> None:
        self.space = spec.spaces["actions"]
        self.text, self.dim = text, text.dim
        self.fusion = LateFusion(spec.fusion.video_weight)
        self.actions = read_vocabulary("actions", actions, text)
        self.names = self.actions.names
        if sight is not None:
            self.sight_vectors = text.encode(sight.evidence_names)
            self.is_for_actions: Tensor = sight.is_for_actions  # type: ignore[attr-defined]
        if hearing is not None:
            names = hearing.evidence_names
            phrases = [sound_phrases.get(name, name).lower() for name in names]
            self.sound_vectors = text.encode([f"the sound of {phrase}" for phrase in phrases])
            self.is_foreground = torch.tensor([name not in background for name in names])
            self.is_telling = torch.tensor([name not in generic for name in names])

    def embed_text(self, texts: list[str]) -> Tensor:
        """Sentences where clips lie that show or sound like them, (n, dim)."""
        return self.text.encode(texts)

    def fuse(self, seen: Sensed | None, heard: Sensed | None, present: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (N, dim), zero where nothing was evident, and the senses' weights (N, 2)."""
        video, audio = self._tokens(seen, heard, len(present), for_actions=False)
        return self.fusion(video, audio, present), self.fusion.weights(video, audio, present)

    def action_scores(
        self, seen: Sensed | None, heard: Sensed | None, present: Tensor
    ) -> dict[str, Tensor]:
        """How well each action fits, (N, A), by sight, by sound and, where a clip has both, by both."""
        video, audio = self._tokens(seen, heard, len(present), for_actions=True)
        strength = torch.maximum(video.norm(dim=-1), audio.norm(dim=-1))[:, None]
        tokens = {
            "fused": self.fusion(video, audio, present) * strength * present.all(1, keepdim=True),
            "video": video * present[:, :1],
            "audio": audio * present[:, 1:],
        }
        space = self.space
        return {
            modality: score_by_text(token, self.actions, space.temperature, space.none_cosine)
            for modality, token in tokens.items()
        }

    def _tokens(
        self, seen: Sensed | None, heard: Sensed | None, n: int, *, for_actions: bool
    ) -> tuple[Tensor, Tensor]:
        """What each sense recognised, in the text space, (N, dim) each."""
        video = audio = torch.zeros(n, self.dim)
        if seen is not None:
            counted = seen.evidence * self.is_for_actions if for_actions else seen.evidence
            video = evidence_token(counted, self.sight_vectors)
        if heard is not None:
            counted = heard.evidence * (self.is_telling if for_actions else self.is_foreground)
            audio = evidence_token(counted, self.sound_vectors)
        return video, audio


class PairMeaning:
    """The two encoders' spaces side by side: a cosine there is the weighted sum of the two cosines.

    A sentence is put into both; a clip without sound has zeros in the sound's part.
    """

    def __init__(
        self, spec: BundleSpec, actions: Sequence[str], sight: Sight | None, hearing: Hearing | None
    ) -> None:
        for sense, kinds in ((sight, PairSight), (hearing, PairHearing)):
            if sense is not None and not isinstance(sense, kinds):
                raise BundleError(
                    f"{spec.name}: without text, expected encoders that share a space with text "
                    f"(clip, siglip, xclip, clap); {sense.modality} does not"
                )
        self.senses: tuple[PairSight | None, PairHearing | None] = (sight, hearing)  # type: ignore[assignment]
        self.fusion = LateFusion(spec.fusion.video_weight)
        self.dim = sum(sense.dim for sense in self.senses if sense is not None)
        lines = [line.partition(":") for line in actions]
        self.names = tuple(name.strip() for name, _, _ in lines)
        told = [text.strip() or name.strip() for name, _, text in lines]
        self.vectors = [_described(s, self.names, told) if s is not None else None for s in self.senses]

    def embed_text(self, texts: list[str]) -> Tensor:
        """Sentences where clips lie that show or sound like them, (n, dim)."""
        parts = []
        for sense, weight in zip(self.senses, self.fusion.prior, strict=True):
            if sense is not None:
                unit = torch.nn.functional.normalize(sense.net.embed_text(texts), dim=-1)
                parts.append(weight.sqrt() * unit.cpu())
        return torch.nn.functional.normalize(torch.cat(parts, dim=-1), dim=-1)

    def fuse(self, seen: Sensed | None, heard: Sensed | None, present: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (N, dim), zero where there is nothing, and the senses' weights (N, 2)."""
        weights = self.fusion.prior * present
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)
        parts = []
        for i, (sense, sensed) in enumerate(zip(self.senses, (seen, heard), strict=True)):
            if sense is not None:
                tokens = _placed(sensed, len(present), sense.dim)
                parts.append(weights[:, i : i + 1].sqrt() * tokens)
        return torch.nn.functional.normalize(torch.cat(parts, dim=-1), dim=-1), weights

    def action_scores(
        self, seen: Sensed | None, heard: Sensed | None, present: Tensor
    ) -> dict[str, Tensor]:
        """How well each action fits, (N, A), by sight, by sound and, where a clip has both, by both."""
        n, scores = len(present), {}
        for modality, sense, sensed, texts in zip(
            ("video", "audio"), self.senses, (seen, heard), self.vectors, strict=True
        ):
            scores[modality] = torch.zeros(n, len(self.names))
            if sense is not None and sensed is not None and sensed.sights is not None:
                assert texts is not None  # every sense has its texts
                found = scored(sense, sensed.sights, texts)
                scores[modality][sensed.places] = found
        video, audio = self.fusion.prior
        both = video * scores["video"] + audio * scores["audio"]
        return {"fused": both * present.all(1, keepdim=True)} | scores


def _described(sense: PairSight | PairHearing, names: Sequence[str], told: Sequence[str]) -> Tensor:
    """Each name between itself and its description, as in the text space."""
    unit = torch.nn.functional.normalize
    short, long = embed_names(sense.net, names), embed_names(sense.net, told)
    return (unit(short, dim=-1) + unit(long, dim=-1)) / 2 * short.norm(dim=-1, keepdim=True)


def _placed(sensed: Sensed | None, n: int, dim: int) -> Tensor:
    """Vectors at the places of their clips, (n, dim); zero elsewhere."""
    tokens = torch.zeros(n, dim)
    if sensed is not None and sensed.sights is not None:
        sights: Sights = sensed.sights
        tokens[sensed.places] = sights.tokens.float().cpu()
    return tokens
