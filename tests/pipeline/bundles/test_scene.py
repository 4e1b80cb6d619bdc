"""The scene encoder in a bundle: whose clips a clip's vector depends on, and which weights it takes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.bundles.model import Model
from pipeline.bundles.scene import Scenes, named, shots_of
from pipeline.bundles.senses import Sensed
from pipeline.bundles.spec import BundleError, BundleSpec, SceneSpec, WeightFile, find_bundle
from pipeline.config import read_as
from pipeline.evaluation.experiments.scenes import texts_of
from pipeline.fusion.scene import LEAST_SURE, SceneEncoder, SceneSize
from pipeline.records import Unit
from pipeline.training.footage import read_table
from pipeline.training.scene_pairs import SOUND_CLAUSES
from pipeline.training.scenes import RECIPE, Recipe
from pipeline.understand import decode
from tests.batches import make_batch

SIZE = SceneSize(dim=16, depth=2, num_heads=2, context_depth=1)


def spec_with(directory, weights: dict[str, torch.Tensor]) -> BundleSpec:
    file = directory / "scenes.safetensors"
    save_file(weights, file)
    scene = SceneSpec(
        weights=WeightFile(file=file.name, sha256=hashlib.sha256(file.read_bytes()).hexdigest()),
        fusion="bottleneck",
        dim=16,
        depth=2,
        num_heads=2,
        context_depth=1,
        licence="Apache-2.0",
        source="a test",
    )
    return find_bundle("embedded").model_copy(update={"scene": scene, "directory": directory})


@pytest.fixture
def scenes(model, tmp_path) -> Scenes:
    """With weights as if it had learned something."""
    torch.manual_seed(0)
    net = SceneEncoder(SIZE)
    for layer in (net.out[1], net.heed, net.borrows):
        torch.nn.init.normal_(layer.weight, std=0.3)
    spec = spec_with(tmp_path, net.state_dict())
    return Scenes(spec, spec.scene, model.meaning, torch.device("cpu"))


def embedded(scenes: Scenes, model: Model, batches) -> torch.Tensor:
    senses = model.sense(batches)
    present = torch.from_numpy(
        np.concatenate([np.stack([b.has_video, b.has_audio], 1) for b in batches])
    )
    evidence, _ = model.meaning.fuse(senses.seen, senses.heard, present)
    return scenes.embed(batches, senses, present, evidence)


def test_a_units_vectors_are_the_same_to_the_bit_in_whatever_company(scenes, model):
    units = [make_batch(n, seed=n, has_audio=n != 2) for n in (3, 2, 1)]
    together = embedded(scenes, model, units)
    assert torch.equal(together[3:5], embedded(scenes, model, [units[1]]))
    assert torch.equal(together[:3], embedded(scenes, model, [units[0]]))


def test_vectors_have_unit_length_or_are_zero(scenes, model):
    lengths = embedded(scenes, model, [make_batch(4, seed=5)]).norm(dim=-1)
    assert ((lengths - 1).abs() < 1e-5).logical_or(lengths == 0).all()


def test_a_weight_too_few_is_an_error(model, tmp_path):
    weights = SceneEncoder(SIZE).state_dict()
    del weights["typical"]
    spec = spec_with(tmp_path, weights)
    with pytest.raises(BundleError, match="typical"):
        Scenes(spec, spec.scene, model.meaning, torch.device("cpu"))


def test_other_motion_weights_than_it_learned_from_are_an_error():
    spec = find_bundle("embedded")
    values = spec.model_dump() | {"directory": spec.directory}
    scene = {
        "weights": {"file": "scenes.safetensors"}, "fusion": "late", "dim": 16, "depth": 1, "num_heads": 2,
        "context_depth": 1, "motion_sha256": "0" * 64, "licence": "x", "source": "x",
    }  # fmt: skip
    with pytest.raises(
        ValueError, match=r"motion weights 0000.*expected the same \(make train-scenes\)"
    ):
        BundleSpec.model_validate(values | {"scene": scene})


def test_names_below_the_least_are_not_told():
    scores = torch.tensor([[0.9, LEAST_SURE / 2, 0.4, 0.0, 0.0, 0.0]])
    pieces = named(Sensed({}, scores), torch.eye(6, 384), 1)
    assert pieces.valid.tolist() == [[True, True, False, False, False]]
    assert pieces.values[0, 1].argmax() == 2


def test_shots_are_counted_at_their_cuts():
    batch = make_batch(4)
    assert shots_of(batch).tolist() == [0, 0, 0, 0]
    object.__setattr__(batch, "cut_s", np.array([np.nan, 4.0, np.nan, 12.0]))
    assert shots_of(batch).tolist() == [0, 1, 1, 2]


N_OF_EACH = 3


def test_shipped_weights_tell_held_out_sounds_apart_better_than_the_evidence(model, shared_media):
    """Sounds of a fold that training never had, each put to that class whose sentence is the nearest."""
    data, kinds = shared_media.parent / "data", list(SOUND_CLAUSES)
    fold = read_as(Recipe, RECIPE).sources.held_out_fold
    rows = read_table(data / "esc10.csv").items()
    batches, truth = [], []
    for k, kind in enumerate(kinds):
        files = [f for f, row in rows if row["label"] == kind and int(row["fold"]) == fold]
        for file in files[:N_OF_EACH]:
            unit = Unit(file, file, str(data / "esc10" / file), "", 0.0, None)
            batches.append(decode(unit, model.config, model.sample_rate_hz).batch)
            truth += [k] * len(batches[-1])
    senses = model.sense(batches)
    present = torch.tensor([[False, True]] * len(truth))
    evidence, _ = model.meaning.fuse(senses.seen, senses.heard, present)
    trained = model.scenes.embed(batches, senses, present, evidence)
    texts = texts_of(SOUND_CLAUSES, model.meaning.text)
    n_right = [int(((x @ texts.T).argmax(1) == torch.tensor(truth)).sum()) for x in (evidence, trained)]
    assert n_right[1] > n_right[0], n_right
    assert n_right[1] > len(truth) / 2
