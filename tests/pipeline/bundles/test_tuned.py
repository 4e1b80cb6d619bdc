"""Encoders that are trained along: they begin as the bundle's own, and learn."""

from __future__ import annotations

import pytest
import torch

from pipeline.bundles.senses import Tokens
from pipeline.bundles.spec import BundleError, find_bundle
from pipeline.bundles.tuned import begun
from tests.batches import make_batch


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_it_begins_with_the_tokens_of_the_bundles_own_encoder(model, stream):
    batch = make_batch(1, n_frames=2)
    own = model.sense([batch])[("video", "audio").index(stream)].tokens
    pieces = model.pieces(stream, [batch])
    with torch.no_grad():
        told = begun(stream, find_bundle("embedded")).eval()(pieces)
    assert told.values.shape == own.values.shape
    assert torch.equal(told.valid, own.valid)
    torch.testing.assert_close(told.middle_s, own.middle_s)
    close = torch.cosine_similarity(told.values[0], own.values[0])
    assert close.min() > 0.995  # YAMNet's own are made in bfloat16 where the processor has it


def test_it_learns_piece_by_piece_and_keeps_the_statistics_of_its_norms(model):
    encoder = begun("video", find_bundle("embedded")).train()
    before = {n: b.clone() for n, b in encoder.named_buffers()}
    told = model.pieces("video", [make_batch(1, n_frames=2)])
    pieces = Tokens(told.values.clone(), told.middle_s.clone(), told.valid.clone())  # not for inference
    encoder.at_once = 1
    encoder(pieces).values.sum().backward()
    assert encoder.net.stem.conv.weight.grad.abs().sum() > 0
    assert all(torch.equal(b, before[n]) for n, b in encoder.named_buffers())


def test_motion_learns_from_windows_of_grey_pictures():
    from pipeline.bundles.tuned import TunedMotion

    torch.manual_seed(0)
    encoder = TunedMotion().eval()
    pieces = Tokens(
        torch.randint(0, 255, (2, 3, 16, 72, 96), dtype=torch.uint8),
        torch.zeros(2, 3),
        torch.tensor([[True, True, False], [True, False, False]]),
    )
    told = encoder(pieces)
    assert told.values.shape == (2, 3, 256)
    assert not told.values[~pieces.valid].any()
    told.values.sum().backward()
    assert next(encoder.parameters()).grad.abs().sum() > 0


def test_an_encoder_that_cannot_be_tuned_is_named():
    with pytest.raises(
        BundleError, match="kinetics-x3d: unfreeze video: expected efficientnet_lite0, it has"
    ):
        begun("video", find_bundle("kinetics-x3d"))
