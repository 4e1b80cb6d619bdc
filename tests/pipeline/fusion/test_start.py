"""Fusions that start from two models of one sense each: alone, a sense is answered as before, to the bit."""

from __future__ import annotations

import copy

import pytest
import torch

from pipeline.fusion import FUSIONS, SENSES, FusionSize, OneSense, start_from
from tests.pipeline.fusion.test_contract import BOTH, DIM, NA, NV, SIZE, B

TIMES_S = (torch.arange(NV).expand(B, -1) * 0.4, torch.arange(NA).expand(B, -1) * 0.25)


@pytest.fixture
def singles():
    torch.manual_seed(0)
    return [OneSense(SIZE, sense).eval() for sense in SENSES]


@pytest.fixture
def tokens():
    random = torch.Generator().manual_seed(1)
    return [torch.randn(B, n, DIM, generator=random) for n in (NV, NA)]


def taught(fusion, tokens, n_steps=5):
    """`fusion` after a few steps towards anything, all of its senses there or not."""
    optimiser = torch.optim.AdamW([p for p in fusion.parameters() if p.requires_grad], 0.05)
    present = torch.tensor([[True, True], [True, False], [False, True], [True, True]])
    for step in range(n_steps):
        torch.manual_seed(step)
        wanted = torch.randn(B, NV + NA, DIM)
        loss = (fusion.train()(*tokens, present, times_s=TIMES_S) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return fusion.eval()


@pytest.mark.parametrize("kind", FUSIONS)
def test_with_a_sense_removed_it_answers_as_the_other_alone_also_after_training(kind, singles, tokens):
    fusion = FUSIONS[kind](SIZE).eval()
    start_from(fusion, *singles)
    before = fusion(*tokens, BOTH, times_s=TIMES_S)
    for trained in (False, True):
        if trained:
            taught(fusion, tokens)
        for k, single in enumerate(singles):
            present = torch.zeros(B, 2, dtype=torch.bool)
            present[:, k] = True
            found = fusion(*tokens, present, times_s=TIMES_S)
            assert torch.equal(found, single(*tokens, present, times_s=TIMES_S))
    assert (fusion(*tokens, BOTH, times_s=TIMES_S) - before).abs().max() > 1e-2  # it did learn


@pytest.mark.parametrize("kind", FUSIONS)
def test_at_first_nothing_crosses(kind, singles, tokens):
    fusion = FUSIONS[kind](SIZE).eval()
    start_from(fusion, *singles)
    alone = [single(*tokens, BOTH, times_s=TIMES_S) for single in singles]
    assert torch.equal(fusion(*tokens, BOTH, times_s=TIMES_S), alone[0] + alone[1])


@pytest.mark.parametrize("kind", FUSIONS)
def test_not_held_the_streams_learn_too(kind, singles, tokens):
    fusion = FUSIONS[kind](SIZE)
    start_from(fusion, *singles, hold=False)
    theirs = copy.deepcopy(fusion.streams.state_dict())
    taught(fusion, tokens)
    assert all(not torch.equal(theirs[name], x) for name, x in fusion.streams.state_dict().items())


def test_the_other_sense_is_nothing_to_a_model_of_one(singles, tokens):
    for k, single in enumerate(singles):
        found = single(*tokens, BOTH, times_s=TIMES_S)
        other = list(tokens)
        other[1 - k] = torch.full_like(other[1 - k], float("nan"))
        assert torch.equal(found, single(*other, BOTH, times_s=TIMES_S))
        assert found[:, :NV].any() == (k == 0)
        assert found[:, NV:].any() == (k == 1)


def test_models_that_do_not_fit_are_told(singles):
    fusion = FUSIONS["late"](SIZE)
    with pytest.raises(ValueError, match=r"expected a model of video alone .* got one of audio"):
        start_from(fusion, *reversed(singles))
    other = OneSense(FusionSize(dim=DIM, depth=2), "audio")
    with pytest.raises(ValueError, match=r"expected a model of audio alone .*depth=3.*depth=2"):
        start_from(fusion, singles[0], other)
