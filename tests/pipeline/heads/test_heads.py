"""Labels and sentences from evidence."""

from __future__ import annotations

import pytest
import torch

from pipeline.heads.actions import Vocabulary, evidence_token, pick_labels, score_by_text
from pipeline.heads.captions import Evidence, PictureStats, compose
from pipeline.records import Label

LIT, DARK = PictureStats(120.0, 5.0), PictureStats(10.0, 0.2)


def label(name, score=0.9, space="objects", modality="video"):
    return Label(name, score, space, modality)


def sentence(
    actions=(), objects=(), sounds=(), stats=LIT, has_audio=True, is_silent=False, camera=None
):
    evidence = Evidence(actions, objects, sounds, stats, has_audio, is_silent, camera)
    return compose(evidence, {"dog": "a dog", "car": "a car"}, {"Bark": "barking"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"objects": [label("dog")], "sounds": [label("Bark")]}, "A dog in view; barking heard."),
        (
            {"objects": [label("dog"), label("car")], "has_audio": False},
            "A dog and a car in view; no sound track.",
        ),
        (
            {"objects": [label("car")], "actions": [label("driving car", 0.8)], "is_silent": True},
            "A car in view, probably driving car; silence.",
        ),
        ({"actions": [label("yoga", 0.4)]}, "Perhaps yoga; sound not recognised."),
        ({"objects": [label("umbrella")]}, "An umbrella in view; sound not recognised."),
        ({"stats": DARK, "has_audio": False}, "A dark still picture, not recognised; no sound track."),
        ({"stats": None, "sounds": [label("Music")]}, "No picture; music heard."),
        (
            {"objects": [label("car")], "camera": label("pan", 0.97, "camera"), "is_silent": True},
            "A car in view, the camera pans; silence.",
        ),
        (
            {"objects": [label("car")], "camera": label("pan", 0.91, "camera"), "is_silent": True},
            "A car in view; silence.",
        ),
        (
            {"objects": [label("car")], "camera": label("static", 0.99, "camera"), "is_silent": True},
            "A car in view; silence.",
        ),
    ],
)
def test_a_sentence_says_what_is_known_and_no_more(given, said):
    assert sentence(**given)[0] == said


def test_its_score_is_the_mean_of_what_it_says():
    assert sentence(objects=[label("dog", 0.6)], sounds=[label("Bark", 0.8)])[1] == pytest.approx(0.7)
    assert sentence()[1] == 0.0


def test_evidence_points_where_it_is_strong_and_is_as_long_as_it_is_sure():
    vectors = torch.eye(3)
    token = evidence_token(torch.tensor([[0.8, 0.5, 0.1], [0.1, 0.1, 0.0]]), vectors)
    assert token[0].norm() == pytest.approx(1 - 0.2 * 0.5)
    assert token[0, 0] > token[0, 1] > token[0, 2] == 0
    assert not token[1].any()


def test_without_evidence_no_action_scores():
    vocabulary = Vocabulary("actions", ("a", "b"), torch.eye(2))
    tokens = torch.tensor([[0.0, 0.0], [0.5, 0.0]])
    scores = score_by_text(tokens, vocabulary, 0.05, 0.42)
    assert scores[0].tolist() == [0.0, 0.0]
    assert scores[1, 0] == pytest.approx(0.5, abs=1e-4)


def test_labels_below_the_floor_are_not_written():
    scores = torch.tensor([[0.2, 0.9, 0.5]])
    picked = pick_labels(scores, "abc", "s", "video", floor=0.4, most=5)
    assert [(x.label, round(x.score, 2)) for x in picked[0]] == [("b", 0.9), ("c", 0.5)]
    assert (
        pick_labels(torch.tensor([[0.2, 0.9, 0.5]]), "abc", "s", "video", floor=0.4, most=1)[0][0].label
        == "b"
    )


def test_a_short_vocabulary_does_not_have_to_fit():
    """Evidence far from the only name: without "none of these" its share would be all."""
    vocabulary = Vocabulary("actions", ("welding",), torch.tensor([[1.0, 0.0]]))
    far = torch.tensor([[0.2, 0.98]])
    assert score_by_text(far, vocabulary, 0.05, 0.42).item() < 0.05
    assert score_by_text(far.flip(1), vocabulary, 0.05, 0.42).item() > 0.95
