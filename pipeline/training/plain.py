"""What a caption speaks of, and how it reads when it says that and no more.

A bundle recognises few things: "a dog", "a frisbee", perhaps "catching a frisbee". A decoder that learned from
whole captions would add a colour, a lawn and an owner. So each caption is taken apart into the things it names
and how they stand to each other, by closed lists of function words and by counts over all captions, and put
together again from some of them:

    "a brown dog is sitting on a couch next to a man" → a dog · on · a couch · next to · a man

Words that are none of these parts are left out of what the decoder learns to say.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np

from pipeline.heads.captions import with_article

_T = TypeVar("_T")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Several words that stand between two things as one.
_MERGED = {
    "in front of": "in_front_of", "on top of": "on", "next to": "next_to", "close to": "near",
    "on the side of": "beside", "at the side of": "beside", "along side": "beside", "alongside": "beside",
    "in the middle of": "in", "in the back of": "in", "on the back of": "on", "in the center of": "in",
    "on the edge of": "on", "at the end of": "at", "on a side of": "beside", "in the corner of": "in",
    "inside of": "in", "out of": "from", "full of": "with", "along with": "with", "as well as": "and",
    "surrounded by": "near", "a close up of": "", "a close-up of": "", "close up of": "", "there is": "",
    "there are": "", "a lot of": "", "a couple of": "", "a bunch of": "", "a group of": "", "a pair of": "",
    "a picture of": "", "a photo of": "", "a view of": "", "a pile of": "", "a variety of": "",
    "a set of": "", "a row of": "", "a large group of": "", "a number of": "", "an image of": "",
    "a herd of": "", "a flock of": "", "a photograph of": "", "a black and white photo of": "",
    "a piece of": "", "a slice of": "", "lots of": "", "black and white": "", "each other": "",
}  # fmt: skip
# What may stand between two things, and how it reads without the deed that went before it.
_RELATIONS = {
    "on": "on", "in": "in", "with": "with", "near": "near", "next_to": "next to", "by": "by",
    "beside": "next to", "in_front_of": "in front of", "behind": "behind", "under": "under", "over": "over",
    "above": "above", "below": "below", "beneath": "under", "underneath": "under", "inside": "in",
    "at": "at", "between": "between", "around": "around", "and": "and", "onto": "on", "into": "in",
    "through": "in", "down": "on", "along": "on", "across": "on", "against": "against", "outside": "outside",
    "of": "of", "upon": "on", "within": "in", "atop": "on", "among": "among", "holding": "with",
    "containing": "with", "wearing": "in", "featuring": "with",
}  # fmt: skip
_MOVES = {
    "down",
    "along",
    "across",
    "through",
    "into",
    "onto",
    "up",
    "off",
}  # said as they are behind a deed
_DETERMINERS = _words("""
    a an the his her its their my your our this these those some several many two three four five six seven
    eight nine ten one another other any each both all various multiple few
""")
_DROPPED = _words("""
    is are was were be being been that which who has have had very really just not also it he she they them him
    there here together while still so too as about ready back away outdoors indoors up off out only different
    same someone's
""")
# Forms that say what was done to a thing; they tell no deed.
_DONE_TO = (
    "made",
    "shown",
    "hung",
    "lit",
    "seen",
    "taken",
    "swung",
    "drawn",
    "caught",
    "thrown",
    "set",
    "built",
)
_ENDING = _words("""
    for from to toward towards after before if because during like but or than where when what
""")
_IRREGULAR = {
    "sat": "sitting", "lay": "laying", "lays": "laying", "lies": "lying", "held": "holding",
    "stood": "standing", "ran": "running", "ate": "eating", "rode": "riding", "threw": "throwing",
    "seated": "sitting",
}  # fmt: skip
_QUALITIES = _words("""
    black white red blue green yellow brown orange pink purple grey gray silver gold large small big little
    tall long short old young new empty full open closed wooden metal dark bright top side front middle
    close high low dirty clean colorful lone single couple lot bunch group pair way something seems left
    right background day daytime time times kind type area end side view body multi brightly variety number
    amount rest part
""")
PEOPLE = _words("""
    man woman person boy girl guy lady child kid baby gentleman male female skier snowboarder surfer
    skateboarder player rider toddler adult worker officer chef batter pitcher catcher teenager someone
""")
_ARTICLES = dict.fromkeys(("a", "an", "one", "another"), "a") | dict.fromkeys(
    ("the", "this", "his", "her", "its", "my", "each"), "the"
)
_STANDS_WITH = {"looking", "staring", "pointing", "smiling", "talking", "playing", "speaking"}


@dataclass(frozen=True)
class Part:
    """A thing, and how it stands to the thing before it."""

    thing: str  # with its article where it is one: "a dog", "people"
    is_person: bool
    relation: str = ""  # of a plain sentence
    deed: str = ""  # what is done, "riding"; of the thing before
    to_it: bool = False  # the deed is done to this very thing, with no word between
    moved: str = ""  # the relation behind the deed, as it was said


class Grammar:
    """What captions tell of their own words: which are deeds, which things, which belong together."""

    def __init__(self, sentences: Iterable[str]) -> None:
        tokens = [s.split() for s in sentences]
        count = Counter(w for words in tokens for w in words)
        led = Counter(b for words in tokens for a, b in pairwise(words) if a in _DETERMINERS)
        self.deeds = _deeds(count, led)
        pairs: Counter[tuple[str, str]] = Counter()
        for words in tokens:
            pairs.update(
                p for p in pairwise(words) if self._is_content(p[0]) and self._is_content(p[1])
            )
        total = sum(count.values())
        self.compounds = {
            (a, b)
            for (a, b), n in pairs.items()
            if n >= 15 and a not in _QUALITIES and (n - 10) * total > 60 * count[a] * count[b]
        }  # the score of https://arxiv.org/abs/1310.4546
        ends: Counter[tuple[str, str]] = Counter(
            end for words in tokens for end in self._run_ends(words)
        )
        led_ends = Counter(noun for article, noun in ends.elements() if article)
        self.things = {
            w for w, n in led_ends.items() if n >= 4 and n >= 0.25 * count[w] and w not in _QUALITIES
        }
        self.articles = {w: _article(ends, w) for w in self.things}

    def _is_content(self, word: str) -> bool:
        return not (
            word in _DETERMINERS
            or word in _RELATIONS
            or word in _DROPPED
            or word in _ENDING
            or word in self.deeds
            or word in _MOVES
        )

    def _run_ends(self, words: Sequence[str]) -> list[tuple[str, str]]:
        """The last word of each run of content words, behind the kind of article that leads the run."""
        found, article = [], ""
        for word, after in zip(words, [*words[1:], "of"], strict=True):
            if word in _DETERMINERS:
                article = _ARTICLES.get(word, "several")
            elif not self._is_content(word):
                article = ""
            elif not self._is_content(after):
                found.append((article, word))
        return found

    def named(self, noun: str) -> str:
        """A thing as people mostly name it: "a dog", "grass", "the ground"."""
        article = self.articles.get(noun.split()[-1], "a")
        return with_article(noun) if article == "a" else f"the {noun}" if article else noun

    def told_deed(self, deed: str) -> str:
        """A deed of two words with the article that a sentence wants: "driving car" → "driving a car"."""
        words = deed.split()
        is_bare = len(words) == 2 and words[0].endswith("ing") and words[1] in self.things
        return f"{words[0]} {self.named(words[1])}" if is_bare else deed

    def parse(self, sentence: str) -> list[Part]:
        """The things of a caption in their order, as far as it can be followed; empty where it cannot."""
        words = _merge(sentence).split()
        parts: list[Part] = []
        link: list[str] = []
        i = 0
        while i < len(words):
            word = words[i]
            if word in _ENDING:
                break
            if word in _DETERMINERS or self._is_content(word):
                j = i
                while j < len(words) and words[j] in _DETERMINERS:
                    j += 1
                while j < len(words) and self._is_content(words[j]):
                    j += 1
                # Things named one behind the other are a list.
                part = self._part(words[i:j], link or ["and"], is_first=not parts)
                if part is None:
                    break
                parts.append(part)
                link, i = [], j
            else:
                link.append(word)
                i += 1
        deed = [self.deeds[w] for w in link if self.deeds.get(w)]
        if parts and deed and not any(w in _RELATIONS for w in link):
            parts.append(Part("", False, deed=deed[0]))  # "a dog running"
        return parts

    def _part(self, run: Sequence[str], link: Sequence[str], *, is_first: bool) -> Part | None:
        content = [w for w in run if w not in _DETERMINERS]
        if not content or content[-1] not in self.things:
            return None
        head = content[-1]
        noun = (
            f"{content[-2]} {head}"
            if len(content) > 1 and (content[-2], head) in self.compounds
            else head
        )
        is_person = head in PEOPLE
        thing = self.named(noun)
        if is_first:
            return Part(thing, is_person) if not any(w in self.deeds for w in link) else None
        deeds = [self.deeds[w] for w in link if self.deeds.get(w)]
        relations = [w for w in link if w in _RELATIONS and not self.deeds.get(w)]
        if len(relations) > 1 or len(deeds) > 1:
            return None
        moved = next((w for w in link if w in _MOVES), "")
        if not relations:
            if not deeds:
                return None
            plain = "in" if deeds[0] == "wearing" else "with"
            return Part(thing, is_person, plain, deeds[0], to_it=not moved, moved=moved)
        relation = _RELATIONS[relations[0]]
        if deeds and (deeds[0] in _STANDS_WITH and relation in ("at", "on", "with", "to")):
            relation = "with"
        return Part(
            thing,
            is_person,
            relation,
            deeds[0] if deeds else "",
            moved=moved or relations[0].replace("_", " "),
        )


def _article(ends: Counter[tuple[str, str]], noun: str) -> str:
    """What people mostly put before it: "a", "the" or nothing."""
    times = {"a": ends["a", noun], "the": ends["the", noun], "": ends["several", noun] + ends["", noun]}
    return max(times, key=lambda article: times[article])


def _merge(sentence: str) -> str:
    text = f" {sentence} "
    for said, one in _MERGED.items():
        text = text.replace(f" {said} ", f" {one} ")
    return re.sub(r" (the|a) (top|side|front|back|middle|edge|bottom) of ", " ", text)


def _deeds(count: Counter[str], led: Counter[str]) -> dict[str, str]:
    """Forms of verbs → their form in -ing; a form that articles lead is a thing ("a building")."""
    deeds = _IRREGULAR | dict.fromkeys(_DONE_TO, "")
    for word, n in count.items():
        if word.endswith("ing") and len(word) > 5 and n >= 4 and led[word] < 0.15 * n:
            deeds[word] = word
            stem = word[:-3]
            short = stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else stem
            for form in (stem, stem + "e", short, stem + "s", stem + "es", short + "s"):
                if 3 <= count[form] <= n and led[form] < 0.3 * count[form] and form not in _QUALITIES:
                    deeds.setdefault(form, word)
    for word, n in count.items():
        if word.endswith("ed") and len(word) > 4 and n >= 4 and led[word] < 0.3 * n:
            deeds.setdefault(word, "")
    return deeds


@dataclass(frozen=True)
class Plain:
    """What would be recognised, and the sentence that says it."""

    things: tuple[str, ...]
    deeds: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class Names:
    """How a bundle names what people speak of."""

    of: Mapping[str, str]  # a thing that captions name → the bundle's name of the same
    near: Mapping[str, Sequence[str]]  # the same → names of the bundle's that may stand in its place
    people: Sequence[str]  # those that mean a person
    actions: Sequence[tuple[str, str]]  # what people do, as the bundle names it and as it is told


def retold(parts: Sequence[Part], names: Names, random: np.random.Generator) -> Plain | None:
    """One of the ways to tell a caption plainly: some of its things, some of what is done, by other names.

    A person is "a person", as no bundle here tells more; where a deed is known its doer may be "someone".
    Things are now and then called what the bundle calls them or, so that it can say all its names, something
    like them.
    None where nothing is left.
    """
    n = len(parts) if random.random() < 0.7 else int(random.integers(1, len(parts) + 1))
    things: list[str] = []
    deeds: list[str] = []
    words: list[str] = []
    for i, part in enumerate(parts[:n]):
        thing = _renamed(part, names, random) if part.thing else ""
        doer_is_known = i > 0 and not deeds
        if part.deed and doer_is_known and random.random() < (0.6 if i == 1 else 0.3):
            deed, said, is_whole = _deed(part, thing, names, parts[0].is_person and i == 1, random)
            deeds.append(deed)
            if i == 1 and parts[0].is_person and random.random() < 0.5:
                things, words = [], ["someone"]
            words.append(said)
            if is_whole:
                if thing and said.endswith(thing) and (deed == part.deed or random.random() < 0.5):
                    things.append(thing)
                continue
            words.append(part.moved)
        elif i:
            if not thing:
                break
            words.append(part.relation)
        things.append(thing)
        words.append(thing)
    if not things and not deeds:
        return None
    return Plain(tuple(dict.fromkeys(things)), tuple(deeds), " ".join(w for w in words if w))


def _one_of(names: Sequence[_T], random: np.random.Generator) -> _T:
    return names[int(random.integers(len(names)))]


def _renamed(part: Part, names: Names, random: np.random.Generator) -> str:
    chance = random.random()
    if part.is_person:
        return "a person" if chance < 0.7 else _one_of(names.people, random)
    near = names.near.get(part.thing, ())
    if chance < 0.25 and near:
        return _one_of(near, random)
    return names.of.get(part.thing, part.thing) if chance < 0.6 else part.thing


def _deed(
    part: Part, thing: str, names: Names, by_person: bool, random: np.random.Generator
) -> tuple[str, str, bool]:
    """What is done, as the memory holds it and as it is told, and whether that says the thing too."""
    if by_person and random.random() < 0.25:
        return *_one_of(names.actions, random), True
    # Only deeds to things by their own names have vectors.
    if not thing or (part.to_it and thing == part.thing):
        deed = f"{part.deed} {thing}".strip()
        return deed, deed, True
    return part.deed, part.deed + (f" {thing}" if part.to_it else ""), part.to_it
