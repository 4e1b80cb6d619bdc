"""How near a sentence is to those that people wrote: BLEU (https://aclanthology.org/P02-1040), ROUGE-L
(https://aclanthology.org/W04-1013) and CIDEr-D (https://arxiv.org/abs/1411.5726).

All three compare words, so the answer depends on what a word is: `words` says it. The figures agree with the
COCO caption evaluation where that is fed the same words; its own tokeniser (PTB, in Java) cuts "don't" in two
and so differs on a few sentences.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*")
_ROUGE_BETA = 1.2  # recall counts more than precision, as in the COCO evaluation
_CIDER_SIGMA = 6.0  # words by which lengths may differ before it tells
_CIDER_SCALE = 10.0
_MOST_N = 4

Words = Sequence[str]


@dataclass(frozen=True)
class CaptionScores:
    """Means over a corpus. CIDEr-D lies in 0..10, the others in 0..1."""

    bleu4: float
    rouge_l: float
    cider_d: float


def words(sentence: str) -> list[str]:
    """Lower-case runs of ASCII letters and digits; a hyphen or apostrophe between two holds them together."""
    return _WORD.findall(sentence.lower())


def score_captions(said: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """All three measures.

    Args:
        said: a sentence for each picture.
        references: what people said of each, one sentence at least.

    Raises:
        ValueError: lengths differ, nothing was given, or a picture has no reference.
    """
    if len(said) != len(references) or not said:
        raise ValueError(
            f"{len(said)} sentences for {len(references)} pictures; expected as many, and some"
        )
    if not all(references):
        raise ValueError(f"picture {[bool(r) for r in references].index(False)} has no reference")
    ours = [words(s) for s in said]
    theirs = [[words(r) for r in told] for told in references]
    return CaptionScores(bleu(ours, theirs), rouge_l(ours, theirs), cider_d(ours, theirs))


def bleu(said: Sequence[Words], references: Sequence[Sequence[Words]], most_n: int = _MOST_N) -> float:
    """Corpus BLEU: n-grams of up to `most_n` words, the reference of nearest length, no smoothing."""
    right, given = [0] * most_n, [0] * most_n
    n_said = n_nearest = 0
    for ours, theirs in zip(said, references, strict=True):
        n_said += len(ours)
        n_nearest += min((abs(len(r) - len(ours)), len(r)) for r in theirs)[1]
        for n in range(1, most_n + 1):
            mine = Counter(_ngrams(ours, n))
            most: Counter[tuple[str, ...]] = Counter()
            for reference in theirs:
                most |= Counter(_ngrams(reference, n))
            right[n - 1] += sum((mine & most).values())
            given[n - 1] += sum(mine.values())
    if not all(right):
        return 0.0
    mean_log = sum(math.log(r / g) for r, g in zip(right, given, strict=True)) / most_n
    return math.exp(mean_log + min(0.0, 1 - n_nearest / n_said))


def rouge_l(said: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Mean F-measure of the longest common subsequence; the best precision and recall over references."""
    total = 0.0
    for ours, theirs in zip(said, references, strict=True):
        common = [(_common(ours, r), len(r)) for r in theirs]
        precision = max(c for c, _ in common) / len(ours) if ours else 0.0
        recall = max(c / n if n else 0.0 for c, n in common)
        if precision and recall:
            beta2 = _ROUGE_BETA**2
            total += (1 + beta2) * precision * recall / (recall + beta2 * precision)
    return total / len(said)


def cider_d(said: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """CIDEr-D: how alike n-grams are, rare ones counting more; rarity is taken from these references.

    One picture alone has no rarity, so its score is 0.
    """
    return sum(cider_d_each(said, references)) / len(references)


def cider_d_each(said: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """The same of each picture, for intervals."""
    n_pictures = len(references)
    seen_in: Counter[tuple[str, ...]] = Counter()
    for theirs in references:
        seen_in.update({g for r in theirs for n in range(1, _MOST_N + 1) for g in _ngrams(r, n)})

    def weigh(sentence: Words) -> list[dict[tuple[str, ...], float]]:
        return [
            {
                gram: count * math.log(n_pictures / max(1, seen_in[gram]))
                for gram, count in Counter(_ngrams(sentence, n)).items()
            }
            for n in range(1, _MOST_N + 1)
        ]

    scores = []
    for ours, theirs in zip(said, references, strict=True):
        mine, total = weigh(ours), 0.0
        for reference in theirs:
            gap = math.exp(-((len(ours) - len(reference)) ** 2) / (2 * _CIDER_SIGMA**2))
            alike = sum(_clipped_cosine(a, b) for a, b in zip(mine, weigh(reference), strict=True))
            total += gap * alike / _MOST_N / len(theirs)
        scores.append(_CIDER_SCALE * total)
    return scores


def _clipped_cosine(mine: dict[tuple[str, ...], float], theirs: dict[tuple[str, ...], float]) -> float:
    """A cosine in which no n-gram counts more than the reference has it, so that repeating does not pay."""
    norms = math.sqrt(_square(mine.values()) * _square(theirs.values()))
    shared = sum(
        min(value, theirs[gram]) * theirs[gram] for gram, value in mine.items() if gram in theirs
    )
    return shared / norms if norms else 0.0


def _square(values: Iterable[float]) -> float:
    return sum(value * value for value in values)


def _ngrams(sentence: Words, n: int) -> list[tuple[str, ...]]:
    return [tuple(sentence[i : i + n]) for i in range(len(sentence) - n + 1)]


def _common(a: Words, b: Words) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for j, other in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]
