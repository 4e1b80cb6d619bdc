"""Sentence encoder: text in, unit vectors out. Its space is the one that everything is fused in.

`SentenceEncoder` is a BERT-class transformer with mean pooling over the words
(Sentence-BERT, https://arxiv.org/abs/1908.10084), run by the `transformers` library.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn


class SentenceEncoder(nn.Module):
    """Sentences → unit vectors, (B, dim). Weights are given by whoever loads it."""

    max_tokens = 256

    def __init__(self, config_file: Path, tokenizer_file: Path) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel  # half a second: only where text is encoded

        config = BertConfig.from_json_file(config_file)
        self.bert = BertModel(config)
        self.dim: int = config.hidden_size
        self.tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self.tokenizer.enable_padding(pad_id=config.pad_token_id or 0)
        self.tokenizer.enable_truncation(self.max_tokens)

    @torch.inference_mode()
    def encode(self, sentences: Sequence[str], batch_size: int = 128) -> Tensor:
        """Unit vectors, (len(sentences), dim) float32, in the order given."""
        # Alike lengths go together, so that little is padded; the order is put back at the end.
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        vectors = torch.empty(len(sentences), self.dim)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            vectors[batch] = self([sentences[i] for i in batch]).float().cpu()
        return vectors

    def forward(self, sentences: list[str]) -> Tensor:
        device = next(self.parameters()).device
        encoded = self.tokenizer.encode_batch(sentences)
        ids = torch.tensor([e.ids for e in encoded], device=device)  # (B, L)
        mask = torch.tensor([e.attention_mask for e in encoded], device=device)  # (B, L)
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, L, dim)
        weights = mask[..., None].to(states.dtype)
        pooled = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return nn.functional.normalize(pooled, dim=-1)


def rename_sentence_bert(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors less `position_ids`, a constant 0..511 that old files carried along."""
    return {name: t for name, t in published.items() if name != "embeddings.position_ids"}
