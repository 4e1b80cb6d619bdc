"""BLEU, ROUGE-L and CIDEr-D agree with the COCO caption evaluation.

`EXPECTED` was printed by pycocoevalcap 1.2 (`Bleu(4)`, `Rouge()`, `Cider()`, each `compute_score` over all
five pictures) on Python 3.11, fed the sentences below as they stand: lower case, words parted by single
spaces, so that its Java tokeniser is not needed.
"""

import pytest

from pipeline.metrics.captions import bleu, cider_d, rouge_l, score_captions, words

SAID = [
    "a dog runs over wet grass",
    "two people sit at a table",
    "a red bus on the street the street",
    "the cat sleeps",
    "someone plays a long tune on an old piano by the window",
]
REFERENCES = [
    ["a brown dog runs across the wet grass", "a dog is running over grass"],
    ["two people sit at a wooden table", "a man and a woman eat at a table", "people having lunch"],
    ["a red bus drives down the street", "the bus is on the street"],
    ["a small cat sleeps on a blue chair in the sun"],
    [
        "someone plays an old piano by the window",
        "a person at a piano",
        "the piano stands by the window of an old room",
    ],
]
EXPECTED = {
    "bleu": [0.7461792482465016, 0.6309755272675784, 0.5119310989904903, 0.4099973184714837],
    "rouge_l": [0.72619048, 0.91044776, 0.67477876, 0.25902335, 0.82993197],
    "rouge_l_mean": 0.6800744651600648,
    "cider_d": 2.2703929338756117,
}


def split(sentences):
    return [s.split() for s in sentences]


THEIRS = [split(told) for told in REFERENCES]


def test_all_three_equal_the_reference_implementation():
    for n, expected in enumerate(EXPECTED["bleu"], start=1):
        assert bleu(split(SAID), THEIRS, n) == pytest.approx(expected, abs=1e-9)
    assert rouge_l(split(SAID), THEIRS) == pytest.approx(EXPECTED["rouge_l_mean"], abs=1e-12)
    for said, theirs, expected in zip(split(SAID), THEIRS, EXPECTED["rouge_l"], strict=True):
        assert rouge_l([said], [theirs]) == pytest.approx(expected, abs=1e-8)
    assert cider_d(split(SAID), THEIRS) == pytest.approx(EXPECTED["cider_d"], abs=1e-9)


def test_the_three_together_cut_words_themselves():
    scores = score_captions([f"{s.capitalize()}." for s in SAID], REFERENCES)
    assert scores.bleu4 == pytest.approx(EXPECTED["bleu"][3], abs=1e-9)
    assert scores.rouge_l == pytest.approx(EXPECTED["rouge_l_mean"], abs=1e-12)
    assert scores.cider_d == pytest.approx(EXPECTED["cider_d"], abs=1e-9)


def test_what_people_said_scores_best_and_what_is_foreign_nothing():
    same = score_captions([told[0] for told in REFERENCES], REFERENCES)
    assert same.bleu4 == pytest.approx(1.0)
    assert same.rouge_l == pytest.approx(1.0)
    foreign = score_captions(["xyzzy plugh"] * 5, REFERENCES)
    assert (foreign.bleu4, foreign.rouge_l, foreign.cider_d) == (0.0, 0.0, 0.0)


def test_an_empty_sentence_is_worth_nothing_and_breaks_nothing():
    scores = score_captions(["", *SAID[1:]], REFERENCES)
    assert 0 < scores.rouge_l < EXPECTED["rouge_l_mean"]
    assert score_captions([""] * 5, REFERENCES).bleu4 == 0.0


@pytest.mark.parametrize(
    ("said", "references", "message"),
    [
        (["a"], [], "1 sentences for 0 pictures"),
        ([], [], "0 sentences"),
        (["a", "b"], [["a"], []], "picture 1 has no reference"),
    ],
)
def test_what_cannot_be_scored_is_named(said, references, message):
    with pytest.raises(ValueError, match=message):
        score_captions(said, references)


def test_a_word_is_a_run_of_letters_and_digits():
    assert words("A man's T-shirt, size 42 -- don't!") == [
        "a",
        "man's",
        "t-shirt",
        "size",
        "42",
        "don't",
    ]
