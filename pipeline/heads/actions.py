"""Labels: of a classifier's own vocabulary, and of any vocabulary through text embeddings.

The second is zero-shot: what was recognised is read as text, and every action's name is compared to
it (convex combination of semantic embeddings, Norouzi et al. 2014, https://arxiv.org/abs/1312.5650).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.encoders.text import SentenceEncoder
from pipeline.records import Label


@dataclass(frozen=True)
class Vocabulary:
    """Names, and each name's place in the text space."""

    space: str
    names: tuple[str, ...]
    vectors: Tensor  # (C, D) unit length


def read_vocabulary(space: str, lines: Sequence[str], text: SentenceEncoder) -> Vocabulary:
    """A vocabulary from lines "name" or "name: what it looks like".

    A described name lies between its name and its description, because names alone mislead: a
    barbell is near "barbequing" by its letters.
    """
    parts = [line.partition(":") for line in lines]
    names = tuple(name.strip() for name, _, _ in parts)
    descriptions = [text_.strip() or name.strip() for name, _, text_ in parts]
    vectors = text.encode(names) + text.encode(descriptions)
    return Vocabulary(space, names, nn.functional.normalize(vectors, dim=-1))


def evidence_token(scores: Tensor, vectors: Tensor, *, top: int = 5, least: float = 0.2) -> Tensor:
    """What was recognised, as one vector of the text space.

    Args:
        scores: (B, C) in 0..1 for C names.
        vectors: (C, D) unit vectors of the names.

    Returns:
        (B, D): the direction is the score-weighted mean of the `top` names that reach `least`; the
        length is the chance that one of them at least is right, were they independent; zero where
        none reaches it.
    """
    top_scores, top_ids = scores.topk(min(top, scores.shape[1]), dim=1)  # (B, K)
    return mixed_evidence(top_scores, vectors[top_ids], least=least)


def mixed_evidence(scores: Tensor, vectors: Tensor, *, least: float = 0.2) -> Tensor:
    """`evidence_token` of scores (B, K) for K names of each clip by themselves, (B, K, D)."""
    weights = scores * (scores >= least)
    mixed = (weights[..., None] * vectors).sum(1)  # (B, D)
    strength = 1.0 - (1.0 - weights.clamp(max=1.0)).prod(1, keepdim=True)
    return nn.functional.normalize(mixed, dim=-1) * strength


def score_by_text(
    tokens: Tensor, vocabulary: Vocabulary, temperature: float, none_cosine: float
) -> Tensor:
    """How well each name fits, (B, C): a softmax over cosines, times the strength of the evidence.

    "None of these" takes part with a cosine of its own, so that a short vocabulary does not have to
    fit.
    """
    cosines = nn.functional.normalize(tokens, dim=-1) @ vocabulary.vectors.T  # (B, C)
    strength = tokens.norm(dim=-1, keepdim=True).clamp(max=1.0)
    none = cosines.new_full((len(cosines), 1), none_cosine)
    shares = (torch.cat([cosines, none], dim=1) / temperature).softmax(-1)
    return shares[:, :-1] * strength


def pick_labels(
    scores: Tensor, names: Sequence[str], space: str, modality: str, *, floor: float, most: int
) -> list[list[Label]]:
    """The best labels of each clip, best first, none below `floor`."""
    top_scores, top_ids = scores.topk(min(most, scores.shape[1]), dim=1)
    return [
        [
            Label(names[i], float(score), space, modality)
            for score, i in zip(row_scores, row_ids, strict=True)
            if score >= floor
        ]
        for row_scores, row_ids in zip(top_scores.tolist(), top_ids.tolist(), strict=True)
    ]
