"""The scene encoder as an experiment: what is asked of it, on a handful of names with vectors of their own."""

from __future__ import annotations

import dataclasses
import zlib
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.bundles.spec import BundleError, find_bundle
from pipeline.evaluation.experiments import scenes
from pipeline.evaluation.experiments.base import Lab
from pipeline.evaluation.experiments.scenes import (
    HeldOut,
    Names,
    Real,
    SceneVectors,
    Search,
    ToldApart,
    alone,
    evidence_alone,
    heard,
    observed,
    read_observed,
    retrieval,
    shows,
    without,
    without_motion,
)
from pipeline.fusion.scene import MOTION_DIM, N_NAMES, TEXT_DIM, Clips, SceneEncoder, SceneSize
from pipeline.metrics.intervals import bootstrap
from pipeline.training.scene_pairs import (
    MOTION_CLAUSES,
    SOUND_CLAUSES,
    Composer,
    Damage,
    Lexicon,
    Material,
    Recognised,
    Script,
    Stage,
)
from pipeline.training.scenes import Told

DOG, CAT, SOFA, PERSON = range(4)
BARK, RAIN = 0, 1
NAMES = torch.eye(TEXT_DIM)
LEXICON = Lexicon(
    sight=NAMES[:4],
    sounds=NAMES[4:8],
    alike=np.array([[CAT], [DOG], [PERSON], [SOFA]]),
    phrases={BARK: "barking"},
    counted=torch.tensor([True, True, False, False]),
)
SCRIPTS = [
    Script(((DOG,),), has_person=False),
    Script(((CAT,), (SOFA,)), has_person=True),
    Script(((SOFA,),), has_person=False),
]


class Text:
    """A direction of its own for each sentence."""

    def encode(self, sentences):
        seeds = [zlib.crc32(s.encode()) for s in sentences]
        rows = [torch.randn(TEXT_DIM, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return F.normalize(torch.stack(rows), dim=-1)


def recognised(n: int, names: list[int], scores: list[float]) -> Recognised:
    return Recognised(np.tile(names, (n, 1)), np.tile(np.float32(scores), (n, 1)))


@pytest.fixture(scope="module")
def material() -> Material:
    """Footage of two videos, two sounds of each class and three windows of each motion."""
    stage = Stage(
        recognised(4, [DOG, SOFA], [0.3, 0.1]),
        recognised(4, [RAIN, 2], [0.6, 0.3]),
        looks=torch.ones(4, 6),
        motion=torch.ones(4, MOTION_DIM),
        moves=np.array([True, True, False, True]),
        has_sound=np.array([True, True, False, False]),
        videos=(np.array([0, 1]), np.array([2, 3])),
    )
    sounds = {kind: recognised(2, [BARK, 2], [0.9, 0.8]) for kind in SOUND_CLAUSES}
    return Material(stage, sounds, {kind: torch.ones(3, MOTION_DIM) for kind in MOTION_CLAUSES})


@pytest.fixture
def held(material) -> HeldOut:
    composer = Composer(material, LEXICON, PERSON)
    captions = ("a dog", "a man with a cat on a sofa", "a sofa")
    told = Told(SCRIPTS, Text().encode(captions))
    writer = SimpleNamespace(lexicon=LEXICON, text=Text())
    singles = composer.singles(SCRIPTS, np.random.default_rng(0))
    return HeldOut(material, writer, composer, captions, told, singles)


def some_clips(composer: Composer, *rows: dict) -> Clips:
    """Clips side by side, each with a picture and sound where its row says nothing else."""
    whole = {
        "seen": ([], []), "motion": [], "heard": ([], []), "present": (True, True),
        "looks": torch.ones(6), "middle_s": 2.0, "shot": 0, "unit": 0,
    }  # fmt: skip
    return composer.collated([whole | row for row in rows])


def test_places_make_recall_and_median_with_intervals():
    found = torch.eye(12)
    queries = found + 0.5 * found.roll(1, 0)  # each has its own first
    queries[0] = found[1]  # all others but one are as near as its own: it is never lucky
    r1, r5, r10, median = retrieval("k", "told", queries, found)
    assert [f.key for f in (r1, r5, r10, median)] == ["k_r1", "k_r5", "k_r10", "k_median"]
    assert r1.told == "told: R@1"
    assert [f.value for f in (r1, r5, r10)] == pytest.approx([11 / 12] * 3)
    assert r1.low < r1.value < r1.high
    assert (median.value, median.shown, median.n) == (1.0, "1.0", 12)
    assert median.low <= median.value <= median.high


def test_clips_look_for_their_scenes_sentence_those_that_are_asked(held):
    clips = dataclasses.replace(held.singles, evidence=NAMES[[0, 1, 1]])
    search = Search(
        "k",
        "told",
        clips,
        NAMES[:2],
        owners=torch.tensor([0, 1, 0]),
        asked=torch.tensor([True, True, False]),
    )
    assert search.figures(evidence_alone)[0].value == 1.0
    others = dataclasses.replace(search, asked=~search.asked)
    assert others.figures(evidence_alone)[0].value == 0.0


def test_what_has_no_evidence_is_never_told_apart_by_chance(held):
    clips = dataclasses.replace(held.singles, evidence=torch.stack([NAMES[0], NAMES[1], 0 * NAMES[0]]))
    (right,) = ToldApart("k", "told", clips, NAMES[:2], torch.tensor([0, 0, 0])).figures(evidence_alone)
    assert right.value == pytest.approx(1 / 3)


def test_names_look_for_the_scenes_that_have_them(held):
    clips = dataclasses.replace(held.singles, evidence=NAMES[[0, 1, 0]])
    asked = Names(clips, {7: NAMES[0], 8: NAMES[1]}, {7: [0, 2], 8: [0]})
    (mean,) = asked.figures(evidence_alone)
    assert mean.value == pytest.approx((1.0 + 1 / 3) / 2)  # the second finds its own behind two
    assert mean.n == 2


def test_a_removed_sense_leaves_the_evidence_of_the_other(held):
    clips = some_clips(held.composer, {"seen": ([DOG], [0.9]), "heard": ([BARK], [0.9])})
    silent, blind = without(clips, 1), without(clips, 0)
    assert torch.allclose(silent.evidence[0], LEXICON.sight[DOG])
    assert torch.allclose(blind.evidence[0], LEXICON.sounds[BARK])
    assert silent.present.tolist() == [[True, False]]
    assert torch.equal(silent.looks, clips.looks)
    assert not blind.looks.any()
    assert clips.present.all()  # what was given stays as it was
    assert not without(silent, 0).evidence.any()


def test_removed_motion_leaves_all_else(held):
    clips = some_clips(held.composer, {"seen": ([DOG], [0.9]), "motion": [torch.ones(MOTION_DIM)]})
    still = without_motion(clips)
    assert clips.moves.valid.any()
    assert not still.moves.valid.any()
    assert torch.equal(still.evidence, clips.evidence)
    assert torch.equal(still.present, clips.present)


def test_alone_no_clip_has_another_in_its_unit(held):
    clips = some_clips(held.composer, {"unit": 0}, {"unit": 0}, {"unit": 1})
    assert alone(clips).unit.tolist() == [0, 1, 2]


def test_a_clip_shows_its_scene_by_what_is_evidence(held):
    clips = some_clips(
        held.composer,
        {"seen": ([DOG], [0.9])},
        {"seen": ([CAT], [0.9])},  # something else
        {"seen": ([DOG], [0.1])},  # hardly
        {"seen": ([DOG], [0.9]), "present": (False, True)},
        {"seen": ([PERSON], [0.9])},
        {"seen": ([PERSON], [0.9])},  # of whom nothing is said
    )
    shown = shows(clips, torch.tensor([0, 0, 0, 0, 1, 2]), SCRIPTS, LEXICON.sight, people=PERSON)
    assert shown.tolist() == [True, False, False, False, True, False]


def test_of_a_sound_only_what_counts_is_heard():
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    counted = torch.tensor([True, False, True, True, True, True, True])
    assert heard(recognised(1, [6, 1, 2, 3, 4, 5, 0], scores), 0, counted) == (
        [6, 2, 3, 4, 5],
        pytest.approx([0.9, 0.7, 0.6, 0.5, 0.4]),
    )
    assert N_NAMES == 5


def test_held_out_sounds_and_motions_are_clips_with_nothing_else(held):
    sounds, motions = held.sounds(), held.motions()
    assert sounds.truth.tolist() == [k for k in range(len(SOUND_CLAUSES)) for _ in range(2)]
    assert sounds.clips.present.tolist() == [[False, True]] * len(sounds.truth)
    assert torch.allclose(sounds.clips.evidence, LEXICON.sounds[BARK])  # the other does not count
    assert motions.clips.present.tolist() == [[True, False]] * 3 * len(MOTION_CLAUSES)
    assert motions.clips.unit.tolist() == list(range(3 * len(MOTION_CLAUSES)))
    assert motions.texts.norm(dim=-1).tolist() == pytest.approx([1.0] * len(MOTION_CLAUSES))
    (right,) = motions.figures(evidence_alone)
    assert right.value == 0.0  # which has nothing of motion


def test_of_scenes_told_with_more_each_sense_is_removed(held):
    asked = {s.key: s for s in held.told_more(2, np.random.default_rng(0))}
    assert list(asked) == [
        "told_sound", "told_motion", "told_both",
        "told_both_no_sound", "told_both_no_motion", "told_both_no_picture",
    ]  # fmt: skip
    assert all(len(s.clips.unit) == len(s.sentences) == 2 for s in asked.values())
    assert asked["told_both"].clips.present.all()
    assert asked["told_both"].sentences is asked["told_both_no_sound"].sentences
    assert not asked["told_both_no_sound"].clips.present[:, 1].any()
    assert not asked["told_both_no_motion"].clips.moves.valid.any()
    assert not asked["told_both_no_picture"].clips.present[:, 0].any()


def test_every_clip_of_the_units_is_asked_once_in_its_unit_and_once_alone(held):
    damage = Damage(unseen=0.5)
    asked = {s.key: s for s in held.in_units(3, damage, np.random.default_rng(1))}
    assert list(asked) == ["hidden_in_unit", "hidden_alone", "shown_in_unit", "shown_alone"]
    hidden, shown = asked["hidden_in_unit"], asked["shown_in_unit"]
    assert torch.equal(hidden.asked, ~shown.asked)
    assert set(hidden.owners.tolist()) == {0, 1, 2}
    assert len(hidden.clips.unit.unique()) < len(hidden.clips.unit)
    assert len(asked["hidden_alone"].clips.unit.unique()) == len(hidden.clips.unit)


def test_only_names_of_some_scenes_are_asked_for(held):
    many = dataclasses.replace(held, told=Told([*SCRIPTS, *SCRIPTS[1:] * 2], held.told.vectors))
    assert many.names().scenes == {SOFA: [1, 2, 3, 4, 5, 6]}
    assert held.names().scenes == {}


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("(observed) a man, 122 s", "a man"),
        ("(observed; test split) CAPTION: someone is frying garlic", "someone is frying garlic"),
        ("arm wrestling (K400; top-1)", "arm wrestling"),
        ("(seen) a mirror (JWST) in a hall", "a mirror in a hall"),
        ("animation, rabbit", "animation, rabbit"),
        ("(nothing)", ""),
    ],
)
def test_notes_are_no_part_of_what_is_told(label, told):
    assert observed(label) == told


def test_real_clips_are_those_that_something_is_told_of(tmp_path):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        "file,label\nclips/a.mp4,cyclists\nclips/b.mp4,\n"
        "clips/grid_x.mpg,CAPTION: bin blue at f two now\nvectors/c.mp4,a vector\n"
    )
    assert read_observed(manifest) == [("clips/a.mp4", "cyclists")]


def test_a_bundle_without_a_scene_encoder_says_so(tmp_path):
    bundle = find_bundle("embedded").model_copy(update={"scene": None})
    lab = Lab(bundle, tmp_path, tmp_path / "work", lambda _: None)
    with pytest.raises(BundleError, match="embedded: expected a scene encoder"):
        SceneVectors(kind="scenes", work=tmp_path).measure(lab)


@pytest.fixture
def untrained(held, material, monkeypatch):
    """An encoder that has learned nothing in place of the bundle's, and scenes that are composed at once."""
    torch.manual_seed(0)
    net = SceneEncoder(SceneSize(dim=16, depth=1, num_heads=2, context_depth=1)).eval()
    sentences = SimpleNamespace(scored=tuple(f"{c} {i}" for i in range(6) for c in held.captions))
    scripts = SCRIPTS * 6

    class Writer:
        lexicon, text = LEXICON, Text()

        def __init__(self, *_):
            pass

        def as_told(self, captions, _):
            return Told(scripts, self.text.encode(captions))

    real = Real(["a.mp4", "b.mp4"], ["a man", "a cat"], np.array([2, 2]), np.array([1, 2]))
    monkeypatch.setattr(scenes, "load_scenes", lambda _: (None, SimpleNamespace(net=net)))
    monkeypatch.setattr(scenes, "read_material", lambda *_: (None, material))
    monkeypatch.setattr(scenes, "read_sentences", lambda _: sentences)
    monkeypatch.setattr(scenes, "Writer", Writer)
    monkeypatch.setattr(scenes, "person_of", lambda _: PERSON)
    monkeypatch.setattr(scenes, "read_real", lambda *_: real)
    monkeypatch.setattr(scenes, "bootstrap", partial(bootstrap, n_resampled=20))  # quick


@pytest.mark.usefixtures("untrained")
def test_both_ways_stand_side_by_side_and_are_the_same_with_nothing_learned(tmp_path):
    lab = Lab(find_bundle("embedded"), tmp_path, tmp_path, lambda _: None)
    asked = SceneVectors(kind="scenes", work=tmp_path, n_told_more=5, n_in_units=9, n_rounds=2)
    found = asked.measure(lab)
    both, real = found.tables
    figures = {f.key: f for f in found.figures}
    assert [row[0] for row in both.rows] == [f.told for f in found.figures]
    assert len(figures) == len(found.figures)
    rows = {f.key: row for f, row in zip(found.figures, both.rows, strict=True)}
    _, evidence, trained, n = rows["scenes_r1"]
    assert n == "18"
    assert evidence == trained == f"{figures['scenes_r1'].shown} ({figures['scenes_r1'].interval})"
    assert rows["real_mrr"][1].startswith("0.50 (")
    assert figures["real_mrr"].value == 0.75
    assert real.rows == (("a.mp4", "a man", "2", "1"), ("b.mp4", "a cat", "2", "2"))
    assert figures["ms"].value > 0
    assert rows["ms"][1] == "–"
    assert "18 sentences" in found.how
    assert "in 20 % of the clips nothing of the sentence is recognised" in found.how
