"""The sentence task: what a model is given decides, examples vary by the random they are given alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.fusion import FUSIONS, FusionSize
from pipeline.training.loop import LoopConfig, fit
from pipeline.training.sentences import (
    SINGLES,
    TEXT_DIM,
    Batch,
    Learning,
    ReadSentences,
    SentenceReader,
    Singles,
    answer,
    conditions,
    only,
    plain,
    varied,
)
from tests.pipeline.training.talking_heads import made_up

LEARNING = Learning(size=FusionSize(dim=16, depth=1, num_heads=2, n_apart=0, dropout=0.0))
KINDS = ("late", "early", "bottleneck", "video", "audio")
HEADS = made_up(12)


def fields(batch):
    return [getattr(batch, f.name) for f in dataclasses.fields(Batch)]


def test_the_same_random_varies_examples_alike():
    indices = np.arange(6)
    first, again, other = (
        varied(HEADS, indices, LEARNING, np.random.default_rng(s)) for s in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(fields(first), fields(again), strict=True))
    assert not torch.equal(first.columns, other.columns)


def test_examples_never_lose_both_senses():
    learning = LEARNING.model_copy(update={"sense_dropout": 0.9})
    present = varied(HEADS, np.arange(12).repeat(5), learning, np.random.default_rng(0)).present
    assert present.any(1).all()
    assert not present.all()
    assert present.any(0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sense_not_given_has_no_influence(kind):
    torch.manual_seed(0)
    net = SentenceReader(kind, LEARNING.size).eval()
    quiet = plain(HEADS, float("inf"), 0, "babble")
    loud = plain(HEADS, -20.0, 0, "sound")
    dark = dataclasses.replace(quiet, pictures=torch.zeros_like(quiet.pictures))
    for senses in conditions(kind).values():
        found, deaf, blind = (
            answer(net, only(b, senses), HEADS.words).embedding for b in (quiet, loud, dark)
        )
        assert torch.equal(found, deaf) == (not senses[1])
        assert torch.equal(found, blind) == (not senses[0])


def test_measured_noise_comes_from_the_name_and_the_draw():
    first, again, other = (plain(HEADS, 0.0, draw, "babble").columns for draw in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_and_is_watched_with_each_set_of_senses(kind, tmp_path):
    task = ReadSentences(kind, LEARNING, HEADS, made_up(4, seed=1), torch.randn(12, TEXT_DIM))
    losses = []
    loop = LoopConfig(n_epochs=6, batch_size=12, learning_rate=0.01, ema_decay=0.0)
    fitted = fit(task, loop, tmp_path, tell=lambda _, found: losses.append(found["loss"]))
    assert losses[-1] < losses[0]
    assert set(fitted.measures) == {"score", *conditions(kind)}


@pytest.fixture
def singles():
    torch.manual_seed(0)
    return Singles(*(SentenceReader(kind, LEARNING.size).eval() for kind in SINGLES))


@pytest.mark.parametrize("kind", FUSIONS)
def test_started_from_single_senses_it_says_the_same_of_each_also_after_training(
    kind, singles, tmp_path
):
    task = ReadSentences(kind, LEARNING, HEADS, made_up(4, seed=1), torch.randn(12, TEXT_DIM), singles)
    loop = LoopConfig(n_epochs=3, batch_size=4, learning_rate=0.01, ema_decay=0.0)
    net = fit(task, loop, tmp_path).net.eval()
    batch = plain(HEADS, 0.0, 0, "sound")
    for sense, senses in SINGLES.items():
        mine, theirs = (reader(only(batch, senses)) for reader in (net, singles.of(sense)))
        assert torch.equal(mine.embedding, theirs.embedding)
        assert all(torch.equal(a, b) for a, b in zip(mine.words, theirs.words, strict=True))


def test_before_it_learns_a_started_fusion_adds_what_the_senses_say(singles):
    batch = plain(HEADS, 0.0, 0, "sound")
    alone = [singles.of(sense)(batch).words for sense in SINGLES]
    for kind in FUSIONS:
        net = SentenceReader(kind, LEARNING.size).eval()
        net.start_from(*singles.readers)
        for both, video, audio in zip(net(batch).words, *alone, strict=True):
            torch.testing.assert_close(both, video + audio)


def test_tokens_drawn_once_are_those_of_the_examples(singles):
    learning = LEARNING.model_copy(update={"n_draws": 2})
    drawn = singles.drawn(HEADS, learning)
    assert drawn is singles.drawn(HEADS, learning)
    assert len(drawn.video) == 24
    second = varied(HEADS, np.arange(12), learning, np.random.default_rng([1, 0]))
    found = singles.of("video").tokens(second)
    torch.testing.assert_close(drawn.video[12:], found.video)
    assert torch.equal(drawn.present[12:], second.present)


def test_a_single_sense_goes_on_from_where_it_stands(singles):
    task = ReadSentences("audio", LEARNING, HEADS, HEADS, torch.randn(12, TEXT_DIM), singles)
    net, single = task.make_net(), singles.of("audio")
    assert net is not single
    batch = plain(HEADS, 0.0, 0, "sound")
    assert torch.equal(net.eval()(batch).embedding, single(batch).embedding)
    assert all(weight.requires_grad for weight in net.parameters())
