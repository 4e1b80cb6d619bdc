"""The caption task for the training loop, on a handful of captions."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.config import read_as
from pipeline.heads.decoder import CaptionText
from pipeline.training.captions import RECIPE as SHIPPED
from pipeline.training.captions import (
    CaptionTask,
    Recipe,
    padded,
    train_tokenizer,
    write,
)
from pipeline.training.coco import Sentences
from pipeline.training.loop import LoopConfig, fit
from pipeline.training.plain import Grammar, Names

TOLD = (
    "a dog is sitting on a couch next to a man",
    "the dog sits near a couch",
    "a man riding a horse in the grass",
    "a horse and a dog in the grass",
) * 8
RECIPE = Recipe(
    vocabulary=300,
    dim=32,
    depth=1,
    num_heads=2,
    max_tokens=24,
    whole_share=0.4,
    whole_noise=0.3,
    thing_noise=0.1,
    loop=LoopConfig(n_epochs=12, batch_size=8, learning_rate=0.01, ema_decay=0.5, warmup_share=0.0),
)


def vector(text):
    """A unit vector of its own for each text."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
    return torch.nn.functional.normalize(
        torch.from_numpy(np.random.default_rng(seed).standard_normal(16)).float(), dim=0
    )


class Vectors:
    def __getitem__(self, phrase):
        return vector(phrase)


@pytest.fixture(scope="module")
def task():
    sentences = Sentences(TOLD, (), (), (TOLD[:4],), 0)
    vectors = torch.stack([vector(s) for s in TOLD]).half()
    return CaptionTask(
        RECIPE,
        CaptionText(train_tokenizer(TOLD, RECIPE.vocabulary)),
        sentences,
        vectors,
        vectors[:4],
        Grammar([*TOLD * 3, *["the weather was fine that we had there"] * 100]),
        Names(of={}, near={}, people=["a person"], actions=[("driving car", "driving a car")]),
        Vectors(),
    )


def test_it_learns_both_kinds(task, tmp_path):
    torch.manual_seed(0)
    before = task.validate(task.make_net().eval())
    after = fit(task, RECIPE.loop, tmp_path).measures
    assert after["whole"] < 0.6 * before["whole"]
    assert after["plain"] < 0.6 * before["plain"]


def test_examples_come_from_the_given_chance_alone(task):
    net = task.make_net().eval()
    indices = torch.arange(8)
    first, again, other = (task.loss(net, indices, np.random.default_rng(s)).item() for s in (1, 1, 2))
    assert first == again != other


def test_sets_of_different_sizes_lie_side_by_side():
    memory = padded([(torch.ones(1, 4), [2]), (torch.ones(3, 4), [1, 1, 2])])
    assert memory.present.tolist() == [[True, False, False], [True] * 3]
    assert memory.kinds.tolist() == [[2, 0, 0], [1, 1, 2]]
    assert memory.vectors[0, 1:].abs().sum() == 0


def test_what_is_written_is_the_network_in_half_precision(task, tmp_path):
    net = task.make_net()
    write(net, task.text, tmp_path)
    kept = load_file(tmp_path / "model.safetensors")
    assert kept.keys() == net.state_dict().keys()
    for name, tensor in net.state_dict().items():
        assert torch.equal(kept[name], tensor.half())


def test_the_recipe_is_valid():
    recipe = read_as(Recipe, SHIPPED)
    assert recipe.sizes(recipe.vocabulary, 384).dim % recipe.num_heads == 0
