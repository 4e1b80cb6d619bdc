"""One contract over all trained fusions: what is absent says nothing, order and padding do not matter."""

from __future__ import annotations

import pytest
import torch

from pipeline.fusion import FUSIONS, FusionSize, seen

DIM, B, NV, NA = 32, 4, 7, 11
SIZE = FusionSize(dim=DIM)
BOTH = torch.ones(B, 2, dtype=torch.bool)


@pytest.fixture(params=FUSIONS)
def fuse(request):
    torch.manual_seed(0)
    return FUSIONS[request.param](SIZE).eval()


@pytest.fixture
def inputs():
    random = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=random)

    times_s = (torch.arange(NV).expand(B, -1) * 0.4, torch.arange(NA).expand(B, -1) * 0.25 + 0.07)
    return draw(B, NV, DIM), draw(B, NA, DIM), times_s


def test_tokens_in_tokens_out(fuse, inputs):
    video, audio, times_s = inputs
    assert fuse(video, audio, BOTH, times_s=times_s).shape == (B, NV + NA, DIM)
    assert fuse(video, audio, BOTH).isfinite().all()


@pytest.mark.parametrize("absent", [0, 1])
def test_what_an_absent_sense_holds_has_no_influence_at_all(fuse, inputs, absent):
    video, audio, times_s = inputs
    present = BOTH.clone()
    present[:, absent] = False
    found = fuse(video, audio, present, times_s=times_s)
    other, moved = [video, audio], list(times_s)
    other[absent] = torch.full_like(other[absent], float("nan"))
    moved[absent] = moved[absent] * 1e6
    assert found.isfinite().all()
    assert torch.equal(found, fuse(*other, present, times_s=tuple(moved)))
    of_absent, of_other = (found[:, :NV], found[:, NV:])[:: 1 - 2 * absent]
    assert not of_absent.any()
    # Nor does how many tokens it has.
    other[absent], moved[absent] = other[absent][:, :1], moved[absent][:, :1]
    fewer = fuse(*other, present, times_s=tuple(moved))
    fewer = fewer[:, 1:] if absent == 0 else fewer[:, :NV]
    torch.testing.assert_close(fewer, of_other, atol=1e-5, rtol=0)


def test_each_sense_that_is_there_has_influence(fuse, inputs):
    video, audio, times_s = inputs
    found = fuse(video, audio, BOTH, times_s=times_s)
    for other in ((-video, audio), (video, -audio)):
        changed = (fuse(*other, BOTH, times_s=times_s) - found).abs().amax((1, 2))
        assert (changed > 1e-3).all()


def test_without_either_sense_there_is_nothing_to_say(fuse, inputs):
    video, audio, times_s = inputs
    present = BOTH.clone()
    present[1] = False
    found = fuse(video, audio, present, times_s=times_s)
    assert not found[1].any()
    assert found[0].any()


def test_a_sense_without_a_valid_token_is_absent(fuse, inputs):
    video, audio, times_s = inputs
    present, valid = (
        BOTH.clone(),
        [torch.ones(B, NV, dtype=torch.bool), torch.ones(B, NA, dtype=torch.bool)],
    )
    valid[1][2] = False
    present[2, 1] = False
    torch.testing.assert_close(
        fuse(video, audio, BOTH, times_s=times_s, valid=tuple(valid)),
        fuse(video, audio, present, times_s=times_s),
    )


def test_the_order_of_tokens_does_not_matter_their_times_do(fuse, inputs):
    video, audio, times_s = inputs
    found = fuse(video, audio, BOTH, times_s=times_s)
    order = torch.randperm(NV, generator=torch.Generator().manual_seed(2))
    shuffled = fuse(video[:, order], audio, BOTH, times_s=(times_s[0][:, order], times_s[1]))
    torch.testing.assert_close(shuffled[:, :NV], found[:, :NV][:, order], atol=1e-5, rtol=0)
    torch.testing.assert_close(shuffled[:, NV:], found[:, NV:], atol=1e-5, rtol=0)
    untimed = fuse(video[:, order], audio, BOTH, times_s=times_s)
    assert (untimed[:, :NV] - found[:, :NV][:, order]).abs().max() > 1e-3


def test_padding_does_not_matter(fuse, inputs):
    video, audio, times_s = inputs
    found = fuse(video, audio, BOTH, times_s=times_s)
    padded, moved, valid = [], [], []
    for tokens, at in zip((video, audio), times_s, strict=True):
        padded.append(torch.cat([tokens, torch.full((B, 5, DIM), float("inf"))], 1))
        moved.append(torch.cat([at, torch.full((B, 5), float("nan"))], 1))
        valid.append((torch.arange(padded[-1].shape[1]) < tokens.shape[1]).expand(B, -1))
    again = fuse(*padded, BOTH, times_s=tuple(moved), valid=tuple(valid))
    kept = torch.cat(valid, 1)[0]
    torch.testing.assert_close(again[:, kept], found, atol=1e-5, rtol=0)
    assert not again[:, ~kept].any()
    present = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    counts = seen(*padded, present, tuple(valid)).sum(1)
    assert counts.tolist() == [NV + NA, NV, NA, 0]


def test_an_example_is_answered_alike_alone_and_in_a_batch(fuse, inputs):
    video, audio, times_s = inputs
    present = torch.tensor([[True, True], [True, False], [False, True], [True, True]])
    found = fuse(video, audio, present, times_s=times_s)
    for i in range(B):
        one = slice(i, i + 1)
        alone = fuse(video[one], audio[one], present[one], times_s=(times_s[0][one], times_s[1][one]))
        torch.testing.assert_close(alone, found[one], atol=1e-5, rtol=0)


def test_the_same_question_has_the_same_answer(fuse, inputs):
    video, audio, times_s = inputs
    assert torch.equal(
        fuse(video, audio, BOTH, times_s=times_s), fuse(video, audio, BOTH, times_s=times_s)
    )


def test_every_weight_learns(fuse, inputs):
    video, audio, times_s = inputs
    video, audio = video.requires_grad_(), audio.requires_grad_()
    present = torch.tensor([[True, True], [True, False], [False, True], [True, True]])
    found = fuse.train()(video, audio, present, times_s=times_s)
    (found * torch.randn_like(found)).sum().backward()
    still = [name for name, p in fuse.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
    assert video.grad[0].any()
    assert audio.grad[0].any()
    assert not audio.grad[1].any()
    assert not video.grad[2].any()


def test_the_kinds_have_about_as_many_weights():
    counts = [sum(p.numel() for p in kind(SIZE).parameters()) for kind in FUSIONS.values()]
    assert max(counts) < 1.05 * min(counts)


def test_in_late_fusion_the_senses_meet_in_the_gate_alone(inputs):
    """Tokens of a sense only grow or shrink by what the other holds."""
    video, audio, times_s = inputs
    torch.manual_seed(0)
    late = FUSIONS["late"](SIZE).eval()
    found = late(video, audio, BOTH, times_s=times_s)[:, :NV]
    other = late(video, -audio, BOTH, times_s=times_s)[:, :NV]
    ratio = other / found
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio), atol=1e-4, rtol=1e-4)
    alone = late(video, audio, torch.tensor([[True, False]] * B), times_s=times_s)[:, :NV]
    heard = late(video, audio, BOTH, times_s=times_s)[:, NV:]
    # The two weights have a mean of 1; alone a sense has all of it.
    unscaled = late(video, audio, torch.tensor([[False, True]] * B), times_s=times_s)[:, NV:]
    weights = (found / alone)[:, 0, 0] + (heard / unscaled)[:, 0, 0]
    torch.testing.assert_close(weights, torch.full((B,), 2.0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"present": torch.ones(B, 2)}, "present must be"),
        ({"present": torch.ones(B, 3, dtype=torch.bool)}, "present must be"),
        ({"video_tokens": torch.zeros(B, NV, DIM + 1)}, r"video_tokens must be \(4, N, 32\)"),
        ({"times_s": (torch.zeros(B, NV), torch.zeros(B, NV))}, r"times_s of audio must be \(4, 11\)"),
    ],
)
def test_shapes_that_do_not_fit_are_told(fuse, inputs, change, what):
    video, audio, times_s = inputs
    given = {"video_tokens": video, "audio_tokens": audio, "present": BOTH, "times_s": times_s} | change
    with pytest.raises(ValueError, match=what):
        fuse(**given)


def test_layers_apart_are_fewer_than_layers():
    with pytest.raises(ValueError, match=r"n_apart must lie in 0\.\.1"):
        FusionSize(depth=2, n_apart=2)
