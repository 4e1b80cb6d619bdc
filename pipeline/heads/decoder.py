"""A sentence from vectors of the text space, word by word.

A small transformer decoder (https://arxiv.org/abs/1706.03762) looks at a set of tokens: whole sentences,
things, deeds, each a vector of the sentence encoder's space. It is trained on text alone, as CapDec
(https://arxiv.org/abs/2211.00575) and DeCap (https://arxiv.org/abs/2303.03032) are: a sentence's own vectors
with noise stand for what will be recognised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

PAD, BEGIN, END = 0, 1, 2
KINDS = ("sentence", "thing", "deed")
_BEYOND = -1e9  # a log-probability that loses to every other


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the network."""

    vocabulary: int
    memory_dim: int = 384
    dim: int = 256
    depth: int = 3
    num_heads: int = 4
    max_tokens: int = 24  # of a sentence, with its end
    dropout: float = 0.1


@dataclass(frozen=True)
class Hypothesis:
    """A sentence that the search ended with."""

    tokens: tuple[int, ...]  # without begin and end
    log_probs: tuple[float, ...]  # of each token and of the end

    @property
    def mean_log_prob(self) -> float:
        """Per token, so that short and long sentences compare."""
        return self.log_prob / max(1, len(self.log_probs))

    @property
    def log_prob(self) -> float:
        """Of the whole sentence."""
        return sum(self.log_probs)


class _Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, D) → keys and values (B, H, S, D/H)."""
        return self._heads(self.key(x)), self._heads(self.value(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """`x` (B, L, D) looks where `mask` (B, 1, L or 1, S) is True."""
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(self._heads(self.query(x)), keys, values, mask, dropout)
        return self.out(y.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class _Block(nn.Module):
    """Looks at the words so far, then at the memory, then thinks."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        dim = config.dim
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.words = _Attention(dim, config.num_heads, config.dropout)
        self.memory = _Attention(dim, config.num_heads, config.dropout)
        self.think = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.drop = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,  # (B, L, D)
        past: tuple[Tensor, Tensor] | None,
        words_mask: Tensor | None,
        memory: tuple[Tensor, Tensor],
        memory_mask: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y = self.norms[0](x)
        keys, values = self.words.keys_values(y)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        x = x + self.drop(self.words(y, keys, values, words_mask))
        x = x + self.drop(self.memory(self.norms[1](x), *memory, memory_mask))
        return x + self.drop(self.think(self.norms[2](x))), (keys, values)


class CaptionDecoder(nn.Module):
    """Tokens of the text space → log-probabilities of the next word."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.dim)
        self.places = nn.Embedding(config.max_tokens, config.dim)
        self.kinds = nn.Embedding(len(KINDS), config.dim)
        self.enter = nn.Linear(config.memory_dim, config.dim)
        self.enter_norm = nn.LayerNorm(config.dim)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)
        for table in (self.embed, self.places, self.kinds):
            nn.init.normal_(table.weight, std=0.02)

    def remember(self, vectors: Tensor, kinds: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each block's keys and values of the memory.

        Args:
            vectors: (B, N, memory_dim), unit length; what is absent may hold anything finite.
            kinds: (B, N) int64, places in `KINDS`.
        """
        memory = self.enter_norm(self.enter(vectors) + self.kinds(kinds))
        return [block.memory.keys_values(memory) for block in self.blocks]  # type: ignore[union-attr,operator]

    def forward(self, tokens: Tensor, vectors: Tensor, kinds: Tensor, present: Tensor) -> Tensor:
        """Scores (B, L, vocabulary) of what follows each of `tokens` (B, L), with all words before it known.

        Args:
            present: (B, N) bool, which of the memory is there; one at least in each row.
        """
        n = tokens.shape[1]
        x = self._entered(tokens, 0)
        causal = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
        mask = present[:, None, None, :]
        for block, memory in zip(self.blocks, self.remember(vectors, kinds), strict=True):
            x, _ = block(x, None, causal, memory, mask)
        return F.linear(self.norm(x), self.embed.weight)

    def step(
        self,
        token: Tensor,  # (B,)
        place: int,
        past: list[tuple[Tensor, Tensor]] | None,
        memory: list[tuple[Tensor, Tensor]],
        present: Tensor,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Log-probabilities (B, vocabulary) of what follows one more word, and the past with it."""
        x = self._entered(token[:, None], place)
        mask, now = present[:, None, None, :], []
        for i, block in enumerate(self.blocks):
            x, kept = block(x, past[i] if past else None, None, memory[i], mask)
            now.append(kept)
        return F.linear(self.norm(x[:, -1]), self.embed.weight).float().log_softmax(-1), now

    def _entered(self, tokens: Tensor, place: int) -> Tensor:
        at = torch.arange(place, place + tokens.shape[1], device=tokens.device)
        return self.embed(tokens) * math.sqrt(self.config.dim) * 0.5 + self.places(at)


@torch.inference_mode()
def beam_search(
    net: CaptionDecoder,
    vectors: Tensor,
    kinds: Tensor,
    present: Tensor,
    *,
    n_beams: int = 4,
    allowed: Tensor | None = None,
) -> list[list[Hypothesis]]:
    """The likeliest sentences of each row by mean log-probability a token, best first, `n_beams` at most.

    Args:
        vectors, kinds, present: the memory, as in `CaptionDecoder.forward`.
        allowed: (B, vocabulary) bool, what a row may say; the end is always allowed. Probabilities stay those
            of the whole vocabulary, so that a sentence forced on the network scores low.

    A row's answer does not depend on the other rows.
    """
    n_rows, n_words, longest = len(vectors), net.config.vocabulary, net.config.max_tokens
    device = vectors.device
    barred = torch.zeros(n_rows, 1, n_words, device=device)
    if allowed is not None:
        barred = torch.where(allowed, 0.0, _BEYOND).to(device)[:, None]
        barred[..., END] = 0.0
    barred[..., [PAD, BEGIN]] = _BEYOND
    memory = net.remember(vectors.repeat_interleave(n_beams, 0), kinds.repeat_interleave(n_beams, 0))
    there = present.repeat_interleave(n_beams, 0)
    last = torch.full((n_rows * n_beams,), BEGIN, device=device)
    sums = torch.full((n_rows, n_beams), _BEYOND, device=device)
    sums[:, 0] = 0.0  # all beams begin alike, so one is enough
    said = torch.zeros(n_rows, n_beams, 0, dtype=torch.int64, device=device)
    logs = torch.zeros(n_rows, n_beams, 0, device=device)
    ends: list[_Ends] = []
    best = torch.full((n_rows, n_beams), _BEYOND, device=device)  # means of the best that have ended
    past: list[tuple[Tensor, Tensor]] | None = None
    for place in range(longest):
        found, past = net.step(last, place, past, memory, there)
        found = found.view(n_rows, n_beams, n_words) + barred
        end = found[..., END].clone()
        ends.append(_Ends((sums + end) / (place + 1), said, logs, end))
        best = torch.cat([best, ends[-1].means], dim=1).topk(n_beams, dim=1).values
        # More words may raise a mean, but never above this.
        if place + 1 == longest or bool((best[:, -1] >= sums[:, 0] / longest).all()):
            break
        found[..., END] = 2 * _BEYOND
        sums, chosen = (sums[..., None] + found).flatten(1).topk(n_beams, dim=1)
        beams, words = chosen // n_words, chosen % n_words
        said = torch.cat([_taken(said, beams), words[..., None]], dim=-1)
        logs = torch.cat([_taken(logs, beams), found.flatten(1).gather(1, chosen)[..., None]], dim=-1)
        rows = (beams + torch.arange(n_rows, device=device)[:, None] * n_beams).flatten()
        past = [(keys[rows], values[rows]) for keys, values in past]
        last = words.flatten()
    return _ranked(ends, n_beams)


@dataclass(frozen=True)
class _Ends:
    """Every beam as it would be, were this its end."""

    means: Tensor  # (B, K)
    said: Tensor  # (B, K, n)
    logs: Tensor  # (B, K, n)
    last: Tensor  # (B, K) log-probability of the end


def _taken(x: Tensor, beams: Tensor) -> Tensor:
    """Rows `beams` (B, K) of x (B, K, n)."""
    return x.gather(1, beams[..., None].expand(-1, -1, x.shape[-1]))


def _ranked(ends: list[_Ends], n_beams: int) -> list[list[Hypothesis]]:
    """The best ends of each row; where nothing could be said, none."""
    means = torch.cat([end.means for end in ends], dim=1)  # (B, T · K)
    values, chosen = means.topk(min(n_beams, means.shape[1]), dim=1)
    told = []
    for row, (scores, places) in enumerate(zip(values.tolist(), chosen.tolist(), strict=True)):
        mine = []
        for score, at in zip(scores, places, strict=True):
            end, beam = ends[at // n_beams], at % n_beams
            if score > _BEYOND / 1e3:
                logs = [*end.logs[row, beam].tolist(), float(end.last[row, beam])]
                mine.append(Hypothesis(tuple(end.said[row, beam].tolist()), tuple(logs)))
        told.append(mine)
    return told


class CaptionText:
    """Text to the decoder's tokens and back: byte-level BPE, which can write any text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.n = tokenizer.get_vocab_size()

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """Tokens of each sentence, without begin and end."""
        return [e.ids for e in self.tokenizer.encode_batch(list(sentences), add_special_tokens=False)]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens))).strip()

    def tokens_of(self, words: Sequence[str]) -> Tensor:
        """Which tokens occur in any of `words`, (vocabulary,) bool."""
        mask = torch.zeros(self.n, dtype=torch.bool)
        mask[[token for ids in self.encode(words) for token in ids]] = True
        return mask
