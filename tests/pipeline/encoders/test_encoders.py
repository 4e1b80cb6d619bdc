"""Encoders: shapes, numerics, and memory formats that change nothing but speed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.encoders.audio import LogMelPatches, YamNet
from pipeline.encoders.frames import EfficientNetLite0, square_crops
from pipeline.encoders.temporal import TemporalTransformer


def test_the_temporal_transformer_sees_time_differences_only():
    torch.manual_seed(0)
    net = TemporalTransformer(32).eval()
    tokens, times = torch.randn(1, 5, 32), torch.tensor([[0.0, 4, 8, 12, 30]])
    present = torch.ones(1, 5, dtype=torch.bool)
    with torch.inference_mode():
        out = net(tokens, times, present)
        assert out.shape == tokens.shape
        torch.testing.assert_close(out, net(tokens, times + 60, present), atol=1e-4, rtol=1e-3)
        assert not torch.allclose(out, net(tokens, times * 2, present), atol=1e-3)


def test_padding_is_seen_by_nobody():
    torch.manual_seed(0)
    net = TemporalTransformer(32).eval()
    tokens, times = torch.randn(1, 4, 32), torch.arange(4.0)[None]
    present = torch.tensor([[True, True, True, False]])
    other = tokens.clone()
    other[:, 3] = 100.0
    with torch.inference_mode():
        a, b = net(tokens, times, present), net(other, times, present)
        alone = net(tokens[:, :3], times[:, :3], present[:, :3])
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(a[:, :3], alone)
    assert not a[:, 3].any()


def test_log_mel_patches_are_one_every_048_seconds():
    patches = LogMelPatches()
    assert patches(torch.zeros(2, 64_000)).shape == (2, 8, 96, 64)
    assert patches(torch.zeros(1, 1_000)).shape == (1, 1, 96, 64)
    assert patches(torch.zeros(1, 16_000)).min() == pytest.approx(np.log(1e-3), abs=1e-4)
    tone = torch.sin(2 * np.pi * 1_000 * torch.arange(16_000) / 16_000)[None]
    loudest = patches(tone)[0, 0].mean(0).argmax().item()
    mel = 1127 * np.log1p(np.array([125, 7500, 1000]) / 700)
    assert abs(loudest - ((mel[2] - mel[0]) / (mel[1] - mel[0]) * 65 - 1)) < 1


def test_yamnet_shapes():
    logits, features = YamNet().eval()(torch.randn(2, 64_000))
    assert logits.shape == (2, 8, 521)
    assert features.shape == (2, 8, 1024)


def test_folding_changes_nothing():
    torch.manual_seed(0)
    net = EfficientNetLite0().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    crops = torch.randint(0, 255, (2, 224, 224, 3), dtype=torch.uint8)
    with torch.inference_mode():
        before = net(crops)
    net.fold()
    with torch.no_grad():
        torch.testing.assert_close(net(crops), before, atol=1e-4, rtol=1e-3)
    # With gradients a convolution and what cuts it off are two calls, as oneDNN's one cannot learn.
    told = net(crops)
    torch.testing.assert_close(told, before, atol=1e-4, rtol=1e-3)
    assert told.requires_grad


@pytest.mark.parametrize(
    ("height", "width", "n"), [(224, 224, 1), (256, 341, 2), (256, 455, 3), (455, 256, 3)]
)
def test_squares_see_the_whole_long_side(height, width, n):
    frames = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    for i in range(max(height, width)):
        (frames[:, i] if height > width else frames[:, :, i]).fill_(1 + i % 250)
    crops = square_crops(frames, 224, most=3)
    assert crops.shape == (1, n, 224, 224, 3)
    assert set(frames.unique().tolist()) == set(crops.unique().tolist())
    assert square_crops(frames, 224, most=1).shape[1] == 1


def test_a_frame_smaller_than_a_square_is_refused():
    with pytest.raises(ValueError, match="smaller than a crop"):
        square_crops(torch.zeros(1, 100, 300, 3, dtype=torch.uint8), 224, 3)
