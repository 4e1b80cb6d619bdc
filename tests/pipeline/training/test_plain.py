"""A caption is taken apart into what it names, and told again from that and no more."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.training.plain import Grammar, Names, retold

# Enough sentences that the counts tell things from deeds.
TOLD = [
    "a dog is sitting on a couch next to a man",
    "the dog sits near a couch",
    "a man riding a horse in the grass",
    "a man rides a horse",
    "a horse sitting in the grass",
    "a couch and a dog in the grass",
    "two horses riding next to a man",
    "a fire hydrant in the grass near a dog",
] * 20
FILLER = ["the weather was fine that we had there"] * 400


@pytest.fixture(scope="module")
def grammar():
    return Grammar([*TOLD, *FILLER])


def seen(grammar, sentence):
    return [(p.relation, p.deed, p.thing) for p in grammar.parse(sentence)]


def test_things_and_how_they_stand_to_each_other(grammar):
    assert seen(grammar, "a big brown dog is sitting on a couch next to a man") == [
        ("", "", "a dog"),
        ("on", "sitting", "a couch"),
        ("next to", "", "a man"),
    ]


def test_a_deed_keeps_its_form_in_ing_and_what_it_is_done_to(grammar):
    _, horse, grass = grammar.parse("the old man rides a horse in grass")
    assert (horse.deed, horse.thing, horse.to_it) == ("riding", "a horse", True)
    assert (grass.thing, grass.relation) == ("the grass", "in")


def test_words_that_go_together_are_one_thing(grammar):
    assert seen(grammar, "a red fire hydrant near a dog")[0][2] == "a fire hydrant"


def test_what_cannot_be_followed_ends_the_sentence_there(grammar):
    assert seen(grammar, "a dog that qwertys for a couch") in ([("", "", "a dog")], [])
    assert grammar.parse("") == []


def test_a_plain_sentence_says_what_is_named_and_nothing_else(grammar):
    names = Names(of={}, near={}, people=["a person"], actions=[("driving car", "driving a car")])
    parts = grammar.parse("a big brown dog is sitting on a couch next to a man")
    words = {"a", "dog", "on", "couch", "next", "to", "person", "sitting", "someone"}
    random = np.random.default_rng(0)
    told = [plain for _ in range(200) if (plain := retold(parts, names, random))]
    assert len(told) > 150
    for plain in told:
        assert set(plain.sentence.split()) <= words
        for phrase in (*plain.things, *plain.deeds):
            assert phrase in plain.sentence
    assert "a dog on a couch next to a person" in {plain.sentence for plain in told}


def test_chance_alone_decides(grammar):
    names = Names(of={}, near={}, people=["a person"], actions=[("driving car", "driving a car")])
    parts = grammar.parse("a man riding a horse in the grass")
    first, second = (
        [retold(parts, names, np.random.default_rng(seed)) for seed in range(30)] for _ in range(2)
    )
    assert first == second
    assert len(set(first)) > 5
