"""The caption decoder: the search finds the best sentence there is, and a row's sentence is its own."""

from __future__ import annotations

import itertools

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline.heads.decoder import (
    BEGIN,
    END,
    PAD,
    CaptionDecoder,
    CaptionText,
    DecoderConfig,
    beam_search,
)

TINY = DecoderConfig(
    vocabulary=6, memory_dim=8, dim=16, depth=2, num_heads=2, max_tokens=4, dropout=0.0
)


def make_net(config=TINY, seed=0):
    torch.manual_seed(seed)
    net = CaptionDecoder(config).eval()
    for parameter in net.parameters():  # fresh weights say all words alike
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def make_memory(n_rows, n_tokens=3, seed=0, dim=8):
    random = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(
        torch.randn(n_rows, n_tokens, dim, generator=random), dim=-1
    )
    kinds = torch.randint(0, 3, (n_rows, n_tokens), generator=random)
    return vectors, kinds, torch.ones(n_rows, n_tokens, dtype=torch.bool)


def mean_log_prob(net, sentence, memory):
    line = torch.tensor([[BEGIN, *sentence, END]])
    logs = net(line[:, :-1], *memory).log_softmax(-1)
    return logs.gather(2, line[:, 1:, None]).mean().item()


def test_the_search_finds_what_trying_every_sentence_finds():
    net, memory = make_net(), make_memory(1)
    words = [w for w in range(TINY.vocabulary) if w not in (PAD, BEGIN, END)]
    every = [s for n in range(TINY.max_tokens) for s in itertools.product(words, repeat=n)]
    with torch.inference_mode():
        scores = {s: mean_log_prob(net, s, memory) for s in every}
    (found,) = beam_search(net, *memory, n_beams=27)
    best = sorted(every, key=lambda s: -scores[s])[:5]
    assert [h.tokens for h in found[:5]] == best
    for hypothesis in found[:5]:
        assert hypothesis.mean_log_prob == pytest.approx(scores[hypothesis.tokens], abs=1e-5)


def test_no_sentence_holds_a_word_that_is_not_allowed():
    net, memory = make_net(), make_memory(1)
    allowed = torch.tensor([[True, True, True, False, True, False]])
    (found,) = beam_search(net, *memory, n_beams=4, allowed=allowed)
    assert found
    assert {word for h in found for word in h.tokens} <= {4}
    with torch.inference_mode():  # what was forbidden keeps its share of the probability
        assert found[0].mean_log_prob == pytest.approx(
            mean_log_prob(net, found[0].tokens, memory), abs=1e-5
        )


def test_what_is_absent_from_the_memory_does_not_matter():
    net = make_net()
    vectors, kinds, present = make_memory(2)
    present[:, 2] = False
    tokens = torch.tensor([[BEGIN, 3, 4]] * 2)
    with torch.inference_mode():
        before = net(tokens, vectors, kinds, present)
        vectors[:, 2], kinds[:, 2] = 1e3, 0
        after = net(tokens, vectors, kinds, present)
        shorter = net(tokens, vectors[:, :2], kinds[:, :2], present[:, :2])
    assert torch.equal(before, after)
    torch.testing.assert_close(before, shorter)


def test_the_order_of_the_memory_does_not_matter():
    net = make_net()
    vectors, kinds, present = make_memory(1)
    tokens = torch.tensor([[BEGIN, 3, 4]])
    with torch.inference_mode():
        there = net(tokens, vectors, kinds, present)
        back = net(tokens, vectors.flip(1), kinds.flip(1), present)
    torch.testing.assert_close(there, back)


def test_a_rows_sentence_is_its_own_whoever_it_is_searched_with():
    net, memory = make_net(), make_memory(5, seed=3)
    together = beam_search(net, *memory, n_beams=3)
    for i in range(5):
        (alone,) = beam_search(net, *(part[i : i + 1] for part in memory), n_beams=3)
        assert [h.tokens for h in alone] == [h.tokens for h in together[i]]
        for a, b in zip(alone, together[i], strict=True):
            assert a.log_probs == pytest.approx(b.log_probs, abs=1e-5)


def test_word_by_word_it_computes_what_it_computes_at_once():
    net, memory = make_net(), make_memory(2)
    tokens = torch.tensor([[BEGIN, 3, 4, 5], [BEGIN, 5, 5, 3]])
    vectors, kinds, present = memory
    with torch.inference_mode():
        at_once = net(tokens, *memory).log_softmax(-1)
        past, kept = None, net.remember(vectors, kinds)
        for place in range(4):
            found, past = net.step(tokens[:, place], place, past, kept, present)
            torch.testing.assert_close(found, at_once[:, place])


@pytest.fixture
def text():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<begin>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["a dog on a sofa", "a cat on a bed"] * 5, trainer)
    return CaptionText(tokenizer)


@pytest.mark.parametrize(
    "sentence", ["a dog on a bed", "xylophon", "ein müder dackel", "犬", "it's 42"]
)
def test_any_text_comes_back_from_its_tokens(text, sentence):
    (tokens,) = text.encode([sentence])
    assert not {PAD, BEGIN, END} & set(tokens)
    assert text.decode(tokens) == sentence


def test_the_tokens_of_words_are_those_that_write_them(text):
    mask = text.tokens_of(["dog", "bed"])
    for word, fits in (("dog", True), ("bed", True), ("dog bed", True), ("sofa", False)):
        assert bool(mask[text.encode([word])[0]].all()) is fits
