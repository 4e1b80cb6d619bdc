"""Rendered motion does what its plan says, to the pixel where the pixel grid allows."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.encoders.motion import CAMERA_MOTIONS, N_PICTURES, OBJECT_MOTIONS, RATE_HZ, SIZE_PX
from pipeline.training.rendered_motion import (
    ASPECT,
    FLOW_STEP_PX,
    Plan,
    Thing,
    dead_leaves,
    plan_camera,
    plan_clip,
    render,
    still,
)

HEIGHT, WIDTH = SIZE_PX
STEPS = np.arange(N_PICTURES, dtype=np.float32)


def scene(seed=0, size_px=SIZE_PX):
    return torch.from_numpy(dead_leaves(np.random.default_rng(seed), size_px))


def filmed(view, things=(), background=None):
    """What a camera that sees a whole scene of its own size films, (T, H, W), and the scene."""
    background = scene() if background is None else background
    plan = Plan("static", view, things=things, share=1.0)
    made = render([plan], background[None, None], torch.full((1, 9, 12), 255, dtype=torch.uint8))
    return made.pictures[0].int(), background.int()


def path(**moves):
    return dataclasses.replace(still(), **{k: np.asarray(v, np.float32) for k, v in moves.items()})


@pytest.mark.parametrize(("axis", "name"), [(1, "x"), (0, "y")])
def test_a_pan_or_tilt_of_two_pixels_a_picture_moves_it_by_two_pixels(axis, name):
    pictures, background = filmed(path(**{name: 2 * STEPS / HEIGHT}))
    for t in (0, 3, 9):
        moved = background.roll(-2 * t, axis)
        inside = (
            (slice(0, HEIGHT - 2 * t), slice(None))
            if axis == 0
            else (slice(None), slice(0, WIDTH - 2 * t))
        )
        assert (pictures[t][inside] - moved[inside]).abs().max() <= 1


def test_a_roll_by_half_a_turn_stands_it_on_its_head():
    pictures, background = filmed(path(angle=np.full(N_PICTURES, np.pi)))
    assert (pictures[5] - background.flip(0, 1)).abs().max() <= 1


def test_zoomed_in_by_two_the_middle_half_fills_the_picture():
    pictures, background = filmed(path(log_scale=np.full(N_PICTURES, np.log(2))))
    middle = background[HEIGHT // 4 : -HEIGHT // 4, WIDTH // 4 : -WIDTH // 4].float()
    larger = F.interpolate(middle[None, None], SIZE_PX, mode="bilinear")[0, 0]
    inside = (slice(4, -4), slice(4, -4))
    assert (pictures[0][inside] - larger[inside]).abs().max() <= 1


def test_a_thing_is_where_its_path_says_and_as_large():
    ball = Thing(path(x=0.02 * STEPS, y=0.01 * STEPS), 0.15, 1.0, np.zeros((3, 2), np.float32), 1.0)
    grey = torch.full(SIZE_PX, 90, dtype=torch.uint8)
    pictures, background = filmed(still(), (ball,), grey)
    for t in (0, 8, 15):
        changed = (pictures[t] - background).abs() > (255 - 90) / 2
        down, right = np.argwhere(changed.numpy()).mean(0)
        assert right / HEIGHT - ASPECT / 2 == pytest.approx(0.02 * t, abs=0.03)
        assert down / HEIGHT - 0.5 == pytest.approx(0.01 * t, abs=0.03)
        assert changed.sum() / HEIGHT**2 == pytest.approx(np.pi * 0.15**2, rel=0.25)


@pytest.mark.parametrize(
    ("camera", "objects"),
    [("pan", None), ("roll", None), ("zoom", "spin"), ("static", "approach"), ("tilt", "swing")],
)
def test_the_flow_leads_from_each_picture_to_the_next(camera, objects):
    random = np.random.default_rng(3)
    plan = plan_clip(random, camera, objects, distracts=False)
    plan = dataclasses.replace(plan, film=None, share=0.5)
    made = render([plan], scene(1, (144, 192))[None, None], scene(2)[None])
    blurred = F.avg_pool2d(made.pictures[0].float()[:, None], 5, 1, 2)
    few = (slice(None, None, FLOW_STEP_PX),) * 2
    y, x = torch.meshgrid(torch.arange(HEIGHT)[few[0]], torch.arange(WIDTH)[few[0]], indexing="ij")
    x, y = (x + 0.5) / HEIGHT - ASPECT / 2, (y + 0.5) / HEIGHT - 0.5
    followed, stayed = [], []
    for t in range(N_PICTURES - 1):
        right, down = made.flow[0, t]
        to = torch.stack([2 * (x + right) / ASPECT, 2 * (y + down)], -1)
        moves = (torch.hypot(right, down) > 0.01) & (to.abs() < 0.95).all(-1)
        now = blurred[t, 0][few]
        there = F.grid_sample(blurred[t + 1][None], to[None], align_corners=False)[0, 0]
        followed += (there - now).abs()[moves].tolist()
        stayed += (blurred[t + 1, 0][few] - now).abs()[moves].tolist()
    assert len(stayed) > 10
    assert np.median(followed) < 0.5 * np.median(stayed)


def test_what_falls_falls_ever_faster_and_what_is_static_stays():
    t = STEPS / RATE_HZ
    for seed in range(20):
        random = np.random.default_rng(seed)
        fall = plan_clip(random, "static", "fall", distracts=False).things[0].path.y
        ways = np.diff(fall)
        moving = ways[: int(ways.argmax()) + 1]  # until it lies
        assert (ways >= -1e-6).all()
        assert (np.diff(moving) >= -0.12).all()  # but for the instants' own jitter
        view = plan_camera(random, "static", t)
        assert max(np.abs(v).max() for v in (view.x, view.y, view.log_scale, view.angle)) < 0.01


@pytest.mark.parametrize("name", CAMERA_MOTIONS + OBJECT_MOTIONS)
def test_a_seed_gives_one_clip(name):
    camera, objects = (name, None) if name in CAMERA_MOTIONS else ("static", name)
    clips = []
    for _ in range(2):
        plan = plan_clip(np.random.default_rng(5), camera, objects, distracts=True)
        clips.append(render([plan], scene(1)[None, None], scene(2)[None]).pictures)
    assert torch.equal(*clips)
    assert clips[0].shape == (1, N_PICTURES, *SIZE_PX)


def test_a_dropped_picture_repeats_the_one_before():
    shown = np.arange(N_PICTURES)
    shown[4:6] = 3
    plan = Plan("pan", path(x=STEPS / HEIGHT), share=1.0, shown=shown)
    made = render([plan], scene()[None, None], scene()[None])
    assert torch.equal(made.pictures[0, 3], made.pictures[0, 5])
    assert made.flow[0, 3:5].abs().max() < 1e-6
    assert made.flow[0, 5, 0].mean() == pytest.approx(-3 / HEIGHT, abs=1e-5)


def test_an_unknown_motion_is_refused_by_name():
    random = np.random.default_rng(0)
    with pytest.raises(ValueError, match="'dolly' is unknown; expected one of: pan"):
        plan_clip(random, "dolly", None, distracts=False)
    with pytest.raises(ValueError, match="'vanish' is unknown; expected one of: approach"):
        plan_clip(random, "static", "vanish", distracts=False)
