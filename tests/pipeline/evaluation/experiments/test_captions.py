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


CLIP = "ucf101_v_Biking_g05_c02.avi"


@pytest.fixture
def lab(shared_media, tmp_path):
    """One real clip, two stretches of it."""
    (tmp_path / "media" / "clips").mkdir(parents=True)
    (tmp_path / "media" / "clips" / CLIP).symlink_to(shared_media / "clips" / CLIP)
    return Lab(find_bundle("embedded"), tmp_path, tmp_path / "work", lambda _: None)


def test_a_caption_that_changed_is_not_judged_yet_and_never_right(lab):
    asked = {"kind": "real_captions", "n_clips": 2}
    changed = JudgedClip(file=CLIP, start_s=0, there="two cyclists", judged={"A cat.": "right"})
    found = RealCaptions(**asked, judged=(changed,)).measure(lab)
    first = found.tables[0].rows[0]
    assert first[0] == f"{CLIP} 0 s"
    assert first[3:] == ("not judged yet", "two cyclists")
    assert {f.key: f.value for f in found.figures}["right"] == 0.0
    judged = changed.model_copy(update={"judged": {first[1]: "partly"}})
    again = RealCaptions(**asked, judged=(judged,)).measure(lab)
    figures = {f.key: f for f in again.figures}
    assert figures["partly"].value == 1
    assert figures["not_judged_yet"].value == len(again.tables[0].rows) - 1
