"""The sense of motion: which windows it looks at, and that each clip's answer is its own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.bundles.accelerate import Runtime
from pipeline.bundles.movement import CAMERA, make_movement
from pipeline.bundles.spec import BundleError, find_bundle
from pipeline.config import load_config
from pipeline.encoders.motion import CAMERA_MOTIONS, TOKEN_DIM
from pipeline.records import ClipBatch, MotionPictures
from tests.batches import make_batch

STATIC, PAN = CAMERA_MOTIONS.index("static"), CAMERA_MOTIONS.index("pan")


@pytest.fixture(scope="module")
def sense():
    return make_movement(find_bundle("embedded"), Runtime(torch.device("cpu")))


def with_motion(batch: ClipBatch, grey: np.ndarray, valid: np.ndarray) -> ClipBatch:
    times = np.where(valid, batch.start_s[:, None] + (np.arange(valid.shape[1]) + 0.5) / 8, np.nan)
    return dataclasses.replace(batch, motion=MotionPictures(grey, valid, times, 8))


def test_what_a_clip_is_said_to_do_is_its_own_in_whatever_company(sense):
    batches = [make_batch(n, seed=n, has_video=n != 2) for n in (3, 2, 1)]
    together = sense.perceive(batches)
    first = 0
    for batch in batches:
        alone = sense.perceive([batch])
        rows = slice(first, first + len(batch))
        for space, scores in alone.spaces.items():
            torch.testing.assert_close(scores, together.spaces[space][rows], atol=1e-4, rtol=0)
        torch.testing.assert_close(alone.tokens.values, together.tokens.values[rows], atol=1e-3, rtol=0)
        first += len(batch)
    assert not together.tokens.valid[3:5].any(), "no picture, no motion"
    assert not any(scores[3:5].any() for scores in together.spaces.values())


def test_a_token_is_a_window_of_two_seconds_at_its_place(sense):
    tokens = sense.perceive([make_batch(2)]).tokens
    assert tokens.values.shape == (2, 2, TOKEN_DIM)
    assert tokens.middle_s.tolist() == [[1.0, 3.0]] * 2
    assert tokens.valid.all()


@pytest.mark.parametrize(
    ("first", "end", "middles"),
    [
        (0, 32, [1.0, 3.0]),
        (0, 24, [1.0, 2.0]),  # the second window reaches back
        (0, 18, [1.0]),  # two pictures more are no window
        (0, 13, [1.0]),  # filled up with its last picture
        (0, 11, []),  # too short to tell
        (10, 32, [2.25, 3.0]),
    ],
)
def test_windows_cover_what_a_clip_has(sense, first, end, middles):
    batch = make_batch(1)
    valid = np.zeros((1, 32), bool)
    valid[0, first:end] = True
    tokens = sense.perceive([with_motion(batch, batch.motion.grey, valid)]).tokens
    assert tokens.middle_s[tokens.valid].tolist() == middles
    assert not tokens.values[~tokens.valid].any()


def test_a_camera_stands_still_if_it_does_so_all_the_time_and_pans_if_it_does_so_at_some_time(sense):
    batch = make_batch(1, seed=4)
    still, moving = batch.motion.grey[:, :1].repeat(16, axis=1), batch.motion.grey[:, :16]
    valid = np.ones((1, 32), bool)
    said = {
        name: sense.perceive([with_motion(batch, np.concatenate(parts, axis=1), valid)]).spaces[CAMERA][
            0
        ]
        for name, parts in {
            "still": (still, still),
            "pans": (moving, moving),
            "both": (still, moving),
        }.items()
    }
    assert said["still"][STATIC] > 0.9
    assert said["still"][PAN] < 0.1
    assert said["pans"][PAN] > 0.5
    assert said["both"][PAN] == pytest.approx(said["pans"][PAN].item(), abs=1e-3)
    assert said["both"][STATIC] < 0.1


def test_clips_that_were_decoded_without_motion_pictures_say_nothing_of_motion(sense):
    sensed = sense.perceive([make_batch(2, motion_rate_hz=0)])
    assert not any(scores.any() for scores in sensed.spaces.values())
    assert not sensed.tokens.valid.any()


def test_the_bundle_asks_decoding_for_the_pictures_that_it_looks_at():
    spec = find_bundle("embedded")
    config = load_config()
    assert config.clips.motion_rate_hz == 0
    fitted = spec.fitted(config)
    assert (fitted.clips.motion_rate_hz, fitted.clips.motion_height_px) == (8, 72)
    assert fitted.result_digest("x") != config.result_digest("x")


def test_a_bundle_that_asks_for_other_pictures_than_the_network_sees_is_refused():
    spec = find_bundle("embedded")
    other = spec.model_copy(update={"motion": spec.motion.model_copy(update={"rate_hz": 12})})
    with pytest.raises(BundleError, match="asks for 12 pictures a second of 72 px, the network sees 8"):
        make_movement(other, Runtime(torch.device("cpu")))
