"""Training on rendered motion, and what the shipped weights make of motion that they never saw."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.bundles.weights import load_strictly
from pipeline.config import read_as
from pipeline.encoders.motion import CAMERA_MOTIONS, MotionNet
from pipeline.training.loop import LoopConfig, fit
from pipeline.training.motion import (
    NO_OBJECT,
    RECIPE,
    UNKNOWN,
    WEIGHTS,
    MotionTask,
    Recipe,
    Scenes,
    rendered,
    watched_clips,
)
from pipeline.training.rendered_motion import dead_leaves

SIZE = (144, 192)


def scenes(n=6, seed=0):
    random = np.random.default_rng(seed)
    stills = np.stack([dead_leaves(random, SIZE) for _ in range(n)])
    return Scenes(stills, np.repeat(stills[:1, None], 48, 1))


class Handful(MotionTask):
    """The same eight clips at every step."""

    def loss(self, net, indices, random):  # noqa: ARG002
        return super().loss(net, indices, np.random.default_rng(4))


def test_a_handful_of_clips_is_learned(tmp_path):
    told = []
    watched = watched_clips(scenes().played, 4, seed=1)
    task = Handful(scenes(), 8, watched)
    settings = LoopConfig(n_epochs=12, batch_size=8, learning_rate=3e-3, ema_decay=0.5)
    fit(task, settings, tmp_path, tell=lambda _, found: told.append(found))
    losses = [found["loss"] for found in told if "learning_rate" in found]
    assert losses[-1] < 0.7 * losses[0]
    assert {"camera", "objects", "score"} <= set(told[0])


def test_footage_tells_of_the_camera_alone():
    _, truth = rendered(scenes(), 40, np.random.default_rng(0))
    is_footage = truth.objects == UNKNOWN
    assert 0 < is_footage.sum() < 40
    assert truth.flow[is_footage].isnan().all()
    assert truth.flow[~is_footage].isfinite().all()
    assert (truth.objects[~is_footage] <= NO_OBJECT).all()


@torch.no_grad()
def test_the_shipped_weights_know_camera_motion_on_pictures_they_never_saw():
    net = load_strictly(MotionNet(), load_file(WEIGHTS), "motion")
    plain = Scenes(scenes(60, seed=99).stills, np.zeros((0, 48, *SIZE), np.uint8))
    pictures, truth = rendered(plain, 200, np.random.default_rng(12))
    said = net(pictures)["camera"].argmax(1)
    assert (said == truth.camera).float().mean() >= 0.9, json.dumps(CAMERA_MOTIONS)


def test_the_recipe_holds_out_what_it_names():
    recipe = read_as(Recipe, RECIPE)
    assert recipe.held_out
    assert len({settings.seed for settings in recipe.passes}) == len(recipe.passes)


def test_a_typo_in_the_recipe_is_refused():
    from pydantic import ValidationError

    from pipeline.training.motion import Recipe

    with pytest.raises(ValidationError, match="held_outs"):
        Recipe.model_validate({**read_as(Recipe, RECIPE).model_dump(), "held_outs": ["a.mp4"]})
