"""Captions judged: by people on real clips, by what five people say of a picture."""

from __future__ import annotations

import pytest

from pipeline.bundles.spec import find_bundle
from pipeline.evaluation.experiments.base import Lab
from pipeline.evaluation.experiments.captions import JudgedClip, RealCaptions, is_right
from pipeline.heads.sentences import Asked

STATED = {("a dog", "on", "a couch"), ("a couch", "near", "a man")}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("a dog on a couch", True),
        ("a couch on a dog", False),
        ("a dog under a couch", False),
        ("a dog and a couch", True),  # it claims nothing
    ],
)
def test_a_sentence_is_right_where_somebody_says_so(text, right):
    assert is_right(text, Asked(("a dog", "a couch")), STATED) is right


def test_among_vague_words_and_their_order_people_choose_freely():
    assert is_right("a man next to a couch", Asked(("a couch", "a man")), STATED)
    assert is_right("a couch with a man", Asked(("a man", "a couch")), STATED)


@pytest.fixture
def lab(shared_media, tmp_path):
    """One real clip."""
    (tmp_path / "media" / "clips").mkdir(parents=True)
    clip = "vggsound_3qesirWAGt4_dog.mp4"
    (tmp_path / "media" / "clips" / clip).symlink_to(shared_media / "clips" / clip)
    return Lab(find_bundle("embedded"), tmp_path, tmp_path / "work", lambda _: None)


def test_a_caption_that_changed_is_not_judged_yet_and_never_right(lab):
    clip = "vggsound_3qesirWAGt4_dog.mp4"
    asked = {"kind": "real_captions", "n_clips": 2, "judged": ()}
    (first, second) = RealCaptions(**asked).measure(lab).tables[0].rows
    assert first[0] == f"{clip} 0 s"
    assert second[0] == f"{clip} 4 s"
    judged = (
        JudgedClip(file=clip, start_s=0, there="a dog on a lead", judged={first[1]: "right"}),
        JudgedClip(file=clip, start_s=4, there="the dog", judged={"A cat.": "right"}),
    )
    found = RealCaptions(**(asked | {"judged": judged})).measure(lab)
    assert [row[3] for row in found.tables[0].rows] == ["right", "not judged yet"]
    assert [row[4] for row in found.tables[0].rows] == ["a dog on a lead", "the dog"]
    figures = {f.key: f for f in found.figures}
    assert (figures["right"].value, figures["right"].n) == (0.5, 2)
    assert figures["not_judged_yet"].value == 1
