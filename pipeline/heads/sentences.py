"""A sentence of what was recognised, by the caption decoder, with words for nothing else.

    things, deeds → Told    "a person", "a bicycle", "riding a bike" → "a person riding a bike"

The decoder chooses the order and what stands between; a noun, a verb or a quality that was not given has no
way into a sentence. What is given must all be said, and nothing twice. Where no sentence does that, or what
it says of how things stand to each other is too unsure, there is none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.heads.decoder import KINDS, CaptionDecoder, CaptionText, Hypothesis, beam_search

ARTICLES = frozenset(("a", "an", "the"))
# What a sentence may say unasked: how things stand to each other, and that somebody does what is done.
DOER = "someone"
_LINKS = """
    and, with, on, in, at, of, by, near, next to, behind, under, over, above, below, between, among, around,
    outside, in front of, against, along, across, through, down, into, onto, up, off
"""
LINKS = frozenset(link.strip() for link in _LINKS.split(","))
_UNASKED = [DOER, *ARTICLES, *{word for link in LINKS for word in link.split()}]
_LINK = "|".join(sorted(LINKS))
_SHAPE = re.compile(f"(?:<thing>(?: <deed>)?|{DOER} <deed>)(?: (?:{_LINK}) <thing>(?: <deed>)?)*")
_THING, _DEED = KINDS.index("thing"), KINDS.index("deed")
_SAME = 0.7  # cosine from which on a thing is what a deed is done to: a bicycle, in riding a bike
_MOST_KEPT = 10_000


@dataclass(frozen=True)
class Asked:
    """What a sentence is to say."""

    things: tuple[str, ...]  # as they read in a sentence: "a dog"
    deeds: tuple[str, ...] = ()  # "riding a bike"


@dataclass(frozen=True)
class Told:
    """A sentence, and how sure it is."""

    text: str  # lower case, no full stop
    score: float  # chance that things stand to each other as it says, given that they are there
    log_prob: float  # of the whole sentence, among all that the decoder could say
    deeds: tuple[str, ...] = ()  # those that were asked for


@dataclass(frozen=True)
class Sureness:
    """From a sentence's log-probability to the chance that it is right; what has less than `floor` is not told.

    The whole sentence's, because each further thing may stand elsewhere than is said; on held-out pictures it
    tells right from wrong better than the mean over tokens does.
    """

    slope: float
    offset: float
    floor: float

    def score(self, log_prob: float) -> float:
        return 1.0 / (1.0 + math.exp(-self.slope * log_prob - self.offset))


class SentenceTeller(nn.Module):
    """Says in a sentence what was recognised."""

    def __init__(
        self, net: CaptionDecoder, text: CaptionText, sureness: Sureness, n_beams: int = 4
    ) -> None:
        super().__init__()
        self.net, self.text, self.sureness, self.n_beams = net, text, sureness, n_beams
        self._kept: dict[Asked, Told | None] = {}  # clips of one scene are asked the same

    def tell(self, asked: Sequence[Asked], embed: Callable[[list[str]], Tensor]) -> list[Told | None]:
        """A sentence for each, None where there is nothing to put together or no sentence is sure enough.

        Args:
            embed: phrases → (n, D) unit vectors of the text space.
        """
        kept = self._kept  # this one throughout: another thread may begin a new one meanwhile
        new = [one for one in dict.fromkeys(asked) if one not in kept]
        if len(kept) + len(new) > _MOST_KEPT:
            kept, new = {}, list(dict.fromkeys(asked))
            self._kept = kept
        wanted = [one for one in new if len(one.things) > 1 or one.deeds]
        found = self._search(wanted, embed) if wanted else []
        kept.update(dict.fromkeys(new) | dict(zip(wanted, found, strict=True)))
        return [kept[one] for one in asked]

    def _search(
        self, asked: Sequence[Asked], embed: Callable[[list[str]], Tensor]
    ) -> list[Told | None]:
        vectors = _Vectors(asked, embed)
        shown = [_without_objects(one, vectors) for one in asked]
        longest = max(len(one.things) + len(one.deeds) for one in shown)
        memory = torch.zeros(len(shown), longest, vectors.dim)
        kinds = torch.zeros(len(shown), longest, dtype=torch.int64)
        present = torch.zeros(len(shown), longest, dtype=torch.bool)
        for i, one in enumerate(shown):
            phrases = [*one.things, *one.deeds]
            memory[i, : len(phrases)] = torch.stack([vectors[phrase] for phrase in phrases])
            kinds[i, : len(phrases)] = torch.tensor(
                [_THING] * len(one.things) + [_DEED] * len(one.deeds)
            )
            present[i, : len(phrases)] = True
        allowed = torch.stack([self.text.tokens_of([*_UNASKED, *_words(one)]) for one in shown])
        device = self.net.embed.weight.device
        found = beam_search(
            self.net,
            memory.to(device),
            kinds.to(device),
            present.to(device),
            n_beams=self.n_beams,
            allowed=allowed.to(device),
        )
        return [self._best(mine, one) for mine, one in zip(found, shown, strict=True)]

    def _best(self, found: Sequence[Hypothesis], asked: Asked) -> Told | None:
        for hypothesis in found:
            text = self.text.decode(hypothesis.tokens)
            if says(text, asked):
                score = self.sureness.score(hypothesis.log_prob)
                told = Told(text, score, hypothesis.log_prob, asked.deeds)
                return told if score >= self.sureness.floor else None
        return None


class _Vectors:
    """Vectors of all that is asked, and of what its deeds are done to."""

    def __init__(self, asked: Sequence[Asked], embed: Callable[[list[str]], Tensor]) -> None:
        phrases = {p for one in asked for p in (*one.things, *one.deeds, *map(_object, one.deeds)) if p}
        known = sorted(phrases)
        self.vectors = embed(known)
        self.dim = self.vectors.shape[1]
        self.at = {phrase: i for i, phrase in enumerate(known)}

    def __getitem__(self, phrase: str) -> Tensor:
        return self.vectors[self.at[phrase]]


def _object(deed: str) -> str:
    """What a deed is done to: "riding a bike" → "a bike"."""
    return deed.partition(" ")[2]


def _without_objects(asked: Asked, vectors: _Vectors) -> Asked:
    """Less the things that a deed names already."""
    objects = [vectors[o] for o in map(_object, asked.deeds) if o]
    things = tuple(t for t in asked.things if not any(vectors[t] @ o >= _SAME for o in objects))
    return Asked(things, asked.deeds)


def _words(asked: Asked) -> list[str]:
    return [word for phrase in (*asked.things, *asked.deeds) for word in phrase.lower().split()]


def says(sentence: str, asked: Asked) -> bool:
    """Whether a sentence says all that it is asked, each once, and nothing else but how it stands together.

    Every two things have a link between them, a deed follows its doer, and who does it may be "someone".
    Articles do not count: "driving car" is said by "driving a car".
    """
    line = f" {_bare(sentence)} "
    phrases = [(f" {_bare(p)} ", " <thing> ") for p in asked.things]
    phrases += [(f" {_bare(p)} ", " <deed> ") for p in asked.deeds]
    for phrase, mark in sorted(phrases, key=lambda pair: -len(pair[0])):
        if phrase not in line:
            return False
        line = line.replace(phrase, mark, 1)
    return _SHAPE.fullmatch(line.strip()) is not None


def _bare(text: str) -> str:
    """Lower case, without articles."""
    return " ".join(word for word in text.lower().split() if word not in ARTICLES)


def deed_phrase(action: str) -> str | None:
    """An action's name as something done: "riding a bike", "doing arm wrestling"; None where it is not."""
    words = action.lower().split()
    if not any(word.endswith("ing") and len(word) > 4 for word in words):
        return None
    return " ".join(words if words[0].endswith("ing") else ["doing", *words])
