"""The loaded model: each clip's answer is its own, whoever it was encoded with."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import yaml
from pytorchvideo.models import hub
from safetensors.torch import save_file

from pipeline.bundles.kinds import is_stateless
from pipeline.bundles.model import Model
from pipeline.bundles.senses import best_share, loudest
from pipeline.bundles.spec import BundleError, find_bundle
from pipeline.config import load_config
from pipeline.fusion.scene import SceneEncoder, SceneSize
from pipeline.records import Label
from tests.batches import make_batch


def said(result):
    return [(x.label, x.space, x.modality) for x in result.labels], result.caption


def test_a_unit_gets_its_own_results_in_whatever_company(model):
    """The order and the company of units in a call change nobody's rows."""
    batches = [make_batch(n, seed=n, has_audio=n != 2) for n in (1, 2, 0, 3)]
    together = model.understand(batches)
    assert [len(r) for r in together] == [1, 2, 0, 3]
    for order in ([3, 0, 1, 2], [1, 3, 2, 0]):
        shuffled = model.understand([batches[i] for i in order])
        for place, i in enumerate(order):
            for a, b in zip(shuffled[place], together[i], strict=True):
                assert said(a) == said(b)
                assert [x.score for x in a.labels] == pytest.approx(
                    [x.score for x in b.labels], abs=1e-3
                )
                if a.embedding is not None:
                    np.testing.assert_allclose(a.embedding, b.embedding, atol=1e-4)


def test_threads_share_a_model_without_mixing_their_units(model):
    """As in a run without a GPU, where an encoder takes several calls at once."""
    assert is_stateless(model.spec)
    batches = [make_batch(n, seed=n, has_audio=n != 2) for n in (1, 2, 3, 1, 2, 3)]
    alone = [model.understand([batch])[0] for batch in batches]
    with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(1,)) as threads:
        at_once = list(threads.map(lambda batch: model.understand([batch])[0], batches))
    for mine, yours in zip(alone, at_once, strict=True):
        for a, b in zip(mine, yours, strict=True):
            assert said(a) == said(b)
            np.testing.assert_allclose(a.embedding, b.embedding, atol=1e-4)


def test_a_missing_sense_weighs_nothing_and_labels_nothing(model):
    (silent,) = model.understand([make_batch(2, has_audio=False)])
    (blind,) = model.understand([make_batch(2, has_video=False)])
    for result in silent:
        assert all(x.modality == "video" for x in result.labels)
        assert "no sound track" in result.caption
    for result in blind:
        assert all(x.modality == "audio" for x in result.labels)
        assert result.caption.startswith("No picture")


def test_embeddings_have_unit_length_in_the_text_space(model):
    for result in model.understand([make_batch(3, seed=1)])[0]:
        if result.embedding is not None:
            assert result.embedding.shape == (384,)
            assert np.linalg.norm(result.embedding) == pytest.approx(1.0, abs=1e-4)


def test_floors_of_the_config_hold():
    config = load_config(
        overrides=["labels.min_score={imagenet1k: 0, audioset: 0}", "labels.max_per_space=2"]
    )
    eager = Model(find_bundle("embedded"), config)
    (result,) = eager.understand([make_batch(1)])[0]
    per_space = [x.space for x in result.labels]
    assert per_space.count("imagenet1k") == 2
    assert per_space.count("audioset") == 2


def test_a_things_score_is_the_mean_of_its_best_third():
    scores = torch.tensor([[[0.9], [0.3], [0.6], [0.1], [0.0], [0.2], [1.0]]])
    valid = torch.tensor([[True] * 6 + [False]])
    assert best_share(scores, valid).item() == pytest.approx((0.9 + 0.6) / 2)
    assert best_share(scores, torch.zeros_like(valid)).item() == 0.0


def test_a_sound_counts_by_its_loudest_valid_patch():
    logits = torch.tensor([[[1.0], [5.0], [9.0]]])
    assert loudest(logits, torch.tensor([[True, True, False]])).item() == 5.0


@pytest.fixture
def x3d_bundle(tmp_path):
    """A bundle that names a 3D CNN and a scene encoder, with weights made for this test."""
    spec = yaml.safe_load((find_bundle("embedded").directory / "bundle.yaml").read_text())
    torch.manual_seed(0)
    (tmp_path / "labels.txt").write_text("walk\nrun\nfall\nsit\nstand\n")
    size = {"fusion": "late", "dim": 16, "depth": 1, "num_heads": 2, "context_depth": 1}
    save_file(SceneEncoder(SceneSize(**size)).state_dict(), tmp_path / "scenes.safetensors")
    net = hub.x3d_xs(pretrained=False, model_num_class=5)
    torch.save({"model_state": net.state_dict()}, tmp_path / "X3D_XS.pyth")
    sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.iterdir()}
    spec |= {
        "name": "motion",
        "objects_file": None,
        "sounds_file": None,
        "audio": None,
        "pictures": {"rate_hz": 2.5, "short_side_px": 182},
        "video": {
            "kind": "pytorchvideo",
            "labels": "motion",
            "options": {"model": "x3d_xs", "classes": 5},
            "licence": "Apache-2.0",
            "source": "a test",
            "weights": {"file": "X3D_XS.pyth", "sha256": sums["X3D_XS.pyth"]},
            "label_file": {"file": "labels.txt", "sha256": sums["labels.txt"]},
        },
        "scene": size
        | {
            "weights": {"file": "scenes.safetensors", "sha256": sums["scenes.safetensors"]},
            "licence": "Apache-2.0",
            "source": "a test",
        },
    }
    spec["spaces"]["motion"] = {"floor": 0.0, "calibration": "none"}
    (tmp_path / "bundle.yaml").write_text(yaml.safe_dump(spec))
    return tmp_path


def test_a_bundle_can_name_a_3d_cnn_and_a_scene_encoder(x3d_bundle):
    model = Model(find_bundle(str(x3d_bundle)), load_config())
    results = model.understand([make_batch(2), make_batch(1, seed=3)])
    assert [len(r) for r in results] == [2, 1]
    for unit in results:
        for result in unit:
            own = [x for x in result.labels if x.space == "motion"]
            assert len(own) == 3
            assert {x.label for x in own} <= {"walk", "run", "fall", "sit", "stand"}


def test_a_bundle_asks_for_the_pictures_that_its_encoders_look_at(x3d_bundle):
    spec = find_bundle(str(x3d_bundle))
    fitted = spec.fitted(load_config())
    assert fitted.clips.frames_per_clip == 10  # 2.5 a second for 4 s
    assert spec.fitted(fitted) == fitted
    more = load_config(overrides=["clips.frames_per_clip=40"])
    assert spec.fitted(more).clips.frames_per_clip == 40


def test_no_weights_no_model(x3d_bundle):
    (x3d_bundle / "X3D_XS.pyth").unlink()
    with pytest.raises(BundleError, match=r"X3D_XS.pyth: no such weight file"):
        Model(find_bundle(str(x3d_bundle)), load_config())


def test_an_unknown_option_names_the_known_ones(x3d_bundle):
    text = (
        (x3d_bundle / "bundle.yaml").read_text().replace("model: x3d_xs", "model: x3d_xs\n    speed: 2")
    )
    (x3d_bundle / "bundle.yaml").write_text(text)
    with pytest.raises(BundleError, match=r"unknown option 'speed'; it has: .*spatial_crops"):
        Model(find_bundle(str(x3d_bundle)), load_config())


def test_what_the_camera_does_is_a_label_and_never_what_happens():
    config = load_config(overrides=["labels.min_score={camera: 0}"])
    loaded = Model(find_bundle("embedded"), config)
    for result in loaded.understand([make_batch(3, seed=1)])[0]:
        told = [x for x in result.labels if x.space == "camera"]
        assert len(told) == 3
        assert all(x.modality == "video" for x in told)
        assert result.top is None or result.top.space != "camera"
        (best,) = loaded._foreground([told[0], Label("dog", 0.1, "objects", "video")])
        assert best.label == "dog"


def test_fights_are_told_only_where_a_config_asks_for_them(model):
    moving = [make_batch(3, seed=k) for k in range(3)]
    scores = model.sense(moving).moved.spaces["fights"]
    assert scores.max() > 0.5
    assert not [
        x for unit in model.understand(moving) for r in unit for x in r.labels if x.space == "fights"
    ]
    asked = load_config(overrides=["labels.min_score={fights: 0.5}"])
    results = Model(find_bundle("embedded"), asked).understand(moving)
    told = [x for unit in results for r in unit for x in r.labels if x.space == "fights"]
    assert len(told) == int((scores >= 0.5).sum())
    assert {(x.label, x.modality) for x in told} == {("fighting", "video")}


def test_in_a_sentence_a_fight_comes_before_what_is_matched_by_text(model):
    actions = [Label("driving car", 0.8, "actions", "fused"), Label("fighting", 0.7, "fights", "video")]
    assert [x.label for x in model._best_actions(actions)] == ["fighting"]


def test_a_kind_of_sound_is_not_said_beside_one_of_its_own(model):
    heard = [Label(name, 0.9, "audioset", "audio") for name in ("Animal", "Dog", "Bark", "Music")]
    assert [x.label for x in model._told_sounds(heard)] == ["Bark", "Music"]
    assert [x.label for x in model._told_sounds(heard[:1])] == ["Animal"]
