"""A told sentence says what it was asked, all of it, once, and nothing else."""

from __future__ import annotations

import pytest

from pipeline.heads.sentences import Asked, Sureness, deed_phrase, says


@pytest.mark.parametrize(
    ("sentence", "fits"),
    [
        ("a dog on a bed or a sofa", True),
        ("the dog next to the bed or a sofa", True),
        ("a dog", False),  # not all
        ("a dog on a bed or a sofa in a room", False),  # a room was not asked for
        ("a brown dog on a bed or a sofa", False),
        ("a dog and a dog on a bed or a sofa", False),  # two dogs were not asked for
        ("a dog on a sofa or a bed", False),  # another phrase
        ("a dog a bed or a sofa", False),  # nothing between them
        ("a dog on", False),
        ("someone on a bed or a sofa with a dog", False),
    ],
)
def test_only_what_is_asked_is_said(sentence, fits):
    assert says(sentence, Asked(("a dog", "a bed or a sofa"))) is fits


def test_a_deed_is_said_by_somebody_and_articles_do_not_count():
    asked = Asked((), ("driving car",))
    assert says("someone driving a car", asked)
    assert not says("a person driving a car", asked)
    assert not says("someone driving a car with someone", asked)
    with_doer = Asked(("someone in a suit", "a street"), ("driving car",))
    assert says("someone in a suit driving a car down the street", with_doer)
    assert not says("driving a car down the street someone in a suit", with_doer)


@pytest.mark.parametrize(
    ("action", "deed"),
    [
        ("riding a bike", "riding a bike"),
        ("Deadlifting", "deadlifting"),
        ("arm wrestling", "doing arm wrestling"),
        ("zumba", None),
        ("a king", None),
    ],
)
def test_only_names_of_deeds_are_told_as_deeds(action, deed):
    assert deed_phrase(action) == deed


def test_what_is_kept_may_begin_anew_while_another_thread_asks(model, monkeypatch):
    """A teller keeps what it told, up to a bound; threads share it."""
    teller, embed = model.teller, model.meaning.embed_text
    monkeypatch.setattr("pipeline.heads.sentences._MOST_KEPT", 3)
    monkeypatch.setattr(teller, "_kept", {})
    dog, cat, cow = (Asked((f"a {a}", "a bed")) for a in ("dog", "cat", "cow"))
    (of_dog,) = teller.tell([dog], embed)

    def meanwhile(phrases):
        teller.tell([Asked(("a bird", f"a {n}")) for n in ("tree", "car", "truck")], embed)
        return embed(phrases)

    told = teller.tell([dog, cat, cow], meanwhile)
    assert told[0] == of_dog
    assert told[1:] == teller.tell([cat, cow], embed)


def test_sureness_is_a_chance_that_grows_with_the_probability_of_the_words():
    sureness = Sureness(slope=2.0, offset=1.0, floor=0.5)
    assert sureness.score(-0.5) == pytest.approx(0.5)
    assert sureness.score(-3.0) < sureness.score(-0.1) < 1.0
