"""The motion network: shapes, what it does not see (exposure, flicker), the same answers folded."""

import numpy as np
import pytest
import torch

from pipeline.bundles.accelerate import fold_norms
from pipeline.encoders.motion import (
    CAMERA_MOTIONS,
    N_PICTURES,
    OBJECT_MOTIONS,
    SIZE_PX,
    TOKEN_DIM,
    MotionNet,
    Pointwise,
    Spatial,
    levels,
)
from pipeline.encoders.motion_energy import N_STATISTICS, flow, statistics


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return MotionNet().eval()


def clip(seed=0):
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.uniform(0, 255, (1, 1, 9, 12)).astype(np.float32))
    picture = torch.nn.functional.interpolate(coarse, SIZE_PX, mode="bicubic")[0, 0].clamp(0, 255)
    return torch.stack([picture.roll(t, 1) for t in range(N_PICTURES)])[None]


@torch.no_grad()
def test_each_head_answers_for_its_classes(net):
    said = net(clip().byte())
    assert said["camera"].shape == (1, len(CAMERA_MOTIONS))
    assert said["objects"].shape == (1, len(OBJECT_MOTIONS) + 1)
    assert said["flow"].shape == (1, 8, N_PICTURES // 4, 9, 12)
    told = net.tell(clip().byte())
    assert told.fight.shape == (1,)
    assert told.tokens.shape == (1, TOKEN_DIM)
    assert torch.allclose(told.camera, said["camera"], atol=1e-5)


def test_exposure_and_flicker_are_not_seen():
    random = np.random.default_rng(1)
    flicker = torch.from_numpy(random.uniform(-20, 20, (1, N_PICTURES, 1, 1)).astype(np.float32))
    assert torch.allclose(levels(0.5 * clip() + 40 + flicker), levels(clip()), atol=1e-4)


@pytest.mark.parametrize("kind", [Pointwise, Spatial])
def test_the_quick_convolutions_are_convolutions(kind):
    torch.manual_seed(0)
    size, stride, pad = (
        ((1, 1, 1), (2, 2, 2), 0) if kind is Pointwise else ((1, 3, 3), (1, 2, 2), (0, 1, 1))
    )
    quick = kind(3, 5, size, stride, pad)
    plain = torch.nn.Conv3d(3, 5, size, stride, pad)
    plain.load_state_dict(quick.state_dict())
    x = torch.randn(2, 3, 4, 9, 8)
    assert torch.allclose(quick(x), plain(x), atol=1e-5)


@torch.no_grad()
def test_folded_it_says_the_same(net):
    import copy

    folded = copy.deepcopy(net)
    assert fold_norms(folded.trunk) > 30
    before, after = net(clip()), folded(clip())
    for head in before:
        assert torch.allclose(before[head], after[head], atol=1e-4)


@pytest.mark.parametrize(("contrast", "least", "most"), [(1.0, 0.7, 1.3), (0.02, 0.0, 0.5)])
def test_flow_is_told_in_pixels_and_less_of_it_where_there_is_little_contrast(contrast, least, most):
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.uniform(-2, 2, (1, 1, 18, 24)).astype(np.float32))
    picture = contrast * torch.nn.functional.interpolate(coarse, SIZE_PX, mode="bicubic")
    pair = torch.cat([picture, picture.roll((1, -1), (2, 3))], 1)  # down by one, left by one
    right, down = flow(pair)
    inside = (0, 0, slice(8, -8), slice(8, -8))
    assert least <= -right[inside].median() <= most
    assert least <= down[inside].median() <= most


def test_statistics_of_a_still_are_finite_and_small():
    still = statistics(levels(clip()[:, :1].expand(-1, N_PICTURES, -1, -1)))
    moving = statistics(levels(clip()))
    black = statistics(levels(torch.zeros(1, N_PICTURES, *SIZE_PX)))
    assert still.shape == (1, N_STATISTICS)
    assert still.isfinite().all()
    assert black.isfinite().all()
    assert still[0, 0] < moving[0, 0]
