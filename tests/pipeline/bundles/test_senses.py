"""What senses tell piece by piece: the encoder's own features, each at its time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.bundles.accelerate import Runtime
from pipeline.bundles.families.base import Overheard
from pipeline.bundles.model import Model
from pipeline.bundles.senses import make_sight
from pipeline.bundles.spec import BundleError, find_bundle
from pipeline.config import load_config
from pipeline.encoders.frames import square_crops
from tests.batches import make_batch
from tests.pipeline.bundles.test_model import x3d_bundle  # noqa: F401 (a fixture)


def test_a_picture_token_is_the_mean_feature_of_its_squares_at_its_time(model):
    batch = make_batch(2, n_frames=3)
    batch.frame_valid[1, 1], batch.frame_time_s[1, 1] = False, np.nan
    wide = dataclasses.replace(
        batch, frames=np.random.default_rng(0).integers(0, 255, (2, 3, 224, 300, 3), dtype=np.uint8)
    )
    seen, _, _ = model.sense([wide])
    tokens = seen.tokens
    assert tokens.values.shape == (2, 3, model.sight.token_dim)
    assert tokens.valid.tolist() == [[True] * 3, [True, False, True]]
    assert not tokens.values[1, 1].any()
    with torch.inference_mode():
        squares = square_crops(torch.from_numpy(wide.frames[1, 2][None]), 224, 3)[0]
        own = model.sight.net.features(squares).mean(0)
    torch.testing.assert_close(tokens.values[1, 2], own, atol=1e-4, rtol=1e-4)
    assert tokens.middle_s[1].tolist() == [0.0, 0.0, 2.0]  # of the frames used, from the clip's start


def test_a_patch_token_is_its_embedding_at_the_middle_of_the_patch(model):
    batch = make_batch(1)
    _, heard, _ = model.sense([batch])
    tokens = heard.tokens
    with torch.inference_mode(), model.runtime.autocast():
        _, own = model.hearing.net(torch.from_numpy(batch.samples))
    assert tokens.values.shape == (1, 8, model.hearing.token_dim)
    torch.testing.assert_close(tokens.values, own.float(), atol=0.05, rtol=0.05)
    assert tokens.middle_s[0, :3].tolist() == pytest.approx([0.4875, 0.9675, 1.4475])


def test_units_of_other_lengths_are_told_as_if_alone(model):
    short, silent = make_batch(1, seed=1), make_batch(2, seed=2, has_audio=False)
    short = dataclasses.replace(
        short, samples=short.samples[:, :32_000], audio_valid=np.array([[0, 32_000]], np.int32)
    )
    _, alone, _ = model.sense([short])
    _, both, _ = model.sense([make_batch(1, seed=3), short, silent])
    n = alone.tokens.valid.shape[1]
    assert both.tokens.valid.sum(1).tolist() == [8, int(alone.tokens.valid.sum()), 0, 0]
    torch.testing.assert_close(both.tokens.values[1, :n], alone.tokens.values[0])


def test_a_video_network_is_listened_in_to_where_tokens_are_asked_for(x3d_bundle):  # noqa: F811
    spec, config = find_bundle(str(x3d_bundle)), load_config()
    runtime = Runtime.of("cpu", config.run)
    sight = make_sight(spec, config.clips.length_s, runtime, tells=True)
    batches = [make_batch(2, n_frames=10), make_batch(1, seed=3, n_frames=10)]
    seen = sight.perceive(batches, [torch.from_numpy(b.frames) for b in batches])
    assert seen.tokens.values.shape[::2] == (3, sight.token_dim)
    # The classifier on its own features gives its own scores: X3D has no layer behind it but a softmax.
    layer = next(m for m in sight.net.modules() if getattr(m, "out_features", 0) == 5)
    with torch.inference_mode():
        again = layer(seen.tokens.values).softmax(-1).mean(1)
    torch.testing.assert_close(again, seen.spaces["motion"], atol=2e-2, rtol=0)
    silent = Model(spec, config)
    assert silent.sense(batches)[0].tokens is None


def test_a_network_whose_classifier_is_no_linear_layer_says_so():
    with pytest.raises(BundleError, match="no features to learn from"):
        Overheard(torch.nn.Conv3d(3, 400, 1), 400, "kinetics-s3d")
