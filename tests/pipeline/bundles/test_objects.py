"""Everyday words over ImageNet's classes."""

from __future__ import annotations

import pytest

from pipeline.bundles.objects import read_objects
from pipeline.bundles.spec import BundleError, find_bundle
from pipeline.bundles.weights import label_space, read_labels

CLASSES = label_space("imagenet1k")


@pytest.fixture(scope="module")
def objects():
    return read_objects(find_bundle("embedded").directory / "objects.yaml", CLASSES)


def members(objects, word):
    column = objects.member[:, objects.words.index(word)]
    return {CLASSES[i] for i in range(len(CLASSES)) if column[i]}


def test_each_class_has_one_word_at_most(objects):
    assert objects.member.sum(1).max() == 1
    assert len(objects.ungrouped) == int((objects.member.sum(1) == 0).sum())


@pytest.mark.parametrize(
    ("word", "some", "not_some"),
    [
        ("dog", {"Chihuahua", "Pomeranian", "golden retriever", "Mexican hairless"}, {"timber wolf"}),
        ("cat", {"tabby", "Egyptian cat"}, {"lynx", "lion"}),
        ("bird", {"cock", "albatross", "king penguin"}, {"bee"}),
        ("bicycle", {"mountain bike", "bicycle-built-for-two"}, {"moped"}),
        ("car", {"minivan", "sports car", "jeep"}, {"seat belt"}),
        ("car seat", {"seat belt"}, {"barber chair"}),
        ("frying pan", {"frying pan", "wok"}, {"caldron"}),
        ("suit and tie", {"Windsor tie", "suit"}, {"bikini"}),
    ],
)
def test_a_word_holds_what_a_person_would_call_so(objects, word, some, not_some):
    found = members(objects, word)
    assert some <= found
    assert not found & not_some


def test_clothes_are_no_evidence_for_actions(objects):
    worn = {w for w, is_worn in zip(objects.words, objects.is_worn.tolist(), strict=True) if is_worn}
    assert worn == {"suit and tie", "person"}


@pytest.mark.parametrize(
    "text", ["a: {phrase: a, classes: [1000]}", "a: {phrase: a, classes: [1, 0-2]}"]
)
def test_a_class_that_does_not_exist_or_has_a_word_already_is_an_error(tmp_path, text):
    (tmp_path / "o.yaml").write_text(text)
    with pytest.raises(BundleError):
        read_objects(tmp_path / "o.yaml", CLASSES)


def test_every_sound_phrase_names_a_class_that_is_heard():
    import yaml

    spec = find_bundle("embedded")
    heard = set(read_labels(spec.audio.label_file, spec.directory))
    sounds = yaml.safe_load((spec.directory / "sounds.yaml").read_text())
    assert set(sounds["phrases"]) <= heard
    assert set(sounds["background"]) <= heard
    assert set(sounds["generic"]) <= heard
    assert set(sounds["parents"]) <= heard


def test_what_is_taken_for_something_else_is_not_told(objects):
    silent = {CLASSES[i] for i in range(len(CLASSES)) if not objects.is_told[i]}
    assert silent == {"tench", "barracouta", "coho", "sturgeon"}
