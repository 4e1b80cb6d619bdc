"""The scene encoder: what a clip's vector may depend on, and what it may not."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pipeline.fusion.scene import MOTION_DIM, TEXT_DIM, Clips, Pieces, SceneEncoder, SceneSize

SIZE = SceneSize(dim=32, depth=2, num_heads=2, context_depth=1, dropout=0.0)


@pytest.fixture
def net() -> SceneEncoder:
    torch.manual_seed(0)
    net = SceneEncoder(SIZE).eval()
    net.kin.copy_(torch.tensor([20.0, -10.0]))
    for layer in (net.out[1], net.heed, net.borrows):  # as if they had learned something
        torch.nn.init.normal_(layer.weight, std=0.3)
    return net


def some_pieces(n: int, k: int, dim: int, seed: int) -> Pieces:
    random = torch.Generator().manual_seed(seed)
    values = torch.nn.functional.normalize(torch.randn(n, k, dim, generator=random), dim=-1)
    sure = torch.rand(n, k, generator=random)
    return Pieces(values, sure, torch.ones(n, k, dtype=torch.bool), torch.full((n, k), 2.0))


def some_clips(units: list[int]) -> Clips:
    """Clips of units of such lengths, four seconds each, all of one look."""
    n = sum(units)
    random = torch.Generator().manual_seed(9)
    return Clips(
        some_pieces(n, 5, TEXT_DIM, 1),
        some_pieces(n, 2, MOTION_DIM, 2),
        some_pieces(n, 5, TEXT_DIM, 3),
        torch.ones(n, 2, dtype=torch.bool),
        torch.nn.functional.normalize(torch.randn(n, TEXT_DIM, generator=random), dim=-1),
        torch.ones(n, 8) + 0.1 * torch.rand(n, 8, generator=random),
        torch.cat([torch.arange(length) * 4.0 + 2.0 for length in units]),
        torch.zeros(n, dtype=torch.int64),
        torch.repeat_interleave(torch.arange(len(units)), torch.tensor(units)),
    )


def without_sound(clips: Clips, at: int, filler: float) -> Clips:
    heard, present = clips.heard, clips.present.clone()
    values, sure, times = heard.values.clone(), heard.sure.clone(), heard.middle_s.clone()
    values[at], sure[at], times[at] = filler, filler, filler
    present[at, 1] = False
    return dataclasses.replace(
        clips,
        heard=dataclasses.replace(heard, values=values, sure=sure, middle_s=times),
        present=present,
    )


def test_with_nothing_learned_it_is_the_evidence():
    clips = some_clips([3, 2])
    assert torch.allclose(SceneEncoder(SIZE).eval()(clips), clips.evidence, atol=1e-6)


def test_what_an_absent_sense_holds_changes_nothing_be_it_nan(net):
    clips = some_clips([3])
    zero, nan = (net(without_sound(clips, 1, filler)) for filler in (0.0, float("nan")))
    assert torch.equal(zero, nan)
    assert not torch.allclose(zero[1], net(clips)[1], atol=1e-3)  # the sound did count


def test_names_are_a_set(net):
    clips = some_clips([3])
    turned = Pieces(*(getattr(clips.seen, f.name).flip(1) for f in dataclasses.fields(Pieces)))
    assert torch.allclose(net(clips), net(dataclasses.replace(clips, seen=turned)), atol=1e-5)


def test_a_unit_does_not_depend_on_the_others(net):
    together, first = some_clips([3, 5]), some_clips([3, 5]).part(0, 3)
    assert torch.allclose(net(together)[:3], net(first), atol=1e-5)


def test_a_clip_has_its_unit_for_context(net):
    clips = some_clips([3])
    other = dataclasses.replace(
        clips, present=torch.tensor([[True, True], [True, True], [False, False]])
    )
    assert not torch.allclose(net(clips)[0], net(other)[0], atol=1e-4)


def test_no_context_crosses_a_known_cut(net):
    clips = dataclasses.replace(some_clips([4]), shots=torch.tensor([0, 0, 1, 1]))
    other = dataclasses.replace(clips, present=torch.tensor([[True, True]] * 2 + [[False, False]] * 2))
    assert torch.equal(net(clips)[:2], net(other)[:2])


def test_clips_that_look_otherwise_are_hardly_heeded(net):
    clips = some_clips([2])
    present = torch.tensor([[True, True], [False, False]])

    def shift(looks: torch.Tensor) -> float:
        mine = dataclasses.replace(clips, looks=looks)
        return float((net(mine) - net(dataclasses.replace(mine, present=present)))[0].norm())

    stranger = torch.stack([torch.ones(8), torch.ones(8) * torch.tensor([1.0, -1.0] * 4)])
    assert shift(stranger) < 0.1 * shift(torch.ones(2, 8))


def test_only_differences_of_time_count(net):
    clips = some_clips([3])
    later = dataclasses.replace(clips, middle_s=clips.middle_s + 40.0)
    further = dataclasses.replace(clips, middle_s=clips.middle_s * 5.0)
    assert torch.allclose(net(clips), net(later), atol=1e-4)
    assert not torch.allclose(net(clips), net(further), atol=1e-4)


def test_a_clip_without_evidence_is_evident_by_its_scene_alone(net):
    clips = some_clips([3])
    evidence = clips.evidence.clone()
    evidence[1:] = 0
    looks = torch.stack([torch.ones(8), torch.ones(8), torch.tensor([1.0, -1.0] * 4)])
    clips = dataclasses.replace(clips, evidence=evidence, looks=looks)
    assert net.evident(clips, 0.5).tolist() == [True, True, False]


def test_clips_without_pictures_or_sound_give_no_nan(net):
    clips = some_clips([2])
    clips = dataclasses.replace(
        clips,
        present=torch.zeros(2, 2, dtype=torch.bool),
        looks=torch.zeros(2, 8),
        evidence=torch.zeros(2, TEXT_DIM),
    )
    assert net(clips).isfinite().all()
    assert not net.evident(clips, 0.5).any()


def test_an_unknown_fusion_is_named():
    with pytest.raises(ValueError, match="'mixer' is unknown; expected one of late"):
        SceneSize(fusion="mixer")
