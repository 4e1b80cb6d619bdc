"""The shipped caption decoder: loaded strictly, it says what it is given and no more."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.bundles.families.sentences import TextDecoder
from pipeline.bundles.spec import BundleError, PartSpec, find_bundle
from pipeline.heads.captions import Evidence, PictureStats, compose
from pipeline.heads.decoder import KINDS, beam_search
from pipeline.heads.sentences import Asked, Sureness, says
from pipeline.records import Label
from tests.pipeline.bundles.families.published import sha256

# Written for this test; COCO tells of such scenes, with other words.
SCENES = [
    "a brown horse grazing in a green meadow",
    "a red double decker bus drives down a busy street",
    "a bowl of soup and a spoon on a wooden table",
    "two giraffes are standing next to some tall trees",
    "a surfer rides a big wave in the ocean",
    "a bathroom with a white sink and a mirror",
]
ASKED = [
    Asked(("a cat", "a bed or a sofa")),
    Asked(("a bus or a van", "a street", "a building")),
    Asked(("a bicycle",), ("riding a bike",)),
    Asked(("a dog",)),
    Asked(("someone in a suit", "the inside of a car")),
    Asked(()),
]
STATS = PictureStats(brightness=100.0, change=5.0)


def embed(model):
    return model.meaning.embed_text


@pytest.fixture
def teller(model):
    model.teller._kept.clear()
    return model.teller


def test_a_scenes_own_vector_is_told_as_something_like_it(model, teller):
    """Over 2,000 held-out captions the mean cosine is that of docs/models/embedded.md."""
    vectors = embed(model)(SCENES)
    kinds = torch.full((len(SCENES), 1), KINDS.index("sentence"))
    there = torch.ones(len(SCENES), 1, dtype=torch.bool)
    found = beam_search(teller.net, vectors[:, None], kinds, there)
    said = [teller.text.decode(best[0].tokens) for best in found]
    cosines = (embed(model)(said) * vectors).sum(1)
    assert cosines.mean() > 0.75, said
    assert cosines.min() > 0.5, said


def test_what_is_told_says_what_was_asked(model, teller):
    told = teller.tell(ASKED, embed(model))
    assert told[3] is None  # one thing needs no decoder
    assert told[5] is None
    assert sum(one is not None for one in told) >= 2
    for one, asked in zip(told, ASKED, strict=True):
        if one is not None:
            assert asked.deeds or says(one.text, asked)
            assert teller.sureness.floor <= one.score <= 1.0


def test_a_clips_sentence_does_not_depend_on_its_neighbours(model, teller):
    together = teller.tell(ASKED, embed(model))
    for asked, told in zip(ASKED, together, strict=True):
        teller._kept.clear()
        (alone,) = teller.tell([asked], embed(model))
        assert (alone is None) == (told is None)
        if alone is not None:
            assert alone.text == told.text
            assert alone.score == pytest.approx(told.score, abs=1e-4)


def test_what_is_not_sure_enough_is_not_told(model):
    strict = TextDecoder(model.spec.captions, model.spec.directory)
    strict.sureness = Sureness(strict.sureness.slope, strict.sureness.offset, floor=1.0)
    assert strict.tell(ASKED, embed(model)) == [None] * len(ASKED)


def test_the_bundle_tells_things_together_and_hedges_what_is_done(model):
    cat, bed = Label("cat", 0.9, "objects", "video"), Label("bed or sofa", 0.8, "objects", "video")
    riding = Label("riding a bike", 0.95, "actions", "video")
    bark = Label("Bark", 0.9, "audioset", "audio")
    given = [
        Evidence([], [cat, bed], [bark], STATS, True),
        Evidence([riding], [], [], STATS, False),
        Evidence([], [cat], [], STATS, False),
    ]
    told = model._told(given)
    assert told[2] is None
    said = [
        compose(mine, model.object_phrases, model.sound_phrases, one)
        for mine, one in zip(given, told, strict=True)
    ]
    assert [text for text, _ in said] == [
        "A cat on a bed or a sofa; barking heard.",
        "Probably someone riding a bike; no sound track.",
        "A cat in view; no sound track.",
    ]
    assert said[0][1] < (0.9 + 0.8 + 0.9) / 3  # less sure than its labels, as it says more
    assert said[2][1] == pytest.approx(0.9)


@pytest.fixture
def own_part(tmp_path):
    """The shipped part with its files in a folder that a test may change."""
    spec = find_bundle("embedded")
    for file in spec.captions.weight_files():
        shutil.copy(file.path(spec.directory), tmp_path)

    def part():
        files = {path.name: sha256(path) for path in tmp_path.iterdir()}
        checkpoint = {"folder": str(tmp_path), "files": files}
        return PartSpec.model_validate(spec.captions.model_dump() | {"checkpoint": checkpoint})

    return part


def test_weights_that_do_not_fit_are_named(own_part, tmp_path):
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["norm.weight"]
    save_file(tensors | {"extra": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(BundleError, match=r"missing norm.weight; unexpected extra"):
        TextDecoder(own_part(), tmp_path)


def test_a_damaged_file_and_a_missing_option_are_named(own_part, tmp_path):
    part = own_part()
    short = PartSpec.model_validate(part.model_dump() | {"options": {"beams": 4}})
    with pytest.raises(BundleError, match="option deed_floor is missing"):
        TextDecoder(short, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(BundleError, match="damaged"):
        TextDecoder(own_part(), tmp_path)
