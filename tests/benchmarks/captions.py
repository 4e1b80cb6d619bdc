"""What the caption decoder is worth, and the calibration of its score; prints what stands in the model card.

    told from its own vector    2,000 held-out sentences of COCO against the nearest training caption
    told from what is named     pictures with five sentences: does one of the five say that it stands so?

The second gives `slope` and `offset` of `bundle.yaml` (Platt 1999): of the things that one sentence of a
picture names, two or three are asked for. What is told is right where each thing stands to the next as one
of the five says; "and" claims nothing. The fit is on every other picture, the figures are of the rest.

Run by `make bench-captions`; needs ../shared/data, and keeps embeddings in checkpoints/captions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.bundles.families.sentences import TextDecoder
from pipeline.bundles.model import load_text
from pipeline.bundles.spec import find_bundle
from pipeline.encoders.text import SentenceEncoder
from pipeline.heads.decoder import KINDS, beam_search
from pipeline.heads.sentences import ARTICLES, Asked, SentenceTeller, Sureness, Told
from pipeline.metrics.captions import score_captions
from pipeline.training.captions import Phrases, bundle_names, bundle_things
from pipeline.training.coco import Sentences, read_sentences
from pipeline.training.plain import Grammar, Part
from pipeline.training.vectors import embedded

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
_VAGUE = {"with", "near", "next to", "by"}  # among these people choose freely


@dataclass(frozen=True)
class Judged:
    """A sentence on a held-out picture, and whether one of five people says it so."""

    asked: Asked
    told: Told
    is_right: bool


def tell_whole(teller: SentenceTeller, vectors: Tensor, n_beams: int = 4) -> list[str]:
    """Sentences from sentence vectors (n, D), with all words allowed."""
    said = []
    for part in vectors.float().split(50):
        kinds = torch.full((len(part), 1), KINDS.index("sentence"))
        there = torch.ones(len(part), 1, dtype=torch.bool)
        found = beam_search(teller.net, part[:, None], kinds, there, n_beams=n_beams)
        said += [teller.text.decode(best[0].tokens) for best in found]
    return said


def nearest(vectors: Tensor, train: Tensor, sentences: Sequence[str]) -> list[str]:
    """The training caption nearest to each vector."""
    return [
        sentences[i]
        for part in vectors.float().split(200)
        for i in (part @ train.float().T).argmax(1).tolist()
    ]


def report_whole(
    teller: SentenceTeller, sentences: Sentences, encoder: SentenceEncoder, work: Path
) -> None:
    """Decoding against retrieval, over all scored sentences and those of known pictures."""
    vectors = embedded(encoder, sentences.scored, work, "scored")
    train = embedded(encoder, sentences.train, work, "train")
    started = time.perf_counter()
    answers = {"decoder": tell_whole(teller, vectors)}
    print(f"decoded {len(vectors)} sentences in {time.perf_counter() - started:.0f} s")
    answers["nearest"] = nearest(vectors, train, sentences.train)
    known = [i for i, told in enumerate(sentences.references) if len(told) > 1]
    for name, said in answers.items():
        cosine = (encoder.encode(said) * vectors.float()).sum(1)
        own = score_captions(said, [(s,) for s in sentences.scored])
        five = score_captions([said[i] for i in known], [sentences.references[i] for i in known])
        print(f"{name}: against itself {own}; {len(known)} with five references {five}")
        print(
            f"{name}: cosine to its own vector mean {cosine.mean():.3f}, tenth {cosine.quantile(0.1):.3f}"
        )
    for i in range(0, 200, 20):
        print(f"  {sentences.scored[i]!r} → {answers['decoder'][i]!r} | {answers['nearest'][i]!r}")


def relations(parts: Iterable[Part], rename: dict[str, str]) -> set[tuple[str, str, str]]:
    """How the things of a caption stand to each other, without what is done."""
    told = [part for part in parts if part.thing]
    return {(_name(a, rename), b.relation, _name(b, rename)) for a, b in pairwise(told) if b.relation}


def _name(part: Part, rename: dict[str, str]) -> str:
    return "a person" if part.is_person else rename.get(part.thing, part.thing)


def is_right(text: str, asked: Asked, stated: set[tuple[str, str, str]]) -> bool:
    """Whether each thing stands to the next as somebody said."""
    line = f" {' '.join(word for word in text.split() if word not in ARTICLES)} "
    places = []
    for thing in asked.things:
        words = " ".join(word for word in thing.lower().split() if word not in ARTICLES)
        places.append((line.index(f" {words} "), len(words), thing))
    places.sort()
    for (at, size, a), (after, _, b) in pairwise(places):
        link = line[at + size + 1 : after + 1].strip()
        vague = _VAGUE if link in _VAGUE else {link}
        if link != "and" and not any(
            (a, one, b) in stated or (one in _VAGUE and (b, one, a) in stated) for one in vague
        ):
            return False
    return True


def judged(
    teller: SentenceTeller, sentences: Sentences, grammar: Grammar, encoder: SentenceEncoder, work: Path
) -> tuple[list[Judged], int]:
    """A sentence for each held-out picture, and for how many there was none."""
    parsed = [[grammar.parse(s) for s in group] for group in sentences.calibration]
    things = sorted({p.thing for group in parsed for parts in group for p in parts if p.thing})
    phrases = Phrases({*things, *bundle_things(find_bundle("embedded"))}, encoder, work)
    rename = dict(bundle_names(find_bundle("embedded"), grammar, things, phrases).of)
    asked, stated = [], []
    for i, group in enumerate(parsed):
        for parts in group:
            named = list(dict.fromkeys(_name(p, rename) for p in parts if p.thing))[: 2 + i % 2]
            if len(named) > 1:
                asked.append(Asked(tuple(named)))
                stated.append({r for other in group for r in relations(other, rename)})
                break
    told = teller.tell(asked, encoder.encode)
    found = [
        Judged(a, t, is_right(t.text, a, s)) for a, t, s in zip(asked, told, stated, strict=True) if t
    ]
    return found, len(asked) - len(found)


def fit(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Slope and offset of the logistic regression of `y` on `x`."""
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(weights[0] * x + weights[1], y)
        value.backward()
        return value

    optimiser.step(loss)
    slope, offset = weights.detach().tolist()
    return slope, offset


def report_calibration(found: Sequence[Judged], n_none: int) -> None:
    """The fit on every other picture, and what it is worth on the rest."""
    x = torch.tensor([j.told.log_prob for j in found], dtype=torch.float64)
    y = torch.tensor([float(j.is_right) for j in found], dtype=torch.float64)
    slope, offset = fit(x[::2], y[::2])
    print(
        f"{len(found)} told, {n_none} not; right {y.mean():.3f}; slope {slope:.3f}, offset {offset:.3f}"
    )
    p, right = torch.sigmoid(slope * x + offset)[1::2], y[1::2]
    error = 0.0
    for low in torch.arange(0, 1, 0.1).tolist():
        inside = (p >= low) & (p < low + 0.1)
        if inside.any():
            error += float((p[inside].mean() - right[inside].mean()).abs() * inside.sum() / len(p))
            means = f"said {p[inside].mean():.2f}, right {right[inside].mean():.2f}"
            print(f"  {low:.1f}: n {int(inside.sum())}, {means}")
    print(f"expected calibration error {error:.3f}")
    for floor in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        kept = p >= floor
        if kept.any():
            print(f"  floor {floor}: keeps {kept.double().mean():.2f}, right {right[kept].mean():.3f}")
    for j in found[:40]:
        print(f"  {j.is_right} {j.told.log_prob:.2f} {j.told.text} {j.asked.things}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("checkpoints/captions"))
    args = parser.parse_args()
    spec = find_bundle("embedded")
    assert spec.captions is not None
    assert spec.text is not None
    teller = TextDecoder(spec.captions, spec.directory)
    encoder = load_text(spec, spec.text, torch.device("cpu"))
    sentences = read_sentences(DATA)
    n_known = sum(len(told) > 1 for told in sentences.references)
    print(
        f"{len(sentences.train)} to train on, {sentences.n_near} near duplicates left out; "
        f"{len(sentences.scored)} scored, {n_known} of known pictures"
    )
    grammar = Grammar(sentences.train)
    teller.sureness = Sureness(teller.sureness.slope, teller.sureness.offset, 0.0)
    report_calibration(*judged(teller, sentences, grammar, encoder, args.work))
    report_whole(teller, sentences, encoder, args.work)


if __name__ == "__main__":
    main()
